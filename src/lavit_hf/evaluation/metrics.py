# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A measured number with what is needed to judge it: how many cases it rests on, its interval and its baselines."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

import numpy as np


Z_95 = 1.959964  # 97.5% of the standard normal distribution lie below it


@dataclass(frozen=True)
class Metric:
    """
    Args:
        value (`float`): What was measured.
        count (`int`): Over how many cases.
        interval (`tuple[float, float]`, *optional*): Of a share of cases, its 95% interval after Wilson.
        baselines (`dict[str, float]`, *optional*): What the same measure says of something that ignores the input.
    """

    value: float
    count: int
    interval: tuple[float, float] | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_rate(self) -> bool:
        """Whether it is a share of cases, 0 to 1."""
        return self.interval is not None

    def to_dict(self) -> dict:
        """Plain values for JSON, without what is not there."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}

    @classmethod
    def from_dict(cls, values: Mapping) -> Self:
        """The metric of `values`, as [`to_dict`] wrote them."""
        interval = values.get("interval")
        return cls(**values | {"interval": None if interval is None else tuple(interval)})


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """
    The 95% score interval of a share (Wilson 1927), which stays in 0 to 1 and has a width also at 0 and 1.

    Raises:
        ValueError: a share out of 0 to 1, or of no cases.
    """
    if not 0 <= rate <= 1 or count < 1:
        raise ValueError(f"Expected a share from 0 to 1 of at least one case, got {rate} of {count}.")
    squared = Z_95**2 / count
    center = (rate + squared / 2) / (1 + squared)
    half = Z_95 / (1 + squared) * math.sqrt(rate * (1 - rate) / count + squared / (4 * count))
    # Rounding must not put the share itself outside.
    return min(max(center - half, 0.0), rate), max(min(center + half, 1.0), rate)


def _mean(values: Iterable[float | None]) -> float | None:
    values = [float(value) for value in values if value is not None]
    return sum(values) / len(values) if values else None


def _known_means(baselines: Mapping[str, Iterable[float | None]]) -> dict[str, float]:
    means = {name: _mean(values) for name, values in baselines.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def rate(outcomes: Sequence[float | None], **baselines: Sequence[float | None]) -> Metric | None:
    """
    Args:
        outcomes (`list[bool]` or `list[float]`):
            What each case scores, 0 to 1. Those that are None are left out; without others there is no metric.
        baselines: What each case would score otherwise, by name.
    """
    metric = average(outcomes, **baselines)
    if metric is None:
        return None
    return Metric(metric.value, metric.count, wilson_interval(metric.value, metric.count), metric.baselines)


def average(values: Sequence[float | None], **baselines: Sequence[float | None]) -> Metric | None:
    """As [`rate`], of values that are no shares."""
    mean = _mean(values)
    if mean is None:
        return None
    return Metric(mean, sum(value is not None for value in values), baselines=_known_means(baselines))


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[inverse]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation, -1 to 1; None where one side does not vary."""
    ranks = np.stack([_ranks(values) for values in (first, second)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def perplexity(codes: Iterable[int]) -> float:
    """The exponential of the entropy of how often each code is used: as many codes used alike have the same."""
    counts = np.array(list(Counter(codes).values()), dtype=float)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


__all__ = ["Metric", "average", "perplexity", "rate", "spearman", "wilson_interval"]
