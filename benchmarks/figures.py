# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The figures that the benchmarks measure, with command, machine and date, as JSON files and as tables."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import lavit_hf
from lavit_hf.training import prefers_bfloat16


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Variables by which a process uses fewer threads or instructions than the processor has.
PROCESSOR_SETTINGS = ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


@dataclass(frozen=True)
class Figure:
    """
    A measured value.

    Args:
        name (`str`): The name of what was measured. Figures of one name and of several units share a row.
        value (`float`): The value.
        unit (`str`): Its unit, with the quantity where the unit alone does not tell it.
        baseline (`str`, *optional*): The name of what it is compared with.
        ratio (`float`, *optional*): How many times better than the baseline, or the share of the limit or the whole.
    """

    name: str
    value: float
    unit: str
    baseline: str | None = None
    ratio: float | None = None


def describe_machine(device: str = "cpu") -> dict:
    """Returns what the figures depend on."""
    faster = "bfloat16" if prefers_bfloat16("cpu") else "float32"
    packages = ("torch", "transformers", "diffusers")
    return {
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, faster in {faster}",
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages}
        | {"lavit_hf": lavit_hf.__version__},  # which need not be installed
    }


def typed_command() -> str:
    """Returns the command of this process as it was typed, without the place of its output."""
    words = [word.removeprefix(f"{ROOT}/") for word in sys.orig_argv[1:]]
    command = re.sub(r" --output[ =]\S+", "", shlex.join(words))
    settings = [f"{name}={os.environ[name]}" for name in PROCESSOR_SETTINGS if name in os.environ]
    return " ".join([*settings, f"python {command}"])


def describe(setting: str, device: str = "cpu", dtype: str | None = None) -> dict:
    """
    Returns the content of a file of results that has no figures so far. `dtype` is that of the computation, if the
    command has one for all figures.
    """
    date = datetime.date.today().isoformat()
    machine = describe_machine(device)
    content = {"command": typed_command(), "date": date, "machine": machine, "dtype": dtype, "setting": setting}
    return content | {"parts": {}}


def write(path: Path, content: dict) -> None:
    """Replaces the file at once, so that it is whole whenever the command is cut."""
    text = json.dumps(content, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def default_output(device: str = "cpu", dtype: str | None = None) -> Path:
    """Returns a file named by the script, the machine and the dtype, so that results of several of them are kept."""
    machine = describe_machine(device)
    words = (machine["gpu"] or machine["processor"]).lower()
    parts = [Path(sys.argv[0]).stem, re.sub(r"[^\w]+", "-", words), *[dtype] * bool(dtype)]
    return RESULTS / f"{'.'.join(parts)}.json"


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, help="JSON file of the results; default: one in benchmarks/results")


def show(content: dict) -> Table:
    """Makes the table of all figures."""
    table = Table("part", "figure", "value", "unit", "against", "ratio", title=content["setting"])
    for part, figures in content["parts"].items():
        for figure in (Figure(**values) for values in figures):
            ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
            table.add_row(part, figure.name, f"{figure.value:.4g}", figure.unit, figure.baseline or "", ratio)
    return table


def plot_growth(figures: list[Figure], path: str, title: str) -> None:
    """
    Plots figures whose names are a series and a number, such as "batch size: 8": a column for each series, and a row
    for each unit.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    series: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for figure in figures:
        name, _, value = figure.name.partition(": ")
        series.setdefault(name, {}).setdefault(figure.unit, []).append((int(value), figure.value))
    height = max(map(len, series.values()))
    size = (3.6 * len(series), 2.5 * height)
    canvas, axes = pyplot.subplots(height, len(series), figsize=size, squeeze=False, layout="constrained")
    for column, (name, units) in zip(axes.T, series.items(), strict=True):
        for axis, (unit, points) in zip(column, units.items(), strict=False):
            axis.plot(*zip(*points, strict=True), marker="o")
            axis.set_ylim(bottom=0)
            axis.set_ylabel(unit)
            axis.grid(alpha=0.3)
            if points[-1][0] >= 100 * points[0][0] > 0:
                axis.set_xscale("log")
            axis.set_xlabel(name)
        for axis in column[len(units) :]:
            axis.set_visible(False)
    canvas.suptitle(title)
    canvas.savefig(path, dpi=100)


def report(args: argparse.Namespace, setting: str, parts: dict[str, list[Figure]], dtype: str | None = None) -> None:
    """Writes the figures of each part to the file of `args.output`, and prints their table."""
    device = getattr(args, "device", "cpu")
    content = describe(setting, device, dtype)
    content["parts"] = {name: [asdict(figure) for figure in figures] for name, figures in parts.items()}
    path = args.output or default_output(device, dtype)
    write(path, content)
    Console(width=120).print(show(content))
    print(f"Written to {path}. `make numbers` brings the files of benchmarks/results into docs/numbers.md.")
