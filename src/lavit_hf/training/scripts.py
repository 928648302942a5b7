# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The common part of the training scripts: recipes, data, the checkpoint to resume from, samples, and their end."""

import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
import yaml
from accelerate import PartialState
from PIL import Image
from transformers import HfArgumentParser, PreTrainedConfig, TrainerCallback
from transformers.utils import find_adapter_config_file, logging

from ..data.loading import FORMATS, load_rows
from ..data.rows import ImageReader, RowDataset, RowStream
from ..modeling.arguments_lavit import check_fields
from ..modeling.freezing_lavit import evaluation_mode
from .trainer import find_checkpoint


logger = logging.get_logger(__name__)

SHUFFLE_BUFFER_SIZE = 1000  # rows of a stream in memory, with undecoded images
BFLOAT16_GAIN = 1.2  # by which bfloat16 is to be faster, so that its rounding pays
PARSING = threading.Lock()  # HfArgumentParser sets the types of the fields of a class anew


def parse_recipe(*argument_classes: type, args: list[str] | None = None) -> tuple:
    """
    Parses `script.py [recipe.yaml] [--name value ...]` into dataclasses. Flags override the recipe. `bf16` may be
    "auto": see [`prefers_bfloat16`].

    Args:
        argument_classes (`type`): Dataclasses, as `HfArgumentParser` takes them.
        args (`list[str]`, *optional*): The arguments of the command line. Default: those of this program.

    Returns:
        `tuple`: An object of each class.

    Raises:
        SystemExit: If a value is of the wrong type.
        ValueError: If a name is unknown, or the recipe is not a mapping.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args and args[0].endswith((".yaml", ".yml")):
        if not Path(args[0]).is_file():
            raise ValueError(f"There is no recipe {args[0]}.")
        recipe = yaml.safe_load(Path(args[0]).read_text(encoding="utf-8"))
        if not isinstance(recipe, dict):
            raise ValueError(
                f"{args[0]} must hold a mapping of argument names to values, got {type(recipe).__name__}."
            )
        args = [flag for name, value in recipe.items() for flag in _to_flags(name, value)] + args[1:]
    with PARSING:
        return HfArgumentParser(argument_classes).parse_args_into_dataclasses(_decide_bf16(args))


@cache
def prefers_bfloat16(device: str) -> bool:
    """
    Whether a device multiplies matrices clearly faster in bfloat16 than in float32. It is tried once in a process,
    since processors whose flags name bfloat16 may still be slower in it. A CUDA device tells by itself.

    Args:
        device (`str`): A device of torch, such as `"cpu"` or `"cuda"`.

    Returns:
        `bool`: Whether bfloat16 is at least `BFLOAT16_GAIN` times as fast.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    matrices = [torch.ones(512, 512, dtype=dtype, device=device) for dtype in (torch.float32, torch.bfloat16)]
    times: list[list[float]] = [[], []]
    for _ in range(30):  # so many that other programs do not slow down all of one kind
        for matrix, taken in zip(matrices, times, strict=True):
            start = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # waits for the device
            taken.append(time.perf_counter() - start)
    return min(times[0]) > BFLOAT16_GAIN * min(times[1])


