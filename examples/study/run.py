# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Runs the whole study: visual tokenizers, pixel decoders, the sweep of learning rates, trials of settings, all rows and
seeds, the dial, and the report. Stages that are complete are not run again, and those that were stopped are resumed.

    python examples/study/run.py --sweep --trials

With --dataset_name and pretrained backbones among the flags of the stages, it runs on other data: see docs/study.md.
"""

import argparse
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import yaml


EXAMPLES = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(EXAMPLES))  # where the scripts are that the stages run

from study import outcomes, report  # noqa: E402
from study.budgets import BASE, EQUAL, ROWS, check_budgets  # noqa: E402
from study.json_files import compare_recipes, fingerprint_shipped, only_process, read_json, write_json  # noqa: E402
from study.parts import TOKENIZERS, VECTORS, Parts, Paths  # noqa: E402
from study.systems import OF_A_KIND, READING, compare_parts, describe_recipe, fingerprint_parts  # noqa: E402
from study.train import PACKAGES, name_columns, read_arguments  # noqa: E402
from study.tuning import RATE_OF, RATES, TRIALS, check_parts, check_results  # noqa: E402

from lavit_hf import demo_checkpoint  # noqa: E402


STUDY = EXAMPLES / "study"
# The models whose curves are compared: the kind of the visual tokenizer, and the system.
DIAL = {"plain": ("dynamic", "lavit"), "random": ("random", "any_length")}
MORE_SEEDS = ("lavit", "regression", "lavit_text_only")  # the rows of the main claims


def count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


def rate(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return float(text)


def parse_options(flags: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="folder of trained models")
    results = Path(os.path.relpath(STUDY / "results"))  # it is written into the results
    parser.add_argument("--results", type=Path, default=results, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=EXAMPLES.parent / "docs" / "study.md", help="page to write into")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="rows to run")
    parser.add_argument("--num_seeds", type=count, help="seeds of each row. Default: 2, and 3 for the main rows")
    parser.add_argument("--sweep", action="store_true", help="choose learning rates by a sweep; see RATE_OF")
    parser.add_argument("--rates", nargs="+", type=rate, default=RATES, help="learning rates of the sweep")
    parser.add_argument("--sweep_steps", type=count, default=300, help="steps of each run of the sweep")
    parser.add_argument("--trials", action="store_true", help="try the settings in TRIALS and take the best")
    parser.add_argument("--trial_steps", type=count, default=300, help="steps of each trial")
    parser.add_argument(
        "--jobs", type=count, default=1, help="runs at the same time, which share the processor's cores"
    )
    parser.add_argument("--no_codes", action="store_true", help="do not precompute codes, which takes disk space")
    parser.add_argument("--no_dial", action="store_true", help="leave the dial out")
    parser.add_argument("--tokenizer_recipe", default=str(STUDY / "tokenizer.yaml"), help="recipe, or '' for none")
    parser.add_argument("--decoder_recipe", default=str(STUDY / "decoder.yaml"), help="recipe, or '' for none")
    stages = {
        "common": "all stages but the dial",
        "tokenizer": "trainings of visual tokenizers",
        "decoder": "trainings of pixel decoders",
        "row": "trainings of rows",
        "dial": "the dial",
    }
    for name, stage in stages.items():
        parser.add_argument(f"--{name}", type=shlex.split, default=[], help=f"flags for {stage}, in one string")
    return parser.parse_args(flags)


def run_module(module: str, flags: list[str], jobs: int = 1, lock: int | None = None) -> None:
    """
    Runs a script of the examples in a process of its own, one of several `jobs` that share the cores. The process
    holds the `lock`, a file descriptor, so that no other driver works in the same folder until it ends, even if this
    driver is killed.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) // jobs, 1))
    held = () if lock is None else (lock,)
    subprocess.run([sys.executable, "-m", module, *flags], env=environment, check=True, pass_fds=held)


