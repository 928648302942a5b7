# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The JSON files of a study, which are read together and refused where they do not belong to each other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from .budgets import BASE, OWN, ROWS, check_budgets
from .differences import Results, read_cases
from .json_files import compare_recipes, fingerprint_shipped, read_json
from .systems import OF_A_KIND, compare_parts
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
        ValueError: If they do not belong to each other: see [`load_results`], [`check_tuning`] and [`check_dial`].
    """
    results = load_results(folder)
    sweep, trials, dial = (read_json(folder / f"{name}.json") for name in ("sweep", "trials", "dial"))
    check_tuning(results, sweep, trials)
    if dial:
        check_dial(dial, results)
    return Outcomes(results, sweep, trials, dial)


def load_results(folder: Path) -> dict[str, list[dict]]:
    """
    Loads the results of all rows, by row and in the order of seeds.

    Raises:
        ValueError: If a file has the results of another row or seed than its name says, if values are not the means of
            their cases, if the seeds of a row have other recipes or tasks, if rows were trained with different
            budgets, or rows of one seed with different parts.
    """
    found: dict[str, list[dict]] = {}
    for row in ROWS:
        for path in folder.glob(f"{row}-seed[0-9]*.json"):
            result = read_json(path)
            for name in (name_of(result), name_of(result["recipe"])):
                if path.name != name:
                    raise ValueError(f"{path} has the results of {name}: a copy is no other row or seed.")
            check_cases(path.name, result["evaluation"]["results"], result.get("cases", {}))
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
    """Returns the name of the file of a result or recipe."""
    return f"{result['row']}-seed{result['seed']}.json"


def check_cases(name: str, values: Mapping, cases: Mapping, num_rows: int | None = None) -> None:
    """
    Checks that the values of a result are the means of what was measured for each test row. Those of questions are
    means over questions, of which rows have different numbers: the two means come closer to each other with more rows.

    Raises:
        ValueError: If a value is not, or if there are not `num_rows` cases.
    """
    for task, metric in ((task, metric) for task, metrics in cases.items() for metric in metrics):
        found = read_cases({"cases": cases}, task, metric)
        value, mean = values[task][metric]["value"], fmean(found)
        if abs(value - mean) > (len(found) ** -0.5 if task == "questions" else 0.01):
            raise ValueError(f"{name} has {task}.{metric}={value:.4f}, but the mean of its cases is {mean:.4f}.")
        if num_rows not in (None, len(found)):
            raise ValueError(f"{name} has {len(found)} cases of {task}.{metric}, and was measured on {num_rows} rows.")


def check_dial(dial: Mapping, results: Results) -> None:
    """
    Checks that all curves of the dial have the same numbers of tokens, and that its models are those of the study.

    Raises:
        ValueError: If numbers or means differ, if values are not the means of their cases, if the dial has another
            recipe or other parts than LaVIT, or if another model ships with the library by now.
    """
    for curve in dial["curves"]:
        expected = [point["budget"] for point in dial["curves"][0]["points"]]
        name = f"dial.json, {curve['tokenizer']}, {curve['selection']},"
        if (budgets := [point["budget"] for point in curve["points"]]) != expected or len({*budgets}) < len(budgets):
            raise ValueError(f"{name} has the numbers {budgets}, and the first curve has {expected}.")
        for point in curve["points"]:
            if abs(point["tokens"] - point["budget"]) > 0.5:
                raise ValueError(f"{name} has {point['tokens']} tokens where it should have {point['budget']}.")
            check_cases(name, point["values"], point["cases"], dial["num_rows"])
    trained = dict(dial["parts"])
    if shipped := trained.pop("shipped", None):
        compare_recipes("dial.json", shipped, fingerprint_shipped(), to_delete="it")
    for base in results.get(BASE, ())[:1]:
        compare_recipes("dial.json", dial["recipe"], base["recipe"], OWN, to_delete="it")
        for parts in trained.values():
            compare_recipes("dial.json", parts, base["parts"], OF_A_KIND, to_delete="it")


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
