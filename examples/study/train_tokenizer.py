# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a visual tokenizer of the study: stage 1, with options for other selections, lengths and mergers.

    PYTHONPATH=examples python -m study.train_tokenizer examples/study/tokenizer.yaml --random_budgets true
"""

from dataclasses import dataclass, field

import train_visual_tokenizer
from transformers import TrainingArguments

from lavit_hf import LavitVisualTokenizerForPreTraining
from lavit_hf.training import DataArguments, TokenizerSchedule, parse_recipe, run_script

from .adapters import drop_patches
from .lengths import draw_budgets, set_num_codes


@dataclass
class TokenizerArguments(train_visual_tokenizer.ModelArguments):
    random_budgets: bool = field(
        default=False,
        metadata={
            "help": "Keep a random number of each image's patches, once the selector that ranks them is frozen."
        },
    )
    drop_patches: bool = field(
        default=False, metadata={"help": "Fold nothing of the other patches into those that are kept."}
    )

    num_codes: str | None = field(
        default=None, metadata={"help": "The number of codes of all images, or 'all', from a frozen selector on."}
    )

    def prepare(self, model: LavitVisualTokenizerForPreTraining) -> None:
        """Changes a new model as the arguments say."""
        set_num_codes(model.config, self.num_codes)
        if self.drop_patches:
            drop_patches(model.visual_tokenizer.merger)
        if self.random_budgets:
            draw_budgets(model)


def main():
    arguments, schedule, data, args = parse_recipe(
        TokenizerArguments, TokenizerSchedule, DataArguments, TrainingArguments
    )
    train_visual_tokenizer.train(arguments, schedule, data, args, arguments.prepare)


if __name__ == "__main__":
    run_script(main)
