# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pixels to latents and back, by the VAE of a pipeline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def _without_overflow(vae: Any) -> Iterator[None]:
    """Runs a VAE in float32 for the time being if it overflows in float16, as that of SDXL does."""
    device_type, overflows = vae.device.type, vae.config.get("force_upcast")
    is_narrow = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.float16
    upcast = overflows and vae.dtype == torch.float16
    if upcast:
        vae.to(torch.float32)
    try:
        with torch.autocast(device_type, enabled=False) if overflows and is_narrow else nullcontext():
            yield
    finally:
        if upcast:
            vae.to(torch.float16)


def encode_pixels(
    vae: Any, pixels: torch.Tensor, noise: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """
    Encodes pixels as latents of about unit deviation.

    Args:
        vae (`AutoencoderKL` or `AutoencoderTiny`): The VAE.
        pixels (`torch.Tensor` of shape `(B, 3, height, width)`): Pixels in [-1, 1].
        noise (`Callable`, *optional*):
            Returns standard normal noise of the shape, device and dtype of a tensor, with which latents are sampled
            from their distribution. Default: the mode of the distribution.

    Returns:
        `torch.Tensor` of shape `(B, C, h, w)`.
    """
    with _without_overflow(vae):
        outputs = vae.encode(pixels.to(vae.dtype))
    if hasattr(outputs, "latents"):  # of an `AutoencoderTiny`, which has no distribution
        return outputs.latents * vae.config.scaling_factor
    distribution = outputs.latent_dist
    latents = distribution.mode() if noise is None else distribution.mean + distribution.std * noise(distribution.mean)
    return latents * vae.config.scaling_factor


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decodes latents (B, C, h, w) to pixels (B, 3, height, width) in about [-1, 1]."""
    with _without_overflow(vae):
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
