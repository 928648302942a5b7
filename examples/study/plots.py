# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The pictures of the study: curves over steps, operations and tokens, and drawings side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib


matplotlib.use("Agg")  # draws into files

from matplotlib import pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

from lavit_hf.visualization import Sample, draw_sheet  # noqa: E402

from .differences import compare_cases, read_cases  # noqa: E402


SHOWN = ("captions", "questions", "drawn objects", "edited objects")
SHIFT = 0.0015  # of the width, by which rows stand side by side
DIALS = ("PSNR", "reconstruction", "captions", "questions")


def plot_curves(
    results: Mapping[str, Sequence[dict]], measures: Mapping[str, tuple[str, str]], rows: Sequence[str], path: Path
) -> None:
    """
    Plots measures of the first seed of each row over steps (above) and over operations (below). A row has the color of
    its place in `rows`. A dotted line leads to the last point, which stands alone: it has more test rows, and the
    learning rate has decayed before it. Vertical lines are 95% intervals over test rows. A dashed line is the value of
    images that are left as they are.
    """
    figure, axes = plt.subplots(2, len(SHOWN), figsize=(4 * len(SHOWN), 7.5), squeeze=False)
    colors = dict(zip(rows, plt.get_cmap("tab20").colors[::2] + plt.get_cmap("tab20").colors[1::2], strict=False))
    for column, heading in enumerate(SHOWN):
        (task, metric), unedited = measures[heading], None
        for row, found in results.items():
            points = {
                point["step"]: metrics[metric]
                for point in found[0]["curve"]
                if metric in (metrics := point["values"].get(task, {}))
            }
            if not points:
                continue
            per_step = found[0]["operations"]["per_step"] / 1e15
            moved = SHIFT * max(points) * (list(rows).index(row) - len(rows) / 2)
            for axis, unit, shift in ((axes[0][column], 1, moved), (axes[1][column], per_step, 0)):
                places = [step * unit + shift for step in sorted(points)]
                values = [points[step] for step in sorted(points)]
                draw_line(axis, places, [100 * value["value"] for value in values], color=colors[row], label=row)
                intervals = [value.get("interval") or () for value in values]
                if half := half_interval(found[0], task, metric):  # of the last point, by its cases
                    intervals[-1] = values[-1]["value"] - half, values[-1]["value"] + half
                for place, ends in zip(places, intervals, strict=True):
                    draw_interval(axis, place, [100 * end for end in ends], colors[row])
            unedited = found[0]["evaluation"]["results"][task][metric]["baselines"].get("unedited")
        if unedited is not None:
            for axis in axes[:, column]:
                axis.axhline(100 * unedited, color="gray", linestyle="--", linewidth=1)
        axes[0][column].set(title=heading, xlabel="steps", ylabel="%")
        axes[1][column].set(xlabel="PFLOP", ylabel="%")
    handles = [plt.Line2D([], [], color=colors[row], marker=".", label=row) for row in results]
    figure.legend(handles=handles, loc="lower center", ncols=6, fontsize="small")
    save(figure, path, bottom=0.08)


def draw_line(axis, places: Sequence[float], heights: Sequence[float], **style) -> None:
    """Draws a curve with a dotted line to its last point."""
    axis.plot(places[:-1], heights[:-1], marker=".", **style)
    axis.plot(places[-2:], heights[-2:], linestyle=":", color=style["color"])
    axis.plot(places[-1:], heights[-1:], marker="o", color=style["color"])


def half_interval(result: Mapping, task: str, metric: str) -> float:
    """Returns half of the 95% interval of the mean of the rows of a test set, 0 if they were not kept."""
    values = read_cases(result, task, metric)
    return compare_cases(values, [0.0] * len(values)).half or 0.0 if values else 0.0


def draw_interval(axis, place: float, ends: Sequence[float], color) -> None:
    """Draws an interval, if there is one, as a vertical line."""
    axis.plot([place] * len(ends), ends, color=color, alpha=0.3)


def plot_dial(dial: Mapping, measures: Mapping[str, tuple[str, str]], path: Path) -> None:
    """
    Plots measures over the mean number of tokens, with a color for each tokenizer and a line for each selection.
    Vertical lines are 95% intervals over test rows.
    """
    tokenizers = list(dict.fromkeys(curve["tokenizer"] for curve in dial["curves"]))
    styles = {"adaptive": "-", "fixed": "--"}
    figure, axes = plt.subplots(1, len(DIALS), figsize=(4 * len(DIALS), 3.5), squeeze=False)
    for axis, heading in zip(axes[0], DIALS, strict=True):
        task, metric = measures[heading]
        for curve in dial["curves"]:
            points = [point for point in curve["points"] if metric in point["values"].get(task, {})]
            values = [point["values"][task][metric] for point in points]
            label = f"{curve['tokenizer']}, {curve['selection']}"
            places, factor = [point["tokens"] for point in points], 1 if heading == "PSNR" else 100
            style = {"color": f"C{tokenizers.index(curve['tokenizer'])}", "linestyle": styles[curve["selection"]]}
            heights = [factor * value["value"] for value in values]
            axis.plot(places, heights, marker=".", label=label, **style)
            for place, point, height in zip(places, points, heights, strict=True):
                half = factor * half_interval(point, task, metric)
                draw_interval(axis, place, (height - half, height + half), style["color"])
        axis.set(title=heading, xlabel="mean tokens per image", ylabel="dB" if heading == "PSNR" else "%")
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes[0]), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="lower center", ncols=6, fontsize="small")
    save(figure, path, bottom=0.08)


def save(figure, path: Path, bottom: float = 0.0) -> None:
    """Saves a figure, with room at its bottom, and without a date, so that equal results give equal files."""
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)


def draw_side_by_side(results: Mapping[str, Sequence[dict]], folder: Path) -> Image.Image | None:
    """Draws what each system makes of the same prompts, with a line of images for each prompt."""

    def path(row: str, index: int) -> Path:
        return folder / f"{row}-seed0-{index}.png"

    rows = [row for row, found in results.items() if found[0]["drawings"] and path(row, 0).exists()]
    if not rows:
        return None
    prompts = results[rows[0]][0]["drawings"]
    samples = [
        Sample(tuple(Image.open(path(row, index)) for row in rows), (prompt,)) for index, prompt in enumerate(prompts)
    ]
    return draw_sheet(samples, side=112, columns=1, titles=rows)
