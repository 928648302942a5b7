# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Edits that leave the rest of an image as it is. The image tokens before and after an edit tell which patches change, as
the two prompts of DiffEdit do (Couairon et al., arXiv 2210.11427). In every step, the latents of the other patches are
those of the given image with the noise of that step (Avrahami et al., arXiv 2206.02779).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps
from torch import nn

from ..modeling.arguments_lavit import check_number
from ..processing import read_image
from .checks import expect
from .latents import encode_pixels


# The least squared change of a patch, relative to the variance of the conditions. With the small model, 9 in 100
# patches that are the same in two images differ by more, and 1 in 100 of those that changed differ by less.
CHANGE_THRESHOLD = 0.6


def find_changes(source_embeds: torch.Tensor, target_embeds: torch.Tensor, threshold: float) -> torch.Tensor:
    """
    Finds the patches whose conditions differ between two images.

    Args:
        source_embeds, target_embeds (`torch.Tensor` of shape `(B, num_patches, d)`): The conditions of the U-Net.
        threshold (`float`): The squared difference of a changed patch, relative to the variance over both images.

    Returns:
        `torch.Tensor` of shape `(B, 1, 2 side, 2 side)`: 1 at changed patches and half a patch around them, or else 0.
    """
    threshold = check_number("threshold", threshold, 0)
    source_embeds, target_embeds = source_embeds.float(), target_embeds.float()
    # A part that all conditions share tells nothing about an image.
    variance = torch.cat([source_embeds, target_embeds], dim=1).var(dim=1).sum(-1, keepdim=True)
    changed = (source_embeds - target_embeds).square().sum(-1) > threshold * variance
    side = math.isqrt(changed.shape[1])
    expect(side**2 == changed.shape[1], f"Edits need a square number of patches, got {changed.shape[1]}.")
    grid = changed.float().unflatten(1, (1, side, side))
    return nn.functional.max_pool2d(nn.functional.interpolate(grid, scale_factor=2), 3, stride=1, padding=1)


def read_kept_image(
    image: Any, mask_image: Any, num_images: int, size: tuple[int, int], latent_size: tuple[int, int], scheduler: Any
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """
    Reads the image of which a call keeps a part, and its mask.

    Args:
        image, mask_image: The arguments of the call: one for all images, one for each, or both None.
        num_images (`int`): The number of images whose codes are drawn.
        size, latent_size (`tuple[int, int]`): Height and width in pixels, and in latents.
        scheduler (`SchedulerMixin`): The scheduler of the call.

    Returns:
        The pixels of shape `(N, 3, height, width)` in [-1, 1] and the mask of shape `(N, 1, h, w)`, 0 or 1, or None.
        N is 1 or `num_images`.

    Raises:
        ValueError: If there are not as many images as codes, one of them cannot be read, or the scheduler has steps
            whose noise it does not tell.
    """
    expect((image is None) == (mask_image is None), "image and mask_image must be given together.")
    if image is None:
        return None
    name = type(scheduler).__name__
    expect(not hasattr(scheduler, "sigmas_interpol"), f"image and mask_image do not work with {name}.")
    # The image is read as for the model, which has seen it upright and without transparency.
    images = [read_image(item, label) for label, item in _list_images("image", image, num_images)]
    pixels = VaeImageProcessor(vae_scale_factor=1).preprocess(images, *size)
    masks = [_read_mask(item, label) for label, item in _list_images("mask_image", mask_image, num_images)]
    resized = [nn.functional.interpolate(mask, latent_size, mode="bilinear", antialias=True) for mask in masks]
    return pixels, (torch.cat(resized) >= 0.5).float()


def _list_images(name: str, given: Any, num_images: int) -> list[tuple[str, Any]]:
    is_batch = isinstance(given, (list, tuple)) or getattr(given, "ndim", 3) == 4
    items = list(given) if is_batch else [given]
    expected = f"{name} must have one image, or one for each of {num_images} in image_tokens"
    expect(len(items) in (1, num_images), f"{expected}, got {len(items)}.")
    return [(f"{name} {index}", item) for index, item in enumerate(items)]


def _read_mask(source: Any, name: str) -> torch.Tensor:
    """Returns a mask (1, 1, H, W) with values in [0, 1]. The dtype of an array tells its range, as for images."""
    if isinstance(source, Image.Image):
        expect(source.mode in ("1", "L", "RGB"), f"{name} must have the mode 1, L or RGB, got {source.mode}.")
        source = np.array(ImageOps.exif_transpose(source).convert("L"))
    is_array = isinstance(source, (np.ndarray, torch.Tensor))
    expect(is_array, f"{name} must be a PIL image, an array or a tensor, got {type(source).__name__}.")
    values = torch.as_tensor(source)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    expect(values.ndim == 2 and values.numel() > 0, f"{name} must have one channel, got {tuple(source.shape)}.")
    if values.dtype in (torch.bool, torch.uint8):
        values = values.float() / (1 if values.dtype == torch.bool else 255)
    in_range = values.is_floating_point() and bool(((values >= 0) & (values <= 1)).all())  # NaN is not
    expect(in_range, f"{name} must be bool, uint8, or floating in [0, 1], got {source.dtype} with other values.")
    return values.detach().float()[None, None]


@dataclass
class KeptImage:
    """
    The image of which a call keeps a part.

    Args:
        pixels (`torch.Tensor` of shape `(B, 3, height, width)`): The image in [-1, 1].
        latents (`torch.Tensor` of shape `(B, C, h, w)`): The latents of the image.
        mask (`torch.Tensor` of shape `(B, 1, h, w)`): 1 where the image is drawn anew, 0 where it is kept.
        noise (`torch.Tensor` of shape `(B, C, h, w)`): The noise from which the call starts.
    """

    pixels: torch.Tensor
    latents: torch.Tensor
    mask: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def encode(cls, vae: Any, pixels: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> "KeptImage":
        """
        Encodes the result of [`read_kept_image`].

        Args:
            vae (`AutoencoderKL` or `AutoencoderTiny`): The VAE of the pipeline.
            pixels, mask (`torch.Tensor`): One row for all images, or one for each.
            noise (`torch.Tensor` of shape `(B, C, h, w)`): The noise from which the call starts. An image may be drawn
                several times, in neighboring rows.
        """
        latents = encode_pixels(vae, pixels.to(noise.device))
        pixels, latents, mask = (
            rows.to(noise).repeat_interleave(len(noise) // len(rows), dim=0) for rows in (pixels, latents, mask)
        )
        return cls(pixels, latents, mask, noise)

    def put_back(self, scheduler: Any, latents: torch.Tensor, step: int) -> torch.Tensor:
        """Returns the latents after a step of the scheduler, in which the kept part is that of the image."""
        kept, following = self.latents, scheduler.timesteps[step + 1 : step + 2]
        if len(following):
            kept = scheduler.add_noise(kept, self.noise, following)
        return self.mask * latents + (1 - self.mask) * kept.to(latents)

    def paste(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns decoded pixels in which the kept part is that of the image, since a VAE changes it a little."""
        mask = nn.functional.interpolate(self.mask.to(pixels), pixels.shape[-2:], mode="bilinear")
        return mask * pixels + (1 - mask) * self.pixels.to(pixels)
