# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The study at toy size: rows train and are evaluated, budgets are compared, the page says what was measured."""

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
import torch
from PIL import Image
from study import dial
from study.budgets import BASE, EQUAL, OWN, ROWS, check_budgets
from study.dial import find_scale
from study.dial import main as measure_dial
from study.json_files import fingerprint, fingerprint_shipped, read_json, write_json
from study.outcomes import check_dial, load_outcomes, load_results
from study.report import empty_page, find_pictures, render, write_page
from study.report import main as write_report
from study.run import Study, parse_options
from study.systems import SYSTEMS, compare_parts, describe_recipe, fingerprint_parts
from study.train import count_operations, count_parts, load_trainer, read_arguments, train_row
from study.tuning import check_parts
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoImageProcessor

from lavit_hf import LavitVisualTokenizer
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.modeling.selector_lavit import select_patches
from lavit_hf.training import last_checkpoint

from ..tiny import CODEBOOK_SIZE, pictures
from .small_study import IMAGE_TOKENS, LLAMA, STUDY, Recorded, flags, make_parts, read_recipe


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return make_parts(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def results(parts, tmp_path_factory) -> dict[str, dict]:
    """Every row after three steps."""
    folder = tmp_path_factory.mktemp("rows")
    return {row: train_row(read_arguments(flags(row, parts, folder / row))) for row in ROWS}


def test_rows_differ_in_the_lines_that_matter():
    recipes = {row: read_recipe(row) for row in ROWS}
    assert {path.stem for path in (STUDY / "rows").glob("*.yaml")} == set(ROWS)
    check_budgets(recipes)
    for row, recipe in recipes.items():
        differ = {name for name in recipe.keys() | recipes[BASE].keys() if recipe.get(name) != recipes[BASE].get(name)}
        assert differ - set(OWN) == set(ROWS[row]), row
        assert recipe["row"] == row


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_and_is_evaluated(row, results):
    found = results[row]
    draws = SYSTEMS[found["recipe"]["system"]].draws
    tasks = {"captions", "questions"} | ({"drawing", "edits", "reconstruction"} if draws else set())
    assert set(found["evaluation"]["results"]) == tasks
    assert [point["step"] for point in found["curve"]] == [3]
    assert [step for step, _ in found["losses"]] == [1, 2, 3]
    assert found["image_tokens"] == IMAGE_TOKENS.get(row, results[BASE]["image_tokens"])
    assert found["operations"]["total"] == 3 * found["operations"]["per_step"] > 0
    assert min(found["seconds"].values()) > 0
    assert len(found["drawings"]) == (2 if draws else 0)


def test_rows_cost_what_they_should(results):
    """More layers and more sequences take more operations, and a vocabulary without codes has fewer weights."""
    operations = {row: found["operations"]["per_step"] for row, found in results.items()}
    assert operations["adapter_mlp"] > operations["adapter_linear"]
    assert operations["lavit_text_only"] > operations[EQUAL]
    weights = {row: found["trained_parameters"] for row, found in results.items()}
    assert weights["lavit"] - weights["lavit_text_only"] == (CODEBOOK_SIZE - 1) * LLAMA["hidden_size"]
    assert weights["adapter_linear"] < weights["adapter_mlp"] < weights["lavit_text_only"]


def test_operations_are_those_of_a_step(results, parts, tmp_path):
    """
    The mean over several steps is that of their batches. The frozen visual tokenizer is left out, so that precomputed
    codes change nothing, and its operations are told for each image.
    """
    trainer, _ = load_trainer(read_arguments(flags("lavit_text_only", parts, tmp_path)))
    trainer.train()
    batches, single = iter(trainer.get_train_dataloader()), []
    for _ in range(4):
        with FlopCounterMode(display=False, depth=8) as counter:
            trainer.training_step(trainer.model, next(batches))
            trainer.optimizer.step()
        left_out = sum(count_parts(counter, trainer.model.model.visual_tokenizer).values())
        single.append(counter.get_total_flops() - left_out)
    assert count_operations(trainer, 4) == pytest.approx(sum(single) / 4, rel=0.02)
    assert count_operations(trainer, 1) == pytest.approx(single[0], rel=0.02)
    tokenizer = LavitVisualTokenizer.from_pretrained(parts / "tokenizer")
    with FlopCounterMode(display=False, depth=8) as counter:
        tokenizer(pictures(3))
    total, found = counter.get_total_flops(), results["lavit"]["operations"]
    assert sum(count_parts(counter, tokenizer).values()) == total > 0
    assert sum(found["visual_tokenizer_per_image"].values()) == pytest.approx(total / 3, rel=0.3)  # of other images
    rows = load_rows(parts / "data", "train")
    processor = AutoImageProcessor.from_pretrained(parts / "tokenizer")
    columns = ("image", "edited_image")
    precompute_codes(rows, tmp_path / "codes", tokenizer, processor, image_columns=columns, num_workers=0)
    counts = {}
    for name, given in {"with": {"codes": tmp_path / "codes"}, "without": {}}.items():
        trainer, _ = load_trainer(read_arguments(flags("lavit", parts, tmp_path / name, **given)))
        trainer.train()
        counts[name] = count_operations(trainer, 2)
    assert counts["with"] == counts["without"]


def test_another_budget_is_refused(results):
    """A fault is put into a recipe, and into results."""
    recipes = {row: read_recipe(row) for row in ROWS}
    recipes["adapter_mlp"]["max_steps"] *= 2
    with pytest.raises(ValueError, match=r"Row 'adapter_mlp' has max_steps=2000, but 'lavit' has 1000"):
        check_budgets(recipes)
    made = {row: dict(found["recipe"]) for row, found in results.items() if row != "adapter_resampler"}
    check_budgets(made)
    made["regression"]["mixture"] = ["caption=1", "draw=1"]
    with pytest.raises(ValueError, match="Row 'regression' has mixture="):
        check_budgets(made)


@pytest.mark.parametrize("row", ["lavit", "lavit_text_only", "regression"])
def test_precomputed_codes_change_nothing(row, parts, tmp_path):
    rows = load_rows(parts / "data", "train")
    tokenizer = LavitVisualTokenizer.from_pretrained(parts / "tokenizer")
    processor = AutoImageProcessor.from_pretrained(parts / "tokenizer")
    columns = ("image", "edited_image")
    for split in (rows, load_rows(parts / "data", "validation")):  # as the driver does
        precompute_codes(split, tmp_path / "codes", tokenizer, processor, image_columns=columns, num_workers=0)
    plain = train_row(read_arguments(flags(row, parts, tmp_path / "plain", only_loss=True)))
    arguments = read_arguments(flags(row, parts, tmp_path / "coded", codes=tmp_path / "codes", only_loss=True))
    assert train_row(arguments)["held_out_loss"] == pytest.approx(plain["held_out_loss"], abs=1e-5)
    arguments[2].num_train_rows, arguments[3].output_dir = 20, str(tmp_path / "fewer")
    with pytest.raises(ValueError, match="has 24 rows, and the recipe trains on 20"):
        train_row(arguments)


@pytest.mark.parametrize("row", ["lavit", "regression"])
def test_packing_changes_no_loss(row, parts, tmp_path):
    trainer, _ = load_trainer(read_arguments(flags(row, parts, tmp_path)))
    trainer.model.eval()  # without the noise of training
    batch = next(iter(trainer.get_train_dataloader()))
    losses = {}
    for pack in (True, False):
        with torch.no_grad():
            losses[pack] = trainer.compute_loss(trainer.model, batch)
        assert trainer.packing == pack
        trainer.packing = False
    torch.testing.assert_close(losses[True], losses[False], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", ["adapter_resampler", "regression"])
def test_a_stopped_row_continues(row, parts, tmp_path):
    """Weights of classes of the study are loaded from a checkpoint, and times and evaluations are kept."""
    arguments = {
        "save_strategy": "steps",
        "save_steps": 1,
        "tasks": "captions",
        "num_curve_points": 3,
        "save_total_limit": 3,
    }
    first = train_row(read_arguments(flags(row, parts, tmp_path, **arguments)))
    shutil.rmtree(tmp_path / "checkpoint-3")
    assert last_checkpoint(read_arguments(flags(row, parts, tmp_path, **arguments))[3]).endswith("checkpoint-2")
    with pytest.raises(ValueError, match=r"recipe.json was made with learning_rate=0.002, and the recipe has 0.003"):
        train_row(read_arguments(flags(row, parts, tmp_path, **arguments, learning_rate=3e-3)))
    (tmp_path / "recipe.json").rename(tmp_path.with_suffix(".json"))
    with pytest.raises(ValueError, match=r"a training whose recipe, .*recipe.json, is gone: delete the folder"):
        train_row(read_arguments(flags(row, parts, tmp_path, **arguments, learning_rate=3e-3)))
    tmp_path.with_suffix(".json").rename(tmp_path / "recipe.json")
    second = train_row(read_arguments(flags(row, parts, tmp_path, **arguments)))
    assert second["losses"] == first["losses"]
    assert second["held_out_loss"] == pytest.approx(first["held_out_loss"], abs=1e-6)
    assert second["curve"] == first["curve"]
    assert [point["step"] for point in second["curve"]] == [1, 2, 3]


def test_changed_parts_are_refused_before_anything_is_run(results, parts, tmp_path):
    """A row that shares a seed and a kind of selection with results needs their parts."""
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --rows lavit discrete_input --num_seeds 1"
    run = Recorded({})
    study = Study(parse_options([*command.split(), "--no_dial"]), run)
    arguments = study.arguments(BASE)
    for name, part in (("tokenizer", study.paths.tokenizer("dynamic")), ("decoder", study.paths.decoder("dynamic"))):
        shutil.copytree(parts / name, part)
        part_of = {"tokenizer": "visual_tokenizer", "decoder": "image_decoder"}[name]
        write_json(part.with_suffix(".json"), {"shared": study.shared_recipe(part_of)})
    shutil.copytree(parts / "text", study.paths.text_tokenizer)
    made = results["lavit"] | {"recipe": describe_recipe(*arguments), "parts": fingerprint_parts(arguments[0])}
    assert None not in made["parts"].values()
    write_json(study.paths.row(BASE, 0), made)
    study.check_row("discrete_input", 0)
    tokenizer, decoder = study.paths.text_tokenizer, study.paths.decoder("dynamic")
    for path, name in ((decoder, "image_decoder"), (tokenizer, "text_tokenizer")):
        path.rename(tmp_path / "away")
        refused = pytest.RaisesExc(
            ValueError, match=f"lavit-seed0.json was made with the {name} of .*there is none now: restore"
        )
        with pytest.RaisesGroup(refused):
            Study(study.options, run).run_all()
        (tmp_path / "away").rename(path)
    assert run.runs == []


def test_a_page_has_the_numbers_of_its_results(results, tmp_path):
    """The page of toy rows: means and spreads of two seeds, differences, curves and drawings."""
    for row, found in results.items():
        write_json(tmp_path / f"{row}-seed0.json", found)
        copy = as_seed(found, 1)
        for metric in copy["evaluation"]["results"]["questions"].values():
            metric["value"] += 0.1
        cases = copy["cases"]["questions"]["accuracy"].split()
        copy["cases"]["questions"]["accuracy"] = " ".join(str(float(case) + 0.1) for case in cases)
        write_json(tmp_path / f"{row}-seed1.json", copy)
    for found in results.values():
        for path in Path(found["recipe"]["results"]).parent.glob("drawings/*.png"):
            (tmp_path / "drawings").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "drawings")
    cases = {
        ("plain", "fixed"): "0 0 0 0 0 0 0 1",
        ("plain", "adaptive"): "0 0 0 1 0 0 0 1",
        ("random", "adaptive"): "0 0 1 1 0 0 0 1",
    }
    curves = [
        {
            "tokenizer": tokenizer,
            "selection": selection,
            "own_tokens": 4.2,
            "points": [
                {
                    "budget": 4,
                    "tokens": 3.9,
                    "values": {
                        "captions": {
                            "objects": {"value": fmean(map(int, shown.split())), "interval": [0, 1], "baselines": {}}
                        }
                    },
                    "cases": {"captions": {"objects": shown}},
                }
            ],
        }
        for (tokenizer, selection), shown in cases.items()
    ]
    made = {"recipe": results["lavit"]["recipe"], "parts": {"plain": results["lavit"]["parts"]}}
    write_json(tmp_path / "dial.json", made | {"num_rows": 8, "curves": curves})
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "drawings.png").write_text("an old picture")
    write_page(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    value = results["lavit"]["evaluation"]["results"]["questions"]["accuracy"]["value"]
    line = next(line for line in text.splitlines() if line.startswith("| `lavit` |"))
    assert f"| {100 * (value + 0.05):.1f} ± 7.1 |" in line
    assert "| 3.9 | plain | fixed | - | - | 12.5 | - | - |" in text
    assert "The visual tokenizer of *plain* is that of `lavit`." in text
    for difference in ("plain: adaptive minus fixed", "random minus plain, adaptive"):
        assert f"| {difference} | 4 tokens | - | - | +12.5 ± 29.6 | - |" in text
        assert f"| {difference} | mean of the others | - | - | - | - |" in text
    assert "plain: adaptive minus fixed: PSNR - at 4 tokens and - in the mean of other numbers, questions -" in text
    assert "the selector keeps 4.2 in *plain*, 4.2 in *random* on average, next to which 4 tokens are" in text
    assert "All rows and seeds of a kind of selection have the same visual tokenizer and pixel decoder." in text
    difference = value - results["regression"]["evaluation"]["results"]["questions"]["accuracy"]["value"]
    assert f"| `regression` | questions | {100 * difference:+.1f} ± " in text
    assert "| ignoring the input | " in text
    told = "    - questions, `lavit` minus `regression`, whose loss has another share of text: "
    assert f"{told}{100 * difference:+.1f} ± " in text
    places = [text.index(f"![{name}](page/{name}.png)") for name in ("dial", "curves", "drawings")]
    assert places == sorted(places)
    for name in ("curves", "dial", "drawings"):
        Image.open(tmp_path / "page" / f"{name}.png").verify()
    assert render(text, load_outcomes(tmp_path), find_pictures(tmp_path / "page.md")) == text
    # Pictures without results.
    (tmp_path / "dial.json").unlink()
    shutil.rmtree(tmp_path / "drawings")
    write_page(tmp_path / "page.md", tmp_path)
    assert list(find_pictures(tmp_path / "page.md")) == ["curves"]


def as_seed(result: dict, seed: int) -> dict:
    """Returns a copy of a result that says it is one of another seed."""
    result = json.loads(json.dumps(result)) | {"seed": seed}
    result["recipe"]["seed"] = seed
    return result


def test_values_that_are_not_those_of_their_cases_are_refused(results, tmp_path):
    changed = as_seed(results["lavit"], 0)
    changed["evaluation"]["results"]["questions"]["accuracy"]["value"] = 0.99
    write_json(tmp_path / "lavit-seed0.json", changed)
    with pytest.raises(ValueError, match=r"lavit-seed0.json has questions.accuracy=0.9900, but the mean of its cases"):
        load_results(tmp_path)


def repeat_number(made: dict) -> None:
    for curve in made["curves"]:
        curve["points"].insert(0, curve["points"][0])


DIAL_FAULTS = {
    "number": (
        lambda made: made["curves"][1]["points"].pop(),
        r"plain, fixed, has the numbers \[4\], and the first curve has \[4, 8\]",
    ),
    "twice": (repeat_number, r"has the numbers \[4, 4, 8\]"),
    "length": (
        lambda made: made["curves"][1]["points"][0].update(tokens=13.0),
        "has 13.0 tokens where it should have 4",
    ),
    "rows": (
        lambda made: made.update(num_rows=500),
        "has 2 cases of captions.objects, and was measured on 500 rows",
    ),
    "value": (
        lambda made: made["curves"][1]["points"][0]["values"]["captions"]["objects"].update(value=0.9),
        "has captions.objects=0.9000, but the mean of its cases is 0.5000",
    ),
    "recipe": (
        lambda made: made["recipe"].update(max_steps=5000),
        "dial.json was made with max_steps=5000, and the recipe has 3",
    ),
    "vae": (lambda made: made["parts"]["plain"].update(vae="another"), "dial.json was made with vae='another'"),
    "shipped": (
        lambda made: made["parts"]["shipped"].update(model="another"),
        "dial.json was made with model='another'",
    ),
}


@pytest.mark.parametrize("fault", DIAL_FAULTS)
def test_a_dial_that_compares_other_lengths_or_models_is_refused(results, fault):
    captions = {"objects": {"value": 0.5}}
    point = {"budget": 4, "tokens": 4.0, "values": {"captions": captions}, "cases": {"captions": {"objects": "0 1"}}}
    curves = [
        {"tokenizer": "plain", "selection": selection, "points": [point, point | {"budget": 8, "tokens": 8.0}]}
        for selection in ("adaptive", "fixed")
    ]
    parts = {"plain": results["lavit"]["parts"], "shipped": fingerprint_shipped()}
    made = {"recipe": results["lavit"]["recipe"], "parts": parts, "num_rows": 2, "curves": curves}
    made, (change, message) = json.loads(json.dumps(made)), DIAL_FAULTS[fault]
    check_dial(made, {"lavit": [results["lavit"]]})
    change(made)
    with pytest.raises(ValueError, match=message):
        check_dial(made, {"lavit": [results["lavit"]]})


def test_the_report_of_nothing_leaves_the_page(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(empty_page(), encoding="utf-8")
    for words in ([page, tmp_path / "nothing"], [tmp_path / "no.md", tmp_path]):
        with pytest.raises(SystemExit):
            write_report([str(word) for word in words])
    assert "has none" in (told := capsys.readouterr().err)
    assert "page must be a file" in told
    assert [*tmp_path.iterdir()] == [page]
    assert page.read_text(encoding="utf-8") == empty_page()


def test_changed_parts_and_seeds_of_other_recipes_are_refused(results, parts, tmp_path):
    for seed in range(2):
        write_json(tmp_path / f"lavit-seed{seed}.json", as_seed(results["lavit"], seed))
    assert len(load_results(tmp_path)["lavit"]) == 2
    longer = as_seed(results["lavit"], 1)
    longer["recipe"]["max_steps"] = 4
    write_json(tmp_path / "lavit-seed1.json", longer)
    with pytest.raises(ValueError, match="lavit-seed0.json was made with max_steps=3, and the recipe has 4"):
        load_results(tmp_path)
    for copy in (results["lavit"], results["lavit"] | {"seed": 1}):  # the recipe has a seed as well
        write_json(tmp_path / "lavit-seed1.json", copy)
        with pytest.raises(ValueError, match="lavit-seed1.json has the results of lavit-seed0.json: a copy is no"):
            load_results(tmp_path)
    less = as_seed(results["lavit"], 1)
    del less["cases"]["edits"]
    less["evaluation"]["results"].pop("edits")
    write_json(tmp_path / "lavit-seed1.json", less)
    with pytest.raises(ValueError, match="lavit-seed0.json was made with tasks="):
        load_results(tmp_path)
    # A folder of parts that was lost is made anew for the next seed, but never for some rows of a seed.
    others = {"parts": results["lavit"]["parts"] | {"visual_tokenizer": "another"}}
    write_json(tmp_path / "lavit-seed1.json", as_seed(results["lavit"] | others, 1))
    assert len(load_results(tmp_path)["lavit"]) == 2
    write_json(tmp_path / "lavit_text_only-seed1.json", as_seed(results["lavit_text_only"], 1))
    with pytest.raises(ValueError, match="lavit-seed1.json was made with visual_tokenizer='another'"):
        load_results(tmp_path)
    # Another kind of selection has its own visual tokenizer and pixel decoder, and no other VAE.
    others = results["lavit"]["parts"] | {"visual_tokenizer": "its own", "image_decoder": "its own"}
    compare_parts("lavit", results["lavit"], {"visual_tokenizer": "all"}, others)
    with pytest.raises(ValueError, match="lavit was made with vae='.*', and the recipe has 'another'"):
        compare_parts("lavit", results["lavit"], {"visual_tokenizer": "all"}, others | {"vae": "another"})
    arguments = read_arguments(flags("lavit_text_only", parts, tmp_path))
    check_parts(tmp_path / "lavit-seed0.json", arguments)
    with pytest.raises(ValueError, match="lavit-seed1.json was made with visual_tokenizer='another'"):
        check_parts(tmp_path / "lavit-seed1.json", arguments)
    decoder = shutil.copytree(parts / "decoder", tmp_path / "decoder")
    index = json.loads((decoder / "model_index.json").read_text())
    (decoder / "model_index.json").write_text(json.dumps(index | {"default_guidance_scale": 9.0}))
    assert fingerprint(decoder) != fingerprint(parts / "decoder")
    changed = shutil.copytree(parts / "tokenizer", tmp_path / "tokenizer")
    before = fingerprint(changed)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"num_codes": 3}))
    assert fingerprint(changed) != before == fingerprint(parts / "tokenizer")
    assert fingerprint(tmp_path / "nothing") is None


