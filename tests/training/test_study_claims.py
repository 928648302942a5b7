# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The statistics of the study, and the committed results with their page."""

import random
import re
import shutil
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from statistics import fmean

import pytest
from study.budgets import ROWS
from study.claims import CLAIMS, COMPARISONS
from study.dial import BUDGETS, SELECTIONS
from study.differences import Difference, adjust, name_verdict, read_cases, subtract
from study.json_files import read_json, write_json
from study.outcomes import load_outcomes
from study.report import compare, find_pictures, render

from lavit_hf.data.loading import load_rows

from ..guides import ROOT
from .small_study import STUDY


# A model, a number of tokens and a number of objects, at which adaptive numbers are too few and too many.
FEW_AND_MANY = (("plain", 12, 1), ("plain", 12, 4), ("shipped", 32, 4))


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


def draw_results(
    generator: random.Random, shares: dict[str, float], num_scenes: int = 150, noise: dict[str, float] | None = None
) -> dict[str, list[dict]]:
    """
    Draws results of two seeds of each row, with six questions on each scene. Some scenes are hard for all rows.
    `noise` has the factors by which rows vary more over seeds than others.
    """
    hard = [generator.gauss(0, 0.1) for _ in range(num_scenes)]
    cases = {}
    for row, share in shares.items():
        spread = 0.15 * (noise or {}).get(row, 1) * share * (1 - share)
        seeds = [share + generator.gauss(0, spread) for _ in range(2)]
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
    # A row of two seeds that varies more than others is not known to do so at once.
    outside = 0
    for _ in range(300):
        results = draw_results(generator, {"lavit": 0.8, "regression": 0.8, **others}, noise={"regression": 3.0})
        found = subtract(results, "lavit", "regression", "questions", "accuracy")
        outside += abs(found.mean) > found.half
    assert outside / 300 < 0.12
    results = draw_results(generator, {"lavit": 0.9, "regression": 0.6, **others})
    assert subtract(results, "lavit", "regression", "questions", "accuracy").p_value < 0.05
    assert subtract(results, "lavit", "regression", "drawing", "everything") is None
    one = make_results({"lavit": [[1.0, 0.0, 1.0]], "regression": [[0.0, 0.0, 0.0]]})
    found = subtract(one, "lavit", "regression", "questions", "accuracy")
    assert not found.has_seeds
    assert found.error == pytest.approx(1 / 3)


def test_rows_that_vary_more_than_others_have_wider_intervals():
    """The variance over seeds of all rows together would be too small for them. A row near 0 does not count."""
    case = ("lavit", "regression", "questions", "accuracy")
    steady = {row: [[0.5, 0.5], [0.5, 0.51], [0.51, 0.5]] for row in ("fixed_k", "fixed_all", "adapter_mlp")}
    even = {"lavit": [[0.5, 0.5], [0.5, 0.51]], "regression": [[0.5, 0.5], [0.51, 0.5]]}
    uneven = [[0.7, 0.7], [0.5, 0.5]]
    first = subtract(make_results(even | steady), *case)
    for row in even:  # one of them is enough
        found = subtract(make_results(even | steady | {row: uneven}), *case)
        assert found.error > 5 * first.error
        assert 1 <= found.freedom < 1.5
    found = subtract(make_results(steady | dict.fromkeys(even, uneven)), *case)
    assert found.freedom == pytest.approx(2, abs=0.1)
    low = {"discrete_input": [[0.0, 0.0], [0.0, 0.05]]}
    near = subtract(make_results(steady | low), "fixed_k", "fixed_all", "questions", "accuracy")
    assert near == subtract(make_results(steady), "fixed_k", "fixed_all", "questions", "accuracy")


