# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation found, as JSON, as a table, and as sheets of pictures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.table import Table

from ..visualization import Sample, draw_sheet
from .metrics import Metric


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

    @classmethod
    def from_dict(cls, values: Mapping) -> Self:
        """The report of `values`, as [`to_dict`] wrote them, without samples."""
        results = {
            task: {name: Metric.from_dict(metric) for name, metric in metrics.items()}
            for task, metrics in values["results"].items()
        }
        return cls(results, **{name: values[name] for name in ("seconds", "left_out", "protocol")})

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


__all__ = ["EvaluationReport"]
