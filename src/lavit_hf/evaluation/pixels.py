# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How far two pictures are apart, pixel by pixel."""

import math

import torch
from torch.nn.functional import conv2d


def psnr(picture: torch.Tensor, reference: torch.Tensor) -> float:
    """
    Peak signal-to-noise ratio.

    Args:
        picture, reference (`torch.FloatTensor` of shape `(3, height, width)`): In [0, 1].

    Returns:
        `float`: In decibels; equal pictures give 100, as a mean over pictures needs a number.
    """
    error = (picture - reference).square().mean().item()
    return -10 * math.log10(max(error, 1e-10))


def ssim(picture: torch.Tensor, reference: torch.Tensor) -> float:
    """
    Structural similarity (Wang et al. 2004): Gaussian windows of 11 x 11 pixels with a deviation of 1.5, wholly inside
    the picture; the mean over windows and channels.

    Args:
        picture, reference (`torch.FloatTensor` of shape `(3, height, width)`): In [0, 1], 11 pixels or more each way.

    Returns:
        `float`: -1 to 1, where 1 is equality.
    """
    offsets = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = window.outer(window) / window.sum().square()
    x, y = picture.double()[:, None], reference.double()[:, None]
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        conv2d(values, window[None, None]) for values in (x, y, x * x, y * y, x * y)
    )
    variances = mean_xx - mean_x**2 + mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean().item()


__all__ = ["psnr", "ssim"]
