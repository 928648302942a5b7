# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what the model sees."""

import math

import torch
from PIL import Image, ImageDraw


def show_kept_patches(image: Image.Image, keep_mask: torch.Tensor, size: int = 448) -> Image.Image:
    """
    A picture in which the patches that the tokenizer keeps stand out, and those folded into them are pale.

    Args:
        image (`PIL.Image.Image`): The picture that was tokenized.
        keep_mask (`torch.BoolTensor` of shape `(num_patches,)`): As of [`LavitVisualTokenizerOutput`], one picture's.
        size (`int`, *optional*, defaults to 448): Side of the result in pixels.

    Returns:
        `PIL.Image.Image`: RGB, square, as the tokenizer sees the picture.

    Raises:
        ValueError: a mask that is not that of a square grid of patches.
    """
    side = math.isqrt(keep_mask.numel())
    if keep_mask.ndim != 1 or side * side != keep_mask.numel():
        raise ValueError(f"keep_mask must be of shape (num_patches,), a square number, got {tuple(keep_mask.shape)}.")
    image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.8)
    kept = keep_mask.bool().cpu().view(side, side)
    mask = Image.fromarray(kept.to(torch.uint8).mul(255).numpy()).resize(image.size, Image.Resampling.NEAREST)
    shown = Image.composite(image, pale, mask)

    draw = ImageDraw.Draw(shown)
    edges = [round(index * size / side) for index in range(side + 1)]
    for row, column in kept.nonzero().tolist():
        box = (edges[column], edges[row], edges[column + 1] - 1, edges[row + 1] - 1)
        draw.rectangle(box, outline="white")
    return shown


__all__ = ["show_kept_patches"]
