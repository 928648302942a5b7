# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Commands for single images: caption, ask, draw, edit, reconstruct, encode, show."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from ..diffusion import ASPECT_RATIOS, LavitImageDecoderPipeline
from ..inference import decode_codes, decode_edits, draw_codes, encode_images, write_texts
from ..modeling import LavitVisualTokenizer
from ..processing import read_image
from ..visualization import (
    attend_to_patches,
    find_merge_targets,
    show_attention,
    show_kept_patches,
    show_merging,
    show_tokens,
)
from . import options
from .loading import console, load_decoder, load_model, progress


def _find_size(pipeline: LavitImageDecoderPipeline, aspect_ratio: str | None) -> dict[str, int]:
    """Returns the height and width of an aspect ratio as arguments of a pixel decoder."""
    height, width = pipeline.default_size
    if aspect_ratio and (height, width) != ASPECT_RATIOS["1:1"]:
        raise ValueError(
            f"--aspect-ratio goes with the highres decoder of the release, got {aspect_ratio} with one that draws "
            f"{width} x {height} pixels."
        )
    return dict(zip(("height", "width"), ASPECT_RATIOS[aspect_ratio], strict=True)) if aspect_ratio else {}


def _drawing_settings(guidance_scale: float | None) -> dict[str, float]:
    """Returns the arguments of [`draw_codes`], where the model's own guidance scale holds if none is given."""
    return {} if guidance_scale is None else {"guidance_scale": guidance_scale}


def _save(images: list[Image.Image], codes: list[list[int]], output: Path) -> None:
    console.print(f"{', '.join(str(len(image_codes)) for image_codes in codes)} tokens")
    for index, image in enumerate(images):
        path = output if len(images) == 1 else output.with_stem(f"{output.stem}-{index}")
        image.save(path)
        console.print(f"{path} ({image.width} x {image.height})", soft_wrap=True)


def caption(
    images: options.ImageFiles,
    model: options.Model = options.DEMO,
    prompt: Annotated[str, typer.Option(help="The beginning of the caption.")] = "",
    num_beams: options.NumBeams = 2,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="Smallest number of tokens.")] = 8,
    max_new_tokens: options.MaxNewTokens = 36,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Describe images in one sentence. The defaults are those of the authors' evaluation."""
    opened = [read_image(path) for path in images]
    loaded, processor = load_model(model, device, dtype)
    least = min(min_new_tokens, max_new_tokens)
    settings = {"num_beams": num_beams, "min_new_tokens": least, "max_new_tokens": max_new_tokens}
    for path, image in zip(images, opened, strict=True):
        [text] = write_texts(loaded, processor, [prompt], [[image]], **settings)
        sentence = f"{prompt} {text.partition('.')[0]}".strip()
        console.print(f"{path}: {sentence}", soft_wrap=True, markup=False)


