# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What every training script takes: a recipe in a YAML file, flags that override it, the data; and how it ends."""

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def _to_flags(recipe: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in recipe.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        flags.append(f"--{name}")
        flags += [json.dumps(entry) if isinstance(entry, dict | bool) else str(entry) for entry in values]
    return flags


def parse_recipe(*argument_classes: type, args: list[str] | None = None) -> tuple:
    """
    Reads `script.py [recipe.yaml] [--name value ...]` into dataclasses; flags override the recipe.

    Args:
        argument_classes: Dataclasses, [`DataArguments`] and `transformers.TrainingArguments` among them.
        args (`list[str]`, *optional*): The command line. Default: this program's.

    Raises:
        ValueError: a recipe that is no mapping of names to values.
        SystemExit: a name that no dataclass knows, or a value of the wrong type, as argparse does.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args and args[0].endswith((".yaml", ".yml")):
        path = Path(args.pop(0))
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(recipe, dict):
            raise ValueError(f"{path} must hold a mapping of argument names to values, got {type(recipe).__name__}.")
        args = _to_flags(recipe) + args
    return HfArgumentParser(argument_classes).parse_args_into_dataclasses(args)


@dataclass
class DataArguments:
    """Which pictures, and what goes with them."""

    dataset_name: str = field(
        default="shapes",
        metadata={"help": "'shapes', 'imagefolder', a folder, or any name that `datasets.load_dataset` takes."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The dataset's configuration."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of an 'imagefolder'."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on."})
    num_train_rows: int | None = field(default=None, metadata={"help": "Take only so many rows."})
    num_eval_rows: int | None = field(default=None, metadata={"help": "Take only so many rows."})
    streaming: bool = field(default=False, metadata={"help": "Read rows as they are needed; needs --max_steps."})
    image_column: str = field(default="image", metadata={"help": "Column with the pictures."})
    broken_pictures: str = field(
        default="raise",
        metadata={"help": "A picture that cannot be read is named, and 'raise' stops the run, 'skip' leaves it out."},
    )

    def __post_init__(self):
        if self.broken_pictures not in ("raise", "skip"):
            raise ValueError(f"broken_pictures must be 'raise' or 'skip', got {self.broken_pictures!r}.")


def last_checkpoint(args: TrainingArguments) -> str | None:
    """
    The newest whole checkpoint in the output folder of `args`, from which the same command goes on, or None.
    """
    folders = Path(args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    numbered = [folder for folder in folders if folder.name.rpartition("-")[2].isdigit()]
    newest_first = sorted(numbered, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True)
    return next((str(folder) for folder in newest_first if is_whole(folder / TRAINER_STATE_NAME)), None)


def is_whole(state: Path) -> bool:
    # Trainer writes its state last: without it, or with a part of it, the checkpoint was being written at the kill.
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def run_script(main: Callable[[], None]) -> None:
    """
    Runs the `main` function of a training script; then the processes that it had part from each other, all at once.

    Gloo's threads otherwise may meet Python objects while the interpreter is torn down. That aborts it, and the
    launcher says that the training failed, after all was done.
    """
    main()
    gc.collect()  # trainers are circles, and hold on to what the processes have in common
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


__all__ = ["DataArguments", "last_checkpoint", "parse_recipe", "run_script"]
