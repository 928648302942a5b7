# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A measured value, together with the number of cases, the interval and the baselines that are needed to judge it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean


Z_95 = 1.959964  # the 97.5% quantile of the standard normal distribution


@dataclass(frozen=True)
class Metric:
    """
    A measured value.

    Args:
        value (`float`): The value.
        count (`int`): The number of cases.
        interval (`list[float]` of length 2, *optional*): The 95% Wilson interval, for a share of cases.
        baselines (`dict[str, float]`, *optional*): The value of the same measure for results that ignore the input.
        outcomes (`tuple[float, ...]`, *optional*):
            The value of each case, or None for a case that does not count, to compare two models case by case. They
            are not part of a saved report.
    """

    value: float
    count: int
    interval: list[float] | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    outcomes: tuple[float | None, ...] = field(default=(), repr=False, compare=False)

    @property
    def is_rate(self) -> bool:
        """Whether the value is a share of cases, from 0 to 1."""
        return self.interval is not None


def wilson_interval(rate: float, count: int) -> list[float]:
    """
    Computes the 95% score interval of a share (Wilson 1927), which stays within [0, 1] and has a width at its ends.

    Raises:
        ValueError: If the share is outside [0, 1], or there are no cases.
    """
    if not 0 <= rate <= 1 or count < 1:
        raise ValueError(f"Expected a share from 0 to 1 of at least one case, got {rate} of {count}.")
    squared = Z_95**2 / count
    center = (rate + squared / 2) / (1 + squared)
    half = Z_95 / (1 + squared) * math.sqrt(rate * (1 - rate) / count + squared / (4 * count))
    # Rounding must not leave the share itself outside.
    return [min(max(center - half, 0.0), rate), max(min(center + half, 1.0), rate)]


def average(values: Iterable[float | None], **baselines: Iterable[float | None]) -> Metric | None:
    """
    Averages the values of cases. A case whose value is `None` does not count.

    Args:
        values (`list[float]`): The value of each case.
        baselines (`list[float]`): The values of each baseline, by its name.

    Returns:
        [`Metric`], or `None` if no case counts.
    """
    outcomes = tuple(None if value is None else float(value) for value in values)
    known = {
        name: [float(value) for value in cases if value is not None]
        for name, cases in {"value": outcomes, **baselines}.items()
    }
    means = {name: fmean(cases) for name, cases in known.items() if cases}
    if "value" not in means:
        return None
    return Metric(means.pop("value"), len(known["value"]), baselines=means, outcomes=outcomes)


def rate(outcomes: Iterable[float | None], **baselines: Iterable[float | None]) -> Metric | None:
    """Averages shares from 0 to 1 and adds their interval. Same arguments as [`average`]."""
    metric = average(outcomes, **baselines)
    return metric and replace(metric, interval=wilson_interval(metric.value, metric.count))


def shift(items: Sequence) -> list:
    """Pairs each case with the next one, as an unrelated baseline. Returns an empty list for a single case."""
    return [*items[1:], items[0]] if len(items) > 1 else []
