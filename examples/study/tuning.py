# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tunes learning rates, and settings of LaVIT and of its rivals, before the rows of the study are run."""

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from .budgets import BASE, OWN
from .json_files import compare_recipes, read_json, write_json
from .systems import OF_A_KIND, compare_parts, describe_recipe, fingerprint_parts
from .train import Arguments, read_arguments


RATES = (1e-3, 2e-3, 4e-3)
MAX_RATES = 6  # that a sweep tries, if the best one is at the end of RATES
# Rows that take the learning rate of a row that is like them: the same kind of weights learns the same labels.
RATE_OF = {
    "lavit_text_only_equal": "lavit_text_only",
    "adapter_linear": "adapter_mlp",
    "fixed_k": BASE,
    "dynamic_dropped": BASE,
}
# Short runs favor large rates. Among rates whose losses are within this share of the least, the smallest is taken.
ALIKE = 0.01
NUM_TRIED_ROWS = 300  # held-out rows that trials are judged on
# All-or-nothing measures of models that were trained for few steps are near zero.
JUDGED_BY = "object_f1"
GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0)
# Loss, normalize and noise of the regression.
REGRESSIONS = (("cosine", True, 0.3), ("cosine", True, 0.0), ("cosine", False, 0.3), ("l2", True, 0.3))


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
            for weight in (1.0, 4.0, 16.0)  # 16 gives vectors about the share of the loss that codes have
            for loss, normalize, noise in REGRESSIONS
        ),
        tuple({"guidance_scale": scale, "end_threshold": end} for scale in GUIDANCE_SCALES for end in (0.5, 0.2)),
    ),
    "adapter_resampler": Trials("num_codes", "captions", (8, 16, 32)),
}


