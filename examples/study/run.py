# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Runs the whole study: visual tokenizers, pixel decoders, the sweep of learning rates, all rows and seeds, the dial, and
the report. What is there is not run again, and what was stopped is resumed.

    python examples/study/run.py --sweep

With --dataset_name and pretrained backbones among the flags of the stages, it runs on other data: see docs/study.md.
"""

import argparse
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import yaml


EXAMPLES = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(EXAMPLES))  # where the scripts are that the stages run

from pretrain import list_texts, train_text_tokenizer  # noqa: E402
from study import report  # noqa: E402
from study.budgets import BASE, OWN, ROWS, check_budgets  # noqa: E402
from study.json_files import compare_recipes, keep_recipe, read_json, write_json  # noqa: E402
from study.systems import describe_recipe  # noqa: E402
from study.train import Arguments, read_arguments  # noqa: E402
from transformers import AutoImageProcessor  # noqa: E402

from lavit_hf import LavitVisualTokenizer  # noqa: E402
from lavit_hf.data.precompute import precompute_codes  # noqa: E402
from lavit_hf.training import load_mixture  # noqa: E402


STUDY = EXAMPLES / "study"
# The visual tokenizer of each kind of selection, by the flags that make it.
TOKENIZERS = {
    "dynamic": [],
    "all": ["--num_codes", "all", "--freeze_selector_from", "0"],
    "fixed": [],  # with --num_codes, the mean of the dynamic one
    "dropped": ["--drop_patches", "true"],
    "random": ["--random_budgets", "true"],
}
RATES = (1e-3, 2e-3, 4e-3)
MAX_RATES = 6  # that a sweep tries, if the best one is at the end of RATES
MORE_SEEDS = ("lavit", "regression", "lavit_text_only")  # which the main claims compare
NUM_TRIED_ROWS = 200  # held-out rows that trials are judged on


@dataclass(frozen=True)
class Trials:
    """
    Settings of a rival that are tried before its row is run, which takes the best ones.

    Args:
        flag (`str`): The flag that they are given by.
        task (`str`): The task that judges them.
        trained (`tuple`): Values of the flag that a model is trained with.
        drawn (`tuple[dict, ...]`, *optional*): Settings of drawing that are tried of the best one.
    """

    flag: str
    task: str
    trained: tuple
    drawn: tuple[dict, ...] = ()


TRIALS = {
    "regression": Trials(
        "regression",
        "drawing",
        tuple(
            {"loss": loss, "normalize": normalize, "noise": noise, "weight": weight}
            for loss, normalize, noise, weight in (
                *(("cosine", True, 0.0, 1.0), ("cosine", True, 0.3, 1.0), ("cosine", True, 0.6, 1.0)),
                *(("cosine", False, 0.3, 1.0), ("cosine", True, 0.3, 4.0), ("cosine", True, 0.3, 8.0)),
                *(("l2", True, 0.0, 1.0), ("l2", True, 0.3, 1.0), ("l2", False, 0.3, 1.0), ("l2", True, 0.3, 4.0)),
            )
        ),
        tuple({"guidance_scale": scale, "snap": snap} for scale in (1.0, 1.5, 2.0, 3.0) for snap in (False, True)),
    ),
    "adapter_resampler": Trials("num_codes", "captions", (8, 16, 32)),
}
NUM_COUNTED_IMAGES = 512  # of which the mean number of codes is taken


@dataclass(frozen=True)
class Paths:
    """
    The folders of a study.

    Args:
        runs (`Path`): The folder of trained models.
        results (`Path`): The folder of results.
    """

    runs: Path
    results: Path

    def tokenizer(self, kind: str) -> Path:
        return self.runs / "tokenizers" / kind

    def decoder(self, kind: str) -> Path:
        return self.runs / "decoders" / kind

    def codes(self, kind: str) -> Path:
        return self.runs / "codes" / kind

    @property
    def text_tokenizer(self) -> Path:
        return self.runs / "text_tokenizer"

    @property
    def sweep(self) -> Path:
        return self.results / "sweep.json"

    @property
    def trials(self) -> Path:
        return self.results / "trials.json"

    @property
    def dial(self) -> Path:
        return self.results / "dial.json"


def parse_options(flags: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="folder of trained models")
    parser.add_argument("--results", type=Path, default=STUDY / "results", help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=EXAMPLES.parent / "docs" / "study.md", help="page to write into")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="rows to run")
    parser.add_argument("--num_seeds", type=int, help="seeds of each row. Default: 2, and 3 for the main rows")
    parser.add_argument("--sweep", action="store_true", help="choose each row's learning rate by a sweep")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates of the sweep")
    parser.add_argument("--sweep_steps", type=int, default=300, help="steps of each run of the sweep")
    parser.add_argument("--trials", action="store_true", help="try several settings of the rivals in TRIALS")
    parser.add_argument("--trial_steps", type=int, default=500, help="steps of each trial")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, which share the processor's cores")
    parser.add_argument("--no_codes", action="store_true", help="do not precompute codes, which takes disk space")
    parser.add_argument("--no_dial", action="store_true", help="leave the dial out")
    parser.add_argument("--tokenizer_recipe", default=str(STUDY / "tokenizer.yaml"), help="recipe, or '' for none")
    parser.add_argument("--decoder_recipe", default=str(STUDY / "decoder.yaml"), help="recipe, or '' for none")
    for name in ("common", "tokenizer", "decoder", "row", "dial"):
        parser.add_argument(f"--{name}", type=shlex.split, default=[], help=f"flags for: {name}, in one string")
    return parser.parse_args(flags)


def run_module(module: str, flags: list[str], jobs: int = 1) -> None:
    """
    Runs a script of the examples in a process of its own, one of several `jobs` that share the cores.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) // jobs, 1))
    subprocess.run([sys.executable, "-m", module, *flags], env=environment, check=True)


