# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The measures of the study by the headings of its tables, and how tables show them."""

from collections.abc import Sequence

from . import differences
from .differences import Difference, Value


NO_RESULTS = "*There are no results yet: `make study` makes them.*"
# The measures of the table, by their headings: a task and a metric.
MEASURES = {
    "captions": ("captions", "objects"),
    "CIDEr": ("captions", "cider"),
    "questions": ("questions", "accuracy"),
    "drawing": ("drawing", "everything"),
    "drawn objects": ("drawing", "object_f1"),
    "edits": ("edits", "everything"),
    "edited objects": ("edits", "object_f1"),
    "reconstruction": ("reconstruction", "everything"),
    "PSNR": ("reconstruction", "psnr"),
}
NOT_SHARES = ("CIDEr", "PSNR")


def measure(results: Sequence[dict], heading: str) -> Value | None:
    """Returns the measure of a heading over seeds, or None if the system lacks it."""
    return differences.measure(results, *MEASURES[heading])


def show_measure(value: Value | None, heading: str) -> str:
    """Writes a measure over seeds in the unit of its heading, or "-" if there is none."""
    if value is None:
        return "-"
    return value.show(2) if heading in NOT_SHARES else value.show(1, 100)


def make_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a table of Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def show_difference(difference: Difference, heading: str) -> str:
    """Writes a difference with half of its 95% interval."""
    digits, factor = (2, 1) if heading in NOT_SHARES else (1, 100)
    text = f"{round(factor * difference.mean, digits) + 0.0:+.{digits}f}"  # no negative zero
    if difference.half is None:
        return f"{text}, no interval"
    return f"{text} ± {factor * difference.half:.{digits}f}"
