# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The tables of tokens against quality, and what they come to."""

from collections.abc import Mapping

from . import differences
from .budgets import BASE
from .differences import Difference, Results, compare_cases, read_cases
from .tables import MEASURES, NO_RESULTS, make_rows, show_difference, show_measure


HEADINGS = ("reconstruction", "PSNR", "captions", "questions")
# Differences adaptive minus fixed by heading, for each visual tokenizer and number of tokens.
Compared = Mapping[tuple[str, int], Mapping[str, Difference]]


def make_dial(dial: Mapping, results: Results) -> str:
    """
    Makes the tables of tokens against quality: a line for each mean number of tokens, differences between selections
    of one visual tokenizer, and the numbers of tokens at which adaptive ones are better. Tells whether the visual
    tokenizer is that of the `results` of LaVIT.
    """
    if not dial:
        return NO_RESULTS
    cases = [(point, curve) for curve in dial["curves"] for point in curve["points"]]
    lines = [
        [
            f"{point['tokens']:.1f}",
            curve["tokenizer"],
            curve["selection"],
            *(show_measure(differences.measure([_result(point)], *MEASURES[name]), name) for name in HEADINGS),
        ]
        for point, curve in sorted(cases, key=lambda case: case[0]["budget"])
    ]
    checksums = {result["parts"]["visual_tokenizer"] for result in results.get(BASE, ())}
    is_same = dial["parts"]["plain"]["visual_tokenizer"] in checksums
    parts = [
        f"Each point is measured on {dial['num_rows']} scenes of the test set. The visual tokenizer of *plain* is "
        + (f"that of `{BASE}`." if is_same else f"of another training than that of `{BASE}`, by the same recipe."),
        make_rows(["tokens", "tokenizer", "selection", *HEADINGS], lines),
    ]
    found = compare_selections(dial)
    lines = [
        [
            str(budget),
            tokenizer,
            *(show_difference(shown[name], name) if name in shown else "-" for name in HEADINGS),
        ]
        for (tokenizer, budget), shown in found.items()
    ]
    if lines:
        parts.append(make_rows(["tokens", "tokenizer: adaptive minus fixed", *HEADINGS], lines))
        names = dict.fromkeys(tokenizer for tokenizer, _ in found)
        lines = [[name, *(count_better(found, name, heading) for heading in HEADINGS)] for name in names]
        parts.append(make_rows(["tokenizer: adaptive is higher", *HEADINGS], lines))
    return "\n\n".join(parts)


def compare_selections(dial: Mapping) -> Compared:
    """
    Compares the selections of each visual tokenizer. Numbers of tokens at which both selections are the same, since
    all patches are kept, are left out.
    """
    points = {
        (curve["tokenizer"], curve["selection"], point["budget"]): point
        for curve in dial["curves"]
        for point in curve["points"]
    }
    found = {}
    for (tokenizer, selection, budget), point in points.items():
        fixed = points.get((tokenizer, "fixed", budget))
        if selection == "adaptive" and fixed is not None and point != fixed:
            cases = {name: [read_cases(one, *MEASURES[name]) for one in (point, fixed)] for name in HEADINGS}
            found[tokenizer, budget] = {name: compare_cases(*pair) for name, pair in cases.items() if all(pair)}
    return found


def count_better(compared: Compared, tokenizer: str, heading: str) -> str:
    """
    Tells at how many lengths adaptive numbers of tokens are better, and at how many of them, and of the others, an
    interval excludes zero.
    """
    found = [shown[heading] for (name, _), shown in compared.items() if name == tokenizer and heading in shown]
    if not found:
        return "-"
    clear = [
        difference.mean > 0
        for difference in found
        if difference.half is not None and difference.half < abs(difference.mean)
    ]
    higher = sum(difference.mean > 0 for difference in found)
    return f"at {higher} of {len(found)} (clearly at {sum(clear)}, clearly lower at {len(clear) - sum(clear)})"


def _result(point: Mapping) -> dict:
    """Returns a point of a curve in the form of the results of a row."""
    return {"evaluation": {"results": point["values"]}}