class Study:
    """
    The stages of a study.

    Args:
        options (`argparse.Namespace`): The options of the command line.
        run (`Callable`, *optional*): Runs a module with flags.
    """

    def __init__(self, options: argparse.Namespace, run=run_module):
        self.options = options
        self.run = partial(run, jobs=options.jobs)
        self.lock = Lock()  # of files that several jobs write
        self.errors: list[Exception] = []
        self.paths = Paths(options.runs, options.results)
        self.recipes = {
            row: yaml.safe_load((STUDY / "rows" / f"{row}.yaml").read_text(encoding="utf-8")) for row in ROWS
        }
        check_budgets(self.recipes)

    def run_all(self) -> None:
        """
        Runs all that is missing, and writes the page. A row that fails does not stop the others.

        Raises:
            ExceptionGroup: If rows have failed.
        """
        kinds = list(dict.fromkeys(["dynamic", *map(self.kind_of, self.options.rows)]))
        kinds += [] if self.options.no_dial else ["random"]
        if "--language_model" not in self.options.row:
            self.make_text_tokenizer()
        self.make_parts("dynamic")
        self.each(self.make_parts, [(kind,) for kind in kinds[1:]])
        self.check()
        tuned = self.each(self.tune_all, [(row,) for row in self.options.rows])
        seeds = range(max(map(self.num_seeds, self.options.rows)))
        self.each(self.train_row, [(row, seed) for seed in seeds for (row,) in tuned if seed < self.num_seeds(row)])
        self.check()
        if not self.options.no_dial:
            self.measure_dial()
        self.write_page()

    def each(self, run: Callable[..., None], cases: list[tuple]) -> list[tuple]:
        """Runs all cases, several at a time, and returns those that did not fail."""
        with ThreadPoolExecutor(self.options.jobs) as pool:
            futures = [pool.submit(run, *case) for case in cases]
        self.errors += [error for error in map(Future.exception, futures) if isinstance(error, Exception)]
        return [case for case, future in zip(cases, futures, strict=True) if future.exception() is None]

    def check(self) -> None:
        """Raises an `ExceptionGroup` with the errors of all that has failed."""
        if self.errors:
            raise ExceptionGroup("Parts of the study have failed. The same command runs them again.", self.errors)

    def make_parts(self, kind: str) -> None:
        self.train_parts(kind)
        self.compute_codes(kind)

    def tune_all(self, row: str) -> None:
        if self.options.sweep:
            self.tune(row)
        if self.options.trials and row in TRIALS:
            self.try_settings(row)

    def kind_of(self, row: str) -> str:
        """Returns the kind of the visual tokenizer of a row."""
        return Path(self.recipes[row]["visual_tokenizer"]).name

    def num_seeds(self, row: str) -> int:
        return self.options.num_seeds or (3 if row in MORE_SEEDS else 2)

    def write_page(self) -> None:
        report.write_page(self.options.page, self.options.results)

    def make_text_tokenizer(self) -> None:
        """Trains the text tokenizer of all rows on the sequences of LaVIT, which have all kinds of text."""
        if self.paths.text_tokenizer.exists():
            return
        study, sequences, data, args = self.arguments(BASE, 0, self.paths.runs / "unused")
        rows, _ = load_mixture(data, sequences, args)
        tokenizer = train_text_tokenizer(list_texts(rows), study.text_vocab_size, lowercase=True)
        tokenizer.save_pretrained(self.paths.text_tokenizer)

    def train_parts(self, kind: str) -> None:
        """Trains a visual tokenizer and its pixel decoder."""
        options, folder, decoder = self.options, self.paths.tokenizer(kind), self.paths.decoder(kind)
        flags = [*_recipe(options.tokenizer_recipe), *TOKENIZERS[kind], "--output_dir", str(folder)]
        if kind == "fixed":
            flags += ["--num_codes", str(self.mean_codes())]
        self.train_part("study.train_tokenizer", folder, [*flags, *options.common, *options.tokenizer])
        flags = [*_recipe(options.decoder_recipe), "--visual_tokenizer", str(folder), "--output_dir", str(decoder)]
        self.train_part("train_image_decoder", decoder, [*flags, *options.common, *options.decoder])

    def train_part(self, module: str, folder: Path, flags: list[str]) -> None:
        """Trains a part that is missing."""
        contents = [Path(flag).read_text(encoding="utf-8") for flag in flags[:1] if not flag.startswith("--")]
        keep_recipe(folder.with_suffix(".json"), {"module": module, "flags": flags, "recipe": contents})
        if not (folder / "README.md").exists():
            self.run(module, flags)

    def compute_codes(self, kind: str) -> None:
        """
        Precomputes the codes of the images that rows train on. All rows read them, since images that were rendered or
        decoded once are read faster.
        """
        folder = self.paths.codes(kind)
        if self.options.no_codes or (folder / "README.md").exists():
            return
        tokenizer = LavitVisualTokenizer.from_pretrained(self.paths.tokenizer(kind))
        processor = AutoImageProcessor.from_pretrained(self.paths.tokenizer(kind))
        _, sequences, data, _ = self.arguments(BASE, 0, self.paths.runs / "unused")
        rows, _ = data.load()
        columns = [name for name in (data.image_column, sequences.edited_image_column) if name in rows.column_names]
        precompute_codes(rows, folder, tokenizer, processor, image_columns=columns)

    def mean_codes(self) -> int:
        """Returns the mean number of codes of the dynamic visual tokenizer, rounded, over held-out images."""
        folder = self.paths.tokenizer("dynamic")
        _, _, data, _ = self.arguments(BASE, 0, self.paths.runs / "unused")
        _, rows = data.load_images()
        images = [rows[index][data.image_column] for index in range(min(NUM_COUNTED_IMAGES, len(rows)))]
        pixel_values = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
        tokens = LavitVisualTokenizer.from_pretrained(folder).tokenize_images(pixel_values)
        return round(tokens.num_codes.float().mean().item())

    def flags(self, row: str, output: Path, results: Path, kind: str | None = None) -> list[str]:
        """Returns the flags of a run of a row."""
        kind = kind or self.kind_of(row)
        given = {
            "visual_tokenizer": self.paths.tokenizer(kind),
            "image_decoder": self.paths.decoder(kind),
            "text_tokenizer": self.paths.text_tokenizer,
            "output_dir": output,
            "results": results,
        }
        if self.paths.codes(kind).exists():
            given["codes"] = self.paths.codes(kind)
        named = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        recipe = str(STUDY / "rows" / f"{row}.yaml")
        return [recipe, *named, *self.rate(row), *self.options.common, *self.options.row, *self.best(row)]

    def arguments(self, row: str, seed: int, results: Path) -> Arguments:
        return read_arguments([*self.flags(row, self.paths.runs / "unused", results), "--seed", str(seed)])

    def rate(self, row: str) -> list[str]:
        """Returns the flag with the learning rate that the sweep has found best, if there was one."""
        found = read_json(self.paths.sweep).get(row)
        return ["--learning_rate", str(found["best"])] if found else []

    def best(self, row: str) -> list[str]:
        """Returns the flag with the value that trials have found best, if there were any."""
        found = read_json(self.paths.trials).get(row)
        return _flag(TRIALS[row].flag, found["best"]) if found else []

    def try_settings(self, row: str) -> None:
        """Trains a row for a few steps with each value of its trials, and keeps the one that their task finds best."""
        if row in read_json(self.paths.trials):
            return
        trials = TRIALS[row]
        found = {json.dumps(value): self.try_one(row, value)["evaluation"]["results"] for value in trials.trained}
        best = json.loads(self.choose(found, trials.task))
        if trials.drawn:
            reports = self.try_one(row, best, ["--tried", json.dumps(trials.drawn)])["tried"]
            drawn = {
                json.dumps(best | settings): report for settings, report in zip(trials.drawn, reports, strict=True)
            }
            best = json.loads(self.choose(drawn, trials.task))
            found |= drawn
        values = [
            {"value": json.loads(text)} | {name: report[trials.task][name] for name in ("objects", "everything")}
            for text, report in found.items()
        ]
        entry = {"steps": self.options.trial_steps, "task": trials.task, "values": values, "best": best}
        self.add(self.paths.trials, row, entry)

    def choose(self, found: dict[str, dict], task: str) -> str:
        """Returns the name of the results in which most objects and most scenes are right."""
        return max(found, key=lambda name: sum(found[name][task][key]["value"] for key in ("objects", "everything")))

    def try_one(self, row: str, value, more: Sequence[str] = ()) -> dict:
        """Returns the results of a row with a value of its trials."""
        trials, flags = TRIALS[row], [*_flag(TRIALS[row].flag, value), *more]
        folder = self.paths.runs / "trials" / f"{row}-{hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:8]}"
        path = folder / "results.json"
        # Not the rows of the table, on which the best of several settings would look better than it is.
        split, steps = self.arguments(row, 0, path)[2].eval_split, str(self.options.trial_steps)
        judged = ["--test_split", split, "--tasks", trials.task, "--num_test_rows", str(NUM_TRIED_ROWS)]
        flags = [*self.flags(row, folder, path), "--max_steps", steps, "--num_curve_points", "1", *judged, *flags]
        if path.exists():
            compare_recipes(path, read_json(path)["recipe"], describe_recipe(*read_arguments(flags)), ("codes",))
        else:
            self.run("study.train", flags)
        return read_json(path)

    def add(self, path: Path, row: str, entry: dict) -> None:
        """Adds the entry of a row to a JSON file."""
        with self.lock:
            write_json(path, read_json(path) | {row: entry})

    def tune(self, row: str) -> None:
        """Trains a row for a few steps with each learning rate, and keeps the one with the least held-out loss."""
        if row in read_json(self.paths.sweep):
            return
        losses, rates = {}, list(self.options.rates)
        while rates:
            rate = rates.pop(0)
            folder = self.paths.runs / "sweep" / f"{row}-{rate}"
            path = folder / "loss.json"
            shorter = ["--only_loss", "true", "--max_steps", str(self.options.sweep_steps)]
            flags = [*self.flags(row, folder, path), *shorter, "--learning_rate", str(rate)]
            if path.exists():
                compare_recipes(path, read_json(path)["recipe"], describe_recipe(*read_arguments(flags)), ("codes",))
            else:
                self.run("study.train", flags)
            loss = read_json(path)["held_out_loss"]
            losses[rate] = loss if math.isfinite(loss) else math.inf
            best = min(losses, key=lambda rate: losses[rate])
            # A best rate at the end of those that were tried may not be the best one.
            if not rates and 1 < len(losses) < MAX_RATES:
                rates = [best / 2] if best == min(losses) else [best * 2] if best == max(losses) else []
        shown = {str(rate): loss for rate, loss in sorted(losses.items())}
        entry = {"steps": self.options.sweep_steps, "held_out_losses": shown, "best": best}
        self.add(self.paths.sweep, row, entry)

    def train_row(self, row: str, seed: int) -> None:
        """
        Trains and evaluates a row.

        Raises:
            ValueError: If its results were made by another recipe.
        """
        name = f"{row}-seed{seed}"
        path = self.paths.results / f"{name}.json"
        if path.exists():
            made, now = read_json(path)["recipe"], describe_recipe(*self.arguments(row, seed, path))
            compare_recipes(path, made, now, set(OWN) - {"learning_rate", "seed"})
            return
        flags = self.flags(row, self.paths.runs / name, path)
        self.run("study.train", [*flags, "--seed", str(seed)])
        with self.lock:
            self.write_page()

    def measure_dial(self) -> None:
        """Trains LaVIT once more, on the visual tokenizer with random budgets, and measures both curves."""
        if self.paths.dial.exists():
            return
        folder = self.paths.runs / "dial"
        if not (folder / "results.json").exists():
            self.run("study.train", self.flags(BASE, folder, folder / "results.json", kind="random"))
        plain = self.paths.runs / f"{BASE}-seed0", self.paths.decoder("dynamic")
        random = folder, self.paths.decoder("random")
        flags = ["--plain", *map(str, plain), "--random", *map(str, random), "--output", str(self.paths.dial)]
        self.run("study.dial", [*flags, *self.options.dial])


def _recipe(path: str) -> list[str]:
    return [path] if path else []


def _flag(name: str, value) -> list[str]:
    return [f"--{name}", json.dumps(value)]


def main():
    Study(parse_options()).run_all()


if __name__ == "__main__":
    main()