class Tuning:
    """
    Tunes the rows of a study. Its subclass has the flags of a run.

    Attributes:
        options (`argparse.Namespace`): The options of the command line.
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

    def flags(self, row: str, output: Path, results: Path, tuned: bool = True) -> list[str]:
        """Returns the flags of a run of a row, with the best rate and settings that are known if it is `tuned`."""
        raise NotImplementedError

    def shared_recipe(self, part: str) -> str:
        """Returns a checksum of what all visual tokenizers, or pixel decoders, of the study are trained by."""
        raise NotImplementedError

    def arguments(self, row: str, **kwargs) -> Arguments:
        """Returns the arguments of a run of a row, wherever it writes to."""
        unused = self.options.runs / "unused"
        return read_arguments(self.flags(row, unused, unused, **kwargs))

    def rate(self, row: str) -> list[str]:
        """Returns the flag with the learning rate that the sweep has found best, if there was one."""
        found = read_json(self.sweep_file).get(RATE_OF.get(row, row))
        return ["--learning_rate", str(found["best"])] if found else []

    def best(self, row: str) -> list[str]:
        """Returns the flags with the values that trials have found best, if there were any."""
        found = read_json(self.trials_file)
        names = [name for name in found if is_taken(name, row)]
        return [word for name in names for word in _flag(TRIALS[name].flag, found[name]["best"])]

    def untuned_recipe(self, row: str) -> dict:
        """Returns what the tuning of a row depends on: its recipe before it is tuned, and that of its parts."""
        recipe = describe_recipe(*self.arguments(row, tuned=False))
        named = {f"{part}_recipe": self.shared_recipe(part) for part in OF_A_KIND}
        return {name: value for name, value in recipe.items() if name not in OWN} | named

    def sweep_settings(self, row: str) -> dict:
        return {"steps": self.options.sweep_steps, "rates": list(self.options.rates), **self.untuned_recipe(row)}

    def trial_settings(self, row: str) -> dict:
        """Returns what the trials of a row depend on: its recipe, its tuned rate, and what other trials have found."""
        recipe = describe_recipe(*self.arguments(row))
        tuned = ["learning_rate", *(TRIALS[name].flag for name in TRIALS if is_taken(name, row) and name != row)]
        settings = {"steps": self.options.trial_steps, "trials": asdict(TRIALS[row])}
        return settings | self.untuned_recipe(row) | {name: recipe[name] for name in tuned}

    def is_swept(self, row: str) -> bool:
        """Whether the learning rate of a row was swept; raises a `ValueError` if it was with another recipe."""
        return self.is_known(self.sweep_file, row, self.sweep_settings(row))

    def is_tried(self, row: str) -> bool:
        """Whether the settings of a row were tried; raises a `ValueError` if they were with another recipe."""
        return self.is_known(self.trials_file, row, self.trial_settings(row))

    def is_known(self, path: Path, row: str, settings: dict) -> bool:
        known = read_json(path)
        if row in known:
            compare_recipes(f"The entry of {row} in {path}", known[row]["made"], settings, to_delete="the entry")
        return row in known

    def missing_tuning(self, row: str) -> list[str]:
        """
        Returns the rows that are to be tuned for the sake of a row, and are not: the one that it has its learning rate
        of, and those whose best settings it takes.
        """
        source = RATE_OF.get(row, row)
        missing = {source} if self.options.sweep and not self.is_swept(source) else set()
        if self.options.trials:
            wanted = [name for name in TRIALS if is_taken(name, row)]
            missing |= {name for name in wanted if not self.is_tried(name)}
        return sorted(missing)

    def try_settings(self, row: str) -> None:
        """
        Trains a row for a few steps with each value of its trials, and keeps the one that their task finds best.

        Raises:
            ValueError: If there is none, since no value trains.
        """
        trials = TRIALS[row]
        found = {json.dumps(value): self.try_one(row, value) for value in trials.trained}
        best = self.choose(row, found)
        if trials.drawn:
            drawn = [best | settings for settings in trials.drawn]
            found |= dict(zip(map(json.dumps, drawn), self.try_drawing(row, best), strict=True))
            best = self.choose(row, {json.dumps(value): found[json.dumps(value)] for value in drawn})
        values = [
            {"value": json.loads(text)} | {name: report[trials.task][name] for name in (JUDGED_BY, "everything")}
            for text, report in found.items()
            if report is not None
        ]
        entry = {"made": self.trial_settings(row), "task": trials.task, "values": values, "best": best}
        self.add(self.trials_file, row, entry)

    def choose(self, row: str, found: dict[str, dict | None]):
        """Returns the value with the best F1 score of objects, the first one of equal ones."""
        task = TRIALS[row].task
        known = {text: report[task][JUDGED_BY]["value"] for text, report in found.items() if report is not None}
        if not known:
            raise ValueError(f"No value of {TRIALS[row].flag} trains {row!r}, got {', '.join(found)}.")
        return json.loads(max(known, key=lambda text: known[text]))

    def try_one(self, row: str, value) -> dict | None:
        """Returns the results of a row with a value of its trials, or None if its loss is not finite."""
        evaluation = self.run_trial(row, value, "results.json", []).get("evaluation")
        return evaluation and evaluation["results"]

    def try_drawing(self, row: str, value) -> list[dict]:
        """Returns the results of a model that was tried with each of the settings of drawing."""
        return self.run_trial(row, value, "drawn.json", ["--tried", json.dumps(TRIALS[row].drawn)])["tried"]

    def run_trial(self, row: str, value, name: str, more: list[str]) -> dict:
        """Trains and evaluates a row with a value of its trials. A model that is there already is evaluated again."""
        trials, given = TRIALS[row], _flag(TRIALS[row].flag, value)
        folder = self.options.runs / "trials" / f"{row}-{hashlib.sha256(json.dumps(given).encode()).hexdigest()[:8]}"
        path = folder / name
        # Not the rows of the table, on which the best of several settings would look better than it is.
        arguments = self.arguments(row)
        judged = ["--test_split", arguments[2].eval_split, "--tasks", trials.task, "--trial", "true"]
        judged += ["--num_drawn_rows", str(NUM_TRIED_ROWS), "--num_test_rows", str(NUM_TRIED_ROWS)]
        judged += [*shorten(arguments, self.options.trial_steps), "--num_curve_points", "1"]
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
        losses: dict[float, float | None] = {}
        rates = list(self.options.rates)
        shorter = ["--only_loss", "true", *shorten(self.arguments(row, tuned=False), self.options.sweep_steps)]
        while rates:
            rate = rates.pop(0)
            folder = self.options.runs / "sweep" / f"{row}-{rate}"
            path = folder / "loss.json"
            found = self.run_once(
                path, [*self.flags(row, folder, path, tuned=False), *shorter, "--learning_rate", str(rate)]
            )
            losses[rate] = found["held_out_loss"]
            best = best_rate(losses)
            # A best rate at the end of those that were tried may not be the best one.
            if not rates and 1 < len(losses) < MAX_RATES and best is not None:
                rates = [best / 2] if best == min(losses) else [best * 2] if best == max(losses) else []
        if best is None:
            raise ValueError(f"No learning rate of {', '.join(map(str, losses))} trains {row!r}: no loss is finite.")
        shown = {str(rate): loss for rate, loss in sorted(losses.items())}
        self.add(self.sweep_file, row, {"made": self.sweep_settings(row), "held_out_losses": shown, "best": best})


def is_taken(name: str, row: str) -> bool:
    """Whether a row takes the settings that trials of the row `name` have found best."""
    return name == row or TRIALS[name].all_rows


def best_rate(losses: dict[float, float | None]) -> float | None:
    """Returns the smallest learning rate whose loss is about the least. A loss that is not finite is None."""
    finite = {rate: loss for rate, loss in losses.items() if loss is not None}
    if not finite:
        return None
    least = min(finite.values())
    return min(rate for rate, loss in finite.items() if loss - least <= ALIKE * abs(least))


def shorten(arguments: Arguments, steps: int) -> list[str]:
    """Returns the flags with which a run takes fewer steps, with as large a share of them for warmup and decay."""
    args, share = arguments[-1], steps / arguments[-1].max_steps
    flags = ["--max_steps", str(steps)]
    if args.warmup_steps >= 1:  # a smaller number is a share
        flags += ["--warmup_steps", str(round(share * args.warmup_steps))]
    kwargs = args.lr_scheduler_kwargs or {}
    if "num_decay_steps" in kwargs:
        shorter = kwargs | {"num_decay_steps": round(share * kwargs["num_decay_steps"])}
        flags += ["--lr_scheduler_kwargs", json.dumps(shorter)]
    return flags


def _flag(name: str, value) -> list[str]:
    return [f"--{name}", json.dumps(value)]


def check_results(path: Path, arguments: Arguments) -> None:
    """Raises a `ValueError` if the results in `path` were made by another recipe."""
    made, study = read_json(path), arguments[0]
    ignored = set(OWN) - {"learning_rate", "seed", "tasks"}
    if study.only_loss:  # made before the best way to draw was known
        ignored.add("image_generation")
    compare_recipes(path, made["recipe"], describe_recipe(*arguments), ignored)


def check_parts(path: Path, arguments: Arguments) -> None:
    """
    Raises a `ValueError` if the results in `path` were made with other parts. Seeds may differ in their parts, which
    are trained anew if their folder is lost, and kinds of selection have visual tokenizers of their own.
    """
    compare_parts(path, read_json(path), describe_recipe(*arguments), fingerprint_parts(arguments[0]))
