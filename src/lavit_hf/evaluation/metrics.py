# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A measured value, together with the number of cases, the interval and the baselines that are needed to judge it."""

import math
from collections import defaultdict
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
        interval (`list[float]` of length 2, *optional*): The 95% interval of a value from 0 to 1, see [`rate`].
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
        """Whether the value is a share of cases or a mean of scores from 0 to 1."""
        return self.interval is not None


def wilson_interval(rate: float, count: float) -> list[float]:
    """
    Computes the 95% score interval of a share (Wilson 1927), which stays within [0, 1] and has a width at its ends.

    Args:
        rate (`float`): The share, from 0 to 1.
        count (`float`): The number of cases, or an effective number, which may be a fraction.

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


def rate(
    outcomes: Iterable[float | None], groups: Iterable | None = None, **baselines: Iterable[float | None]
) -> Metric | None:
    """
    Averages scores from 0 to 1 and adds the 95% interval of the mean: that of Wilson for the effective number of cases
    (after Korn and Graubard 1998), which is the number of independent cases of yes or no whose share would have the
    same variance. It is the number of cases if they are such themselves. With fewer than about 30 groups, or fewer
    than about 10 scores between 0 and 1, the variance is hardly known, and the interval is too narrow.

    Args:
        outcomes (`list[float]`): The score of each case. A case whose score is `None` does not count.
        groups (`list`, *optional*):
            The group that each case belongs to, such as the image of a question. Cases of a group may be dependent.
            Default: all cases are independent.
        baselines (`list[float]`): The scores of each baseline, by its name.

    Returns:
        [`Metric`], or `None` if no case counts.
    """
    outcomes = list(outcomes)
    metric = average(outcomes, **baselines)
    if metric is None:
        return None
    deviations: defaultdict[object, float] = defaultdict(float)
    for group, outcome in zip(range(len(outcomes)) if groups is None else groups, outcomes, strict=True):
        if outcome is not None:
            deviations[group] += outcome - metric.value
    num_groups, varied = len(deviations), math.fsum(deviation**2 for deviation in deviations.values())
    if varied <= 1e-9:  # all scores are equal, and groups may be as good as single cases
        count: float = num_groups
    elif groups is None and {*outcomes} <= {0, 1, None}:
        count = metric.count
    else:
        varied *= num_groups / (num_groups - 1)
        count = metric.value * (1 - metric.value) * metric.count**2 / varied
    if groups is not None:  # groups tell little about each other's variance
        count = min(count, metric.count)
    return replace(metric, interval=wilson_interval(metric.value, max(count, 1.0)))


def shift(items: Sequence) -> list:
    """Pairs each case with the next one, as an unrelated baseline. Returns an empty list for a single case."""
    return [*items[1:], items[0]] if len(items) > 1 else []
