# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The whole way on the small model that ships."""

import time
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from .common import DEMO, Decoder, Dtype, SeedOption, app, console, load_decoder, load_model
from .pictures import draw_codes, tokenize, write_text


# Of the test split, which the model was not trained on: a star, a square and a triangle.
DEMO_SCENE = 6
# Scenes are drawn at 64 pixels; enlarged, they can be looked at.
SHOWN_SIZE = 256


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the pictures.")] = Path(
        "demo_output"
    ),
    prompt: Annotated[str, typer.Option(help="What to draw.")] = (
        "a large yellow star at the top left, a small blue circle on the right and a large red ring at the bottom"
    ),
    question: Annotated[str, typer.Option(help="What to ask about the picture.")] = "what color is the star?",
    instruction: Annotated[str, typer.Option(help="How to edit the picture.")] = "paint the star blue",
    seed: SeedOption = 0,
) -> None:
    """Go the whole way with a small trained model: tokens, a caption, an answer, a drawing, an edit."""
    started = time.perf_counter()
    import torch
    from transformers import set_seed

    from ..data.shapes import render_scene, sample_scene
    from ..visualization import show_kept_patches

    # The smallest CPU computes in it.
    model, processor = load_model(DEMO, "cpu", Dtype.float32)
    pipeline = load_decoder(DEMO, Decoder.highres, like=model)
    pipeline.set_progress_bar_config(disable=True)
    output.mkdir(parents=True, exist_ok=True)
    parts = (model, pipeline.feature_decoder, pipeline.unet, pipeline.vae)
    parameters = sum(p.numel() for part in parts for p in part.parameters())
    console.rule("[bold]LaVIT demo")
    console.print(
        f"A LaVIT of {parameters / 1e6:.1f} million parameters that knows scenes of coloured shapes, "
        "trained by the scripts of this library.\n"
    )

    image = render_scene(sample_scene(DEMO_SCENE, "test"))
    [(shown, keep_mask)] = tokenize(model.model.visual_tokenizer, processor, [image], None, seed)
    codes = {"reconstruction": shown}
    for name, text, pictures in (("drawing", prompt, None), ("edited", instruction, [image])):
        set_seed(seed)  # so that neither depends on what was drawn before
        codes[name] = draw_codes(model, processor, text, pictures)[0]
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(codes))]
    drawn = dict(zip(codes, pipeline(list(codes.values()), generator=generators).images, strict=True))
    files = {"picture": image, "kept_patches": show_kept_patches(image, keep_mask, SHOWN_SIZE)} | drawn
    for name, picture in files.items():
        picture.resize((SHOWN_SIZE, SHOWN_SIZE), Image.Resampling.NEAREST).save(output / f"{name}.png")

    caption, answer = (
        write_text(model, processor, image, text, max_new_tokens=64)
        for text in ("", processor.vqa_prompt.format(question=question))
    )
    lines = {
        "picture": "a scene that it has not seen before",
        "kept_patches": f"{len(shown)} of {len(keep_mask)}, the others are folded into them",
        "tokens": f"{len(shown)}: {' '.join(map(str, shown[:8]))} ...",
        "caption": f"“{caption}”",
        "answer": f"“{question}” “{answer}”",
        "reconstruction": "its tokens turned into pixels again",
        "drawing": f"“{prompt}”, {len(codes['drawing'])} tokens",
        "edited": f"“{instruction}”, {len(codes['edited'])} tokens",
    }
    for name, line in lines.items():
        where = f"  [dim]{output / name}.png[/dim]" if name in files else ""
        console.print(f"  [bold]{name.replace('_', ' '):15}[/bold] {line}{where}", soft_wrap=True)
    console.print(
        f"\nDone in {time.perf_counter() - started:.1f} s. The model: {DEMO}\nWhat else there is: lavit-hf --help",
        soft_wrap=True,
    )
