# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures the speed and the memory of each stage of the training.

    python benchmarks/training.py
    python benchmarks/training.py --steps 200 --output training.json

Runs the recipes of the shapes model one after the other for a few steps, each in a separate process and on the result
of the previous stages. Steps per second include the start of the training. Memory is the peak of the process,
including the libraries. Needs Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table


ROOT = Path(__file__).parent.parent
ROWS, EVAL_ROWS = 5000, 64  # few enough that rendering takes seconds
# The script of each stage, and its arguments that name the results of earlier stages.
STAGES = {
    "vision_tower": ("train_vision_tower.py", {}),
    "visual_tokenizer": ("train_visual_tokenizer.py", {"vision_tower": "vision_tower"}),
    "vae": ("train_vae.py", {}),
    "image_decoder": (
        "train_image_decoder.py",
        {"visual_tokenizer": "visual_tokenizer", "vae": "vae", "dataset_name": "codes"},
    ),
    "pretrain": ("pretrain.py", {"visual_tokenizer": "visual_tokenizer", "dataset_name": "codes"}),
}


def run(command: list[str | Path], log: Path) -> int:
    """Runs a program to its end, and returns its peak memory in bytes."""
    with log.open("w") as file:
        process = subprocess.Popen([str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[1]} failed:\n" + "\n".join(log.read_text().splitlines()[-20:]))
    return usage.ru_maxrss * 1024


def precompute_codes(folder: Path) -> None:
    """Writes the rows with precomputed codes that two of the recipes train on."""
    command = [Path(sys.executable).parent / "lavit-hf", "precompute-codes", "shapes", folder / "codes"]
    command += ["--model", folder / "visual_tokenizer", "--image-column", "image", "--image-column", "edited_image"]
    for split, num_rows in (("train", ROWS), ("validation", EVAL_ROWS)):
        run([*command, "--split", split, "--num-rows", num_rows], folder / "codes.log")


def train(stage: str, folder: Path, steps: int) -> dict[str, float]:
    script, inputs = STAGES[stage]
    if "codes" in inputs.values() and not (folder / "codes").exists():
        precompute_codes(folder)
    settings = {
        "output_dir": folder / stage,
        "max_steps": steps,
        "logging_steps": max(1, steps // 8),
        "eval_strategy": "no",
        "save_strategy": "no",
        "num_train_rows": ROWS,
        "num_eval_rows": EVAL_ROWS,
        **{argument: folder / name for argument, name in inputs.items()},
    }
    if stage == "visual_tokenizer":
        settings["quantize_from"] = 0  # as in most steps of a whole training
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    recipe = ROOT / "examples" / "recipes" / "shapes" / f"{stage}.yaml"
    peak = run([sys.executable, ROOT / "examples" / script, recipe, *flags], folder / f"{stage}.log")
    state = json.loads((folder / stage / "trainer_state.json").read_text())
    (speed,) = (entry["train_steps_per_second"] for entry in state["log_history"] if "train_runtime" in entry)
    return {
        "steps_per_second": speed,
        "rows_per_second": speed * state["train_batch_size"],
        "peak_memory_gb": peak / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="number of steps of each stage, at least 16")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.steps < 16:
        parser.error(f"--steps must be at least 16, got {args.steps}")

    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            measured[stage] = train(stage, Path(folder), args.steps)
    table = Table("stage", "steps/s", "rows/s", "peak memory")
    for stage, figures in measured.items():
        table.add_row(
            stage,
            f"{figures['steps_per_second']:.2f}",
            f"{figures['rows_per_second']:.0f}",
            f"{figures['peak_memory_gb']:.2f} GB",
        )
    Console().print(table)
    if args.output:
        args.output.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
