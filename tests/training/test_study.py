# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The study at toy size: rows train and are evaluated, budgets are compared, the page says what was measured."""

import json
import math
import os
import random
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from study.budgets import BASE, EQUAL, OWN, ROWS, check_budgets
from study.dial import find_scale
from study.dial import main as measure_dial
from study.differences import Difference, adjust, name_verdict, subtract
from study.json_files import fingerprint, only_process, read_json, write_json
from study.report import find_pictures, load_results, make_trials, render, write_page
from study.run import Study, parse_options
from study.systems import SYSTEMS, compare_parts, describe_recipe, fingerprint_parts
from study.train import count_operations, count_parts, load_trainer, read_arguments, train_row
from study.tuning import RATE_OF, TRIALS, Trials, best_rate, check_parts, shorten
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoImageProcessor

from lavit_hf import LavitVisualTokenizer
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.modeling.selector_lavit import select_patches
from lavit_hf.training import last_checkpoint

from ..guides import ROOT, blocks_of
from ..tiny import CODEBOOK_SIZE, pictures, save_clip, save_text_model
from .small import UNET, VAE, make_dataset
from .small_study import IMAGE_TOKENS, LLAMA, STUDY, flags, make_parts, read_recipe


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


# The driver and the page


class Recorded:
    """Runs nothing, and writes what the stages would, with losses from a table."""

    def __init__(self, losses: dict[str, float]):
        self.losses, self.runs = losses, []

    def __call__(self, module: str, given: list[str], jobs: int = 1, lock: int | None = None) -> None:
        self.runs.append((module, given))
        named = {name.removeprefix("--"): value for name, value in pairwise(given) if name.startswith("--")}
        if module != "study.train":
            Path(named["output_dir"]).mkdir(parents=True)
            Path(named["output_dir"], "README.md").touch()
        elif "only_loss" in named:
            loss = self.losses[named["learning_rate"]]
            write_json(named["results"], {"held_out_loss": loss if math.isfinite(loss) else None})
        else:
            arguments = read_arguments(given)
            found = {"recipe": describe_recipe(*arguments), "parts": fingerprint_parts(arguments[0])}
            write_json(named["results"], found | {"row": arguments[0].row, "seed": arguments[3].seed})


def test_the_driver_takes_the_best_rate_and_runs_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "write_page", lambda self: None)
    monkeypatch.setattr(Study, "make_text_tokenizer", lambda self: None)
    monkeypatch.setattr(Study, "compute_codes", lambda self, kind: None)
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --rows adapter_mlp --sweep --no_dial"
    run = Recorded({"0.001": 3.0, "0.002": 2.5, "0.004": 2.7})
    Study(parse_options(command.split()), run).run_all()
    assert [module for module, _ in run.runs] == ["study.train_tokenizer", "train_image_decoder", *["study.train"] * 5]
    for seed in range(2):
        recipe = read_json(tmp_path / "results" / f"adapter_mlp-seed{seed}.json")["recipe"]
        assert (recipe["learning_rate"], recipe["seed"]) == (0.002, seed)
    run.runs.clear()
    Study(parse_options(command.split()), run).run_all()
    assert run.runs == []
    options = parse_options([*command.split(), "--row", "--max_steps 700"])
    refused = pytest.RaisesExc(ValueError, match="was made with max_steps=1000, and the recipe has 700")
    with pytest.RaisesGroup(refused, refused):
        Study(options, run).run_all()
    options = parse_options([*command.split(), "--tokenizer", "--max_steps 7"])
    refused = pytest.RaisesExc(ValueError, match="The visual_tokenizer of .*mlp-seed.* was trained by another recipe")
    with pytest.RaisesGroup(refused, refused):
        Study(options, run).run_all()
    options = parse_options([*command.split(), "--rows", "fixed_all", "--decoder", "--max_steps 7"])
    refused = pytest.RaisesExc(ValueError, match="The image_decoder of .*mlp-seed0.* was trained by another recipe")
    with pytest.RaisesGroup(refused, refused):  # also beside other kinds of selection
        Study(options, run).run_all()
    refused = pytest.RaisesExc(ValueError, match="sweep.json was made with steps=300, and .* has 100")
    with pytest.RaisesGroup(refused, refused):
        Study(parse_options([*command.split(), "--sweep_steps", "100"]), run).run_all()
    # Complete results need no parts, and may have been made in another folder.
    shutil.rmtree(tmp_path / "runs")
    Study(parse_options([*command.split(), "--runs", f"{tmp_path}/others"]), run).run_all()
    assert run.runs == []
    assert not (tmp_path / "others").exists()


