# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The tables of tokens against quality, and what they come to."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from . import differences
from .budgets import BASE
from .differences import Difference, Results, compare_cases, read_cases
from .tables import MEASURES, NO_RESULTS, make_rows, show_difference, show_measure


HEADINGS = ("reconstruction", "PSNR", "captions", "questions")
SHOWN = {name: MEASURES[name] for name in HEADINGS} | {"counts": ("questions", "accuracy_count")}
# Points of two curves that have the same number of tokens.
Pairs = Sequence[tuple[Mapping, Mapping]]


def make_dial(dial: Mapping, results: Results) -> str:
    """
    Makes the tables of tokens against quality: differences between selections of one model and between trainings, at
    the selector's own number and in the mean of the others; the measures at each number; and the differences between
    selections at each number. Tells whether the visual tokenizer is that of the `results` of LaVIT.
    """
    if not dial:
        return NO_RESULTS
    cases = [(point, curve) for curve in dial["curves"] for point in curve["points"]]
    lines = [
        [
            f"{point['tokens']:.1f}",
            curve["tokenizer"],
            curve["selection"],
            *(show_measure(differences.measure([_result(point)], *case), name) for name, case in SHOWN.items()),
        ]
        for point, curve in sorted(cases, key=lambda case: case[0]["budget"])
    ]
    checksums = {result["parts"]["visual_tokenizer"] for result in results.get(BASE, ())}
    is_same = dial["parts"]["plain"]["visual_tokenizer"] in checksums
    means = {curve["tokenizer"]: f"{curve['own_tokens']:.1f} in *{curve['tokenizer']}*" for curve in dial["curves"]}
    own, selections = own_number(dial), pair_selections(dial)
    compared = [
        [name, where, *(_show(some, heading) for heading in HEADINGS)]
        for name, pairs in (selections | pair_trainings(dial)).items()
        for where, some in zip((f"{own} tokens", "mean of the others"), split_pairs(pairs, own), strict=True)
    ]
    return "\n\n".join(
        [
            f"Each point is measured on {dial['num_rows']} scenes of the test set. By itself, the selector keeps "
            f"{', '.join(means.values())} on average, next to which {own} tokens are measured. The visual tokenizer "
            "of *plain* is "
            + (f"that of `{BASE}`." if is_same else f"of another training than that of `{BASE}`, by the same recipe."),
            make_rows(["difference", "at", *HEADINGS], compared),
            make_rows(["tokens", "model", "selection", *SHOWN], lines),
            make_rows(
                ["difference", "at", *HEADINGS],
                [
                    [name, f"{pair[0]['budget']} tokens", *(_show([pair], heading) for heading in HEADINGS)]
                    for name, pairs in selections.items()
                    for pair in pairs
                ],
            ),
        ]
    )


def tell_dial(dial: Mapping) -> list[str]:
    """Returns the lines of the answers: what selections differ by, at the selector's own number and at others."""
    own, lines = own_number(dial), []
    for name, pairs in pair_selections(dial).items():
        at_own, others = split_pairs(pairs, own)
        shown = [
            f"{heading} {_show(at_own, heading)} at {own} tokens and "
            f"{_show(others, heading)} in the mean of other numbers"
            for heading in ("PSNR", "questions")
        ]
        lines.append(
            f"    - numbers of tokens in one model, see [tokens against quality](#tokens-against-quality), {name}: "
            f"{', '.join([*shown, 'no verdict'])}"
        )
    return lines


def own_number(dial: Mapping) -> int:
    """Returns the measured number of tokens that is next to the mean of the selector's own numbers."""
    mean = fmean(curve["own_tokens"] for curve in dial["curves"])
    return min((point["budget"] for point in dial["curves"][0]["points"]), key=lambda number: abs(number - mean))


def split_pairs(pairs: Pairs, number: int) -> tuple[Pairs, Pairs]:
    """
    Splits pairs into those of one number of tokens and those of all others, whose mean was chosen before the dial was
    measured.
    """
    at_number = [pair for pair in pairs if pair[0]["budget"] == number]
    return at_number, [pair for pair in pairs if pair[0]["budget"] != number]


def pair_selections(dial: Mapping) -> dict[str, Pairs]:
    """
    Pairs the points of the two selections of each model by the number of tokens. A number at which both selections
    keep all patches is no pair.
    """
    models = dict.fromkeys(curve["tokenizer"] for curve in dial["curves"])
    found = {
        f"{model}: adaptive minus fixed": [
            (point, other) for point, other in _pair(dial, (model, "adaptive"), (model, "fixed")) if point != other
        ]
        for model in models
    }
    return {name: pairs for name, pairs in found.items() if pairs}


def pair_trainings(dial: Mapping) -> dict[str, Pairs]:
    """Pairs the points of *random* and *plain*, for each selection, by the number of tokens."""
    selections = dict.fromkeys(curve["selection"] for curve in dial["curves"])
    found = {
        f"random minus plain, {selection}": _pair(dial, ("random", selection), ("plain", selection))
        for selection in selections
    }
    return {name: pairs for name, pairs in found.items() if pairs}


def _pair(dial: Mapping, first: tuple[str, str], second: tuple[str, str]) -> Pairs:
    """Pairs the points of two curves, which are named by model and selection."""
    curves = {
        (curve["tokenizer"], curve["selection"]): {point["budget"]: point for point in curve["points"]}
        for curve in dial["curves"]
    }
    points, others = curves.get(first, {}), curves.get(second, {})
    return [(point, others[budget]) for budget, point in points.items() if budget in others]


def compare_points(pairs: Pairs, heading: str) -> Difference | None:
    """
    Returns the difference of a measure between pairs of points, its mean over the pairs, with the noise of test rows,
    or None if it was not measured.
    """
    cases = [[read_cases(point, *MEASURES[heading]) for point in points] for points in zip(*pairs, strict=True)]
    if not cases or not all(all(side) for side in cases):
        return None
    first, second = ([fmean(values) for values in zip(*side, strict=True)] for side in cases)
    return compare_cases(first, second)


def _show(pairs: Pairs, heading: str) -> str:
    difference = compare_points(pairs, heading)
    return "-" if difference is None else show_difference(difference, heading)


def _result(point: Mapping) -> dict:
    """Returns a point of a curve in the form of the results of a row."""
    return {"evaluation": {"results": point["values"]}}
