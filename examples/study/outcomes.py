# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The JSON files of a study, which are read together and refused where they do not belong to each other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .budgets import BASE, OWN, ROWS, check_budgets
from .differences import Results
from .json_files import compare_recipes, read_json
from .systems import compare_parts
from .tuning import RATE_OF, TRIALS, is_taken


@dataclass(frozen=True)
class Outcomes:
    """
    All that a study has found.

    Args:
        results (`dict[str, list[dict]]`): The results of each row, in the order of seeds.
        sweep (`dict`): The learning rates of each row that was swept.
        trials (`dict`): The settings that were tried for each row.
        dial (`dict`): Tokens against quality.
    """

    results: Results
    sweep: Mapping
    trials: Mapping
    dial: Mapping


def load_outcomes(folder: Path) -> Outcomes:
    """
    Loads the JSON files of a study.

    Raises:
        ValueError: If they do not belong to each other: see [`load_results`] and [`check_tuning`].
    """
    results = load_results(folder)
    sweep, trials, dial = (read_json(folder / f"{name}.json") for name in ("sweep", "trials", "dial"))
    check_tuning(results, sweep, trials)
    return Outcomes(results, sweep, trials, dial)


def load_results(folder: Path) -> dict[str, list[dict]]:
    """
    Loads the results of all rows, by row and in the order of seeds.

    Raises:
        ValueError: If a file has the results of another row or seed than its name says, if the seeds of a row have
            other recipes or tasks, if rows were trained with different budgets, or rows of one seed with different
            parts.
    """
    found: dict[str, list[dict]] = {}
    for row in ROWS:
        for path in folder.glob(f"{row}-seed[0-9]*.json"):
            result = read_json(path)
            if path.name != name_of(result):
                raise ValueError(f"{path} has the results of {name_of(result)}: a copy is no other row or seed.")
            found.setdefault(row, []).append(result)
    known: list[dict] = []
    for results in found.values():
        results.sort(key=lambda result: result["seed"])
        first = results[0]
        for result in results:  # seeds of a row have one recipe, and rows those of LaVIT but for what they are about
            compare_recipes(name_of(first), first["recipe"], result["recipe"], set(OWN) - {"learning_rate"})
            # Reconstructions are those of the first seed, since all seeds have one pixel decoder.
            tasks = [set(one["evaluation"]["results"]) - {"reconstruction"} for one in (first, result)]
            compare_recipes(name_of(first), *({"tasks": sorted(names)} for names in tasks))
            for other in known:
                if other["seed"] == result["seed"]:
                    compare_parts(name_of(other), other, result["recipe"], result["parts"])
            known.append(result)
            if BASE in found:
                check_budgets({BASE: found[BASE][0]["recipe"]} | {result["row"]: result["recipe"]})
    return found


def name_of(result: Mapping) -> str:
    """Returns the name of the file of a result."""
    return f"{result['row']}-seed{result['seed']}.json"


def check_tuning(results: Results, sweep: Mapping, trials: Mapping) -> None:
    """
    Checks that rows have the learning rates and settings that were found best, where they were tuned.

    Raises:
        ValueError: If a row has others.
    """
    for row, found in results.items():
        best = {TRIALS[name].flag: entry["best"] for name, entry in trials.items() if is_taken(name, row)}
        source = RATE_OF.get(row, row)
        rate = {"learning_rate": sweep[source]["best"]} if source in sweep else {}
        for result in found:
            recipe = result["recipe"]
            made = {name: json.loads(str(recipe[name])) for name in best}
            compare_recipes(name_of(result), made, best)
            compare_recipes(name_of(result), {name: recipe[name] for name in rate}, rate)
