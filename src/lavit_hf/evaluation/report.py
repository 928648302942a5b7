# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation found, as JSON, as a table, and as sheets of pictures."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.table import Table

from .metrics import Metric
from .subject import Sample


@dataclass(frozen=True)
class EvaluationReport:
    """
    Args:
        results (`dict[str, dict[str, Metric]]`): Of each task, its metrics by name.
        seconds (`dict[str, float]`): Of each task, how long it took.
        left_out (`dict[str, str]`): The tasks that were not asked for by name and could not be run, and why.
        protocol (`dict`): How it was done: model, data, decoding, seed, versions. Plain values.
        samples (`dict[str, list[Sample]]`): Of each task, its first cases.
    """

    results: dict[str, dict[str, Metric]]
    seconds: dict[str, float]
    left_out: dict[str, str]
    protocol: dict
    samples: dict[str, list[Sample]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict:
        """Everything but the samples, in plain values."""
        return {
            "results": {
                task: {name: metric.to_dict() for name, metric in metrics.items()}
                for task, metrics in self.results.items()
            },
            "seconds": {task: round(seconds, 2) for task, seconds in self.seconds.items()},
            "left_out": self.left_out,
            "protocol": self.protocol,
        }

    def to_json(self) -> str:
        """[`to_dict`] as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def table(self) -> Table:
        """The results for a terminal, with intervals and baselines; print it with `rich.print`."""
        protocol = self.protocol
        table = Table(
            title=f"{protocol['model']} on {protocol['dataset']}, {protocol['split']}: {protocol['num_samples']} rows",
            caption="\n".join(f"{task} left out: {reason}" for task, reason in self.left_out.items()) or None,
        )
        table.add_column("task and metric", no_wrap=True)
        for column in ("value", "95% interval", "baselines", "cases"):
            table.add_column(column, justify="right")
        for task, metrics in self.results.items():
            table.add_row(f"[bold]{task}[/bold] ({self.seconds[task]:.0f} s)")
            for name, metric in metrics.items():
                table.add_row(f"  {name}", *_cells(metric, "\n"))
            table.add_section()
        return table

    def to_markdown(self) -> str:
        """The results as a table for a model card."""
        lines = [
            "| task | metric | value | 95% interval | baselines | cases |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for task, metrics in self.results.items():
            for name, metric in metrics.items():
                cells = (task, name.replace("_", " "), *_cells(metric, ", "))
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def save_samples(self, folder: str | Path) -> list[Path]:
        """Writes a sheet of pictures for each task as `folder/TASK.png`, and returns their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for task, samples in self.samples.items():
            paths.append(folder / f"{task}.png")
            draw_sheet(samples).save(paths[-1])
        return paths


def _cells(metric: Metric, separator: str) -> tuple[str, str, str, str]:
    """Value, interval, baselines and number of cases, as tables show them."""
    interval = " to ".join(_show(bound, metric) for bound in metric.interval or ())
    baselines = separator.join(f"{other} {_show(value, metric)}" for other, value in metric.baselines.items())
    return _show(metric.value, metric), interval, baselines, str(metric.count)


def _show(value: float, metric: Metric) -> str:
    if metric.is_rate:
        return f"{100 * value:.1f}%"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def draw_sheet(samples: Sequence[Sample], side: int = 128, columns: int = 4) -> Image.Image:
    """
    Args:
        samples (`list[Sample]`): At least one, all with as many pictures.
        side (`int`, *optional*, defaults to 128): Of each picture in pixels; others are padded to a square.
        columns (`int`, *optional*, defaults to 4): Samples side by side.

    Returns:
        `PIL.Image.Image`: RGB, the samples in rows with their lines of text below them.
    """
    font, line_height, gap = ImageFont.load_default(12), 15, 8
    width = max(len(samples[0].pictures) * side, 2 * side)
    texts = [[part for line in sample.lines for part in textwrap.wrap(line, width // 6)] for sample in samples]
    height = side + line_height * max(map(len, texts)) + gap
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (min(columns, len(samples)) * (width + gap) + gap, rows * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (sample, lines) in enumerate(zip(samples, texts, strict=True)):
        left, top = gap + index % columns * (width + gap), gap + index // columns * (height + gap)
        for position, picture in enumerate(sample.pictures):
            square = ImageOps.pad(picture.convert("RGB"), (side, side), color="white")
            sheet.paste(square, (left + position * side, top))
        draw.multiline_text((left, top + side + 2), "\n".join(lines), "black", font, spacing=line_height - 12)
    return sheet


__all__ = ["EvaluationReport", "draw_sheet"]
