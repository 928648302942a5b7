# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The options that several commands have, with their checks. A check runs before anything is loaded."""

import io
import math
import re
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from PIL import Image

from ..demo import demo_checkpoint


DEMO = str(demo_checkpoint())
CONFIGS = ("config.json", "adapter_config.json")  # of a model, and of an adapter to one


class Decoder(StrEnum):
    """The pixel decoders of a converted release. typer takes no list of a `Literal`, hence an enumeration."""

    highres = "highres"
    lowres = "lowres"


def check_model(model: str) -> str:
    """
    Returns the name of a model, and says so if it is the small one.

    Raises:
        ValueError: If there is no such folder, and the name is not that of a repository, or the folder has no model.
    """
    if model == DEMO:
        print("The small model that ships with the library knows colored shapes only.", file=sys.stderr)
    # A mistyped folder is not worth minutes of asking the Hub.
    elif not Path(model).is_dir() and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        raise ValueError(f"The model must be a folder, or a repository of the Hub as owner/name: there is no {model}.")
    elif Path(model).is_dir() and not any((Path(model) / name).is_file() for name in CONFIGS):
        raise ValueError(f"The folder {model} has no model: it has none of {', '.join(CONFIGS)}.")
    return model


def given(**settings) -> dict[str, Any]:
    """Returns the settings that are not None. The model's own hold for the others."""
    return {name: value for name, value in settings.items() if value is not None}


def choose_codes(num_codes: int | None, max_codes: int | None, keep_scale: float | None) -> dict[str, Any]:
    """
    Returns the settings of a visual tokenizer for the number of codes of an image. Either of `num_codes` and
    `keep_scale` displaces the other in the model's own settings, and `num_codes` also displaces `max_codes`.

    Raises:
        ValueError: If `num_codes` and another one are given.
    """
    for name, value in (("--keep-scale", keep_scale), ("--max-codes", max_codes)):
        if num_codes is not None and value is not None:
            raise ValueError(f"--num-codes {num_codes} does not go with {name} {value}: give either.")
    if num_codes is not None:
        return {"num_codes": num_codes, "max_codes": None, "keep_scale": 1.0}
    if keep_scale is not None:
        return given(max_codes=max_codes) | {"num_codes": None, "keep_scale": keep_scale}
    return given(max_codes=max_codes)


def check_outputs(*paths: Path, overwrite: bool = False) -> None:
    """Raises a `ValueError` if a file cannot be written, or if it exists and may not be overwritten."""
    for path in paths:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file that can be overwritten: choose another output.")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists: choose another output, or give --overwrite.")
    for folder in {path.absolute().parent for path in paths}:
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raises a `ValueError` if no file can be written to a folder that exists, or is to be made."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file, not a folder to write to.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(f"No file can be written to {there}: {error.strerror}.") from error


def check_new_folder(folder: Path) -> Path:
    """Returns the path of a folder to write, or raises a `ValueError` if it is not new or empty."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"The folder to write must be new or empty, {folder} is not.")
    check_folder(folder)
    return folder


def _check_output(path: Path) -> Path:
    """Returns the path of a file to write, or raises a `ValueError` if its folder does not exist."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"The output is in a folder that does not exist: {path.absolute().parent}.")
    return path


def check_image_output(path: Path) -> Path:
    """Returns the path of an image to write, or raises a `ValueError` if no image can be written in its format."""
    image_format = Image.registered_extensions().get(path.suffix.lower())
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), image_format or "none")
    except (KeyError, OSError, ValueError) as error:  # there is no such format, or Pillow only reads it
        raise ValueError(f"The output must end like an image file, such as .png or .jpg, got {path}.") from error
    return _check_output(path)


def _check_device(device: str) -> str:
    """Returns a device, by default an accelerator if there is one, or raises a `ValueError` if it is not there."""
    device = device or str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device must be one that is there, got {device}: {error}".partition("\n")[0]) from error
    return device


def _check_finite(param: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{param.opts[0]} must be a finite number, got {value}.")
    return value


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("The question or instruction must say something, got an empty text.")
    return text


MODEL = {
    "help": "Folder or Hub repository of a LaVIT.",
    "show_default": "the small model that ships with the library",
    "callback": check_model,
}
Model = Annotated[str, typer.Option("--model", "-m", **MODEL)]
RequiredModel = Annotated[str, typer.Option("--model", "-m", **MODEL | {"show_default": False})]
ModelArgument = Annotated[str, typer.Argument(**MODEL)]
DatasetName = "shapes, imagefolder, a folder, or any name that datasets loads."
ImageFile = Annotated[Path, typer.Argument(help="Image file.", show_default=False)]
ImageFiles = Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)]
ImageOutput = Annotated[
    Path, typer.Option("--output", "-o", dir_okay=False, help="Image file to write.", callback=check_image_output)
]
JsonOutput = Annotated[
    Path, typer.Option("--output", "-o", dir_okay=False, help="JSON file to write.", callback=_check_output)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite files that exist.")]
ImageFolder = Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder to write images to.")]
NewFolder = Annotated[
    Path, typer.Argument(help="New folder to write.", file_okay=False, show_default=False, callback=check_new_folder)
]
PixelDecoder = Annotated[Decoder, typer.Option(help="The pixel decoder of the model.")]
AspectRatio = Annotated[
    Literal["1:1", "4:3", "3:2", "16:9", "2:3", "3:4"] | None,  # the keys of `ASPECT_RATIOS`
    typer.Option(help="Width to height, for the highres decoder of the release alone. Default: the decoder's."),
]
Steps = Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps. Default: the pixel decoder's.")]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        min=1, callback=_check_finite, help="How closely drawn codes follow the prompt. Default: the model's."
    ),
]
Question = Annotated[
    str, typer.Argument(help='Such as "What is on the table?"', show_default=False, callback=_check_text)
]
Instruction = Annotated[
    str, typer.Argument(help='Such as "paint the circle blue".', show_default=False, callback=_check_text)
]
Selection = Annotated[
    Literal["topk", "sample", "argmax"] | None, typer.Option(help="How patches are kept. Default: the model's.")
]
NumCodes = Annotated[
    int | None, typer.Option(min=1, help="Number of tokens of each image. Default: what its content needs.")
]
MaxCodes = Annotated[int | None, typer.Option(min=1, help="Largest number of tokens of an image.")]
KeepScale = Annotated[
    float | None,
    typer.Option(
        min=0, callback=_check_finite, help="Factor of the number of tokens, such as 0.5 for half of what is needed."
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result on the same machine.")
]
# Without the option, the callback finds the default.
Device = Annotated[
    str,
    typer.Option(
        callback=_check_device, show_default=False, help="cpu, cuda, mps, ... Default: an accelerator if there is one."
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Data type of the weights; auto: as saved.")
]
NumBeams = Annotated[int | None, typer.Option(min=1, help="Number of beams. Default: the model's.")]
MinNewTokens = Annotated[int | None, typer.Option(min=0, help="Smallest number of tokens. Default: the model's.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Largest number of tokens. Default: the model's.")]