def test_verdicts_of_a_claim_are_right_together():
    """A difference that would count alone stays undecided beside others (Holm)."""

    def decide(differences: list[Difference]) -> list[str]:
        adjusted = adjust(differences, len(differences))
        named = [name_verdict(*case) for case in zip(differences, adjusted, strict=True)]
        return [verdict.split(",")[0] for verdict in named]

    clear, weak, none = Difference(0.2, 0.02, 10), Difference(-0.05, 0.021, 10), Difference(0.0, 0.02, 10)
    assert 0.025 < weak.p_value < 0.05
    assert decide([weak]) == ["contradicted"]
    assert decide([clear, none]) == ["supported", "undecided"]
    assert decide([none, weak, clear]) == ["undecided", "undecided", "supported"]
    assert decide([Difference(0.5, None)]) == ["no verdict without the noise of training"]
    assert decide([Difference(0.5, 0.01, 100, has_seeds=False)]) == ["no verdict without the noise of training"]
    assert decide([Difference(0.5, 0.01, 100, num_seeds=1)]) == ["no verdict without a second seed"]


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


def test_results_of_other_rates_and_settings_than_the_best_are_refused(tmp_path):
    """Results are committed as they are made, beside the sweep and the trials that they depend on."""
    folder = shutil.copytree(STUDY / "results", tmp_path / "results")
    results = load_outcomes(folder).results
    assert results
    for found in results.values():
        assert not any(Path(result["recipe"]["results"]).is_absolute() for result in found), "a folder of one machine"
    for name, source, value in (("sweep", "lavit", 9.0), ("trials", "lavit", {"temperature": 9.0})):
        made = read_json(folder / f"{name}.json")
        write_json(folder / f"{name}.json", made | {source: made[source] | {"best": value}})
        with pytest.raises(ValueError, match=r"lavit-seed0.json was made with .*, and the recipe has .*9.0"):
            load_outcomes(folder)
        write_json(folder / f"{name}.json", made)


def test_the_page_agrees_with_the_results():
    page = ROOT / "docs" / "study.md"
    text = page.read_text(encoding="utf-8")
    assert render(text, load_outcomes(STUDY / "results"), find_pictures(page)) == text


