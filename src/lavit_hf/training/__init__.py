# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Trainers, batches and sequences. The scripts that use them are in `examples/`."""

from ..modeling.distributed_lavit import batch_mean, share_of_batch
from .collator import ImageCollator, LavitCollator
from .language_trainer import LavitForCausalLMTrainer
from .mixture import MixtureRows, load_mixture
from .model_card import write_model_card
from .scripts import DataArguments, SamplesCallback, parse_recipe, run_script
from .sequences import ImagePart, SequenceArguments, SequenceReader, TextPart, read_numbers
from .tokenizer_trainer import LavitVisualTokenizerTrainer, TokenizerSchedule
from .trainer import LavitTrainer, freeze_parts, last_checkpoint


__all__ = [
    "DataArguments",
    "ImageCollator",
    "ImagePart",
    "LavitCollator",
    "LavitForCausalLMTrainer",
    "LavitTrainer",
    "LavitVisualTokenizerTrainer",
    "MixtureRows",
    "SamplesCallback",
    "SequenceArguments",
    "SequenceReader",
    "TextPart",
    "TokenizerSchedule",
    "batch_mean",
    "freeze_parts",
    "last_checkpoint",
    "load_mixture",
    "parse_recipe",
    "read_numbers",
    "run_script",
    "share_of_batch",
    "write_model_card",
]
