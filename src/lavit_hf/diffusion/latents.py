# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pixels to latents and back, by the VAE of a pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _without_overflow(vae: Any) -> Iterator[None]:
    """Casts a VAE to float32 for the time being if it overflows in float16, as that of SDXL does."""
    upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(torch.float16)


def encode_pixels(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Encodes pixels (B, 3, height, width) in [-1, 1] as latents (B, C, h, w), without random numbers."""
    with _without_overflow(vae):
        outputs = vae.encode(pixels.to(vae.dtype))
    latents = outputs.latents if hasattr(outputs, "latents") else outputs.latent_dist.mode()
    return latents * vae.config.scaling_factor


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decodes latents (B, C, h, w) to pixels (B, 3, height, width) in about [-1, 1]."""
    with _without_overflow(vae):
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
