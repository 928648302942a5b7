# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The statistics of the study, and the committed results with their page."""

import json
import random
from pathlib import Path

import pytest
from study.differences import Difference, adjust, name_verdict, subtract
from study.json_files import read_json
from study.report import find_pictures, load_results, render
from study.tuning import RATE_OF, TRIALS

from ..guides import ROOT
from .small_study import STUDY


def make_results(cases: dict[str, list[list[float]]]) -> dict[str, list[dict]]:
    """Results of rows with the values of test scenes for each seed."""

    def result(values: list[float]) -> dict:
        metric = {"value": sum(values) / len(values), "count": len(values), "interval": [0, 1], "baselines": {}}
        shown = " ".join(map(str, values))
        return {
            "evaluation": {"results": {"questions": {"accuracy": metric}}},
            "cases": {"questions": {"accuracy": shown}},
        }

    return {row: [result(values) for values in seeds] for row, seeds in cases.items()}


def draw_results(generator: random.Random, shares: dict[str, float], num_scenes: int = 150) -> dict[str, list[dict]]:
    """Draws results of two seeds of each row, with six questions on each scene. Some scenes are hard for all rows."""
    hard = [generator.gauss(0, 0.1) for _ in range(num_scenes)]
    cases = {}
    for row, share in shares.items():
        seeds = [share + generator.gauss(0, 0.15) * share * (1 - share) for _ in range(2)]
        cases[row] = [
            [sum(generator.random() < seed + extra for _ in range(6)) / 6 for extra in hard] for seed in seeds
        ]
    return make_results(cases)


def test_the_interval_of_a_difference_is_that_of_its_noise():
    """
    At most one pair in twenty without a true difference is outside of its interval. Rows share test scenes. Intervals
    are rather too wide, since the noise of single answers is both in the variance over seeds and in that over scenes.
    """
    generator, outside, widths = random.Random(0), 0, []
    others = {"fixed_k": 0.6, "fixed_all": 0.9, "discrete_input": 0.5, "adapter_mlp": 0.7, "dynamic_dropped": 0.85}
    for _ in range(300):
        results = draw_results(generator, {"lavit": 0.8, "regression": 0.8, **others})
        found = subtract(results, "lavit", "regression", "questions", "accuracy")
        outside += abs(found.mean) > found.half
        widths.append(found.half)
    assert 0 < outside / 300 < 0.05
    assert 0.02 < sum(widths) / 300 < 0.1
    results = draw_results(generator, {"lavit": 0.9, "regression": 0.6, **others})
    assert subtract(results, "lavit", "regression", "questions", "accuracy").p_value < 0.05
    assert subtract(results, "lavit", "regression", "drawing", "everything") is None
    one = make_results({"lavit": [[1.0, 0.0, 1.0]], "regression": [[0.0, 0.0, 0.0]]})
    found = subtract(one, "lavit", "regression", "questions", "accuracy")
    assert not found.has_seeds
    assert found.error == pytest.approx(1 / 3)


def test_rows_that_vary_more_than_others_have_wider_intervals():
    """The variance over seeds of all rows together would be too small for them. A row near 0 does not count."""
    steady = {row: [[0.5, 0.5], [0.5, 0.51], [0.51, 0.5]] for row in ("fixed_k", "fixed_all", "adapter_mlp")}
    uneven = {"lavit": [[0.7, 0.7], [0.5, 0.5]], "regression": [[0.5, 0.5], [0.4, 0.4]]}
    found = subtract(make_results(uneven | steady), "lavit", "regression", "questions", "accuracy")
    alone = subtract(make_results(uneven), "lavit", "regression", "questions", "accuracy")
    assert (found.error, found.freedom) == (alone.error, alone.freedom)
    low = {"discrete_input": [[0.0, 0.0], [0.0, 0.05]]}
    near = subtract(make_results(steady | low), "fixed_k", "fixed_all", "questions", "accuracy")
    assert near == subtract(make_results(steady), "fixed_k", "fixed_all", "questions", "accuracy")


def test_verdicts_of_a_claim_are_right_together():
    """A difference that would count alone stays undecided beside others (Holm)."""

    def decide(differences: list[Difference]) -> list[str]:
        named = [name_verdict(*case) for case in zip(differences, adjust(differences), strict=True)]
        return [verdict.split(",")[0] for verdict in named]

    clear, weak, none = Difference(0.2, 0.02, 10), Difference(-0.05, 0.021, 10), Difference(0.0, 0.02, 10)
    assert 0.025 < weak.p_value < 0.05
    assert decide([weak]) == ["contradicted"]
    assert decide([clear, none]) == ["supported", "undecided"]
    assert decide([none, weak, clear]) == ["undecided", "undecided", "supported"]
    assert decide([Difference(0.5, None)]) == ["no verdict without a second seed"]
    assert decide([Difference(0.5, 0.01, 100, has_seeds=False)]) == ["no verdict without a second seed"]


def test_the_noise_of_test_scenes_has_its_own_degrees_of_freedom():
    """Two seeds that are alike tell little about seeds, and nothing about scenes, which are many."""
    generator = random.Random(0)
    scenes, others = ([generator.choice([0.0, 1.0]) for _ in range(400)] for _ in range(2))
    case = ("lavit", "regression", "questions", "accuracy")
    found = subtract(make_results({"lavit": [scenes] * 2, "regression": [others] * 2}), *case)
    assert found.freedom == pytest.approx(399)
    changed = [min(value + 0.05, 1.0) for value in scenes]
    found = subtract(make_results({"lavit": [scenes, changed], "regression": [others] * 2}), *case)
    assert 2 < found.freedom < 399


def test_the_results_have_the_rates_of_the_sweep():
    sweep = read_json(STUDY / "results" / "sweep.json")
    for row, found in load_results(STUDY / "results").items():
        assert {result["recipe"]["learning_rate"] for result in found} == {sweep[RATE_OF.get(row, row)]["best"]}, row
        assert not any(Path(result["recipe"]["results"]).is_absolute() for result in found), "a folder of one machine"


def test_the_page_agrees_with_the_results():
    page = ROOT / "docs" / "study.md"
    text = page.read_text(encoding="utf-8")
    assert render(text, STUDY / "results", find_pictures(page)) == text


def test_the_rows_have_the_settings_of_the_trials():
    trials = read_json(STUDY / "results" / "trials.json")
    for row, found in load_results(STUDY / "results").items():
        for name, entry in trials.items():
            if name == row or TRIALS[name].all_rows:
                for result in found:
                    assert json.loads(str(result["recipe"][TRIALS[name].flag])) == entry["best"], row
