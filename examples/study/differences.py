# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Differences between rows of the study, with the noise of training and of the test set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev, variance

from scipy.stats import f, t


Results = Mapping[str, Sequence[dict]]
LEVEL = 0.05
OWN_VARIANCE = 0.25  # the level of the F test by which a row varies more over seeds than the others
EDGE = 0.05  # shares nearer to 0 or 1 tell nothing about the noise of other rows


@dataclass(frozen=True)
class Value:
    """
    A measure over the seeds of a row.

    Args:
        values (`tuple[float, ...]`): The value of each seed.
        cases (`tuple[float, ...]`, *optional*): The value of each row of the test set, averaged over seeds.
        is_share (`bool`, *optional*, defaults to `False`): Whether the value is a share, from 0 to 1.
    """

    values: tuple[float, ...]
    cases: tuple[float, ...] = ()
    is_share: bool = False

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return fmean(self.values)

    @property
    def is_inside(self) -> bool:
        """Whether the value is not a share near 0 or 1."""
        return not self.is_share or EDGE <= self.mean <= 1 - EDGE

    @property
    def scale(self) -> float:
        """The unit in which seeds differ alike for all rows: shares differ less near 0 and 1 than in between."""
        share = (self.mean * len(self.cases) + 2) / (len(self.cases) + 4)
        return share * (1 - share) if self.is_share else 1.0

    def show(self, digits: int = 1, factor: float = 1.0) -> str:
        """Writes the mean, and the standard deviation over seeds if there are several, such as `71.2 ± 0.4`."""
        text = f"{factor * self.mean:.{digits}f}"
        return text if len(self.values) == 1 else f"{text} ± {factor * stdev(self.values):.{digits}f}"


@dataclass(frozen=True)
class Difference:
    """
    The difference of a measure between two rows.

    Args:
        mean (`float`): The difference of the means over seeds.
        error (`float`, *optional*): Its standard error, or None if it is unknown.
        freedom (`float`, *optional*, defaults to 0): The degrees of freedom of the error.
        has_seeds (`bool`, *optional*, defaults to `True`):
            Whether the error has the noise of training. Otherwise it is that of the test set alone, since no row has a
            second seed, or all shares are near 0 or 1.
        num_seeds (`int`, *optional*, defaults to 2): The number of seeds of the row that has fewer.
    """

    mean: float
    error: float | None
    freedom: float = 0
    has_seeds: bool = True
    num_seeds: int = 2

    @property
    def half(self) -> float | None:
        """Half of the width of its 95% interval."""
        return None if self.error is None else float(t.ppf(1 - LEVEL / 2, self.freedom)) * self.error

    @property
    def p_value(self) -> float:
        """The probability of a difference this large without a true one."""
        if self.error is None:
            return 1.0
        return float(2 * t.sf(abs(self.mean) / self.error, self.freedom)) if self.error else float(self.mean == 0)


def measure(results: Sequence[dict], task: str, metric: str) -> Value | None:
    """Returns a measure over the seeds that have it, or None if there are none."""
    found = [result for result in results if metric in result["evaluation"]["results"].get(task, {})]
    if not found:
        return None
    metrics = [result["evaluation"]["results"][task][metric] for result in found]
    cases = [read_cases(result, task, metric) for result in found]
    averaged = tuple(map(fmean, zip(*cases, strict=True)))
    return Value(tuple(one["value"] for one in metrics), averaged, metrics[0]["interval"] is not None)


def read_cases(result: Mapping, task: str, metric: str) -> list[float]:
    """
    Returns the value of each row of the test set in the results of a row of the study, or at a point of a curve. The
    list is empty if they were not kept.
    """
    return list(map(float, result.get("cases", {}).get(task, {}).get(metric, "").split()))


