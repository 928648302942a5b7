# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The driver of the study: what it runs, refuses and resumes, with stages that are recorded or tiny."""

import json
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from study.budgets import BASE, EQUAL
from study.json_files import only_process, read_json, write_json
from study.outcomes import load_results
from study.report import make_trials
from study.run import Study, parse_options
from study.systems import describe_recipe, fingerprint_parts
from study.train import read_arguments
from study.tuning import TRIALS, Trials, best_rate, shorten

from lavit_hf import demo_checkpoint

from ..guides import ROOT, blocks_of
from ..tiny import save_clip, save_text_model
from .small import UNET, VAE, make_dataset
from .small_study import STUDY, Recorded, read_recipe


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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs that ignore interrupts
    try:
        with pytest.raises(KeyboardInterrupt):
            study.each(run, [(case,) for case in range(4)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert started == [0]


@pytest.mark.parametrize("flags", ["--train_split train[:90%] --eval_split train[90%:]", "--data_dir images"])
def test_codes_of_slices_are_refused_before_anything_is_run(flags, tmp_path):
    run = Recorded({})
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --no_dial".split()
    with pytest.raises(ValueError, match="Codes are precomputed for whole splits.* give --no_codes"):
        Study(parse_options([*command, "--common", flags]), run).run_all()
    assert run.runs == []


def test_a_page_without_marks_is_refused_before_anything_is_run(tmp_path):
    (tmp_path / "page.md").write_text("# My page\n")
    run = Recorded({})
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --page {tmp_path}/page.md --no_dial".split()
    with pytest.raises(ValueError, match="The page must have '<!-- answers.*once each"):
        Study(parse_options(command), run).run_all()
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


def test_the_dial_trains_its_own_models(tmp_path, monkeypatch):
    """It needs no model of a row, whose folder may be gone. A dial by another recipe or other flags is refused."""
    for name in ("make_text_tokenizer", "write_page"):
        monkeypatch.setattr(Study, name, lambda self: None)
    monkeypatch.setattr(Study, "compute_codes", lambda self, kind: None)
    run = Recorded({})
    command = f"--runs {tmp_path}/runs --results {tmp_path}/results --num_seeds 1 --rows lavit".split()
    Study(parse_options([*command, "--no_dial"]), run).run_all()
    shutil.rmtree(tmp_path / "runs")
    run.runs.clear()
    study = Study(parse_options(command), run)
    study.run_all()
    [given] = [given for module, given in run.runs if module == "study.dial"]
    places = [place for place, word in enumerate(given) if word == "--model"]
    assert [(given[place + 1], Path(given[place + 2])) for place in places] == [
        ("plain", tmp_path / "runs" / "dial" / "plain"),
        ("random", tmp_path / "runs" / "dial" / "random"),
        ("shipped", demo_checkpoint()),
    ]
    assert {"study.train", "study.train_tokenizer", "train_image_decoder"} < {module for module, _ in run.runs}
    # All parts of one model, and none of the other, are trained at random lengths.
    told = [(Path(given[given.index("--output_dir") + 1]).name, " ".join(given)) for _, given in run.runs[:-1]]
    for flag in ("--random_budgets true", "--conditions any_length", "--system any_length"):
        assert [name for name, flags in told if flag in flags] == ["random"]
    run.runs.clear()
    study.run_all()
    assert run.runs == []
    refusals = {
        ("--dial", "--num_rows 7"): r"dial.json was made with flags=\[\], and the recipe has \['--num_rows', '7'\]",
        ("--row", "--max_steps 700"): "dial.json was made with max_steps=1000, and the recipe has 700",
        ("--decoder", "--max_steps 7"): "The image_decoder of .*dial.json was trained by another recipe",
    }
    for more, message in refusals.items():
        with pytest.raises(ValueError, match=message):
            Study(parse_options([*command, *more]), run).check_dial()


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


def test_the_committed_results_are_those_of_the_recipes(tmp_path):
    """`make study` has nothing to run. A row that read more than its recipe says is refused, also in all its seeds."""

    def run(module, flags, *_):
        pytest.fail(f"{module} would run with {flags}")

    shutil.copytree(STUDY / "results", tmp_path / "results")
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results")]
    options = parse_options(["--sweep", "--trials", *folders, "--page", str(tmp_path / "page.md")])
    Study(options, run).run_all()
    for path in (tmp_path / "results").glob("lavit_text_only_equal-seed*.json"):
        result = read_json(path)
        result["recipe"]["per_device_train_batch_size"] = 64
        write_json(path, result)
    with pytest.raises(ExceptionGroup) as caught:
        Study(options, run).run_all()
    assert "was made with per_device_train_batch_size=64, and the recipe has 27" in str(caught.value.exceptions[0])
