# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The application itself, the options that commands share, and how they load and write.

What computes is imported where it is needed, here and in the commands: help and mistakes are answered at once.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import lavit_hf

from ..demo import demo_checkpoint


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
LaVIT: one model that reads and draws pictures as a varying number of tokens.

New here? `lavit-hf demo` goes the whole way on a small model that ships, and whatever names no model runs on it:

    lavit-hf draw "a large red circle at the top left"

With the authors' checkpoint:

    lavit-hf convert rain1011/LaVIT-7B-v2 lavit-7b --dtype bfloat16

    lavit-hf caption photo.jpg --model lavit-7b

    lavit-hf draw "a red fox in the snow" --model lavit-7b --output fox.png
""",
)
console = Console(highlight=False)
progress = Console(stderr=True)


class Selection(StrEnum):
    topk = "topk"
    sample = "sample"
    argmax = "argmax"


class Decoder(StrEnum):
    highres = "highres"
    lowres = "lowres"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def check_model(model: str) -> str:
    """What is no folder may be a repository, but a mistyped folder is not worth minutes of asking the Hub."""
    if model == DEMO:
        progress.print("On the small model that ships, for coloured shapes: name another for photos.")
    elif not Path(model).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError(f"The model must be a folder, or a repository of the Hub as owner/name: there is no {model}.")
    return model


DEMO = str(demo_checkpoint())
OF_A_MODEL = {
    "help": "Folder or Hub repository of a LaVIT.",
    "show_default": "the small one that ships",
    "callback": check_model,
}
ModelOption = Annotated[str, typer.Option("--model", "-m", **OF_A_MODEL)]
RequiredModelOption = Annotated[str, typer.Option("--model", "-m", **OF_A_MODEL | {"show_default": False})]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, mps ... Default: the fastest there is.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Of the weights; auto: as they were saved.")]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same result on the same machine.")]
ImagesArgument = Annotated[list[Path], typer.Argument(help="Picture files.", show_default=False)]
OutputOption = Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="Picture file to write.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the decoder's.")]
DecoderOption = Annotated[Decoder, typer.Option(help="Which of the model's pixel decoders.")]


def _check_aspect_ratio(aspect_ratio: str | None) -> str | None:
    if aspect_ratio is not None and aspect_ratio not in lavit_hf.ASPECT_RATIOS:
        raise ValueError(f"--aspect-ratio must be one of {', '.join(lavit_hf.ASPECT_RATIOS)}, got {aspect_ratio}.")
    return aspect_ratio


AspectOption = Annotated[
    str | None,
    typer.Option(
        help="Width to height, say 4:3; for the release's highres decoder alone. Default: the decoder's own.",
        callback=_check_aspect_ratio,
    ),
]


def quiet_libraries() -> None:
    """Silences what transformers and diffusers say of their own accord."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    for logging in (transformers_logging, diffusers_logging):
        logging.disable_progress_bar()


def pick_device(device: str | None) -> str:
    """
    Returns the device that was asked for, or else the fastest there is.

    Raises:
        ValueError: a device that torch does not know, or that is not there.
    """
    import torch

    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"--device must be one that is there, got {device}: {error}".partition("\n")[0]
            ) from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def open_image(path: Path) -> Image.Image:
    """The image as the processor sees it, upright, so that what is shown over it lies right."""
    from ..processing import read_image

    return read_image(path)


def load_model(model: str, device: str | None, dtype: Dtype, model_class=None):
    """A model, with its head unless `model_class` says otherwise, and its processor."""
    with progress.status(f"Loading {model}"):
        from transformers import AutoModelForCausalLM, AutoProcessor

        quiet_libraries()
        device = pick_device(device)
        model_class = model_class or AutoModelForCausalLM
        loaded = model_class.from_pretrained(model, dtype=dtype.value).to(device).eval()
        return loaded, AutoProcessor.from_pretrained(model)


def load_decoder(model: str, decoder: Decoder, like):
    """A pixel decoder, where and as wide as the model `like` is: diffusers itself does not know what was saved."""
    subfolder = "lowres_decoder" if decoder is Decoder.lowres else None
    with progress.status(f"Loading the {decoder.value} pixel decoder"):
        pipeline_class = lavit_hf.LavitImageDecoderPipeline
        return pipeline_class.from_pretrained(model, subfolder=subfolder, dtype=like.dtype).to(like.device)


def progress_bars() -> Progress:
    """Bars that leave nothing behind in the terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=progress, transient=True)


def check_output(path: Path) -> None:
    """Before any time is spent: a picture file that can be written."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--output must end like a picture file, say .png or .jpg, got {path}.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output is in a folder that does not exist: {path.absolute().parent}.")


def output_size(pipeline, aspect_ratio: str | None) -> dict[str, int]:
    """The size in which a pixel decoder draws an aspect ratio, as its arguments."""
    if aspect_ratio is None:
        return {}
    height, width = pipeline.default_size
    if (height, width) != lavit_hf.ASPECT_RATIOS["1:1"]:
        raise ValueError(
            f"--aspect-ratio goes with the release's highres decoder, got {aspect_ratio} with one that draws "
            f"{width} x {height} pixels."
        )
    height, width = lavit_hf.ASPECT_RATIOS[aspect_ratio]
    return {"height": height, "width": width}
