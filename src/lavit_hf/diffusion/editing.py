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
    counts = len(source_embeds), len(target_embeds)
    expect(
        counts[0] == counts[1],
        "source_tokens and target_tokens must be of as many images, got {} and {}.".format(*counts),
    )
    source_embeds, target_embeds = source_embeds.float(), target_embeds.float()
    # A part that all conditions share tells nothing about an image.
    variance = torch.cat([source_embeds, target_embeds], dim=1).var(dim=1).sum(-1, keepdim=True)
    changed = (source_embeds - target_embeds).square().sum(-1) > threshold * variance
    side = math.isqrt(changed.shape[1])
    expect(side**2 == changed.shape[1], f"Edits need a square number of patches, got {changed.shape[1]}.")
    grid = changed.float().unflatten(1, (1, side, side))
    return nn.functional.max_pool2d(nn.functional.interpolate(grid, scale_factor=2), 3, stride=1, padding=1)


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
    def encode(
        cls, vae: Any, image: Any, mask_image: Any, num_images: int, size: tuple[int, int], noise: torch.Tensor
    ) -> "KeptImage":
        """
        Encodes the image and the mask of a call.

        Args:
            vae (`AutoencoderKL` or `AutoencoderTiny`): The VAE of the pipeline.
            image, mask_image: The arguments of the call: one for all images, or one for each.
            num_images (`int`): The number of images whose codes are drawn, each once or several times.
            size (`tuple[int, int]`): Height and width in pixels.
            noise (`torch.Tensor` of shape `(B, C, h, w)`): The noise from which the call starts.

        Raises:
            ValueError: If there are not as many images as codes, or an image cannot be read.
        """
        is_batch = isinstance(image, (list, tuple)) or getattr(image, "ndim", 3) == 4
        # Read as for the model, which has seen the image upright and without transparency.
        images = [read_image(item, f"image {index}") for index, item in enumerate(image if is_batch else [image])]
        expect(bool(images), "image must have at least one image, got none.")
        pixels = VaeImageProcessor(vae_scale_factor=1).preprocess(images, *size)
        mask_processor = VaeImageProcessor(
            vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )
        if isinstance(mask_image, (np.ndarray, torch.Tensor)) and mask_image.dtype in (np.bool_, torch.bool):
            mask_image = mask_image + 0.0  # interpolation needs numbers
        mask = mask_processor.preprocess(mask_image, *noise.shape[-2:])
        for name, rows in (("image", pixels), ("mask_image", mask)):
            expected = f"{name} must have one image, or one for each of {num_images} in image_tokens"
            expect(len(rows) in (1, num_images), f"{expected}, got {len(rows)}.")
        expect(mask.shape[1] == 1, f"mask_image must have one channel, got {mask.shape[1]}.")
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
