# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The codebook (paper, section 3.1), which turns merged features into codes. Its lookups are computed in float32."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .distributed_lavit import all_reduce
from .precision_lavit import require_float32


# Standard deviation of new position embeddings. With the usual 0.02 they would have no effect beside normalized
# features for many steps.
POSITIONS_STD = 0.3
MANY_UPDATES = 1_000_000  # after which no average is over few
KMEANS_ITERATIONS = 10


def init_codebook(codebook: torch.Tensor) -> None:
    """Fills a codebook (codebook_size, code_dim) with random unit rows, unless its weights have been loaded."""
    init.copy_(codebook, nn.functional.normalize(torch.randn_like(codebook), dim=-1))


def count_codes(codes: torch.LongTensor, codebook_size: int) -> torch.FloatTensor:
    """Returns how often each code (codebook_size,) is in `codes` (T,), without a wait as in `torch.bincount`."""
    counts = torch.zeros(codebook_size, device=codes.device)
    return counts.index_add_(0, codes, torch.ones(len(codes), device=codes.device))


class LavitQuantizer(nn.Module):
    """
    Maps features to l2-normalized vectors, and each vector to the code whose codebook row is nearest. The rows are a
    buffer without a gradient. In training, they follow the vectors that are mapped to them, see
    [`LavitCodebookUpdater`].

    Args:
        config ([`LavitVisualTokenizerConfig`]): `hidden_size`, `codebook_size`, `code_dim`, `encode_positions` and
            `num_patches` are used.
    """

    codebook: torch.Tensor
    # Similarities of shape (chunk_size, codebook_size) are in memory at once, which take 268 MB in the release.
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
        """Returns float32 unit vectors (T, code_dim) of features (T, hidden_size) of patches at `positions` (T,)."""
        if self.position_embeddings is not None:
            features = features + self.position_embeddings[positions]
        vectors = self.encode_head(features)
        # In an enclosing autocast region, rounding would change a few codes in a hundred.
        with torch.autocast(device_type=features.device.type, enabled=False):
            return nn.functional.normalize(vectors.float(), dim=-1)

    @torch.no_grad()
    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns the codes (T,) of the rows with the least squared distance to `vectors` (T, code_dim)."""
        require_float32("codebook", self.codebook)
        with torch.autocast(device_type=vectors.device.type, enabled=False):
            codebook = self.codebook.float()
            # |v - c|^2 = |v|^2 - 2 v.c + |c|^2, where |v|^2 is the same for all codes.
            half_norms = codebook.square().sum(-1) / 2
            chunks = vectors.float().split(self.chunk_size)
            return torch.cat([torch.addmm(-half_norms, chunk, codebook.T).argmax(-1) for chunk in chunks])

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns the rows (..., code_dim) of `codes` (...), in the dtype of the codebook."""
        return nn.functional.embedding(codes, self.codebook)

    def forward(
        self, features: torch.Tensor, positions: torch.LongTensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            features (`torch.FloatTensor` of shape `(T, hidden_size)`): Merged features of the kept patches.
            positions (`torch.LongTensor` of shape `(T,)`, *optional*):
                The index of each patch in its image. Required if the configuration encodes positions.

        Returns:
            The codes (T,), the unit vectors (T, code_dim) and the rows (T, code_dim) of the codebook. The gradient of
            the rows is passed on to the vectors (straight-through estimator).
        """
        vectors = self.encode(features, positions)
        codes = self.nearest(vectors)
        rows = self.lookup(codes).float()
        return codes, vectors, vectors + (rows - vectors).detach() if vectors.requires_grad else rows


@torch.no_grad()
def spherical_kmeans(vectors: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """
    Clusters unit vectors by their cosine similarity (Lloyd's algorithm). The result is deterministic.

    Args:
        vectors (`torch.FloatTensor` of shape `(T, d)`): Unit vectors, at least `num_clusters`.
        num_clusters (`int`): Number of clusters.

    Returns:
        `torch.FloatTensor` of shape `(num_clusters, d)`: The centers of the clusters, which are unit vectors.

    Raises:
        ValueError: If there are fewer vectors than clusters.
    """
    if len(vectors) < num_clusters:
        raise ValueError(f"k-means of {num_clusters} clusters needs as many vectors, got {len(vectors)}.")
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0)).to(vectors.device)
    centers = vectors[order[:num_clusters]]
    for _ in range(KMEANS_ITERATIONS):
        best = [(chunk @ centers.T).max(dim=-1) for chunk in vectors.split(LavitQuantizer.chunk_size)]
        nearest = torch.cat([found.indices for found in best])
        sums = torch.zeros_like(centers).index_add_(0, nearest, vectors)
        empty = nearest.bincount(minlength=num_clusters) == 0
        # An empty cluster restarts at one of the vectors that are farthest from their centers.
        worst = torch.cat([found.values for found in best]).argsort()[: int(empty.sum())]
        sums[empty] = vectors[worst]
        centers = nn.functional.normalize(sums, dim=-1)
    return centers


class LavitCodebookUpdater(nn.Module):
    """
    Updates a codebook in training. Each row is the normalized moving average of the vectors that are mapped to it (van
    den Oord et al., arXiv 1711.00937, appendix A.1). Codes that are rarely used restart beside the codes with the
    largest errors, and share their vectors. All processes use the sums over all processes, so that their codebooks
    stay equal.

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
    def start(self, codebook: torch.Tensor, vectors: torch.Tensor) -> None:
        """
        Sets the rows of `codebook` (codebook_size, code_dim) to the k-means of `vectors` (T, code_dim), which must be
        the same in all processes.
        """
        codebook.copy_(spherical_kmeans(vectors.float(), len(codebook)))
        self.counts.zero_()
        self.sums.zero_()
        self.num_updates.zero_()

    @torch.no_grad()
    def keep(self) -> None:
        """Leaves the rows of a trained codebook as they are, and begins with averages over many updates."""
        self.num_updates.fill_(MANY_UPDATES)

    @torch.no_grad()
    def forward(self, codebook: torch.Tensor, vectors: torch.Tensor, codes: torch.LongTensor) -> None:
        """Updates `codebook` by the unit `vectors` (T, code_dim) of this process and their `codes` (T,)."""
        with torch.autocast(device_type=vectors.device.type, enabled=False):
            counts = all_reduce(count_codes(codes, len(codebook)))
            sums = all_reduce(torch.zeros_like(self.sums).index_add_(0, codes, vectors.float()))
            # Before the first update, the averages are those of equally used rows.
            first = self.counts.sum() == 0
            mean_count = counts.mean()
            self.counts.copy_(torch.where(first, mean_count, self.counts))
            self.sums.copy_(torch.where(first, mean_count * codebook, self.sums))
            # The vectors change quickly at first, so that the first averages are taken over few updates.
            weight = (9 / (10 + self.num_updates)).clamp(min=1 - self.decay)
            self.counts.lerp_(counts, weight)
            self.sums.lerp_(sums, weight)

            self._revive(self.dead_code_threshold * self.counts.mean())
            codebook.copy_(nn.functional.normalize(self.sums, dim=-1))
            self.num_updates += 1

    def _revive(self, least: torch.Tensor) -> None:
        """Moves codes that are used less than `least` beside codes with large errors, whose vectors they share."""
        dead = self.counts < least
        if not dead.any():
            return
        # The more unit vectors differ, the shorter is their average. A code is split if both halves stay alive.
        errors = (self.counts - self.sums.square().sum(dim=-1) / self.counts.clamp(min=1e-12)).clamp(min=0)
        can_share = self.counts > 2 * least
        by_error = errors.where(can_share, -1.0).argsort(descending=True, stable=True)
        rank = dead.cumsum(0) - 1
        dead &= rank < can_share.sum()
        codes = torch.arange(len(dead), device=dead.device)
        source = torch.where(dead, by_error[rank.clamp(min=0)], codes)
        halves = torch.ones_like(self.counts).index_add_(0, source, dead.float())[source]
        # The new code moves aside by one standard deviation, in a direction that is the same in all processes.
        generator = torch.Generator().manual_seed(int(self.num_updates))
        aside = nn.functional.normalize(torch.randn(self.sums.shape, generator=generator), dim=-1).to(self.sums)
        step = (errors * self.counts / self.sums.shape[1]).sqrt()[source] / halves * dead
        self.counts.copy_(self.counts[source] / halves)
        self.sums.copy_(self.sums[source] / halves[:, None] + aside * step[:, None])


def check_same_codebook(model: nn.Module, feature_decoder: nn.Module) -> None:
    """
    Checks that codes mean the same to a model and to its pixel decoder. Nothing is checked on the meta device, and if
    the model has no codebook.

    Args:
        model (`nn.Module`): A model, whose [`LavitQuantizer`] has the codebook.
        feature_decoder ([`LavitFeatureDecoder`]): The feature decoder of the pixel decoder.

    Raises:
        ValueError: If the codebooks differ in the narrower of their dtypes.
    """
    quantizer = next((module for module in model.modules() if isinstance(module, LavitQuantizer)), None)
    expected: Any = feature_decoder.codebook
    if quantizer is None or "meta" in (quantizer.codebook.device.type, expected.device.type):
        return
    codebook = quantizer.codebook
    dtype = min((codebook, expected), key=lambda rows: rows.dtype.itemsize).dtype  # one may have been saved in half
    if not torch.equal(codebook.to(dtype), expected.to(codebook.device, dtype)):
        raise ValueError(
            f"The codebook of the visual tokenizer, {tuple(codebook.shape)}, must be that of the feature decoder, "
            f"{tuple(expected.shape)}, with the same values: the pixel decoder was trained for other codes."
        )
