# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts of the tiny LaVIT."""

import torch

from ..tiny import (
    CODEBOOK_SIZE,
    IMAGE_END,
    IMAGE_START,
    PLACEHOLDER,
    VISUAL_OFFSET,
    pad_rows,
    pictures,
)


IMAGE = [IMAGE_START, PLACEHOLDER, IMAGE_END]
CODES = range(VISUAL_OFFSET, VISUAL_OFFSET + CODEBOOK_SIZE)


def prompts(*rows: list[int], side: str = "left") -> dict[str, torch.Tensor]:
    ids, mask = pad_rows(list(rows), side)
    num_images = int((ids == PLACEHOLDER).sum())
    images = {"pixel_values": pictures(num_images)} if num_images else {}
    return {"input_ids": ids, "attention_mask": mask, **images}


MODES = {
    "text": {"max_new_tokens": 6, "eos_token_id": None},
    "image": {"generation_mode": "image"},
    "guided image": {"generation_mode": "image", "guidance_scale": 3.0},
    "interleaved": {"generation_mode": "interleaved", "max_new_tokens": 40, "first_modality": "image"},
    "guided interleaved": {
        "generation_mode": "interleaved",
        "max_new_tokens": 40,
        "first_modality": "image",
        "guidance_scale": 3.0,
    },
}


PROMPTS = {
    "text": [5, 6, 7, 8, 9, 10, 11],
    "image": [5, *IMAGE, 6, 7],
    "open": [5, *IMAGE, 6, IMAGE_START, CODES[3], CODES[5]],
}
