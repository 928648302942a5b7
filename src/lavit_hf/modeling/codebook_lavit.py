# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The codebook: kept and merged features become codes (paper, section 3.1). Lookups are an island of float32."""

import torch
from torch import nn

from .distributed_lavit import all_reduce
from .precision_lavit import require_float32


# Deviation of new positions: beside normalised features the usual 0.02 would long go unnoticed.
POSITIONS_STD = 0.3


class LavitQuantizer(nn.Module):
    """
    Cosine-nearest codes: a small head maps features to l2-normalised vectors, each named by the codebook row next to
    it. The rows are a buffer: they follow the vectors that they name, not a gradient, see [`LavitCodebookUpdater`].

    Args:
        config ([`LavitVisualTokenizerConfig`]): `hidden_size`, `codebook_size`, `code_dim`, `encode_positions` and
            `num_patches` are used.
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
        if config.encode_positions:
            self.position_embeddings = nn.Parameter(torch.empty(config.num_patches, config.hidden_size))
        else:
            self.position_embeddings = None
        self.register_buffer("codebook", torch.empty(config.codebook_size, config.code_dim, dtype=torch.float32))

    def encode(self, features: torch.Tensor, positions: torch.LongTensor | None = None) -> torch.Tensor:
        """Features (T, hidden_size) of patches (T,) in 0..num_patches-1 -> unit vectors (T, code_dim), float32."""
        if self.position_embeddings is not None:
            features = features + self.position_embeddings[positions]
        vectors = self.encode_head(features)
        # Rounded again by an autocast region around, a few codes in a hundred would come out as others.
        with torch.autocast(device_type=features.device.type, enabled=False):
            return nn.functional.normalize(vectors.float(), dim=-1)

    @torch.no_grad()
    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes (T,) int64 of least squared distance to `vectors` (T, code_dim); the rows are taken as stored."""
        require_float32("codebook", self.codebook)
        with torch.autocast(device_type=vectors.device.type, enabled=False):
            codebook = self.codebook.float()
            # |v - c|^2 = |v|^2 - 2 v.c + |c|^2, where |v|^2 is the same for every code
            half_norms = codebook.square().sum(-1) / 2
            chunks = vectors.float().split(self.chunk_size)
            return torch.cat([torch.addmm(-half_norms, chunk, codebook.T).argmax(-1) for chunk in chunks])

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Rows (..., code_dim) of `codes` (...), in the dtype of the codebook."""
        return nn.functional.embedding(codes, self.codebook)

    def forward(
        self, features: torch.Tensor, positions: torch.LongTensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            features (`torch.FloatTensor` of shape `(T, hidden_size)`): Merged features of the kept patches.
            positions (`torch.LongTensor` of shape `(T,)`, *optional*):
                The index of each patch in its image, needed where the configuration encodes positions.

        Returns:
            codes (T,) int64; the unit vectors that they name, and the rows of the codebook, through which gradients
            pass straight to the vectors, both (T, code_dim) float32.
        """
        vectors = self.encode(features, positions)
        codes = self.nearest(vectors)
        rows = self.lookup(codes).float()
        return codes, vectors, vectors + (rows - vectors).detach() if vectors.requires_grad else rows


@torch.no_grad()
def spherical_kmeans(vectors: torch.Tensor, num_clusters: int, num_iterations: int = 10) -> torch.Tensor:
    """
    Centres of clusters on the unit sphere (Lloyd's algorithm with cosines), the same for the same vectors.

    Args:
        vectors (`torch.FloatTensor` of shape `(T, d)`): Unit vectors, at least `num_clusters`.
        num_clusters (`int`), num_iterations (`int`): How many centres, and how often they move.

    Returns:
        `torch.FloatTensor` of shape `(num_clusters, d)`: unit rows.

    Raises:
        ValueError: fewer vectors than clusters.
    """
    if len(vectors) < num_clusters:
        raise ValueError(f"k-means of {num_clusters} clusters needs as many vectors, got {len(vectors)}.")
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0)).to(vectors.device)
    centres = vectors[order[:num_clusters]]
    for _ in range(num_iterations):
        best = [(chunk @ centres.T).max(dim=-1) for chunk in vectors.split(LavitQuantizer.chunk_size)]
        nearest = torch.cat([found.indices for found in best])
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        empty = nearest.bincount(minlength=num_clusters) == 0
        # An empty cluster starts again at one of the vectors that are served worst.
        worst = torch.cat([found.values for found in best]).argsort()[: int(empty.sum())]
        sums[empty] = vectors[worst]
        centres = nn.functional.normalize(sums, dim=-1)
    return centres


