# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Whitening of vision features, which is computed in float32."""

import torch
from torch import nn

from .configuration_lavit import LavitVisualTokenizerConfig
from .precision_lavit import require_float32


class LavitFeatureWhitening(nn.Module):
    """
    Transforms vision features linearly, so that all directions have about the same variance, with a mean of one.

    Args:
        config ([`LavitVisualTokenizerConfig`]): `hidden_size` and `feature_whitening` are used.
    """

    def __init__(self, config: LavitVisualTokenizerConfig):
        super().__init__()
        self.added_share = config.feature_whitening
        self.register_buffer("feature_mean", torch.zeros(config.hidden_size, dtype=torch.float32))
        self.register_buffer("feature_transform", torch.eye(config.hidden_size, dtype=torch.float32))

    @torch.no_grad()
    def fit(self, features: torch.Tensor) -> None:
        """Sets the transformation by the mean and the covariance of `features` (T, hidden_size)."""
        features = features.double()
        variances, directions = torch.linalg.eigh(torch.cov(features.T))
        scales = (variances.clamp(min=0) + self.added_share * variances.sum()).rsqrt()
        scales = scales * (len(scales) / (variances * scales.square()).sum()).sqrt()
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_transform.copy_(directions @ torch.diag(scales) @ directions.T)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Whitens features (..., hidden_size) in float32, and returns them in their own dtype."""
        for name, buffer in self.named_buffers():
            require_float32(name, buffer)
        with torch.autocast(device_type=features.device.type, enabled=False):
            return ((features.float() - self.feature_mean) @ self.feature_transform).to(features.dtype)
