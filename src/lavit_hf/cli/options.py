# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The options that several commands have, with their checks. A check runs before anything is loaded."""

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from PIL import Image

from ..demo import demo_checkpoint


DEMO = str(demo_checkpoint())


class Decoder(StrEnum):
    """The pixel decoders of a converted release. typer takes no list of a `Literal`, hence an enumeration."""

    highres = "highres"
    lowres = "lowres"


def check_model(model: str) -> str:
    """
    Returns the name of a model, and says so if it is the small one.

    Raises:
        ValueError: If there is no such folder, and the name is not that of a repository.
    """
    if model == DEMO:
        print("The small model that ships with the library knows colored shapes only.", file=sys.stderr)
    # A mistyped folder is not worth minutes of asking the Hub.
    elif not Path(model).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError(f"The model must be a folder, or a repository of the Hub as owner/name: there is no {model}.")
    return model


def _check_output(path: Path) -> Path:
    """Returns the path of a file to write, or raises a `ValueError` if its folder does not exist."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output is in a folder that does not exist: {path.absolute().parent}.")
    return path


def _check_image_output(path: Path) -> Path:
    """Returns the path of an image to write, or raises a `ValueError` if its suffix is not that of an image."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--output must end like an image file, such as .png or .jpg, got {path}.")
    return _check_output(path)


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
    Path, typer.Option("--output", "-o", dir_okay=False, help="Image file to write.", callback=_check_image_output)
]
JsonOutput = Annotated[
    Path, typer.Option("--output", "-o", dir_okay=False, help="JSON file to write.", callback=_check_output)
]
ImageFolder = Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder to write images to.")]
NewFolder = Annotated[Path, typer.Argument(help="New folder to write.", show_default=False)]
PixelDecoder = Annotated[Decoder, typer.Option(help="The pixel decoder of the model.")]
AspectRatio = Annotated[
    Literal["1:1", "4:3", "3:2", "16:9", "2:3", "3:4"] | None,  # the keys of `ASPECT_RATIOS`
    typer.Option(help="Width to height, for the highres decoder of the release alone. Default: the decoder's."),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the pixel decoder's.")]
GuidanceScale = Annotated[
    float | None, typer.Option(help="How closely drawn codes follow the prompt. Default: the model's.")
]
Selection = Annotated[
    Literal["topk", "sample", "argmax"] | None, typer.Option(help="How patches are kept. Default: the model's.")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result on the same machine.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, ... Default: an accelerator if there is one.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Data type of the weights; auto: as saved.")
]
NumBeams = Annotated[int, typer.Option(min=1, help="Number of beams.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Largest number of tokens.")]
