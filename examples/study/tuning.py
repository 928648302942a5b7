# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tunes learning rates, and settings of LaVIT and of its rivals, before the rows of the study are run."""

import argparse
import hashlib
import json
import math
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from .budgets import BASE, OWN
from .json_files import compare_recipes, read_json, write_json
from .systems import compare_parts, describe_recipe, fingerprint_parts
from .train import Arguments, read_arguments


RATES = (1e-3, 2e-3, 4e-3)
MAX_RATES = 6  # that a sweep tries, if the best one is at the end of RATES
# Rows that take the learning rate of a row that is like them: the same kind of weights learns the same labels.
RATE_OF = {
    "lavit_text_only_equal": "lavit_text_only",
    "adapter_linear": "adapter_mlp",
    "fixed_k": BASE,
    "dynamic_dropped": BASE,
    "discrete_input": BASE,
}
NUM_TRIED_ROWS = 300  # held-out rows that trials are judged on
GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Trials:
    """
    Settings that are tried before rows are run, which take the best ones.

    Args:
        flag (`str`): The flag that they are given by.
        task (`str`): The task that judges them.
        trained (`tuple`): Values of the flag that a model is trained with.
        drawn (`tuple[dict, ...]`, *optional*): Settings of drawing that are tried of the best one.
        all_rows (`bool`, *optional*, defaults to `False`): Whether all rows take the best one.
    """

    flag: str
    task: str
    trained: tuple
    drawn: tuple[dict, ...] = ()
    all_rows: bool = False


TRIALS = {
    BASE: Trials(
        "image_generation",
        "drawing",
        ({"do_sample": True, "temperature": 0.2, "guidance_scale": 1.5},),
        tuple({"guidance_scale": scale, "temperature": heat} for scale in GUIDANCE_SCALES for heat in (0.2, 0.5)),
        all_rows=True,
    ),
    "regression": Trials(
        "regression",
        "drawing",
        tuple(
            {"loss": loss, "normalize": normalize, "noise": noise, "weight": weight}
            for loss, normalize, noise, weight in (
                *(("cosine", True, 0.3, 1.0), ("cosine", True, 0.0, 1.0), ("cosine", False, 0.3, 1.0)),
                *(("cosine", True, 0.3, 4.0), ("l2", True, 0.3, 1.0)),
            )
        ),
        tuple({"guidance_scale": scale, "snap": snap} for scale in GUIDANCE_SCALES for snap in (False, True)),
    ),
    "adapter_resampler": Trials("num_codes", "captions", (8, 16, 32)),
}


