# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The whole way on the small model that ships."""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from transformers import set_seed

from ..demo import demo_checkpoint, demo_image
from ..visualization import show_kept_patches
from .common import Decoder, Dtype, SeedOption, app, console, load_decoder, load_model


# Scenes are drawn at 64 pixels; enlarged, they can be looked at.
SHOWN_SIZE = 256


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo_output"),
    prompt: Annotated[str, typer.Option(help="What to draw.")] = (
        "a large yellow star at the top left, a small blue circle on the right and a large red ring at the bottom"
    ),
    question: Annotated[str, typer.Option(help="What to ask about the picture.")] = "what color is the star?",
    instruction: Annotated[str, typer.Option(help="How to edit the picture.")] = "make the square green",
    seed: SeedOption = 0,
) -> None:
    """Go the whole way with a small trained model: tokens, a caption, an answer, a drawing, an edit."""
    started = time.perf_counter()
    set_seed(seed)
    # The smallest CPU computes in it.
    model, processor = load_model(str(demo_checkpoint()), "cpu", Dtype.float32)
    pipeline = load_decoder(str(demo_checkpoint()), Decoder.highres, like=model)
    pipeline.set_progress_bar_config(disable=True)
    output.mkdir(parents=True, exist_ok=True)
    parts = (model, pipeline.feature_decoder, pipeline.unet, pipeline.vae)
    parameters = sum(p.numel() for part in parts for p in part.parameters())
    console.rule("[bold]LaVIT demo")
    console.print(
        f"A LaVIT of {parameters / 1e6:.1f} million parameters that knows scenes of coloured shapes, "
        "trained by the scripts of this library.\n"
    )

    def write(text: str) -> str:
        inputs = processor(text=processor.image_token + text, images=image, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=64, return_full_text=False)
        return processor.decode(ids[0], skip_special_tokens=True).strip()

    def draw(text: str, pictures: list[Image.Image] | None = None) -> list[int]:
        inputs = processor(text=text, images=pictures, generation_mode="image", return_tensors="pt")
        return processor.decode_interleaved(model.generate(**inputs, generation_mode="image")[0])[-1].codes

    image = demo_image()
    with torch.no_grad():
        tokens = model.model.visual_tokenizer(processor.image_processor(image, return_tensors="pt")["pixel_values"])
    codes = {
        "reconstruction": tokens.codes.tolist(),
        "drawing": draw(prompt),
        "edited": draw(processor.image_token + instruction, [image]),
    }
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(codes))]
    drawn = dict(zip(codes, pipeline(list(codes.values()), generator=generators).images, strict=True))
    files = {"picture": image, "kept_patches": show_kept_patches(image, tokens.keep_mask[0], SHOWN_SIZE)} | drawn
    for name, picture in files.items():
        picture.resize((SHOWN_SIZE, SHOWN_SIZE), Image.Resampling.NEAREST).save(output / f"{name}.png")

    shown, num_patches = codes["reconstruction"], tokens.keep_mask.shape[1]
    lines = {
        "picture": "a scene that it has not seen before",
        "kept_patches": f"{len(shown)} of {num_patches}, the others are folded into them",
        "tokens": f"{len(shown)}: {' '.join(map(str, shown[:8]))} ...",
        "caption": f"“{write('')}”",
        "answer": f"“{question}” “{write(processor.vqa_prompt.format(question=question))}”",
        "reconstruction": "its tokens turned into pixels again",
        "drawing": f"“{prompt}”, {len(codes['drawing'])} tokens",
        "edited": f"“{instruction}”, {len(codes['edited'])} tokens",
    }
    for name, line in lines.items():
        where = f"  [dim]{output / name}.png[/dim]" if name in files else ""
        console.print(f"  [bold]{name.replace('_', ' '):15}[/bold] {line}{where}", soft_wrap=True)
    console.print(
        f"\nDone in {time.perf_counter() - started:.1f} s. The model: {demo_checkpoint()}\n"
        "What else there is: lavit-hf --help",
        soft_wrap=True,
    )