def test_sentences_of_the_page_have_the_numbers_of_the_results():
    """The sentences on the dial and on the widest interval are written by hand, and stand beside tables."""
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    dial = read_json(STUDY / "results" / "dial.json")
    points = {(c["tokenizer"], c["selection"], p["budget"]): p for c in dial["curves"] for p in c["points"]}
    numbers = [len(row["scene"]) for row in load_rows("shapes", "test", num_rows=500)]
    models, right, captions = ("plain", "random", "shipped"), ("reconstruction", "everything"), ("captions", "objects")

    def cases(model: str, selection: str, budget: int, task: str, metric: str, of: int | None = None) -> list[float]:
        found = read_cases(points[model, selection, budget], task, metric)
        return [value for value, number in zip(found, numbers, strict=True) if of in (None, number)]

    def share(*args) -> str:
        return f"{100 * fmean(cases(*args)):.{0 if isinstance(args[-1], int) else 1}f}"

    def gap(model: str, budgets: Iterable[int], task: str, metric: str) -> float:
        both = [[fmean(cases(model, each, budget, task, metric)) for budget in budgets] for each in SELECTIONS]
        return fmean(both[0]) - fmean(both[1])

    def gaps(budgets: Iterable[int]) -> list[float]:
        return sorted(gap(model, budgets, "reconstruction", "psnr") for model in models)

    others = [budget for budget in BUDGETS if budget not in (20, 64)]
    right_gaps = sorted(-100 * gap(model, others, *right) for model in models)
    answers = [100 * gap(model, others, "questions", "accuracy") for model in models]
    counted = [[share(model, each, budget, *right, of) for each in SELECTIONS] for model, budget, of in FEW_AND_MANY]
    falls = [
        [share("shipped", "adaptive", budget, *case) for budget in (20, 64)]
        for case in (right, captions, ("questions", "accuracy"))
    ]
    all_tokens = read_json(STUDY / "results" / "fixed_all-seed0.json")["evaluation"]["results"]["reconstruction"]
    sentences = [
        "PSNR is higher with them by {:.2f} to {:.2f} dB in all three".format(*(-each for each in gaps(others)[::-2])),
        "right reconstructions are more by {:.1f} to {:.1f} points. Answers".format(*right_gaps[::2]),
        f"by at most {max(map(abs, answers[:2])):.1f} points in *plain* and *random*",
        f"in *shipped*, {answers[2]:.1f} points more",
        "At 20 tokens, PSNR is higher with them by {:.2f} to {:.2f} dB in".format(*gaps([20])[::2]),
        "and at 24 tokens by {:.2f} to {:.2f} dB".format(*gaps([24])[::2]),
        "have {:.1f} and {:.1f} points more".format(*(100 * gap(name, [20], *right) for name in ("plain", "shipped"))),
        f"show no clear difference ({100 * gap('random', [20], *right):.1f} ± 3.0)",
        f"captions are fewer ({100 * gap('random', [20], *captions):.1f} ± 2.1)",
        "PSNR is lower with adaptive numbers by {:.2f} to {:.2f} dB".format(*(-each for each in gaps([12])[::-2])),
        "at 16 ({:+.1f} and {:+.1f} points)".format(*(100 * gap("shipped", [number], *right) for number in (12, 16))),
        "*plain* reconstructs {}% of them, and {}% if each scene has 12".format(*counted[0]),
        "of four objects {}% instead of {}%".format(*counted[1]),
        "*shipped* reconstructs {}% of them, and {}% if each scene has 32".format(*counted[2]),
        "the right reconstructions of *shipped* fall from {} to {}%".format(*falls[0]),
        "its right captions from {} to {}%, and its right answers from {} to ".format(*falls[1], falls[2][0]),
        f"{share('random', 'adaptive', 20, *right)}% instead of {share('plain', 'adaptive', 20, *right)}% at 20",
        f"`fixed_all` reconstructs {100 * all_tokens['everything']['value']:.1f}% with all tokens",
        f"and *random* {share('random', 'fixed', 64, *right)}%",
        f"24 tokens on average, {share('shipped', 'adaptive', 24, *right)}% of its",
        f"16 tokens on average, {share('shipped', 'adaptive', 16, *right)}%.",
    ]
    assert [sentence for sentence in sentences if sentence not in text] == []
    widest = max(map(float, re.findall(r"± (\d+\.\d)", page.partition("<!-- differences")[2].partition("<!--")[0])))
    assert f"the half is up to {widest:.0f} points" in text
    # "With at most 8 and with at least 48 tokens, random is better than plain in all measures"
    for budget, selection, case in product((4, 8, 48, 64), SELECTIONS, (right, ("reconstruction", "psnr"), captions)):
        better, worse = (fmean(cases(model, selection, budget, *case)) for model in ("random", "plain"))
        assert better > worse, (budget, selection, case)
    for budget, selection in product(BUDGETS, SELECTIONS):
        better, worse = (
            fmean(cases(model, selection, budget, "questions", "accuracy")) for model in ("random", "plain")
        )
        assert better > worse, (budget, selection)


def test_a_verdict_needs_all_that_was_planned():
    """Both rows need a second seed, whatever others have, and missing differences count as well."""
    generator = random.Random(0)
    rows = {"lavit": 0.9, "lavit_text_only": 0.6, "adapter_mlp": 0.7, "fixed_k": 0.8}
    results = draw_results(generator, rows)
    questions = ("lavit_text_only", "questions")
    assert compare(results, CLAIMS[0])[questions][1].startswith("supported")
    alone = subtract(results, "lavit", "lavit_text_only", "questions", "accuracy").p_value
    shown = compare(results, CLAIMS[0])[questions][1]
    assert shown.endswith("p < 0.001") or float(shown.rpartition(" ")[2]) == pytest.approx(2 * alone, rel=0.1)
    for row in ("lavit", "lavit_text_only"):
        found = compare(results | {row: results[row][:1]}, CLAIMS[0])[questions]
        assert found[0].has_seeds
        assert found[1] == "no verdict without a second seed"
    found = compare(draw_results(generator, dict.fromkeys(rows, 1.0)), CLAIMS[0])[questions]
    assert not found[0].has_seeds


def test_comparisons_of_parts_that_were_trained_once_have_no_verdict():
    """A verdict is about rows with the same visual tokenizer, which both start from."""
    for claim in (*CLAIMS, *COMPARISONS):
        if claim.primary:
            assert claim in CLAIMS[:2]
            for row in claim.rivals:
                assert not {"visual_tokenizer", "num_codes"} & set(ROWS[row]), row
        else:
            assert "no verdict" in claim.note
