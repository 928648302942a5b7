# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`lavit-hf`: what one does with a LaVIT, from a terminal."""

import json
import re
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoProcessor, set_seed
from transformers.utils import logging as transformers_logging

from . import __version__
from .conversion import convert_official_checkpoint
from .demo import build_demo, load_demo_image
from .diffusion import ASPECT_RATIOS, LavitImageDecoderPipeline
from .modeling import LavitVisualTokenizer
from .processing import load_pictures
from .visualization import show_kept_patches


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
LaVIT: one model that reads and draws pictures as a varying number of tokens.

New here? `lavit-hf demo` needs no checkpoint. With the authors' checkpoint folder:

    lavit-hf convert LaVIT-7B-v2 lavit-7b --dtype bfloat16

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


ModelOption = Annotated[str, typer.Option("--model", "-m", help="Folder or Hub repository of a LaVIT.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, mps ... Default: the fastest there is.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Of the weights; auto: as they were saved.")]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same result on the same machine.")]
ImagesArgument = Annotated[list[Path], typer.Argument(help="Picture files.", show_default=False)]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Picture file to write.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the decoder's.")]
DecoderOption = Annotated[Decoder, typer.Option(help="Which of the model's pixel decoders.")]
AspectOption = Annotated[
    str | None, typer.Option(help=f"{', '.join(ASPECT_RATIOS)} (highres of the release). Default: square.")
]


def _device(device: str | None) -> str:
    if device is not None:
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _open_image(path: Path) -> Image.Image:
    """A picture as the processor sees it, upright, so that what is shown over it lies right."""
    try:
        return load_pictures(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a picture: {error.__cause__ or error}") from error


def _load(model: str, device: str | None, dtype: Dtype, model_class=AutoModelForCausalLM):
    # What is no folder may be a repository, but a mistyped folder is not worth minutes of asking the Hub.
    if not Path(model).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError(f"--model must be a folder, or a repository of the Hub as owner/name: there is no {model}.")
    with progress.status(f"Loading {model}"):
        processor = AutoProcessor.from_pretrained(model)
        loaded = model_class.from_pretrained(model, dtype=dtype.value).to(_device(device)).eval()
    return loaded, processor


def _load_decoder(model: str, decoder: Decoder, like: torch.nn.Module) -> LavitImageDecoderPipeline:
    """A pixel decoder, where and as wide as the model `like` is: diffusers itself does not know what was saved."""
    subfolder = "lowres_decoder" if decoder is Decoder.lowres else None
    with progress.status(f"Loading the {decoder.value} pixel decoder"):
        return LavitImageDecoderPipeline.from_pretrained(model, subfolder=subfolder, dtype=like.dtype).to(like.device)


def _check_output(path: Path) -> None:
    """Before any time is spent: a picture file that can be written."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--output must end like a picture file, say .png or .jpg, got {path}.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output is in a folder that does not exist: {path.absolute().parent}.")


def _size(aspect_ratio: str | None) -> dict:
    if aspect_ratio is None:
        return {}
    if aspect_ratio not in ASPECT_RATIOS:
        raise ValueError(f"--aspect-ratio must be one of {', '.join(ASPECT_RATIOS)}, got {aspect_ratio}.")
    height, width = ASPECT_RATIOS[aspect_ratio]
    return {"height": height, "width": width}


def _decode(pipeline: LavitImageDecoderPipeline, codes: list[list[int]], output: Path, seed: int, **settings) -> None:
    """Draws each picture's codes with noise of its own, and saves them."""
    console.print(f"{', '.join(str(len(row)) for row in codes)} tokens")
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(codes))]
    images = pipeline(image_tokens=codes, generator=generators, **settings).images
    for index, image in enumerate(images):
        path = output if len(images) == 1 else output.with_stem(f"{output.stem}-{index}")
        image.save(path)
        console.print(f"{path} ({image.width} x {image.height})", soft_wrap=True)


