# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The whole way, without any checkpoint of one's own."""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import set_seed

from ..demo import build_demo, load_demo_image
from ..visualization import show_kept_patches
from .common import SeedOption, app, console


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