def test_lengths_that_follow_the_content_have_the_mean_that_is_asked_for():
    kept = torch.stack([torch.linspace(0.1, 0.9, 16), torch.linspace(0.05, 0.3, 16)])
    log_probs = torch.stack([kept, 1 - kept], dim=-1).log()
    for budget in (2, 6, 12):
        scale, mean = find_scale(log_probs, budget)
        counts = select_patches(log_probs, "topk", keep_scale=scale).sum(dim=-1)
        assert mean == counts.float().mean() == pytest.approx(budget, abs=0.5)
        assert counts[0] > counts[1]


def test_the_dial_compares_equal_lengths(results, parts, tmp_path, monkeypatch):
    monkeypatch.setattr("study.dial.BUDGETS", (4, 12, 64))
    model = Path(results["lavit"]["recipe"]["results"]).parent
    given = ["--output", tmp_path / "dial.json"]
    given += [word for name in ("plain", "random") for word in ("--model", name, model, parts / "decoder")]
    given += ["--dataset_name", parts / "data", "--num_rows", "2", "--tasks", "reconstruction", "captions"]
    words = [str(word) for word in given]
    measure_dial(words)
    curves = read_json(tmp_path / "dial.json")["curves"]
    with monkeypatch.context() as patched:  # what was measured is kept, also if a later model fails
        patched.setattr("study.dial.measure", None)
        measure_dial(words)
        assert read_json(tmp_path / "dial.json")["curves"] == curves
    kept = tmp_path / "dial.random.json"
    begun = read_json(kept)
    del begun["budgets"], begun["curves"][0]["points"][1:], begun["curves"][1]["points"][0]
    write_json(kept, begun)
    measured, evaluate = [], dial.evaluate
    monkeypatch.setattr(
        "study.dial.evaluate", lambda *args, **given: measured.append(args) or evaluate(*args, **given)
    )
    measure_dial(words)  # goes on with the missing points of a measurement that was stopped
    assert len(measured) == 2
    assert read_json(tmp_path / "dial.json")["curves"] == curves
    monkeypatch.setattr("study.dial.BUDGETS", (4, 8, 12, 64))
    measure_dial(words)  # measures the new number alone
    assert len(measured) == 2 + 2 * 2
    assert [point for point in read_json(kept)["curves"][1]["points"] if point["budget"] != 8] == curves[3]["points"]
    with pytest.raises(ValueError, match="tasks must be of .*, got 'caption'"):
        measure_dial([*words, "--tasks", "caption"])
    with pytest.raises(SystemExit):
        measure_dial([*words, "--column", "caption"])
    assert [(curve["tokenizer"], curve["selection"]) for curve in curves] == [
        (name, selection) for name in ("plain", "random") for selection in ("adaptive", "fixed")
    ]
    for curve in curves:
        assert [point["budget"] for point in curve["points"]] == [4, 12]
        assert all(abs(point["tokens"] - point["budget"]) <= 0.5 for point in curve["points"])
        assert all(set(point["values"]) == {"reconstruction", "captions"} for point in curve["points"])
