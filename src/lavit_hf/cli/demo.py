# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `demo`."""

from pathlib import Path

import torch
from PIL import Image
from rich.text import Text

from ..data.shapes import render_scene, sample_scene
from ..inference import decode_codes, decode_edits, draw_codes, encode_images, write_texts
from ..visualization import name_tokens, show_kept_patches
from . import options
from .loading import console, load_with_decoder, save_image


DEMO_SCENE = 6  # of the test split: a star, a square and a triangle
PROMPT = "Two tiny yellow stars above a big blue ring, please!"
QUESTION = "what color is the star?"
INSTRUCTION = "paint the star blue"
SHOWN_SIZE = 256  # pixels; the model draws at 64
IMAGES = ("image", "kept_patches", "reconstruction", "drawing", "edited")


def demo(
    output: options.ImageFolder = Path("demo_output"), overwrite: options.Overwrite = False, seed: options.Seed = 0
) -> None:
    """Show tokens, a caption, an answer, a drawing and an edit of a small trained model."""
    options.check_outputs(*(output / f"{name}.png" for name in IMAGES), overwrite=overwrite)
    model, processor, pipeline = load_with_decoder(options.DEMO, options.Decoder.highres, "cpu", "float32")
    console.rule(Text("LaVIT demo", style="bold"))
    console.print(
        f"A LaVIT of {model.num_parameters() / 1e6:.1f} million parameters that knows colored shapes only.\n"
    )

    image = render_scene(sample_scene(DEMO_SCENE, "test"))
    tokens = encode_images(model.model.visual_tokenizer, processor, [image])
    keep_mask, codes = tokens.keep_mask[0], {"reconstruction": tokens.codes.tolist()}
    for name, text, before in (("drawing", PROMPT, []), ("edited", INSTRUCTION, [image])):
        torch.manual_seed(seed)  # so that neither depends on the other
        [codes[name]] = draw_codes(model, processor, [text], [before])
    source, edited = codes["reconstruction"], codes.pop("edited")
    drawn = dict(zip(codes, decode_codes(pipeline, list(codes.values()), seed), strict=True))
    [drawn["edited"]] = decode_edits(pipeline, [image], [source], [edited], seed)
    images = {"image": image, "kept_patches": show_kept_patches(image, keep_mask, SHOWN_SIZE)} | drawn
    [caption] = write_texts(model, processor, [""], [[image]], task="caption")
    question = processor.vqa_prompt.format(question=QUESTION)
    [answer] = write_texts(model, processor, [question], [[image]], task="answer")
    lines = {
        "image": "a scene that the model has not seen before",
        "kept patches": f"{len(source)} of {len(keep_mask)}, the others are merged into them",
        "tokens": f"{len(source)}: {' '.join(map(str, source[:8]))} ...",
        "caption": f"“{caption}”",
        "answer": f"“{QUESTION}” “{answer}”",
        "reconstruction": "drawn from the tokens",
        "drawing": f"“{PROMPT}”, {name_tokens(len(codes['drawing']))}",
        "edited": f"“{INSTRUCTION}”, {name_tokens(len(edited))}",
    }
    for name, line in lines.items():
        console.print(Text.assemble("  ", (f"{name:15}", "bold"), f" {line}"), soft_wrap=True)
    for name in IMAGES:
        save_image(images[name].resize((SHOWN_SIZE, SHOWN_SIZE), Image.Resampling.NEAREST), output / f"{name}.png")
    console.print(f"\n{len(images)} images in {output}.", soft_wrap=True)
    console.print(f"The model: {options.DEMO}\nOther commands: lavit-hf --help", soft_wrap=True)