class Study(Parts):
    """
    The stages of a study.

    Args:
        options (`argparse.Namespace`): The options of the command line.
        run (`Callable`, *optional*): Runs a module with flags.
    """

    def __init__(self, options: argparse.Namespace, run=run_module):
        self.options = options
        self.run_module, self.jobs = run, 1
        self.folder_lock: int | None = None
        self.lock = Lock()  # of files that several jobs write
        self.errors: list[Exception] = []
        self.paths = Paths(options.runs, options.results)
        self.recipes = {
            row: yaml.safe_load((STUDY / "rows" / f"{row}.yaml").read_text(encoding="utf-8")) for row in ROWS
        }
        check_budgets(self.recipes)

    def run(self, module: str, flags: list[str]) -> None:
        self.run_module(module, flags, self.jobs, self.folder_lock)

    def run_all(self) -> None:
        """
        Runs all that is missing, and writes the page. A row that fails does not stop the others.

        Raises:
            ExceptionGroup: If rows have failed, or if results were made by another recipe or with other parts. These
                are found before anything is run.
            ValueError: If codes cannot be precomputed for the dataset.
            RuntimeError: If another process works in the same folder.
        """
        cases = [(row, seed) for row in self.options.rows for seed in range(self.num_seeds(row))]
        outcomes.load_outcomes(self.options.results)
        self.each(self.check_row, cases)
        has_dial = BASE in self.options.rows and not self.options.no_dial
        if has_dial:
            self.each(self.check_dial, [()])
        self.check()
        report.check_page(self.options.page)  # before time is spent
        missing = [case for case in cases if not self.paths.row(*case).exists()]
        needs_dial = has_dial and not self.paths.dial.exists()
        if missing or needs_dial:
            self.check_codes()
            with only_process(self.options.runs) as self.folder_lock:
                self.run_missing(missing, needs_dial)
        self.write_page()
        self.check()

    def run_missing(self, missing: list[tuple[str, int]], needs_dial: bool) -> None:
        """Runs rows and seeds that are missing, what they need, and the dial if it is missing."""
        rows = list(dict.fromkeys(row for row, _ in missing))
        untuned = {row: self.missing_tuning(row) for row in rows}
        sources = sorted({source for needed in untuned.values() for source in needed})
        kinds_of_dial = {kind for kind, _ in DIAL.values()} if needs_dial else set()
        kinds = kinds_of_dial.union(*map(self.kinds_of, [*rows, *sources]))
        made = self.make_all_parts(kinds)
        # First the rows whose settings all others take, then those whose rates others take.
        sources = [row for row in sources if self.kinds_of(row) <= made]
        first = [row for row in sources if row in TRIALS and TRIALS[row].all_rows]
        done = self.tune_all(first) | self.tune_all([row for row in sources if row not in first])
        rows = [row for row in rows if self.kinds_of(row) <= made and done.issuperset(untuned[row])]
        for seed in range(max(map(self.num_seeds, self.options.rows))):
            self.each(self.train_row, [case for case in missing if case[1] == seed and case[0] in rows])
        # The dial takes the settings of the row.
        if needs_dial and made.issuperset(kinds_of_dial) and self.paths.row(BASE, 0).exists():
            trained = self.each(self.train_dial, [(name,) for name in DIAL])
            self.each(self.measure_dial, [()] if len(trained) == len(DIAL) else [])

    def make_all_parts(self, kinds: set[str]) -> set[str]:
        """Makes the parts of kinds of selection, and returns the kinds that did not fail."""
        # The first has the mean number of codes of the dynamic visual tokenizer, the second its vectors.
        late = kinds & {"fixed", VECTORS}
        first = {"dynamic"} if late or "dynamic" in kinds else set()
        if kinds and "--language_model" not in self.options.row:
            self.make_text_tokenizer()
        made = self.each(self.make_parts, [(kind,) for kind in first])
        others = [kind for kind in (*TOKENIZERS, VECTORS) if kind in kinds - first and (made or kind not in late)]
        made += self.each(self.make_parts, [(kind,) for kind in others])
        return {kind for (kind,) in made}

    def check_row(self, row: str, seed: int) -> None:
        """
        Checks the results of a row before anything is run. Where there are none, checks that those of the row could
        stand beside the other results.

        Raises:
            ValueError: If results were made by another recipe or without the tuning that is asked for, or if other
                rows have other budgets, or those of this seed other parts.
        """
        path = self.paths.row(row, seed)
        arguments = self.arguments(row, seed=seed)
        if path.exists():
            check_results(path, arguments)
            self.check_shared_recipes(path, read_json(path)["parts"])
            if missing := self.missing_tuning(row):
                names = ", ".join(missing)
                raise ValueError(f"{path} was made before {names} was tuned: delete it, or omit --sweep and --trials.")
            return
        recipe, parts = describe_recipe(*arguments), fingerprint_parts(arguments[0])
        for other in self.all_results():
            made = read_json(other)
            self.check_shared_recipes(other, made["parts"])
            if made["recipe"]["row"] == BASE:
                check_budgets({BASE: made["recipe"], row: recipe})
            if made["recipe"]["seed"] == seed:
                is_like = all(made["recipe"].get(part) == recipe.get(part) for part in OF_A_KIND)
                # Parts of another kind may not have been made yet.
                made["parts"] = {name: part for name, part in made["parts"].items() if is_like or parts.get(name)}
                present = {name: parts.get(name) for name in made["parts"]}
                compare_parts(other, made, recipe, present)

    def all_results(self) -> list[Path]:
        """Returns the results of all rows and seeds that are there."""
        return [path for row in ROWS for path in sorted(self.paths.results.glob(f"{row}-seed[0-9]*.json"))]

    def check_shared_recipes(self, path: Path, parts: Mapping) -> None:
        """Raises a `ValueError` if `parts` of the results in `path` were trained by another recipe than now."""
        for part in OF_A_KIND:
            made, now = parts.get(f"{part}_recipe"), self.shared_recipe(part)
            if made not in (None, now):
                raise ValueError(
                    f"The {part} of {path} was trained by another recipe, or with other flags (checksum {made}, now "
                    f"{now}): delete the results, or give the same recipe and flags."
                )

    def each(self, run: Callable[..., None], cases: list[tuple]) -> list[tuple]:
        """Runs all cases, several at a time, and returns those that did not fail."""
        self.jobs = max(min(self.options.jobs, len(cases)), 1)
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(run, *case) for case in cases]
            try:
                wait(futures)
            except KeyboardInterrupt:  # processes that run get it as well, and no other is started
                pool.shutdown(cancel_futures=True)
                raise
        errors = [error for error in map(Future.exception, futures) if error is not None]
        # The parser of arguments ends a program.
        self.errors += [error if isinstance(error, Exception) else RuntimeError(repr(error)) for error in errors]
        return [case for case, future in zip(cases, futures, strict=True) if future.exception() is None]

    def check(self) -> None:
        """Raises an `ExceptionGroup` with the errors of all that has failed."""
        if self.errors:
            raise ExceptionGroup("Parts of the study have failed. The same command runs them again.", self.errors)

    def tune_all(self, rows: list[str]) -> set[str]:
        """Sweeps the learning rates of rows, tries their settings, and returns the rows that did not fail."""
        done = set(rows)
        if self.options.sweep:
            swept = [row for row in rows if row not in RATE_OF]
            done -= set(swept) - {row for (row,) in self.each(self.tune, [(row,) for row in swept])}
        if self.options.trials:
            tried = [row for row in rows if row in done and row in TRIALS and not self.is_tried(row)]
            # The values of all rows are trained side by side, and then compared.
            cases = [(row, value) for row in tried for value in TRIALS[row].trained]
            trained = self.each(self.try_one, cases)
            complete = [row for row in tried if all((row, value) in trained for value in TRIALS[row].trained)]
            done -= set(tried) - {row for (row,) in self.each(self.try_settings, [(row,) for row in complete])}
        return done

    def kind_of(self, row: str, part: str = "visual_tokenizer") -> str:
        """Returns the kind of the visual tokenizer, or of another part, of a row."""
        return Path(self.recipes[row][part]).name

    def kinds_of(self, row: str) -> set[str]:
        """Returns the kinds of parts that a row needs."""
        return {self.kind_of(row, part) for part in OF_A_KIND}

    def num_seeds(self, row: str) -> int:
        return self.options.num_seeds or (3 if row in MORE_SEEDS else 2)

    def write_page(self) -> None:
        report.write_page(self.options.page, self.options.results)

    def flags(
        self, row: str, output: Path, results: Path, tuned: bool = True, seed: int = 0, kind: str | None = None
    ) -> list[str]:
        """Returns the flags of a run of a row, with the best rate and settings that are known if it is `tuned`."""
        tokenizer = kind or self.kind_of(row)
        given = {
            "visual_tokenizer": self.paths.tokenizer(tokenizer),
            "image_decoder": self.paths.decoder(kind or self.kind_of(row, "image_decoder")),
            "text_tokenizer": self.paths.text_tokenizer,
            "output_dir": output,
            "results": results,
            "seed": seed,
        }
        if not self.options.no_codes and self.paths.codes(tokenizer).exists():
            given["codes"] = self.paths.codes(tokenizer)
        named = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        rate, best = (self.rate(row), self.best(row)) if tuned else ([], [])
        flags = [str(STUDY / "rows" / f"{row}.yaml"), *named, *rate, *self.options.common, *self.options.row]
        if row == EQUAL:
            flags += ["--per_device_train_batch_size", str(self.equal_batch())]
        if seed:  # the rows of one kind have one pixel decoder, which reconstructs alike in all of them
            tasks = [task for task in read_arguments(flags)[0].tasks if task != "reconstruction"]
            flags += ["--tasks", *tasks] if tasks else []
        return [*flags, *best]

    def equal_batch(self) -> int:
        """Returns the number of sequences in each step of LaVIT in which nothing is drawn."""
        _, sequences, _, args = self.arguments(BASE, tuned=False)
        weights = sequences.weights
        share = sum(weights.get(kind, 0) for kind in READING) / sum(weights.values())
        return max(round(share * args.per_device_train_batch_size), 1)

    def train_row(self, row: str, seed: int) -> None:
        """
        Trains and evaluates a row.

        Raises:
            ValueError: If another row of this seed was made with other parts.
        """
        path = self.paths.row(row, seed)
        for other in self.all_results():
            if read_json(other)["seed"] == seed:
                check_parts(other, self.arguments(row, seed=seed))
        flags = self.flags(row, self.paths.runs / path.stem, path, seed=seed)
        self.run("study.train", flags)
        with self.lock:
            self.write_page()

    def dial_flags(self, name: str) -> list[str]:
        """Returns the flags of a training of LaVIT on one of the visual tokenizers of the dial."""
        folder = self.paths.runs / "dial" / name
        kind, system = DIAL[name]
        return [*self.flags(BASE, folder, folder / "results.json", kind=kind), "--system", system]

    def check_dial(self) -> None:
        """Raises a `ValueError` if the dial was made by another recipe, of parts of another one, or by other flags."""
        path = self.paths.dial
        if path.exists():
            check_results(path, self.arguments(BASE))
            for parts in read_json(path)["parts"].values():
                self.check_shared_recipes(path, parts)
            compare_recipes(path, {"flags": read_json(path)["flags"]}, {"flags": self.options.dial})

    def train_dial(self, name: str) -> None:
        """Trains LaVIT on one of the visual tokenizers of the dial."""
        self.run_once(self.paths.runs / "dial" / name / "results.json", self.dial_flags(name))

    def measure_dial(self) -> None:
        """Measures the models of the dial, and the one that ships with the library if the rows are of its scenes."""
        folder = self.paths.runs / "dial"
        study, sequences, data, _ = arguments = self.arguments(BASE)
        models = {name: (folder / name, self.paths.decoder(kind)) for name, (kind, _) in DIAL.items()}
        if data.dataset_name == "shapes":
            models["shipped"] = demo_checkpoint(), demo_checkpoint()
        flags = ["--output", str(folder / "dial.json")]
        flags += ["--dataset_name", data.dataset_name, "--split", study.test_split]
        for name, paths in models.items():
            flags += ["--model", name, *map(str, paths)]
        for name, column in name_columns(sequences, data).items():
            flags += ["--column", f"{name}={column}"]
        self.run("study.dial", [*flags, *self.options.dial])
        made = {
            "recipe": describe_recipe(*arguments),
            "flags": self.options.dial,
            "versions": {name: version(name) for name in PACKAGES},
            "parts": {name: fingerprint_parts(read_arguments(self.dial_flags(name))[0]) for name in DIAL},
        }
        if "shipped" in models:
            made["parts"]["shipped"] = fingerprint_shipped()
        write_json(self.paths.dial, made | read_json(folder / "dial.json"))


def main():
    Study(parse_options()).run_all()


if __name__ == "__main__":
    main()