class Tuning:
    """
    Tunes the rows of a study. Its subclass has the flags of a run.

    Attributes:
        options (`argparse.Namespace`): The options of the command line.
        runs, results (`Path`): The folders of trained models and of results.
        lock (`Lock`): A lock for files that several jobs write.
    """

    options: argparse.Namespace
    lock: Lock

    @property
    def sweep_file(self) -> Path:
        return self.options.results / "sweep.json"

    @property
    def trials_file(self) -> Path:
        return self.options.results / "trials.json"

    def run(self, module: str, flags: list[str]) -> None:
        """Runs a module with flags."""
        raise NotImplementedError

    def flags(self, row: str, output: Path, results: Path) -> list[str]:
        """Returns the flags of a run of a row."""
        raise NotImplementedError

    def arguments(self, row: str, seed: int, results: Path) -> Arguments:
        """Returns the arguments of a run of a row."""
        return read_arguments([*self.flags(row, self.options.runs / "unused", results), "--seed", str(seed)])

    def rate(self, row: str) -> list[str]:
        """Returns the flag with the learning rate that the sweep has found best, if there was one."""
        found = read_json(self.sweep_file).get(RATE_OF.get(row, row))
        return ["--learning_rate", str(found["best"])] if found else []

    def best(self, row: str) -> list[str]:
        """Returns the flags with the values that trials have found best, if there were any."""
        found = read_json(self.trials_file)
        names = [name for name in found if name == row or TRIALS[name].all_rows]
        return [word for name in names for word in _flag(TRIALS[name].flag, found[name]["best"])]

    def sweep_settings(self) -> dict:
        return {"steps": self.options.sweep_steps, "rates": list(self.options.rates)}

    def trial_settings(self, row: str) -> dict:
        return {"steps": self.options.trial_steps, "trials": asdict(TRIALS[row])}

    def is_swept(self, row: str) -> bool:
        """Whether the learning rate of a row was swept; raises a `ValueError` if it was with other settings."""
        return self.is_known(self.sweep_file, row, self.sweep_settings())

    def is_tried(self, row: str) -> bool:
        """Whether the settings of a row were tried; raises a `ValueError` if they were in another way."""
        return self.is_known(self.trials_file, row, self.trial_settings(row))

    def is_known(self, path: Path, row: str, settings: dict) -> bool:
        known = read_json(path)
        if row in known:
            compare_recipes(path, known[row]["made"], settings, {"parts"})
        return row in known

    def missing_tuning(self, row: str) -> list[str]:
        """
        Returns the rows that are to be tuned for the sake of a row, and are not: the one that it has its learning rate
        of, and those whose best settings it takes.
        """
        source = RATE_OF.get(row, row)
        missing = {source} if self.options.sweep and not self.is_swept(source) else set()
        if self.options.trials:
            wanted = [name for name, trials in TRIALS.items() if name == row or trials.all_rows]
            missing |= {name for name in wanted if not self.is_tried(name)}
        return sorted(missing)

    def try_settings(self, row: str) -> None:
        """Trains a row for a few steps with each value of its trials, and keeps the one that their task finds best."""
        trials = TRIALS[row]
        if self.is_tried(row):
            return
        made = self.trial_settings(row) | {"parts": self.fingerprints(row)}
        found = {json.dumps(value): self.try_one(row, value) for value in trials.trained}
        best = json.loads(self.choose(found, trials.task))
        if trials.drawn:
            names = [json.dumps(best | settings) for settings in trials.drawn]
            found |= dict(zip(names, self.try_drawing(row, best), strict=True))
            best = json.loads(self.choose(found, trials.task))
        values = [
            {"value": json.loads(text)} | {name: report[trials.task][name] for name in ("objects", "everything")}
            for text, report in found.items()
            if report
        ]
        entry = {"made": made, "task": trials.task, "values": values, "best": best}
        self.add(self.trials_file, row, entry)

    def choose(self, found: dict[str, dict], task: str) -> str:
        """Returns the name of the results in which most objects and most scenes are right."""
        known = {name: report[task] for name, report in found.items() if report}
        return max(known, key=lambda name: sum(known[name][key]["value"] for key in ("objects", "everything")))

    def try_one(self, row: str, value) -> dict:
        """Returns the results of a row with a value of its trials, or none if it fails, as an unstable loss does."""
        try:
            return self.run_trial(row, value, "results.json", [])["evaluation"]["results"]
        except subprocess.CalledProcessError:
            return {}

    def try_drawing(self, row: str, value) -> list[dict]:
        """Returns the results of a model that was tried with each of the settings of drawing."""
        return self.run_trial(row, value, "drawn.json", ["--tried", json.dumps(TRIALS[row].drawn)])["tried"]

    def run_trial(self, row: str, value, name: str, more: list[str]) -> dict:
        """Trains and evaluates a row with a value of its trials. A model that is there already is evaluated again."""
        trials, given = TRIALS[row], _flag(TRIALS[row].flag, value)
        folder = self.options.runs / "trials" / f"{row}-{hashlib.sha256(json.dumps(given).encode()).hexdigest()[:8]}"
        path = folder / name
        # Not the rows of the table, on which the best of several settings would look better than it is.
        split, steps = self.arguments(row, 0, path)[2].eval_split, str(self.options.trial_steps)
        judged = ["--test_split", split, "--tasks", trials.task, "--num_drawn_rows", str(NUM_TRIED_ROWS)]
        judged += ["--num_test_rows", str(NUM_TRIED_ROWS), "--max_steps", steps, "--num_curve_points", "1"]
        return self.run_once(path, [*self.flags(row, folder, path), *judged, *given, *more])

    def run_once(self, path: Path, flags: list[str]) -> dict:
        """Returns the results at `path`, made by the flags of a row if they are not there."""
        arguments = read_arguments(flags)
        if path.exists():
            check_results(path, arguments)
            check_parts(path, arguments)
        else:
            self.run("study.train", flags)
        return read_json(path)

    def fingerprints(self, row: str) -> dict[str, str | None]:
        """Returns the checksums of the parts of a row."""
        return fingerprint_parts(self.arguments(row, 0, self.options.runs / "unused")[0])

    def add(self, path: Path, row: str, entry: dict) -> None:
        """Adds the entry of a row to a JSON file."""
        with self.lock:
            write_json(path, read_json(path) | {row: entry})

    def tune(self, row: str) -> None:
        """
        Trains a row for a few steps with each learning rate, and keeps the one with the least held-out loss.

        Raises:
            ValueError: If there is none, since all runs have failed.
        """
        if self.is_swept(row):
            return
        made = self.sweep_settings() | {"parts": self.fingerprints(row)}
        losses, rates = {}, list(self.options.rates)
        while rates:
            rate = rates.pop(0)
            folder = self.options.runs / "sweep" / f"{row}-{rate}"
            path = folder / "loss.json"
            shorter = ["--only_loss", "true", "--max_steps", str(self.options.sweep_steps)]
            try:
                found = self.run_once(path, [*self.flags(row, folder, path), *shorter, "--learning_rate", str(rate)])
            except subprocess.CalledProcessError:
                found = {"held_out_loss": math.inf}
            loss = found["held_out_loss"]
            losses[rate] = loss if math.isfinite(loss) else math.inf
            best = min(losses, key=lambda rate: losses[rate])
            # A best rate at the end of those that were tried may not be the best one.
            if not rates and 1 < len(losses) < MAX_RATES and math.isfinite(losses[best]):
                rates = [best / 2] if best == min(losses) else [best * 2] if best == max(losses) else []
        if not math.isfinite(losses[best]):
            raise ValueError(
                f"No learning rate of {', '.join(map(str, losses))} trains {row!r}: see the errors above."
            )
        shown = {str(rate): loss for rate, loss in sorted(losses.items())}
        entry = {"made": made, "held_out_losses": shown, "best": best}
        self.add(self.sweep_file, row, entry)


def _flag(name: str, value) -> list[str]:
    return [f"--{name}", json.dumps(value)]


def check_results(path: Path, arguments: Arguments) -> None:
    """Raises a `ValueError` if the results in `path` were made by another recipe."""
    made, study = read_json(path), arguments[0]
    ignored = set(OWN) - {"learning_rate", "seed"}
    if study.only_loss or path.name == "results.json":  # made before the best way to draw was known
        ignored.add("image_generation")
    compare_recipes(path, made["recipe"], describe_recipe(*arguments), ignored)


def check_parts(path: Path, arguments: Arguments) -> None:
    """
    Raises a `ValueError` if the results in `path` were made with other parts. Seeds may differ in their parts, which
    are trained anew if their folder is lost, and kinds of selection have visual tokenizers of their own.
    """
    compare_parts(path, read_json(path), describe_recipe(*arguments), fingerprint_parts(arguments[0]))