def seed_variance(values: Sequence[Value]) -> tuple[float, int]:
    """
    Returns the variance over seeds of the measures of rows, in units of their `scale`, and its degrees of freedom.
    Shares near 0 and 1 are left out, since their scale is uncertain.
    """
    several = [value for value in values if len(value.values) > 1 and value.is_inside]
    freedom = sum(len(value.values) - 1 for value in several)
    total = sum(variance(value.values) * (len(value.values) - 1) / value.scale**2 for value in several)
    return (total / freedom if freedom else 0.0), freedom


def subtract(results: Results, own: str, rival: str, task: str, metric: str) -> Difference | None:
    """
    Returns the difference of two rows, or None if one of them lacks the measure. Its error has the noise of seeds and
    that of the test set: the variance of differences between single scenes, which both rows were tested on. The
    variance of a row over seeds is pooled over all rows, since two or three seeds tell little, unless its own is
    larger than that of the others by an F test at the level `OWN_VARIANCE`. The degrees of freedom of the sum are
    Satterthwaite's.
    """
    values = {row: value for row, found in results.items() if (value := measure(found, task, metric)) is not None}
    if own not in values or rival not in values:
        return None
    first, second = values[own], values[rival]
    of_cases = error_of_cases(first.cases, second.cases)
    mean, num_seeds = first.mean - second.mean, min(len(first.values), len(second.values))
    pooled, pooled_freedom = seed_variance(list(values.values()))
    if not pooled_freedom:
        return Difference(mean, of_cases or None, len(first.cases) - 1, False, num_seeds)
    # The variances of independent sources, with their degrees of freedom. Rows that are pooled share a source.
    sources = [(of_cases**2, len(first.cases) - 1)] if of_cases else []
    of_pool = 0.0
    for row in (own, rival):
        alone, freedom = seed_variance([values[row]])
        others, others_freedom = seed_variance([value for name, value in values.items() if name != row])
        share = values[row].scale ** 2 / len(values[row].values)
        if freedom and (not others_freedom or alone > others * f.ppf(1 - OWN_VARIANCE, freedom, others_freedom)):
            sources.append((alone * share, freedom))
        else:
            of_pool += pooled * share
    sources.append((of_pool, pooled_freedom))
    total = sum(part for part, _ in sources)
    freedom = total**2 / sum(part**2 / count for part, count in sources) if total else pooled_freedom
    return Difference(mean, sqrt(total), freedom, num_seeds=num_seeds)


def error_of_cases(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns the standard error of the difference of two means over the same cases, or None if it is unknown."""
    if len(first) != len(second):  # those of one were not kept
        return None
    differences = [one - other for one, other in zip(first, second, strict=True)]
    return sqrt(variance(differences) / len(differences)) if len(differences) > 1 else None


def compare_cases(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Returns the difference of two means over the same cases, with the noise of the cases alone."""
    mean = fmean(first) - fmean(second)
    return Difference(mean, error_of_cases(first, second), len(first) - 1, has_seeds=False)


def adjust(differences: Sequence[Difference], num_planned: int) -> list[float]:
    """
    Returns the p-values of several differences that belong to one claim, adjusted by the method of Holm: the chance
    that any of those below 5% is there without a true difference is 5% at most. Differences of `num_planned` that are
    not there yet count as well.
    """
    order = sorted(range(len(differences)), key=lambda index: differences[index].p_value)
    adjusted, least = [1.0] * len(differences), 0.0
    for place, index in enumerate(order):
        least = max(least, min(differences[index].p_value * (num_planned - place), 1.0))
        adjusted[index] = least
    return adjusted


def name_verdict(difference: Difference, p_value: float) -> str:
    """Says what a difference and its adjusted p-value mean for a claim that it is positive, and gives the p-value."""
    if difference.num_seeds < 2:
        return "no verdict without a second seed"
    if difference.error is None or not difference.has_seeds:
        return "no verdict without the noise of training"
    verdict = "undecided" if p_value > LEVEL else "supported" if difference.mean > 0 else "contradicted"
    return f"{verdict}, {'p < 0.001' if p_value < 0.001 else f'p = {p_value:.2g}'}"
