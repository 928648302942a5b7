# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The codebook: kept and merged features become codes (paper, section 3.1). Lookups are an island of float32."""

import torch
from torch import nn


class LavitQuantizer(nn.Module):
    """
    Cosine-nearest codes: a small head maps features to l2-normalised vectors, each named by the codebook row next to
    it. The rows are a buffer: they are to follow the features rather than a gradient. Nothing moves them yet; in
    training, the commitment loss alone draws the features to them.

    Args:
        config ([`LavitVisualTokenizerConfig`]): `hidden_size`, `codebook_size` and `code_dim` are used.
    """

    # (chunk, codebook_size) similarities are held at once: 268 MB for the release.
    chunk_size = 4096

    def __init__(self, config):
        super().__init__()
        self.encode_head = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Linear(config.hidden_size, config.code_dim),
        )
        self.register_buffer("codebook", torch.empty(config.codebook_size, config.code_dim))

    @torch.no_grad()
    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes (T,) int64 of least squared distance to `vectors` (T, code_dim); the rows are taken as stored."""
        codebook = self.codebook.float()
        # |v - c|^2 = |v|^2 - 2 v.c + |c|^2, where |v|^2 is the same for every code
        half_norms = codebook.square().sum(-1) / 2
        chunks = vectors.float().split(self.chunk_size)
        return torch.cat([torch.addmm(-half_norms, chunk, codebook.T).argmax(-1) for chunk in chunks])

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Rows (..., code_dim) of `codes` (...), in the dtype of the codebook."""
        return nn.functional.embedding(codes, self.codebook)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            features (`torch.FloatTensor` of shape `(T, hidden_size)`): Merged features of the kept patches.

        Returns:
            codes (T,) int64; quantized (T, code_dim) float32, through which gradients pass straight to the features;
            the commitment loss, a float32 scalar.
        """
        vectors = self.encode_head(features)
        # Rounded again by an autocast region around, a few codes in a hundred would come out as others.
        with torch.autocast(device_type=features.device.type, enabled=False):
            vectors = nn.functional.normalize(vectors.float(), dim=-1)
            codes = self.nearest(vectors)
            rows = self.lookup(codes).float()
            commitment_loss = (vectors - rows).square().sum(-1).mean()
            quantized = vectors + (rows - vectors).detach() if vectors.requires_grad else rows
        return codes, quantized, commitment_loss