def _answer(model, processor, image: Image.Image, text: str, **settings) -> str:
    inputs = processor(text=text, images=image, return_tensors="pt").to(model.device)
    ids = model.generate(**inputs, return_full_text=False, **settings)
    return processor.decode(ids[0], skip_special_tokens=True).strip()


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The authors' checkpoint folder.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="New folder to write.", show_default=False)],
    dtype: Annotated[Dtype, typer.Option(help="Of the written weights; auto: as the authors'.")] = Dtype.auto,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    num_attention_heads: Annotated[
        int, typer.Option(help="Heads of vision tower, merger and feature decoders; not told by the weights.")
    ] = 16,
    without: Annotated[
        list[Decoder] | None, typer.Option(help="Leave out a pixel decoder that was not downloaded.")
    ] = None,
) -> None:
    """
    Convert the authors' checkpoint into one folder that transformers and diffusers load.

    Reads shard by shard, never runs what a pickle says, and writes nothing if anything is missing, unknown or of the
    wrong shape.
    """
    decoders = tuple(decoder.value for decoder in Decoder if decoder not in (without or []))
    convert_official_checkpoint(
        source,
        target,
        dtype=None if dtype is Dtype.auto else dtype.value,
        max_shard_size=max_shard_size,
        num_attention_heads=num_attention_heads,
        pixel_decoders=decoders,
    )
    console.print(f"{target} is ready: try `lavit-hf caption PICTURE --model {target}`.", soft_wrap=True)


@app.command()
def caption(
    images: ImagesArgument,
    model: ModelOption,
    prompt: Annotated[str, typer.Option(help="What the caption begins with.")] = "",
    num_beams: Annotated[int, typer.Option(min=1, help="Beams of the search.")] = 2,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="Least length.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most length.")] = 36,
    full_text: Annotated[bool, typer.Option("--full-text", help="Go on after the first sentence.")] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Describe pictures. The defaults are those of the authors' evaluation."""
    pictures = [_open_image(path) for path in images]
    loaded, processor = _load(model, device, dtype)
    for path, picture in zip(images, pictures, strict=True):
        text = _answer(
            loaded,
            processor,
            picture,
            f"{processor.image_token}{prompt}",
            num_beams=num_beams,
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
        )
        text = text if full_text else text.partition(".")[0]
        console.print(f"{path}: {prompt} {text}" if prompt else f"{path}: {text}", soft_wrap=True, markup=False)


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="Picture file.", show_default=False)],
    question: Annotated[str, typer.Argument(help='Say "What is on the table?"', show_default=False)],
    model: ModelOption,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams of the search.")] = 5,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most length.")] = 10,
    full_text: Annotated[bool, typer.Option("--full-text", help="Go on after the first line.")] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Answer a question about a picture. The defaults are those of the authors' evaluation."""
    picture = _open_image(image)
    loaded, processor = _load(model, device, dtype)
    text = _answer(
        loaded,
        processor,
        picture,
        processor.image_token + processor.vqa_prompt.format(question=question),
        num_beams=num_beams,
        min_new_tokens=min(2, max_new_tokens),
        max_new_tokens=max_new_tokens,
        length_penalty=0.0,
        early_stopping=num_beams > 1,
    )
    console.print(text if full_text else text.partition("\n")[0], soft_wrap=True, markup=False)


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    model: ModelOption,
    output: OutputOption = Path("drawing.png"),
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Picture to start from; may be given several times.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="How many different drawings.")] = 1,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How closely the codes follow the prompt. Default: the model's.")
    ] = None,
    decoder: DecoderOption = Decoder.highres,
    aspect_ratio: AspectOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """
    Draw what a prompt says, from pictures too: `lavit-hf draw "in the style of a woodcut" -i cat.png -m lavit-7b`.
    """
    _check_output(output)
    size = _size(aspect_ratio)
    pictures = [_open_image(path) for path in image or []]
    loaded, processor = _load(model, device, dtype)
    pipeline = _load_decoder(model, decoder, like=loaded)
    set_seed(seed)
    text = processor.image_token * len(pictures) + prompt
    inputs = processor(text=text, images=pictures or None, generation_mode="image", return_tensors="pt")
    settings = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    ids = loaded.generate(
        **inputs.to(loaded.device), generation_mode="image", num_return_sequences=num_images, **settings
    )
    codes = [processor.decode_interleaved(row)[-1].codes for row in ids]
    _decode(pipeline, codes, output, seed, num_inference_steps=steps, **size)