def ask(
    image: options.ImageFile,
    question: Annotated[str, typer.Argument(help='Such as "What is on the table?"', show_default=False)],
    model: options.Model = options.DEMO,
    num_beams: options.NumBeams = 5,
    min_new_tokens: Annotated[
        int | None, typer.Option(min=0, help="Smallest number of tokens. Default: 2, or 1 for the small model.")
    ] = None,
    max_new_tokens: options.MaxNewTokens = 10,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Answer a question about an image in one line. The defaults are those of the authors' evaluation."""
    if min_new_tokens is None:
        min_new_tokens = 1 if model == options.DEMO else 2
    opened = read_image(image)
    loaded, processor = load_model(model, device, dtype)
    [text] = write_texts(
        loaded,
        processor,
        [processor.vqa_prompt.format(question=question)],
        [[opened]],
        num_beams=num_beams,
        min_new_tokens=min(min_new_tokens, max_new_tokens),
        max_new_tokens=max_new_tokens,
        length_penalty=0.0,
        early_stopping=num_beams > 1,
    )
    console.print(text.partition("\n")[0], soft_wrap=True, markup=False)


def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    model: options.Model = options.DEMO,
    output: options.ImageOutput = Path("drawing.png"),
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Image before the prompt; repeatable.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Number of different drawings.")] = 1,
    guidance_scale: options.GuidanceScale = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    aspect_ratio: options.AspectRatio = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """
    Draw a prompt, after images if some are given: `lavit-hf draw "in the style of a woodcut" -i cat.png -m lavit-7b`.
    """
    before = [read_image(path) for path in image or []]
    loaded, processor = load_model(model, device, dtype)
    pipeline = load_decoder(model, decoder, like=loaded)
    torch.manual_seed(seed)
    size = _find_size(pipeline, aspect_ratio)
    settings = _drawing_settings(guidance_scale)
    with progress.status("Drawing tokens"):
        codes = draw_codes(loaded, processor, [prompt], [before], num_return_sequences=num_images, **settings)
    _save(decode_codes(pipeline, codes, seed, num_inference_steps=steps, **size), codes, output)


def edit(
    image: options.ImageFile,
    instruction: Annotated[str, typer.Argument(help='Such as "paint the circle blue".', show_default=False)],
    model: options.Model = options.DEMO,
    output: options.ImageOutput = Path("edited.png"),
    guidance_scale: options.GuidanceScale = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    aspect_ratio: options.AspectRatio = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """
    Draw an image with a change. The parts of the image in which its tokens stay the same are kept. The result has the
    size of the pixel decoder.
    """
    if not instruction.strip():
        raise ValueError("The instruction must say what to change, got an empty text.")
    opened = read_image(image)
    loaded, processor = load_model(model, device, dtype)
    pipeline = load_decoder(model, decoder, like=loaded)
    torch.manual_seed(seed)
    size = _find_size(pipeline, aspect_ratio)
    settings = _drawing_settings(guidance_scale)
    with progress.status("Drawing tokens"):
        source = encode_images(loaded.model.visual_tokenizer, processor, [opened]).codes.tolist()
        codes = draw_codes(loaded, processor, [instruction], [[opened]], **settings)
    edited = decode_edits(pipeline, [opened], [source], codes, seed, num_inference_steps=steps, **size)
    _save(edited, codes, output)


def reconstruct(
    image: options.ImageFile,
    model: options.Model = options.DEMO,
    output: options.ImageOutput = Path("reconstruction.png"),
    decoder: options.PixelDecoder = options.Decoder.highres,
    aspect_ratio: options.AspectRatio = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Encode an image, and draw it again from its tokens alone."""
    opened = read_image(image)
    tokenizer, processor = load_model(model, device, dtype, LavitVisualTokenizer)
    pipeline = load_decoder(model, decoder, like=tokenizer)
    size = _find_size(pipeline, aspect_ratio)
    generator = torch.Generator().manual_seed(seed)
    codes = encode_images(tokenizer, processor, [opened], generator=generator).codes.tolist()
    _save(decode_codes(pipeline, [codes], seed, num_inference_steps=steps, **size), [codes], output)


def encode(
    images: options.ImageFiles,
    model: options.Model = options.DEMO,
    selection: options.Selection = None,
    overlay: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder to write each image to, with its kept patches.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Print the codes of images, with a line of JSON for each: `{"image": ..., "num_codes": ..., "codes": [...]}`."""
    opened = [read_image(path) for path in images]
    names = Counter(path.stem for path in images)
    if overlay is not None and (repeated := [name for name, count in names.items() if count > 1]):
        raise ValueError(f"--overlay names images by their files, and {names[repeated[0]]} are called {repeated[0]}.")
    tokenizer, processor = load_model(model, device, dtype, LavitVisualTokenizer)
    generator = torch.Generator().manual_seed(seed)
    outputs = encode_images(tokenizer, processor, opened, selection=selection, generator=generator)
    for path, image, codes, keep_mask in zip(images, opened, outputs.split(), outputs.keep_mask, strict=True):
        print(json.dumps({"image": str(path), "num_codes": len(codes), "codes": codes.tolist()}))
        if overlay is not None:
            overlay.mkdir(parents=True, exist_ok=True)
            show_kept_patches(image, keep_mask).save(overlay / f"{path.stem}.png")


def show(
    image: options.ImageFile,
    model: options.Model = options.DEMO,
    output: options.ImageFolder = Path("shown"),
    text: Annotated[str | None, typer.Option(help="Text after the image. Default: the model's caption.")] = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """
    Show what a model sees in an image: the patches that are kept, the patches that are merged into each of them, the
    reconstruction from the tokens, and the patches that each word of a text attends to.
    """
    opened = read_image(image)
    loaded, processor = load_model(model, device, dtype)
    loaded.set_attn_implementation({"text_config": "eager"})  # which returns attention weights
    pipeline = load_decoder(model, decoder, like=loaded)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = loaded.model.visual_tokenizer
    tokens = encode_images(tokenizer, processor, [opened])
    keep_mask, codes = tokens.keep_mask[0], tokens.codes.tolist()
    rebuilt = decode_codes(pipeline, [codes], seed, num_inference_steps=steps)
    text = text or write_texts(loaded, processor, [""], [[opened]], max_new_tokens=64)[0]
    shown: dict[str, tuple[Image.Image, str]] = {
        "kept_patches": (show_kept_patches(opened, keep_mask), f"{len(codes)} of {len(keep_mask)} are kept"),
        "merging": (show_merging(opened, find_merge_targets(tokenizer, tokens)[0]), "which takes in the others"),
        "reconstruction": (show_tokens([opened], [keep_mask], rebuilt, 256), "from its tokens alone"),
        "attention": (show_attention(opened, *attend_to_patches(loaded, processor, opened, text)), f"“{text}”"),
    }
    for name, (result, line) in shown.items():
        result.save(output / f"{name}.png")
        console.print(f"{output / name}.png: {line}", soft_wrap=True, markup=False)