def _decide_bf16(args: list[str]) -> list[str]:
    """
    Replaces the value "auto" of `--bf16` by that of the run that is resumed, or by what suits the device that the run
    is going to use.
    """
    args = [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--bf16=") else (arg,))]
    places = [
        index + 1 for index, arg in enumerate(args[:-1]) if arg == "--bf16" and args[index + 1].lower() == "auto"
    ]
    if places:
        parser = HfArgumentParser(_Device, add_help=False)
        (chosen, _) = parser.parse_args_into_dataclasses(args, return_remaining_strings=True)
        on_gpu = torch.cuda.is_available() and not chosen.use_cpu
        device = "cuda" if on_gpu else "cpu"
        _, kept = find_checkpoint(chosen.output_dir)
        if "bf16" in kept:  # another machine may be faster in another one
            is_better = kept["bf16"]
            reason = f"the run in {chosen.output_dir} has begun so"
        else:
            is_better = prefers_bfloat16(device)
            reason = f"the device {device!r} computes faster in {'bfloat16' if is_better else 'float32'}"
        # A warning, since transformers hides information by default.
        logger.warning_once(f"bf16 'auto' is {is_better}: {reason}.")
        for place in places:
            args[place] = str(is_better)
    return args


@dataclass
class _Device:
    """The arguments of a training that decide whether it uses a GPU, and where it was begun."""

    use_cpu: bool = False
    output_dir: str = "trainer_output"  # the default of `TrainingArguments`


def _to_flags(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *(json.dumps(one) if isinstance(one, dict | bool) else str(one) for one in values)]


@dataclass
class DataArguments:
    """The dataset, its splits and columns."""

    dataset_name: str = field(
        default="shapes",
        metadata={"help": "'shapes', 'imagefolder', a folder, or another name that `datasets.load_dataset` takes."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of the dataset."})
    data_dir: str | None = field(default=None, metadata={"help": "The folder with the files of a format."})
    train_split: str = field(default="train", metadata={"help": "The split to train on."})
    eval_split: str | None = field(default=None, metadata={"help": "The split to evaluate on."})
    num_train_rows: int | None = field(default=None, metadata={"help": "The number of rows to train on."})
    num_eval_rows: int | None = field(default=None, metadata={"help": "The number of rows to evaluate on."})
    streaming: bool = field(
        default=False, metadata={"help": "Read rows without a copy in the cache; needs --max_steps."}
    )
    image_column: str = field(default="image", metadata={"help": "The column with the images."})
    broken_images: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "'raise' stops at a row that cannot be used, 'skip' leaves it out."}
    )

    @property
    def source(self) -> str:
        """The folder of a format's files, or the name of the dataset."""
        return self.data_dir if self.data_dir and self.dataset_name in FORMATS else self.dataset_name

    def load(self, seed: int = 0) -> tuple[Any, Any | None]:
        """
        Loads the rows to train on and those to evaluate on, with undecoded images; None without `eval_split`. A stream
        is shuffled within a buffer of 1000 rows. Its rows to evaluate on are read at once and kept in memory.

        Args:
            seed (`int`, *optional*, defaults to 0): The seed of the order of a stream.

        Raises:
            ValueError: If a split does not exist or cannot be read, or if `num_eval_rows` is missing with `streaming`.
        """
        if self.streaming and self.eval_split is not None and self.num_eval_rows is None:
            raise ValueError("The rows to evaluate on are kept in memory when streaming: set num_eval_rows.")
        place: dict[str, Any] = {
            "config_name": self.dataset_config_name,
            "data_dir": self.data_dir,
            "streaming": self.streaming,
        }
        rows = load_rows(self.dataset_name, self.train_split, num_rows=self.num_train_rows, **place)
        if self.streaming:
            rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER_SIZE)
        if self.eval_split is None:
            return rows, None
        try:
            eval_rows = load_rows(self.dataset_name, self.eval_split, num_rows=self.num_eval_rows, **place)
            if self.streaming:
                eval_rows = datasets.Dataset.from_list(list(eval_rows), features=eval_rows.features)
            return rows, eval_rows
        except ValueError as error:
            advice = "Unless streaming, train_split 'train[:95%]' with eval_split 'train[95%:]' holds out rows."
            raise ValueError(f"{error} {advice}") from error

    def load_images(self, seed: int = 0) -> tuple[RowDataset | RowStream, RowDataset | None]:
        """
        Loads the rows to train on and those to evaluate on, with their images read.

        Args:
            seed (`int`, *optional*, defaults to 0): Same as in [`~DataArguments.load`].
        """
        reader, (rows, eval_rows) = ImageReader([self.image_column]), self.load(seed)
        return (
            (RowStream if self.streaming else RowDataset)(rows, reader, self.broken_images),
            None if eval_rows is None else RowDataset(eval_rows, reader, self.broken_images),
        )


def spread_rows(rows: RowDataset | RowStream, count: int) -> list[dict]:
    """
    Returns rows that are spread evenly over a dataset, or the first ones of a stream.

    Args:
        rows ([`RowDataset`] or [`RowStream`]): The rows.
        count (`int`): The number of rows to return, at most.

    Returns:
        `list[dict]`: The rows, with their images read.
    """
    if isinstance(rows, RowStream):
        return list(islice(rows, count))
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


class SamplesCallback(TrainerCallback):
    """
    Writes what the model makes of the same few inputs to `samples/` in the output folder, whenever it is saved.

    Args:
        make_samples (`Callable[[], Image.Image]`): Makes an image with the current model, in evaluation mode.
    """

    def __init__(self, make_samples: Callable[[], Image.Image]):
        self.make_samples = make_samples

    def on_save(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        with evaluation_mode(model):
            self.make_samples().save(folder / f"step-{state.global_step:07d}.png")


def read_fields(name: str, text: str, config_class: type[PreTrainedConfig] | None = None) -> dict[str, Any]:
    """
    Reads an argument that holds fields of a configuration.

    Args:
        name (`str`): The name of the argument, for errors.
        text (`str`): JSON.
        config_class (`type[PreTrainedConfig]`, *optional*): The class of the configuration, whose fields are known.

    Raises:
        ValueError: If it is not the JSON of a mapping, or a field is unknown.
    """
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} must be JSON, got {text!r}: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{name} must be a mapping in JSON, got {text!r}.")
    if config_class is not None:
        check_fields(name, fields, config_class)
    return fields


def check_whole(model: str) -> None:
    """Raises a `ValueError` if `model` is the folder or repository of an adapter, which a training would leave out."""
    if find_adapter_config_file(model) is not None:
        raise ValueError(
            f"{model} holds an adapter, and a whole model is needed: load its base model and the adapter with "
            "`PeftModel.from_pretrained`, and save what `merge_and_unload` returns."
        )


def run_script(main: Callable[[], None]) -> None:
    """
    Runs the `main` function of a training script, then ends the process group of all its processes together.

    Otherwise, threads of gloo may use Python objects while the interpreter shuts down. The process then aborts, and
    the launcher reports a failed training although everything is done.
    """
    main()
    gc.collect()  # trainers are in reference cycles, and hold on to the process group
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()