class LavitCodebookUpdater(nn.Module):
    """
    Moves a codebook with the vectors that it names: each row is the normalised moving average of its vectors (van den
    Oord et al., arXiv 1711.00937, appendix A.1), and codes that are hardly used start again beside those that err
    most, to share their vectors. Every process sees the sums over all of them, so that their codebooks stay equal.

    Args:
        config ([`LavitVisualTokenizerConfig`]): `codebook_size`, `code_dim`, `codebook_decay`, `dead_code_threshold`.
    """

    def __init__(self, config):
        super().__init__()
        self.decay = config.codebook_decay
        self.dead_code_threshold = config.dead_code_threshold
        self.register_buffer("counts", torch.zeros(config.codebook_size, dtype=torch.float32))
        self.register_buffer("sums", torch.zeros(config.codebook_size, config.code_dim, dtype=torch.float32))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def start(self, codebook: torch.Tensor, vectors: torch.Tensor, num_iterations: int = 10) -> None:
        """
        Puts the rows of `codebook` (codebook_size, code_dim) at the k-means of `vectors` (T, code_dim) of all
        processes, which must be the same in each.
        """
        codebook.copy_(spherical_kmeans(vectors.float(), len(codebook), num_iterations))
        self.counts.zero_()
        self.sums.zero_()
        self.num_updates.zero_()

    @torch.no_grad()
    def forward(self, codebook: torch.Tensor, vectors: torch.Tensor, codes: torch.LongTensor) -> None:
        """Moves `codebook` after this process's unit `vectors` (T, code_dim) and their `codes` (T,)."""
        with torch.autocast(device_type=vectors.device.type, enabled=False):
            counts = all_reduce(codes.bincount(minlength=len(codebook)).float())
            sums = all_reduce(torch.zeros_like(self.sums).index_add_(0, codes, vectors.float()))
            # Before the first update the averages stand for the rows as they are, all used alike.
            first = self.num_updates == 0
            mean_count = counts.mean()
            self.counts.copy_(torch.where(first, mean_count, self.counts))
            self.sums.copy_(torch.where(first, mean_count * codebook, self.sums))
            # At first the vectors move fast: the averages begin short, as those of weights do.
            weight = (9 / (10 + self.num_updates)).clamp(min=1 - self.decay)
            self.counts.lerp_(counts, weight)
            self.sums.lerp_(sums, weight)

            self._revive(self.dead_code_threshold * self.counts.mean())
            codebook.copy_(nn.functional.normalize(self.sums, dim=-1))
            self.num_updates += 1

    def _revive(self, least: torch.Tensor) -> None:
        """A code that is used less than `least` takes half of the vectors of another of those that err most in all."""
        dead = self.counts < least
        # A moving average of unit vectors is the shorter, the more they differ. Neither half is to die of the split.
        errors = (self.counts - self.sums.square().sum(dim=-1) / self.counts.clamp(min=1e-12)).clamp(min=0)
        can_share = self.counts > 2 * least
        by_error = errors.where(can_share, -1.0).argsort(descending=True, stable=True)
        rank = dead.cumsum(0) - 1
        dead &= rank < can_share.sum()
        codes = torch.arange(len(dead), device=dead.device)
        source = torch.where(dead, by_error[rank.clamp(min=0)], codes)
        halves = torch.ones_like(self.counts).index_add_(0, source, dead.float())[source]
        # A step aside of one standard deviation, in a direction that is the same in every process.
        generator = torch.Generator().manual_seed(int(self.num_updates))
        aside = nn.functional.normalize(torch.randn(self.sums.shape, generator=generator), dim=-1).to(self.sums)
        step = (errors * self.counts / self.sums.shape[1]).sqrt()[source] / halves * dead
        self.counts.copy_(self.counts[source] / halves)
        self.sums.copy_(self.sums[source] / halves[:, None] + aside * step[:, None])
