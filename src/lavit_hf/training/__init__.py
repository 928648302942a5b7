# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Trainers, batches and sequences. The scripts that use them are in `examples/`."""

from ..modeling.distributed_lavit import batch_mean, share_of_batch
from .collator import ImageCollator, LavitCollator
from .image_decoder import LavitImageDecoderForTraining, load_stage_one, new_image_decoder
from .image_decoder_trainer import LavitImageDecoderTrainer, show_image_decoder
from .language_trainer import LavitForCausalLMTrainer
from .lora import LoraArguments, lora_config
from .mixture import MixtureRows, load_mixture
from .model_card import write_model_card
from .parts import ImagePart, TextPart
from .scripts import (
    DataArguments,
    SamplesCallback,
    check_whole,
    parse_recipe,
    prefers_bfloat16,
    read_fields,
    run_script,
    spread_rows,
)
from .sequences import SequenceArguments, SequenceReader, read_numbers
from .tokenizer_trainer import LavitVisualTokenizerTrainer, TokenizerSchedule, find_collapse
from .trainer import LavitTrainer, freeze_parts, last_checkpoint


__all__ = [
    "DataArguments",
    "ImageCollator",
    "ImagePart",
    "LavitCollator",
    "LavitForCausalLMTrainer",
    "LavitImageDecoderForTraining",
    "LavitImageDecoderTrainer",
    "LavitTrainer",
    "LavitVisualTokenizerTrainer",
    "LoraArguments",
    "MixtureRows",
    "SamplesCallback",
    "SequenceArguments",
    "SequenceReader",
    "TextPart",
    "TokenizerSchedule",
    "batch_mean",
    "check_whole",
    "find_collapse",
    "freeze_parts",
    "last_checkpoint",
    "load_mixture",
    "load_stage_one",
    "lora_config",
    "new_image_decoder",
    "prefers_bfloat16",
    "parse_recipe",
    "read_fields",
    "read_numbers",
    "run_script",
    "share_of_batch",
    "show_image_decoder",
    "spread_rows",
    "write_model_card",
]