def test_tuning_of_another_recipe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "write_page", lambda self: None)
    monkeypatch.setattr(Study, "make_text_tokenizer", lambda self: None)
    monkeypatch.setattr(Study, "compute_codes", lambda self, kind: None)
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --rows adapter_mlp --num_seeds 1 --sweep".split()
    run = Recorded({"0.001": 3.0, "0.002": 2.5, "0.004": 2.7})
    Study(parse_options(command), run).run_all()
    (tmp_path / "results" / "adapter_mlp-seed0.json").unlink()
    run.runs.clear()
    for option, flag, message in (
        ("--row", "--weight_decay 0.5", "The entry of adapter_mlp in .*sweep.json was made with weight_decay=0.05"),
        ("--row", "--optim sgd", "sweep.json was made with optim=None, and the recipe has 'sgd'"),
        ("--tokenizer", "--max_steps 7", "sweep.json was made with visual_tokenizer_recipe="),
    ):
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match=message), allow_unwrapped=True):
            Study(parse_options([*command, option, flag]), run).run_all()
    assert run.runs == []


def test_a_part_is_that_of_its_recipe(tmp_path):
    """Its file may lie elsewhere and have other comments. A folder without a known recipe is not adopted."""
    run = Recorded({})
    study = Study(parse_options(f"--runs {tmp_path}/runs".split()), run)
    study.train_tokenizer("dynamic")
    study.train_tokenizer("dynamic")
    assert len(run.runs) == 1
    other = tmp_path / "moved.yaml"
    other.write_text("# Another comment.\n" + (STUDY / "tokenizer.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    study.options.tokenizer_recipe = str(other)
    study.train_tokenizer("dynamic")
    other.write_text(other.read_text(encoding="utf-8").replace("max_steps: 2000", "max_steps: 20"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"dynamic.json was made with max_steps=2000, .* and the folder .*dynamic to"):
        study.train_tokenizer("dynamic")
    study.paths.tokenizer("dynamic").with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"dynamic has a training whose recipe, .*dynamic.json, is gone: delete"):
        study.train_tokenizer("dynamic")
    assert len(run.runs) == 1


def test_a_driver_that_was_killed_keeps_others_out(tmp_path):
    """The stage that is left running holds the lock of the folder until it ends."""
    script = (
        "import sys; from study.run import run_module; from study.json_files import only_process; import pathlib\n"
    )
    script += "with only_process(pathlib.Path(sys.argv[1])) as lock: run_module('wait', [], 1, lock)"
    (tmp_path / "wait.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    paths = os.pathsep.join([str(tmp_path), str(ROOT / "examples"), str(ROOT / "src")])
    command = [sys.executable, "-c", script, str(tmp_path / "runs")]
    driver = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert "begun" in driver.stdout.readline()
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        with pytest.raises(RuntimeError, match="Another process works in"), only_process(tmp_path / "runs"):
            pass
    finally:
        os.killpg(driver.pid, signal.SIGKILL)


def test_an_interrupt_starts_nothing_more(tmp_path):
    started = []

    def run(case: int) -> None:
        started.append(case)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)

    study = Study(parse_options(f"--runs {tmp_path}/runs".split()))
    with pytest.raises(KeyboardInterrupt):
        study.each(run, [(case,) for case in range(4)])
    assert started == [0]


@pytest.mark.parametrize("flags", ["--train_split train[:90%] --eval_split train[90%:]", "--data_dir images"])
def test_codes_of_slices_are_refused_before_anything_is_run(flags, tmp_path):
    run = Recorded({})
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --no_dial".split()
    with pytest.raises(ValueError, match="Codes are precomputed for whole splits.* give --no_codes"):
        Study(parse_options([*command, "--common", flags]), run).run_all()
    assert run.runs == []


def test_results_without_the_tuning_that_is_asked_for_are_refused(tmp_path, monkeypatch):
    """A row that shares the learning rate of another one tunes that one, and complete results are not tuned later."""
    for name in ("make_text_tokenizer", "write_page"):
        monkeypatch.setattr(Study, name, lambda self: None)
    monkeypatch.setattr(Study, "compute_codes", lambda self, kind: None)
    run = Recorded({"0.001": 3.0, "0.002": 2.5, "0.004": 2.7, "nan": float("nan")})
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --no_dial --num_seeds 1 --rows".split()
    Study(parse_options([*command, "adapter_linear"]), run).run_all()
    run.runs.clear()
    for row in ("adapter_linear", "adapter_mlp"):
        options = parse_options([*command, "adapter_linear", row, "--sweep"])
        refused = pytest.RaisesExc(ValueError, match="linear-seed0.json was made before adapter_mlp was tuned")
        with pytest.RaisesGroup(*[refused] * (1 if row == "adapter_mlp" else 2)):
            Study(options, run).run_all()
    assert run.runs == []
    (tmp_path / "results" / "adapter_linear-seed0.json").unlink()
    Study(parse_options([*command, "adapter_linear", "--sweep"]), run).run_all()
    assert list(read_json(tmp_path / "results" / "sweep.json")) == ["adapter_mlp"]
    made = read_json(tmp_path / "results" / "adapter_linear-seed0.json")["recipe"]
    assert made["learning_rate"] == 0.002
    run.losses = dict.fromkeys(run.losses, float("nan"))
    failed = pytest.RaisesExc(ValueError, match="No learning rate of 0.001, 0.002, 0.004.* trains 'regression'")
    with pytest.RaisesGroup(failed):
        Study(parse_options([*command, "regression", "--sweep"]), run).run_all()
    assert list(read_json(tmp_path / "results" / "sweep.json")) == ["adapter_mlp"]


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
        refused = pytest.RaisesExc(ValueError, match=f"lavit-seed0.json was made with {name}='.*the recipe has None")
        with pytest.RaisesGroup(refused):
            Study(study.options, run).run_all()
        (tmp_path / "away").rename(path)
    # The dial decodes the codes of that model.
    refused = pytest.RaisesExc(FileNotFoundError, match="lavit-seed0 has no model. Delete the results")
    with pytest.RaisesGroup(refused):
        Study(parse_options(command.split()), run).run_all()
    model = tmp_path / "runs" / "lavit-seed0" / "config.json"
    write_json(model, {})
    study.check_dial()
    shutil.rmtree(study.paths.decoder("dynamic"))
    with pytest.raises(ValueError, match="lavit-seed0.json was made with image_decoder="):
        study.check_dial()
    recipe = describe_recipe(*read_arguments(study.dial_flags()))
    write_json(study.paths.dial, {"recipe": recipe, "flags": [], "curves": [], "parts": made["parts"]})
    study.check_dial()
    write_json(study.paths.row(BASE, 0), made | {"parts": made["parts"] | {"visual_tokenizer": "trained anew"}})
    with pytest.raises(ValueError, match=r"dial.json has not measured the model of .*lavit-seed0.json"):
        study.check_dial()
    write_json(study.paths.row(BASE, 0), made)
    study.options.dial = ["--num_rows", "7"]
    with pytest.raises(
        ValueError, match=r"dial.json was made with flags=\[\], and the recipe has \['--num_rows', '7'\]"
    ):
        study.check_dial()
    assert run.runs == []


def test_the_shipped_parts_are_for_recipes_that_name_them(tmp_path, monkeypatch):
    study = Study(parse_options(["--runs", f"{tmp_path}/runs"]))
    recipe = (STUDY / "decoder.yaml").read_text(encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text(recipe.replace("runs/study/vae", "my-vae"), encoding="utf-8")
    assert study.shipped_part(str(own), "vae") == study.shipped_part("", "vae") == []
    own.write_text(recipe.replace("max_steps: 2000", "max_steps: 20"), encoding="utf-8")

    def stop(self, folder):
        save(self, folder)
        raise KeyboardInterrupt

    save = AutoencoderKL.save_pretrained
    monkeypatch.setattr(AutoencoderKL, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        study.shipped_part(str(own), "vae")
    monkeypatch.undo()
    assert not (tmp_path / "runs" / "vae" / "config.json").exists()
    flags = ["--vae", f"{tmp_path}/runs/vae"]
    assert study.shipped_part(str(own), "vae") == flags == study.shipped_part(str(own), "vae")
    AutoencoderKL.from_pretrained(tmp_path / "runs" / "vae")
    assert study.shipped_part(str(STUDY / "tokenizer.yaml"), "vision_tower") == [
        "--vision_tower",
        f"{tmp_path}/runs/vision_tower",
    ]
    assert (tmp_path / "runs" / "vision_tower" / "preprocessor_config.json").exists()


def test_a_row_that_fails_stops_no_other(tmp_path, monkeypatch):
    """Two jobs run at a time. A sweep goes on beyond its ends, and a loss that is no number is never the best."""
    monkeypatch.setattr(Study, "write_page", lambda self: None)
    monkeypatch.setattr(Study, "make_text_tokenizer", lambda self: None)
    monkeypatch.setattr(Study, "compute_codes", lambda self, kind: None)
    record = Recorded({"0.001": float("nan"), "0.002": 2.5, "0.004": 2.4, "0.008": 2.6})

    def run(module: str, given: list[str], jobs: int, lock: int | None) -> None:
        # A case that is run alone has all cores: the parts, and the sweep of the row that others take the rate of.
        assert jobs == (2 if module == "study.train" and "only_loss" not in " ".join(given) else 1)
        if given[0].endswith("adapter_linear.yaml"):
            raise RuntimeError("a fault")
        record(module, given)

    rows = "--rows adapter_linear adapter_mlp --sweep --no_dial --jobs 2"
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results {rows}"
    fault = pytest.RaisesExc(RuntimeError, match="a fault")
    with pytest.RaisesGroup(fault, fault):
        Study(parse_options(command.split()), run).run_all()
    assert {path.name for path in (tmp_path / "results").glob("adapter_*")} == {
        "adapter_mlp-seed0.json",
        "adapter_mlp-seed1.json",
    }
    assert read_json(tmp_path / "results" / "sweep.json")["adapter_mlp"]["best"] == 0.004


def test_the_results_have_the_rates_of_the_sweep():
    sweep = read_json(STUDY / "results" / "sweep.json")
    for row, found in load_results(STUDY / "results").items():
        assert {result["recipe"]["learning_rate"] for result in found} == {sweep[RATE_OF.get(row, row)]["best"]}, row
        assert not any(Path(result["recipe"]["results"]).is_absolute() for result in found), "a folder of one machine"


def test_the_page_agrees_with_the_results():
    page = ROOT / "docs" / "study.md"
    text = page.read_text(encoding="utf-8")
    assert render(text, STUDY / "results", find_pictures(page)) == text


def test_a_page_has_the_numbers_of_its_results(results, tmp_path):
    """The page of toy rows: means and spreads of two seeds, differences, curves and drawings."""
    for row, found in results.items():
        write_json(tmp_path / f"{row}-seed0.json", found)
        copy = json.loads(json.dumps(found)) | {"seed": 1}
        for metric in copy["evaluation"]["results"]["questions"].values():
            metric["value"] += 0.1
        write_json(tmp_path / f"{row}-seed1.json", copy)
    for found in results.values():
        for path in Path(found["recipe"]["results"]).parent.glob("drawings/*.png"):
            (tmp_path / "drawings").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "drawings")
    captions = {"objects": {"value": 0.125, "count": 8, "interval": [0.02, 0.47], "baselines": {}}}
    dial = {"budget": 4, "tokens": 3.9, "values": {"captions": captions}}
    cases = {"fixed": "0 0 0 0 0 0 0 1", "adaptive": "0 0 0 1 0 0 0 1"}
    curves = [
        {
            "tokenizer": "plain",
            "selection": selection,
            "points": [dial | {"cases": {"captions": {"objects": shown}}}],
        }
        for selection, shown in cases.items()
    ]
    write_json(tmp_path / "dial.json", {"num_rows": 8, "curves": curves})
    write_page(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    value = results["lavit"]["evaluation"]["results"]["questions"]["accuracy"]["value"]
    line = next(line for line in text.splitlines() if line.startswith("| `lavit` |"))
    assert f"| {100 * (value + 0.05):.1f} ± 7.1 |" in line
    assert "| 3.9 | plain | fixed | - | - | 12.5 | - |" in text
    assert "| 4 | plain | - | - | +12.5 ± 29.6 | - |" in text
    difference = value - results["regression"]["evaluation"]["results"]["questions"]["accuracy"]["value"]
    assert f"| `regression` | questions | {100 * difference:+.1f} ± " in text
    assert "| ignoring the input | " in text
    assert f"    - Against `regression`, with another share of text in its loss: {100 * difference:+.1f} ± " in text
    for name in ("curves", "dial", "drawings"):
        assert f"![{name}](page/{name}.png)" in text
        assert (tmp_path / "page" / f"{name}.png").exists()
    assert render(text, tmp_path, find_pictures(tmp_path / "page.md")) == text


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


def test_the_rows_have_the_settings_of_the_trials():
    trials = read_json(STUDY / "results" / "trials.json")
    for row, found in load_results(STUDY / "results").items():
        for name, entry in trials.items():
            if name == row or TRIALS[name].all_rows:
                for result in found:
                    assert json.loads(str(result["recipe"][TRIALS[name].flag])) == entry["best"], row


def test_equal_data_takes_the_sequences_that_the_weights_say(tmp_path):
    name = "per_device_train_batch_size"
    study = Study(parse_options(f"--runs {tmp_path} --results {tmp_path}".split()))
    assert getattr(study.arguments(EQUAL)[-1], name) == read_recipe(EQUAL)[name] == 27
    options = parse_options([*f"--runs {tmp_path} --results {tmp_path}".split(), "--row", f"--{name} 86"])
    assert getattr(Study(options).arguments(EQUAL)[-1], name) == 36


def test_a_shorter_run_has_the_same_shape_of_the_learning_rate(tmp_path):
    study = Study(parse_options(f"--runs {tmp_path} --results {tmp_path}".split()))
    longer = study.arguments(BASE)
    shorter = read_arguments([*study.flags(BASE, tmp_path, tmp_path), *shorten(longer, 300)])[-1]
    schedule = (shorter.max_steps, shorter.warmup_steps, shorter.lr_scheduler_kwargs)
    assert schedule == (300, 30, {"num_decay_steps": 60, "decay_type": "1-sqrt"})
    refused = r"warmup_steps \(100\) and num_decay_steps \(200\) must be max_steps \(200\) at most together"
    with pytest.raises(ValueError, match=refused):
        read_arguments([*study.flags(BASE, tmp_path, tmp_path), "--max_steps", "200"])


def test_among_rates_that_are_alike_the_smallest_is_best():
    assert best_rate({1e-3: 2.1, 2e-3: 2.01, 4e-3: 2.0}) == 2e-3
    assert best_rate({1e-3: None, 2e-3: 2.2, 4e-3: 2.0}) == 4e-3
    assert best_rate({1e-3: None}) is None


def test_changed_parts_and_seeds_of_other_recipes_are_refused(results, parts, tmp_path):
    for seed in range(2):
        write_json(tmp_path / f"lavit-seed{seed}.json", results["lavit"] | {"seed": seed})
    assert len(load_results(tmp_path)["lavit"]) == 2
    longer = results["lavit"] | {"recipe": results["lavit"]["recipe"] | {"max_steps": 4}}
    write_json(tmp_path / "lavit-seed1.json", longer)
    with pytest.raises(ValueError, match="lavit was made with max_steps=3, and the recipe has 4"):
        load_results(tmp_path)
    # A folder of parts that was lost is made anew for the next seed, but never for some rows of a seed.
    others = {"parts": results["lavit"]["parts"] | {"visual_tokenizer": "another"}}
    write_json(tmp_path / "lavit-seed1.json", results["lavit"] | others | {"seed": 1})
    assert len(load_results(tmp_path)["lavit"]) == 2
    write_json(tmp_path / "lavit_text_only-seed1.json", results["lavit_text_only"] | {"seed": 1})
    with pytest.raises(ValueError, match="lavit was made with visual_tokenizer='another'"):
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


def test_a_folder_is_for_one_process(tmp_path):
    refused = pytest.raises(RuntimeError, match="Another process works in")
    with only_process(tmp_path / "run"), refused, only_process(tmp_path / "run"):
        pass
    with only_process(tmp_path / "run"):
        pass


def test_trials_take_the_best_setting_and_then_the_best_way_to_draw(tmp_path):
    """Three are trained, two at a time, the best one draws in two ways, and the row has both."""
    trials = Trials(
        "regression",
        "drawing",
        ({"noise": 0.0}, {"noise": 0.3}, {"noise": 0.6}),
        ({"end_threshold": 0.5}, {"end_threshold": 0.2}),
    )
    scores = {"0.0": 0.1, "0.3": 0.4, "0.6": 0.9}

    def report(value: float) -> dict:
        metric = {"value": value, "count": 4, "interval": [0.0, 1.0], "baselines": {}}
        return {"drawing": {"object_f1": metric, "everything": metric}}

    def run(module: str, given: list[str], jobs: int, lock: int | None) -> None:
        study = read_arguments(given)[0]
        found = {"recipe": describe_recipe(*read_arguments(given)), "parts": fingerprint_parts(study)}
        assert (study.test_split, study.tasks, study.num_drawn_rows) == ("validation", ["drawing"], 300)
        tried = json.loads(study.tried)
        assert jobs == (1 if tried else 2)
        score = scores[str(study.regression_settings.noise)]
        if study.regression_settings.noise == 0.6:  # its loss is not finite
            assert study.trial
            write_json(study.results, found)
            return
        found |= (
            {"tried": [report(score + 0.2 * (settings["end_threshold"] == 0.2)) for settings in tried]}
            if tried
            else {}
        )
        write_json(study.results, found | {"evaluation": {"results": report(score)}})

    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --trials --jobs 2"
    study = Study(parse_options(command.split()), run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRIALS, "regression", trials)
        assert study.tune_all(["regression"]) == {"regression"}
        best = read_json(tmp_path / "results" / "trials.json")["regression"]
        assert best["best"] == {"noise": 0.3, "end_threshold": 0.2}
        assert [one["object_f1"]["value"] for one in best["values"]] == pytest.approx([0.1, 0.4, 0.4, 0.6])
        assert study.best("regression") == ["--regression", '{"noise": 0.3, "end_threshold": 0.2}']
    assert "**noise 0.3, end_threshold 0.2** | 60.0" in make_trials({}, {"regression": best})

    def fail(module: str, given: list[str], jobs: int, lock: int | None) -> None:
        raise RuntimeError("out of memory")

    study = Study(parse_options(f"--runs {tmp_path}/other --results {tmp_path}/other --trials".split()), fail)
    assert study.tune_all(["regression"]) == set()
    assert len(study.errors) == len(TRIALS["regression"].trained)


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
    given = [
        "--plain",
        model,
        parts / "decoder",
        "--random",
        model,
        parts / "decoder",
        "--output",
        tmp_path / "dial.json",
    ]
    given += ["--dataset_name", parts / "data", "--num_rows", "2", "--tasks", "reconstruction", "captions"]
    measure_dial([str(word) for word in given])
    curves = read_json(tmp_path / "dial.json")["curves"]
    assert [(curve["tokenizer"], curve["selection"]) for curve in curves] == [
        (name, selection) for name in ("plain", "random") for selection in ("adaptive", "fixed")
    ]
    for curve in curves:
        assert [point["budget"] for point in curve["points"]] == [4, 12]
        assert all(abs(point["tokens"] - point["budget"]) <= 0.5 for point in curve["points"])
        assert all(set(point["values"]) == {"reconstruction", "captions"} for point in curve["points"])


# Flags that make the command line for a GPU do little, by the option that they are added to.
ABRIDGED = {
    "--common": "--num_train_rows 8 --num_eval_rows 2 --dataloader_num_workers 0 --per_device_train_batch_size 2 "
    "--per_device_eval_batch_size 2 --report_to none --bf16 false --use_cpu true --max_steps 1",
    "--tokenizer": "--max_steps 1 --quantize_from 0 --config '{\"codebook_size\": 8}'",
    "--decoder": "--max_steps 1",
    "--row": "--max_steps 2 --warmup_steps 1 --num_test_rows 2 --num_counted_steps 1 --num_curve_points 1 "
    "--lr_scheduler_kwargs '{\"num_decay_steps\": 1}' --max_length 64",
}


def run_here(module: str, given: list[str], jobs: int = 1, lock: int | None = None) -> None:
    """Runs a script of the examples in this process, which has imported what it needs."""
    before, sys.argv = sys.argv, [module, *given]
    try:
        runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = before


def test_the_command_line_for_other_data_and_backbones(tmp_path, monkeypatch):
    """The command line of the page, with two of its rows and tiny models of the same names."""
    monkeypatch.chdir(tmp_path)
    Path("my-captions").mkdir()
    for split in ("train", "validation", "test"):
        rows = make_dataset(8).rename_column("caption", "text").select_columns(["image", "text"])
        rows.to_parquet(f"my-captions/{split}.parquet")
    save_clip(Path("openai/clip-vit-base-patch16"))
    save_text_model(Path("HuggingFaceTB/SmolLM2-135M"))
    parts = {"unet": UNet2DConditionModel(**UNET), "vae": AutoencoderKL(**VAE), "scheduler": DDIMScheduler()}
    for name, part in parts.items():
        part.save_pretrained(Path("stable-diffusion-v1-5/stable-diffusion-v1-5", name))
    text = "\n".join(blocks_of("study", "bash")).replace("\\\n", " ")
    [command] = [line for line in text.splitlines() if line.startswith("python examples/study/run.py")]
    _, script, *given = shlex.split(command)
    assert (ROOT / script).is_file()
    for option, words in ABRIDGED.items():
        given[given.index(option) + 1] += f" {words}"
    given += "--rows lavit regression --num_seeds 1 --rates 1e-3 --sweep_steps 2".split()
    Study(parse_options(given), run_here).run_all()
    results = load_results(Path("runs/my-study/results"))
    assert set(results) == {"lavit", "regression"}
    decoders = {row: found["parts"]["image_decoder"] for row, [found] in results.items()}
    assert decoders["lavit"] != decoders["regression"]
    for [found] in results.values():
        assert set(found["evaluation"]["results"]) == {"captions", "reconstruction"}
        assert found["recipe"]["language_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert "| `regression` | " in Path("runs/my-study/study.md").read_text(encoding="utf-8")
