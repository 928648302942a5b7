# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training: the objectives' data side, trainers and callbacks. The scripts that use them are in `examples/`."""

from ..modeling.distributed_lavit import batch_mean, share_of_batch
from .callbacks import CurvesCallback, SamplesCallback
from .model_card import write_model_card
from .pictures import PictureCollator, load_eval_rows, load_training_rows
from .pixel_probe import PixelProbe, show_tokenizer
from .recipe import DataArguments, last_checkpoint, parse_recipe, run_script
from .tokenizer_trainer import LavitVisualTokenizerTrainer, TokenizerSchedule
from .trainer import LavitTrainer, freeze_parts


__all__ = [
    "CurvesCallback",
    "DataArguments",
    "LavitTrainer",
    "LavitVisualTokenizerTrainer",
    "PictureCollator",
    "PixelProbe",
    "SamplesCallback",
    "TokenizerSchedule",
    "batch_mean",
    "freeze_parts",
    "last_checkpoint",
    "load_eval_rows",
    "load_training_rows",
    "parse_recipe",
    "run_script",
    "share_of_batch",
    "show_tokenizer",
    "write_model_card",
]
