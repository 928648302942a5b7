# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Whitening of vision features, an island of float32."""

import torch
from torch import nn

from .configuration_lavit import LavitVisualTokenizerConfig
from .precision_lavit import require_float32


class LavitFeatureWhitening(nn.Module):
    """
    Turns vision features so that every direction has about the same variance, one on average over the channels.

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
        """Takes mean and covariance of `features` (T, hidden_size), by which it whitens from then on."""
        features = features.double()
        variances, directions = torch.linalg.eigh(torch.cov(features.T))
        scales = (variances.clamp(min=0) + self.added_share * variances.sum()).rsqrt()
        scales = scales * (len(scales) / (variances * scales.square()).sum()).sqrt()
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_transform.copy_(directions @ torch.diag(scales) @ directions.T)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) -> the same shape and dtype, computed in float32."""
        for name, buffer in self.named_buffers():
            require_float32(name, buffer)
        with torch.autocast(device_type=features.device.type, enabled=False):
            return ((features.float() - self.feature_mean) @ self.feature_transform).to(features.dtype)
