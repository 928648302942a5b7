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
    name_tokens,
    show_attention,
    show_kept_patches,
    show_merging,
    show_tokens,
)
from . import options
from .loading import console, load_model, load_with_decoder, progress, read_images, save_image, warn_of_unknown_words


SHOWN = ("kept_patches", "merging", "reconstruction", "attention")


def _find_size(pipeline: LavitImageDecoderPipeline, aspect_ratio: str | None) -> dict[str, int]:
    """Returns the height and width of an aspect ratio as arguments of a pixel decoder."""
    height, width = pipeline.default_size
    if aspect_ratio and (height, width) != ASPECT_RATIOS["1:1"]:
        raise ValueError(
            f"--aspect-ratio goes with the highres decoder of the release, got {aspect_ratio} with one that draws "
            f"{width} x {height} pixels."
        )
    return dict(zip(("height", "width"), ASPECT_RATIOS[aspect_ratio], strict=True)) if aspect_ratio else {}


def _name_outputs(output: Path, num_images: int) -> list[Path]:
    return [output] if num_images == 1 else [output.with_stem(f"{output.stem}-{k}") for k in range(num_images)]


def _save(images: list[Image.Image], codes: list[list[int]], output: Path) -> None:
    console.print(", ".join(name_tokens(len(image_codes)) for image_codes in codes))
    for image, path in zip(images, _name_outputs(output, len(images)), strict=True):
        save_image(image, path)
        console.print(f"{path} ({image.width} x {image.height})", soft_wrap=True)


