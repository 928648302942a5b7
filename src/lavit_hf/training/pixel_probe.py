# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What rebuilt features still tell of the picture, seen before there is a pixel decoder."""

import torch
from PIL import Image

from ..modeling import LavitVisualTokenizerForPreTraining
from ..visualization import Sample, draw_sheet, show_kept_patches


class PixelProbe:
    """
    The best linear map from a patch's features to its pixels, by least squares. A low cosine loss can hide that
    colours or places are lost; the pictures that the probe makes of rebuilt features show it.

    Args:
        features (`torch.FloatTensor` of shape `(B, N, d)`): Original features.
        pixel_values (`torch.FloatTensor` of shape `(B, 3, S, S)`): Their pictures, with N = (S / patch)^2.
    """

    def __init__(self, features: torch.Tensor, pixel_values: torch.Tensor):
        self.side = round(features.shape[1] ** 0.5)
        self.patch = pixel_values.shape[-1] // self.side
        patches = pixel_values.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        self.weight = torch.linalg.lstsq(self._with_one(features), patches.float()).solution

    @staticmethod
    def _with_one(features: torch.Tensor) -> torch.Tensor:
        features = features.flatten(0, 1).float()
        return torch.cat([features, torch.ones_like(features[:, :1])], dim=-1)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(B, N, d) -> pixels (B, 3, S, S), on the scale of `pixel_values`."""
        patches = self._with_one(features) @ self.weight
        grid = patches.view(len(features), self.side, self.side, 3, self.patch, self.patch)
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


@torch.no_grad()
def show_tokenizer(
    model: LavitVisualTokenizerForPreTraining,
    pictures: list[Image.Image],
    pixel_values: torch.Tensor,
    num_shown: int = 8,
    size: int = 128,
) -> Image.Image:
    """
    A sheet of `num_shown` pictures, each with its kept patches, what a linear map sees in the original features, and
    what another sees in the features rebuilt from the codes.

    Args:
        model ([`LavitVisualTokenizerForPreTraining`]): In evaluation mode.
        pictures (`list[Image.Image]`), pixel_values (`torch.FloatTensor` of shape `(B, 3, S, S)`):
            Pictures, and the same as the image processor makes them. All serve to fit the map.
        num_shown (`int`, *optional*, defaults to 8): How many of them are on the sheet.
        size (`int`, *optional*, defaults to 128): Side of each picture there, in pixels.
    """
    outputs = model(pixel_values.to(model.device))
    # A map for each: the cosine loss leaves the length of rebuilt features free.
    seen = [
        PixelProbe(features, pixel_values)(features)
        for features in (outputs.tokenizer_output.vision_features.cpu(), outputs.rebuilt_features.cpu())
    ]
    low, high = pixel_values.min(), pixel_values.max()

    def to_pictures(pixels: torch.Tensor) -> list[Image.Image]:
        pixels = ((pixels[:num_shown] - low) / (high - low)).clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1)
        return [Image.fromarray(rows.numpy()) for rows in pixels.cpu()]

    keep_masks = outputs.tokenizer_output.keep_mask[:num_shown]
    samples = [
        Sample((picture, show_kept_patches(picture, mask, size), *linear), (f"{int(mask.sum())} tokens",))
        for picture, mask, *linear in zip(pictures[:num_shown], keep_masks, *map(to_pictures, seen), strict=True)
    ]
    return draw_sheet(samples, size, columns=2)


__all__ = ["PixelProbe", "show_tokenizer"]
