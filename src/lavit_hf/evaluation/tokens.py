# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How many tokens pictures take, and which."""

from collections.abc import Sequence

import numpy as np

from ..visualization import Sample, show_kept_patches
from .metrics import Metric, perplexity, spearman
from .subject import NUM_SAMPLES_SHOWN, Subject, TaskResult


def score_tokens(
    codes: Sequence[Sequence[int]],
    num_patches: int,
    codebook_size: int,
    num_objects: Sequence[int] | None = None,
) -> dict[str, Metric]:
    """
    Args:
        codes (`list[list[int]]`): Of each picture.
        num_patches, codebook_size (`int`): The most codes of a picture, and how many different ones there are.
        num_objects (`list[int]`, *optional*): In each picture.

    Returns:
        `dict[str, Metric]`: `kept_fraction` of the patches (mean) and `kept_fraction_std` over pictures;
        `objects_spearman`, the rank correlation of objects and tokens, where both vary; `codebook_usage`, the share of
        the codebook used at least once, and `codebook_perplexity` of how often each code is.
    """
    lengths = [len(picture) for picture in codes]
    kept = np.array(lengths) / num_patches
    used = [code for picture in codes for code in picture]
    metrics = {
        "kept_fraction": Metric(float(kept.mean()), len(codes)),
        "kept_fraction_std": Metric(float(kept.std()), len(codes)),
        "codebook_usage": Metric(len(set(used)) / codebook_size, len(used)),
        "codebook_perplexity": Metric(perplexity(used), len(used)),
    }
    correlation = None if num_objects is None else spearman(num_objects, lengths)
    if correlation is not None:
        metrics["objects_spearman"] = Metric(correlation, len(codes))
    return metrics


def evaluate_tokens(subject: Subject, rows: Sequence[dict]) -> TaskResult:
    """Encodes every picture."""
    codes: list[list[int]] = []
    samples: list[Sample] = []
    for first, batch in subject.batches(rows, "tokens"):
        pictures = subject.pictures(batch, first)
        outputs = subject.encode(pictures)
        codes += [picture.tolist() for picture in outputs.split()]
        for picture, mask in zip(pictures, outputs.keep_mask, strict=True):
            if len(samples) < NUM_SAMPLES_SHOWN:
                samples.append(Sample((picture, show_kept_patches(picture, mask)), (f"{int(mask.sum())} tokens",)))
    num_objects = [len(row["scene"]) for row in rows] if "scene" in rows[0] else None
    config = subject.model.config
    return TaskResult(score_tokens(codes, config.num_patches, config.codebook_size, num_objects), samples)


__all__ = ["evaluate_tokens", "score_tokens"]