def caption(
    images: options.ImageFiles,
    model: options.Model = options.DEMO,
    prompt: Annotated[str, typer.Option(help="The beginning of the caption.")] = "",
    num_beams: options.NumBeams = None,
    min_new_tokens: options.MinNewTokens = None,
    max_new_tokens: options.MaxNewTokens = None,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """Describe images. Those that cannot be read are named at the end."""
    opened, errors = read_images(images)
    loaded, processor = load_model(model, device, dtype)
    prompt = prompt.strip()  # the caption goes on with a space
    warn_of_unknown_words(processor, prompt)
    settings = options.given(num_beams=num_beams, min_new_tokens=min_new_tokens, max_new_tokens=max_new_tokens)
    for path, image in opened:
        [text] = write_texts(loaded, processor, [prompt], [[image]], task="caption", **settings)
        console.print(f"{path}: {f'{prompt} {text}'.strip()}", soft_wrap=True)
    if errors:
        raise ValueError("\n".join(errors))


def ask(
    image: options.ImageFile,
    question: options.Question,
    model: options.Model = options.DEMO,
    num_beams: options.NumBeams = None,
    min_new_tokens: options.MinNewTokens = None,
    max_new_tokens: options.MaxNewTokens = None,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """Answer a question about an image in one line."""
    opened = read_image(image)
    loaded, processor = load_model(model, device, dtype)
    warn_of_unknown_words(processor, question)
    prompt = processor.vqa_prompt.format(question=question)
    settings = options.given(num_beams=num_beams, min_new_tokens=min_new_tokens, max_new_tokens=max_new_tokens)
    [text] = write_texts(loaded, processor, [prompt], [[opened]], task="answer", **settings)
    console.print(text, soft_wrap=True)


def draw(
    prompt: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    model: options.Model = options.DEMO,
    output: options.ImageOutput = Path("drawing.png"),
    overwrite: options.Overwrite = False,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Image before the prompt; repeatable.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Number of different drawings.")] = 1,
    guidance_scale: options.GuidanceScale = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    aspect_ratio: options.AspectRatio = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """
    Draw a prompt, after images if some are given: `lavit-hf draw "in the style of a woodcut" -i cat.png -m lavit-7b`.
    """
    options.check_outputs(*_name_outputs(output, num_images), overwrite=overwrite)
    before = [read_image(path) for path in image or []]
    loaded, processor, pipeline = load_with_decoder(model, decoder, device, dtype)
    warn_of_unknown_words(processor, prompt)
    torch.manual_seed(seed)
    size, settings = _find_size(pipeline, aspect_ratio), options.given(guidance_scale=guidance_scale)
    with progress.status("Drawing tokens"):
        codes = draw_codes(loaded, processor, [prompt], [before], num_return_sequences=num_images, **settings)
    _save(decode_codes(pipeline, codes, seed, num_inference_steps=steps, **size), codes, output)


def edit(
    image: options.ImageFile,
    instruction: options.Instruction,
    model: options.Model = options.DEMO,
    output: options.ImageOutput = Path("edited.png"),
    overwrite: options.Overwrite = False,
    guidance_scale: options.GuidanceScale = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    aspect_ratio: options.AspectRatio = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """
    Draw an image with a change. The parts of the image in which its tokens stay the same are kept. The result has the
    size of the pixel decoder.
    """
    options.check_outputs(output, overwrite=overwrite)
    opened = read_image(image)
    loaded, processor, pipeline = load_with_decoder(model, decoder, device, dtype)
    warn_of_unknown_words(processor, instruction)
    torch.manual_seed(seed)
    size, settings = _find_size(pipeline, aspect_ratio), options.given(guidance_scale=guidance_scale)
    with progress.status("Drawing tokens"):
        source = encode_images(loaded.model.visual_tokenizer, processor, [opened]).codes.tolist()
        codes = draw_codes(loaded, processor, [instruction], [[opened]], **settings)
    edited = decode_edits(pipeline, [opened], [source], codes, seed, num_inference_steps=steps, **size)
    _save(edited, codes, output)


def reconstruct(
    image: options.ImageFile,
    model: options.Model = options.DEMO,
    output: options.ImageOutput = Path("reconstruction.png"),
    overwrite: options.Overwrite = False,
    num_codes: options.NumCodes = None,
    max_codes: options.MaxCodes = None,
    keep_scale: options.KeepScale = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    aspect_ratio: options.AspectRatio = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """Encode an image, and draw it again from its tokens alone."""
    settings = options.choose_codes(num_codes, max_codes, keep_scale)
    options.check_outputs(output, overwrite=overwrite)
    opened = read_image(image)
    tokenizer, processor, pipeline = load_with_decoder(model, decoder, device, dtype, LavitVisualTokenizer, **settings)
    size = _find_size(pipeline, aspect_ratio)
    generator = torch.Generator().manual_seed(seed)
    codes = encode_images(tokenizer, processor, [opened], generator=generator).codes.tolist()
    _save(decode_codes(pipeline, [codes], seed, num_inference_steps=steps, **size), [codes], output)


def encode(
    images: options.ImageFiles,
    model: options.Model = options.DEMO,
    selection: options.Selection = None,
    num_codes: options.NumCodes = None,
    max_codes: options.MaxCodes = None,
    keep_scale: options.KeepScale = None,
    overlay: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder to write each image to, with its kept patches.")
    ] = None,
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """
    Print the codes of images, with a line of JSON for each: `{"image": ..., "num_codes": ..., "codes": [...]}`. Images
    that cannot be read are named at the end.
    """
    settings = options.given(selection=selection) | options.choose_codes(num_codes, max_codes, keep_scale)
    names = Counter(path.stem for path in images)
    if overlay is not None:
        if repeated := [name for name, count in names.items() if count > 1]:
            same = f"{names[repeated[0]]} are called {repeated[0]}"
            raise ValueError(f"--overlay names images by their files, and {same}.")
        options.check_outputs(*(overlay / f"{name}.png" for name in names), overwrite=overwrite)
    opened, errors = read_images(images)
    tokenizer, processor = load_model(model, device, dtype, LavitVisualTokenizer, **settings)
    for path, image in opened:
        # The codes of an image do not depend on the images before it.
        generator = torch.Generator().manual_seed(seed)
        tokens = encode_images(tokenizer, processor, [image], generator=generator)
        codes = tokens.codes.tolist()
        print(json.dumps({"image": str(path), "num_codes": len(codes), "codes": codes}))
        if overlay is not None:
            save_image(show_kept_patches(image, tokens.keep_mask[0]), overlay / f"{path.stem}.png")
    if errors:
        raise ValueError("\n".join(errors))


def show(
    image: options.ImageFile,
    model: options.Model = options.DEMO,
    output: options.ImageFolder = Path("shown"),
    overwrite: options.Overwrite = False,
    text: Annotated[str | None, typer.Option(help="Text after the image. Default: the model's caption.")] = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """
    Show what a model sees in an image: the patches that are kept, the patches that are merged into each of them, the
    reconstruction from the tokens, and the patches that each word of a text attends to.
    """
    options.check_outputs(*(output / f"{name}.png" for name in SHOWN), overwrite=overwrite)
    opened = read_image(image)
    loaded, processor, pipeline = load_with_decoder(model, decoder, device, dtype)
    loaded.set_attn_implementation({"text_config": "eager"})  # which returns attention weights
    tokenizer = loaded.model.visual_tokenizer
    tokens = encode_images(tokenizer, processor, [opened])
    keep_mask, codes = tokens.keep_mask[0], tokens.codes.tolist()
    rebuilt = decode_codes(pipeline, [codes], seed, num_inference_steps=steps)
    text = text or write_texts(loaded, processor, [""], [[opened]], task="caption")[0]
    shown = [
        (show_kept_patches(opened, keep_mask), f"{len(codes)} of {len(keep_mask)} are kept"),
        (show_merging(opened, find_merge_targets(tokenizer, tokens)[0]), "the patches that each kept one stands for"),
        (show_tokens([opened], [keep_mask], rebuilt, 256), "from its tokens alone"),
    ]
    if text:
        shown.append((show_attention(opened, *attend_to_patches(loaded, processor, opened, text)), f"“{text}”"))
    else:
        progress.print("The caption of the model is empty, and no attention is shown: give a --text.", style="yellow")
    for name, (result, line) in zip(SHOWN, shown, strict=False):
        save_image(result, output / f"{name}.png")
        console.print(f"{output / name}.png: {line}", soft_wrap=True)
