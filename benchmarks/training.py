# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures the speed and the memory of each stage of the training.

    python benchmarks/training.py
    python benchmarks/training.py --steps 200 --stages vision_tower visual_tokenizer

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

from figures import ROOT, Figure, add_output, report

from lavit_hf.training import prefers_bfloat16


EVAL_ROWS = 64
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


def precompute_codes(folder: Path, rows: int) -> None:
    """Writes the rows with precomputed codes that two of the recipes train on."""
    command = [Path(sys.executable).parent / "lavit-hf", "precompute-codes", "shapes", folder / "codes"]
    command += ["--model", folder / "visual_tokenizer", "--image-column", "image", "--image-column", "edited_image"]
    for split, num_rows in (("train", rows), ("validation", EVAL_ROWS)):
        run([*command, "--split", split, "--num-rows", num_rows], folder / "codes.log")


def train(stage: str, folder: Path, args) -> list[Figure]:
    """Trains a stage for a few steps, and returns its speed and its memory."""
    script, inputs = STAGES[stage]
    if "codes" in inputs.values() and not (folder / "codes").exists():
        precompute_codes(folder, args.rows)
    settings = {
        "output_dir": folder / stage,
        "max_steps": args.steps,
        "logging_steps": max(1, args.steps // 8),
        "eval_strategy": "no",
        "save_strategy": "no",
        "num_train_rows": args.rows,
        "num_eval_rows": EVAL_ROWS,
        **{argument: folder / name for argument, name in inputs.items()},
    }
    if args.batch_size:
        settings["per_device_train_batch_size"] = args.batch_size
    if stage == "visual_tokenizer":
        settings["quantize_from"] = 0  # as in most steps of a whole training
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    recipe = ROOT / "examples" / "recipes" / "shapes" / f"{stage}.yaml"
    peak = run([sys.executable, ROOT / "examples" / script, recipe, *flags], folder / f"{stage}.log")
    state = json.loads((folder / stage / "trainer_state.json").read_text())
    (speed,) = (entry["train_steps_per_second"] for entry in state["log_history"] if "train_runtime" in entry)
    name = stage.replace("_", " ")
    return [
        Figure(name, speed, "steps/s"),
        Figure(name, speed * state["train_batch_size"], "rows/s"),
        Figure(name, peak / 1e9, "GB of peak memory"),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="number of steps of each stage, at least 16")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="default: all")
    parser.add_argument("--rows", type=int, default=5000, help="rows of each stage, few enough to render in seconds")
    parser.add_argument("--batch-size", type=int, help="default: that of each recipe")
    add_output(parser)
    args = parser.parse_args()
    if args.steps < 16:
        parser.error(f"--steps must be at least 16, got {args.steps}")

    stages = [stage for stage in STAGES if stage in args.stages]
    needed = {name for stage in stages for name in STAGES[stage][1].values()} - {"codes"}
    if missing := needed - set(stages):
        parser.error(f"--stages needs the results of {', '.join(sorted(missing))}, too")

    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages:
            figures += train(stage, Path(folder), args)
    dtype = "bfloat16" if prefers_bfloat16("cpu") else "float32"
    setting = f"{args.steps} steps of each recipe of the shapes model, with the start; the VAE in float32"
    report(args, setting, {"training": figures}, dtype)


if __name__ == "__main__":
    main()
