# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a model sees in a picture, as pictures."""

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    DEMO,
    Decoder,
    DecoderOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    ModelOption,
    SeedOption,
    StepsOption,
    app,
    console,
    load_decoder,
    load_model,
    open_image,
    progress_bars,
)
from .pictures import decode_pixels, write_text


@app.command()
def show(
    image: Annotated[Path, typer.Argument(help="Picture file.", show_default=False)],
    model: ModelOption = DEMO,
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the pictures.")] = Path(
        "shown"
    ),
    text: Annotated[
        str | None, typer.Option(help="What stands after the picture, word by word. Default: the model's caption.")
    ] = None,
    decoder: DecoderOption = Decoder.highres,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """
    Show what a model sees in a picture: which patches it keeps, which of them takes in each of the others, what its
    tokens keep of the picture, and where each word of a text looks.
    """
    import torch

    from ..visualization import (
        attend_to_patches,
        find_merge_targets,
        show_attention,
        show_kept_patches,
        show_merging,
        show_reconstructions,
    )

    picture = open_image(image)
    loaded, processor = load_model(model, device, dtype)
    pipeline = load_decoder(model, decoder, like=loaded)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = loaded.model.visual_tokenizer
    pixel_values = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    pixel_values = pixel_values.to(loaded.device, loaded.dtype)
    with torch.no_grad():
        tokens = tokenizer(pixel_values)
    keep_mask, codes = tokens.keep_mask[0], tokens.codes.tolist()
    with progress_bars() as bars:
        [rebuilt] = decode_pixels(pipeline, [codes], seed, bars, num_inference_steps=steps)
    text = text or write_text(loaded, processor, picture, "", max_new_tokens=64)
    shown = {
        "kept_patches": (show_kept_patches(picture, keep_mask), f"{len(codes)} of {len(keep_mask)} are kept"),
        "merging": (
            show_merging(picture, find_merge_targets(tokenizer, tokens)[0]),
            "which takes in the others",
        ),
        "reconstruction": (show_reconstructions([picture], [keep_mask], [rebuilt], 256), "from its tokens alone"),
        "attention": (show_attention(picture, *attend_to_patches(loaded, processor, picture, text)), f"“{text}”"),
    }
    for name, (result, line) in shown.items():
        result.save(output / f"{name}.png")
        console.print(f"{output / name}.png: {line}", soft_wrap=True, markup=False)
