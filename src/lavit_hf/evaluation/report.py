# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The results of an evaluation, as JSON, as a table, and as sheets of images."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from ..publishing.files import replacing_file
from ..visualization import Sample, draw_sheet
from .metrics import Metric


@dataclass(frozen=True)
class EvaluationReport:
    """
    The results of an evaluation.

    Args:
        results (`dict[str, dict[str, Metric]]`): The metrics of each task, by name.
        seconds (`dict[str, float]`): The duration of each task.
        left_out (`dict[str, str]`): The tasks that could not be run, with the reason.
        protocol (`dict`): How the evaluation was done: model, data, decoding, seed, versions. Plain values.
        samples (`dict[str, list[Sample]]`, *optional*): The first cases of each task.
    """

    results: dict[str, dict[str, Metric]]
    seconds: dict[str, float]
    left_out: dict[str, str]
    protocol: dict
    samples: dict[str, list[Sample]] = field(default_factory=dict, repr=False)

    def to_json(self) -> str:
        """Returns everything as JSON, except the samples and the outcomes of single cases."""
        values = asdict(replace(self, samples={}))
        values.pop("samples")
        for metric in (metric for metrics in values["results"].values() for metric in metrics.values()):
            metric.pop("outcomes")
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Creates a report without samples from `text`, the JSON that [`~EvaluationReport.to_json`] has returned."""
        values = json.loads(text)
        for metrics in values["results"].values():
            metrics.update({name: Metric(**metric) for name, metric in metrics.items()})
        return cls(**values)

    def to_markdown(self) -> str:
        """Returns the results as a table. `rich.markdown.Markdown` shows it in a terminal."""
        lines = [
            "| task | metric | value | 95% interval | baselines | cases |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for task, metrics in self.results.items():
            for name, metric in metrics.items():
                interval = " to ".join(_format(bound, metric) for bound in metric.interval or ())
                baselines = ", ".join(f"{other} {_format(value, metric)}" for other, value in metric.baselines.items())
                cells = (task, name.replace("_", " "), _format(metric.value, metric), interval, baselines)
                lines.append(f"| {' | '.join(cells)} | {metric.count} |")
        return "\n".join(lines) + "\n"

    def save_samples(self, folder: str | Path) -> list[Path]:
        """Writes a sheet of images for each task as `folder/TASK.png`, and returns their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for task, samples in self.samples.items():
            with replacing_file(folder / f"{task}.png") as path:
                draw_sheet(samples).save(path)
        return [folder / f"{task}.png" for task in self.samples]


def _format(value: float, metric: Metric) -> str:
    if metric.is_rate:
        return f"{100 * value:.1f}%"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
