# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The codebook while it learns: k-means start, moving averages, revival."""

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig

from lavit_hf import LavitVisualTokenizerConfig
from lavit_hf.modeling.codebook_lavit import LavitCodebookUpdater, LavitQuantizer, spherical_kmeans

from ..tiny import VISION


def make_config(**kwargs) -> LavitVisualTokenizerConfig:
    kwargs = {"codebook_size": 8, "code_dim": 4} | kwargs
    return LavitVisualTokenizerConfig(vision_config=CLIPVisionConfig(**VISION), **kwargs)


def clusters(num_clusters: int, per_cluster: int, dim: int = 4, spread: float = 0.01, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    centres = nn.functional.normalize(torch.randn(num_clusters, dim, generator=generator), dim=-1)
    vectors = centres.repeat_interleave(per_cluster, 0)
    vectors = vectors + spread * torch.randn(vectors.shape, generator=generator)
    order = torch.randperm(len(vectors), generator=generator)
    return centres, nn.functional.normalize(vectors, dim=-1)[order]


def test_kmeans_moves_the_centres_among_the_vectors():
    _, vectors = clusters(8, 50, spread=0.2)
    start, found = vectors[:12], spherical_kmeans(vectors, 12)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(12))
    distances = [(1 - (vectors @ centres.T).max(dim=-1).values).mean() for centres in (start, found)]
    assert distances[1] < 0.6 * distances[0]
    torch.testing.assert_close(found, spherical_kmeans(vectors, 12), rtol=0, atol=0)


def test_kmeans_leaves_no_centre_without_vectors():
    # Two places only: after the first step, two centres serve all vectors.
    vectors = nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(20, 0), dim=-1)
    vectors = nn.functional.normalize(vectors + 0.05 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0)))
    centres = spherical_kmeans(vectors, 6)
    assert len((vectors @ centres.T).argmax(-1).unique()) >= 5


def test_kmeans_needs_a_vector_for_each_cluster():
    with pytest.raises(ValueError, match="8 clusters needs as many vectors, got 5"):
        spherical_kmeans(torch.randn(5, 4), 8)


def test_rows_follow_their_vectors():
    config = make_config(codebook_decay=0.5, dead_code_threshold=0.0)
    centres, vectors = clusters(8, 50)
    quantizer, updater = LavitQuantizer(config), LavitCodebookUpdater(config)
    # Near enough that each row names its own cluster, and no nearer.
    start = nn.functional.normalize(centres + 0.1 * torch.randn(8, 4, generator=torch.Generator().manual_seed(1)))
    quantizer.codebook.copy_(start)
    for _ in range(20):
        updater(quantizer.codebook, vectors, quantizer.nearest(vectors))
    assert (quantizer.codebook * centres).sum(-1).min() > 0.9999
    torch.testing.assert_close(quantizer.codebook.norm(dim=-1), torch.ones(8))


def test_a_new_codebook_follows_vectors_that_move_fast():
    """Vectors turn away from where k-means found them: by averages of full length nearly all codes would be lost."""
    config = make_config(codebook_decay=0.99)
    centres, vectors = clusters(8, 50)
    quantizer, updater = LavitQuantizer(config), LavitCodebookUpdater(config)
    quantizer.codebook.copy_(centres)
    for step in range(1, 31):
        turned = torch.roll(vectors, 1, dims=1) * (step / 30) + vectors * (1 - step / 30)
        turned = nn.functional.normalize(turned, dim=-1)
        updater(quantizer.codebook, turned, quantizer.nearest(turned))
    assert (torch.roll(centres, 1, dims=1) @ quantizer.codebook.T).max(dim=-1).values.min() > 0.97


def test_unused_codes_start_again_where_vectors_are():
    config = make_config(codebook_decay=0.5)
    _, vectors = clusters(8, 50)
    quantizer, updater = LavitQuantizer(config), LavitCodebookUpdater(config)
    # Nearly all vectors are nearest to the first row, the others name nothing.
    quantizer.codebook.copy_(nn.functional.normalize(-vectors.mean(0) + torch.zeros(8, 4), dim=-1))
    quantizer.codebook[0] = nn.functional.normalize(vectors.mean(0), dim=-1)
    used = []
    for _ in range(60):
        codes = quantizer.nearest(vectors)
        used.append(len(codes.unique()))
        updater(quantizer.codebook, vectors, codes)
    assert used[0] <= 2
    assert used[-1] >= 6


def test_a_revived_code_shares_the_vectors_of_the_one_that_errs_most():
    updater = LavitCodebookUpdater(make_config(codebook_decay=0.9, dead_code_threshold=0.1))
    codebook = nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    before = codebook.clone()
    updater.num_updates += 1
    updater.counts.copy_(torch.tensor([10.0, 1, 1, 1, 0.01, 1, 30, 0]))
    # Vectors of code 6 are all alike, those of codes 0 and 2 are not: what is shorter than its count has spread.
    updater.sums.copy_((updater.counts * torch.tensor([0.9, 1, 0.5, 1, 1, 1, 1, 1]))[:, None] * codebook)
    counts, sums = updater.counts.clone(), updater.sums.clone()
    updater._revive(0.1 * updater.counts.mean())
    torch.testing.assert_close(updater.counts[[0, 4]], torch.full((2,), 5.0))
    torch.testing.assert_close(updater.counts[[6, 7]], torch.full((2,), 15.0))
    # Nor is code 2 used enough for two: after codes 0 and 6 there is none left to share with.
    kept = [1, 2, 3, 5]
    torch.testing.assert_close(updater.counts[kept], counts[kept])
    torch.testing.assert_close(updater.sums[kept], sums[kept])
    rows = nn.functional.normalize(updater.sums, dim=-1)
    torch.testing.assert_close(rows[[0, 6]], before[[0, 6]])
    # One deviation of unit vectors whose mean has this length, in one of four directions.
    steps = (updater.sums[[4, 7]] - sums[[0, 6]] / 2).norm(dim=-1) / updater.counts[[4, 7]]
    torch.testing.assert_close(steps, torch.tensor([((1 - 0.9**2) / 4) ** 0.5, 0]), rtol=1e-3, atol=1e-3)


def test_a_row_keeps_still_where_nothing_names_it_and_nothing_revives():
    config = make_config(codebook_decay=0.9, dead_code_threshold=0.0)
    quantizer, updater = LavitQuantizer(config), LavitCodebookUpdater(config)
    quantizer.codebook.copy_(nn.functional.normalize(torch.randn(8, 4), dim=-1))
    before = quantizer.codebook.clone()
    updater(quantizer.codebook, before[:1].repeat(30, 1), torch.zeros(30, dtype=torch.long))
    torch.testing.assert_close(quantizer.codebook, before)


def test_positions_tell_equal_features_apart():
    torch.manual_seed(0)
    quantizer = LavitQuantizer(make_config(encode_positions=True))
    nn.init.normal_(quantizer.position_embeddings)
    quantizer.codebook.copy_(nn.functional.normalize(torch.randn(8, 4), dim=-1))
    features = torch.randn(1, 32).expand(16, -1)
    _, vectors, _ = quantizer(features, torch.arange(16))
    assert (vectors[0] @ vectors[1:].T).max() < 0.99
