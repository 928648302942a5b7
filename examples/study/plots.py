# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The plots of the study: curves over steps and over operations, and the dial."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib


matplotlib.use("Agg")  # draws into files

from matplotlib import pyplot as plt  # noqa: E402


SHOWN = ("captions", "questions", "drawn objects", "edited objects")
DIALS = ("PSNR", "reconstruction", "captions", "questions")


def plot_curves(results: Mapping[str, Sequence[dict]], measures: Mapping[str, tuple[str, str]], path: Path) -> None:
    """
    Plots measures of each row, the mean over seeds, over steps (above) and over operations (below). A dotted line
    leads to the last point, which stands alone: it has more test rows, and the learning rate has decayed before it.
    """
    figure, axes = plt.subplots(2, len(SHOWN), figsize=(4 * len(SHOWN), 7), squeeze=False)
    for column, heading in enumerate(SHOWN):
        task, metric = measures[heading]
        for row, found in results.items():
            points: dict[int, list[float]] = {}
            for result in found:
                for point in result["curve"]:
                    if (metrics := point["values"].get(task, {})).get(metric) is not None:
                        points.setdefault(point["step"], []).append(metrics[metric]["value"])
            steps = sorted(points)
            means = [100 * sum(points[step]) / len(points[step]) for step in steps]
            per_step = found[0]["operations"]["per_step"] / 1e15
            if not steps:
                continue
            for axis, places in ((axes[0], steps), (axes[1], [step * per_step for step in steps])):
                [line] = axis[column].plot(places[:-1], means[:-1], marker=".", label=row)
                axis[column].plot(places[-2:], means[-2:], linestyle=":", color=line.get_color())
                axis[column].plot(places[-1], means[-1], marker="o", color=line.get_color())
        axes[0][column].set(title=heading, xlabel="steps", ylabel="%")
        axes[1][column].set(xlabel="PFLOP", ylabel="%")
    add_legend(axes[0][0])
    save(figure, path)


def plot_dial(dial: Mapping, measures: Mapping[str, tuple[str, str]], path: Path) -> None:
    """Plots measures over the mean number of tokens, with a line for each tokenizer and each selection."""
    figure, axes = plt.subplots(1, len(DIALS), figsize=(4 * len(DIALS), 3.5), squeeze=False)
    for axis, heading in zip(axes[0], DIALS, strict=True):
        task, metric = measures[heading]
        for curve in dial["curves"]:
            points = [point for point in curve["points"] if metric in point["values"].get(task, {})]
            values = [point["values"][task][metric] for point in points]
            label = f"{curve['tokenizer']}, {curve['selection']}"
            places, heights = [point["tokens"] for point in points], [value["value"] for value in values]
            [line] = axis.plot(places, heights, marker=".", label=label)
            for place, value in zip(places, values, strict=True):
                if value["interval"] is not None:
                    axis.plot([place, place], value["interval"], color=line.get_color(), alpha=0.4)
        axis.set(title=heading, xlabel="mean tokens per image")
    add_legend(axes[0][0])
    save(figure, path)


def add_legend(axis) -> None:
    """Names the lines of an axis, if it has any."""
    if axis.get_lines():
        axis.legend(fontsize="small")


def save(figure, path: Path) -> None:
    """Saves a figure without a date, so that equal results give equal files."""
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)