@app.command()
def reconstruct(
    image: Annotated[Path, typer.Argument(help="Picture file.", show_default=False)],
    model: ModelOption,
    output: OutputOption = Path("reconstruction.png"),
    decoder: DecoderOption = Decoder.highres,
    aspect_ratio: AspectOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Turn a picture into tokens and these into a picture again: what the tokens keep of it."""
    _check_output(output)
    size = _size(aspect_ratio)
    picture = _open_image(image)
    tokenizer, processor = _load(model, device, dtype, LavitVisualTokenizer)
    [(codes, _)] = _tokenize(tokenizer, processor, [picture], None, seed)
    pipeline = _load_decoder(model, decoder, like=tokenizer)
    _decode(pipeline, [codes], output, seed, num_inference_steps=steps, **size)


@torch.no_grad()
def _tokenize(tokenizer, processor, pictures, selection: Selection | None, seed: int):
    """Codes and kept patches of each picture."""
    outputs = tokenizer(
        processor.image_processor(pictures, return_tensors="pt")["pixel_values"].to(tokenizer.device),
        selection=selection.value if selection else None,
        generator=torch.Generator().manual_seed(seed),
    )
    return [(codes.tolist(), mask) for codes, mask in zip(outputs.split(), outputs.keep_mask, strict=True)]


@app.command()
def tokenize(
    images: ImagesArgument,
    model: ModelOption,
    selection: Annotated[Selection | None, typer.Option(help="How patches are kept. Default: the model's.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Folder to which each picture is written with its kept patches shown.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Print the codes of pictures, a line of JSON for each: `{"image": ..., "num_codes": ..., "codes": [...]}`."""
    pictures = [_open_image(path) for path in images]
    if overlay is not None:
        overlay.mkdir(parents=True, exist_ok=True)
    tokenizer, processor = _load(model, device, dtype, LavitVisualTokenizer)
    tokenized = _tokenize(tokenizer, processor, pictures, selection, seed)
    for path, picture, (codes, keep_mask) in zip(images, pictures, tokenized, strict=True):
        print(json.dumps({"image": str(path), "num_codes": len(codes), "codes": codes}))
        if overlay is not None:
            show_kept_patches(picture, keep_mask).save(overlay / f"{path.stem}.png")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo_output"),
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a red circle above a green square",
    seed: SeedOption = 0,
) -> None:
    """Go the whole way without any checkpoint: kept patches, tokens, a caption, a drawing, a reconstruction."""
    started = time.perf_counter()
    set_seed(seed)
    model, processor, pipeline = build_demo(seed)
    image = load_demo_image()
    output.mkdir(parents=True, exist_ok=True)
    millions = sum(p.numel() for part in (model, pipeline.feature_decoder, pipeline.unet) for p in part.parameters())
    console.rule("[bold]LaVIT demo")
    console.print(
        f"A LaVIT of {millions / 1e6:.1f} million parameters with [bold]random weights[/bold], for no trained one "
        "ships yet: every step is real, but the words mean nothing and the drawings are noise.\n"
    )

    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        tokens = model.model.visual_tokenizer(inputs["pixel_values"])
    num_patches = tokens.keep_mask.shape[1]
    codes = tokens.codes.tolist()
    ids = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=True, return_full_text=False)
    words = processor.decode(ids[0], skip_special_tokens=True)
    drawn = model.generate(
        **processor(text=prompt, return_tensors="pt"), generation_mode="image", guidance_scale=4.0, do_sample=True
    )
    drawn_codes = processor.decode_interleaved(drawn[0])[-1].codes
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        image_tokens=[codes, drawn_codes],
        num_inference_steps=10,
        generator=[torch.Generator().manual_seed(seed) for _ in range(2)],
    ).images

    files = {
        "picture": image,
        "kept_patches": show_kept_patches(image, tokens.keep_mask[0]),
        "reconstruction": pictures[0],
        "drawing": pictures[1],
    }
    for name, picture in files.items():
        picture.save(output / f"{name}.png")
    lines = {
        "picture": "the embedded one, four shapes",
        "kept_patches": f"{len(codes)} of {num_patches} patches kept, the others folded into them",
        "tokens": f"{len(codes)}: {' '.join(map(str, codes[:8]))} ...",
        "caption": f"“{words}” (random words)",
        "reconstruction": "the tokens turned into pixels again",
        "drawing": f"“{prompt}”: {len(drawn_codes)} tokens, guidance 4.0",
    }
    for name, line in lines.items():
        where = f"  [dim]{output / name}.png[/dim]" if name in files else ""
        console.print(f"  [bold]{name.replace('_', ' '):15}[/bold] {line}{where}", soft_wrap=True)
    console.print(f"\nDone in {time.perf_counter() - started:.1f} s. With a checkpoint: `lavit-hf --help`.")


def _show_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; a user's mistake ends it with one line rather than a traceback."""
    transformers_logging.set_verbosity_error()
    for logging in (transformers_logging, diffusers_logging):
        logging.disable_progress_bar()
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"lavit-hf: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
