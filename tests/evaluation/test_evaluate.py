# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`evaluate` and `lavit-hf evaluate` on the model that ships: tasks, reports, side effects, errors."""

import copy
import json

import datasets
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.markdown import Markdown

from lavit_hf.data.texts import read_questions, read_texts
from lavit_hf.evaluation import TASKS, evaluate
from lavit_hf.evaluation.subject import Subject


PIXELS = {"num_inference_steps": 1, "guidance_scale": 1.0}
FAST = {"image_decoding": PIXELS, "max_caption_tokens": 4, "max_answer_tokens": 2}


@pytest.fixture(scope="module")
def report(demo, rows):
    return evaluate(*demo, rows, num_samples=5, batch_size=3, **FAST)


def test_the_order_of_tasks_changes_nothing(demo, rows):
    for tasks in (["drawing"], ["edits", "drawing"], ["own_words", "drawing"]):
        drawing = evaluate(*demo, rows, tasks=tasks, num_samples=2, **FAST).results["drawing"]
        assert drawing["num_codes"].count == 2, tasks


def test_all_tasks(report, tmp_path):
    assert list(report.results) == list(report.seconds) == list(report.samples) == list(TASKS)
    assert report.left_out == {}
    assert report.results["captions"]["objects"].count == 5
    assert report.results["questions"]["accuracy"].count > 20
    for task in ("captions", "drawing", "edits", "reconstruction"):
        for name in ("objects", "everything"):
            low, high = report.results[task][name].interval
            assert 0 <= low <= report.results[task][name].value <= high <= 1
            assert "unrelated" in report.results[task][name].baselines
    assert report.results["reconstruction"]["psnr"].value > 3
    assert 0 < report.results["tokens"]["kept_fraction"].value <= 1

    written = json.loads(report.to_json())
    assert written["results"]["drawing"]["objects"]["value"] == report.results["drawing"]["objects"].value
    assert written["protocol"]["num_samples"] == 5
    assert written["protocol"]["settings"]["seed"] == 0
    assert written["protocol"]["decoding"]["captions"] == {"do_sample": False, "num_beams": 1, "max_new_tokens": 4}
    assert written["protocol"]["decoding"]["drawing"]["do_sample"]
    assert written["protocol"]["decoding"]["pixels"]["num_inference_steps"] == 1
    assert written["protocol"]["versions"]["torch"]

    console = Console(width=100, record=True, file=(tmp_path / "table").open("w"))
    console.print(Markdown(report.to_markdown()))
    text = console.export_text()
    assert all(task in text for task in TASKS)
    assert "unrelated" in text
    assert "unedited" in text

    lines = report.to_markdown().splitlines()
    assert len(lines) == 2 + sum(map(len, report.results.values()))
    assert {line.count("|") for line in lines} == {7}

    paths = report.save_samples(tmp_path / "samples")
    assert [path.stem for path in paths] == list(TASKS)
    assert all(Image.open(path).width > 256 for path in paths)


def test_the_same_seed_gives_the_same_numbers(demo, rows, report):
    again = evaluate(*demo, rows, num_samples=5, batch_size=3, tasks=["captions", "drawing"], **FAST)
    other = evaluate(*demo, rows, num_samples=5, batch_size=3, tasks=["captions", "drawing"], seed=1, **FAST)
    for task in ("captions", "drawing"):  # whatever was run before
        assert again.results[task] == report.results[task]
    drawings, repeated, different = (
        [sample.images[0].tobytes() for sample in one.samples["drawing"]] for one in (report, again, other)
    )
    assert repeated == drawings
    assert different != drawings
    assert other.results["captions"] == report.results["captions"]


def test_batches_do_not_matter_where_nothing_is_sampled(demo, rows, report):
    tasks = ["captions", "questions", "reconstruction", "tokens"]
    single = evaluate(*demo, rows, num_samples=5, batch_size=1, tasks=tasks, **FAST)
    for task in tasks:
        for name, metric in report.results[task].items():
            assert single.results[task][name].value == pytest.approx(metric.value, rel=1e-3), (task, name)


def test_settings_of_drawing(demo, rows):
    model, *others = demo
    given = {"guidance_scale": 2.0, "temperature": 0.5, "top_k": 3}
    shipped = model.generation_config.image_generation
    model.generation_config.image_generation = {"top_k": 7, "top_p": 0.9, "guidance_scale": 3.0}
    try:
        own, changed = (
            evaluate(model, *others, rows, num_samples=1, tasks=["drawing"], **FAST, **settings)
            for settings in ({}, {"image_generation": given})
        )
    finally:
        model.generation_config.image_generation = shipped
    drawing = {"do_sample": True, "top_k": 7, "top_p": 0.9, "guidance_scale": 3.0}
    assert own.protocol["decoding"]["drawing"] == drawing
    assert changed.protocol["decoding"]["drawing"] == drawing | given


def test_settings_of_generation_that_the_protocol_does_not_name_do_not_hold(demo, rows):
    """A model made by `from_backbones` has settings of its language model."""
    model = demo[0]
    settings = {"num_samples": 4, "tasks": ["captions", "questions", "drawing"], "image_decoding": PIXELS}
    expected = evaluate(*demo, rows, **settings)
    own = copy.deepcopy(model.generation_config)
    try:
        model.generation_config.update(repetition_penalty=3.0, no_repeat_ngram_size=2, suppress_tokens=[5, 6, 7])
        report = evaluate(*demo, rows, **settings)
        assert model.generation_config.repetition_penalty == 3.0
    finally:
        model.generation_config = own
    assert report.results == expected.results
    assert report.protocol == expected.protocol


def test_nothing_is_left_changed(demo, rows):
    model, processor, pipeline = demo
    model.train()
    pipeline.unet.train()
    pipeline.set_progress_bar_config(leave=False)
    modes = {name: part.training for name, part in model.named_modules()}
    state = torch.get_rng_state()
    try:
        evaluate(model, processor, pipeline, rows, num_samples=1, tasks=["captions", "drawing"], **FAST)
        assert {name: part.training for name, part in model.named_modules()} == modes
        assert pipeline.unet.training
        assert pipeline._progress_bar_config == {"leave": False}
        with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
            evaluate(model, processor, pipeline, rows, batch_size=0)
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        pipeline.set_progress_bar_config()
        for part in (model, pipeline.unet):
            part.eval()


def test_other_datasets_and_no_decoder(demo, rows):
    model, processor, pipeline = demo
    photos = datasets.Dataset.from_dict(
        {
            "photo": [row["image"] for row in rows[:3]],
            "texts": [[row["caption"], "another caption"] for row in rows[:3]],
            "question": ["what is it?"] * 3,
            "answers": [["circle"] * 10] * 3,
            "scene": ["kitchen"] * 3,  # not the scenes of shapes
        }
    ).cast_column("photo", datasets.Image(decode=False))
    columns = {"columns": {"image": "photo", "caption": "texts", "questions": "question"}}
    report = evaluate(model, processor, pipeline, photos, **columns, **FAST)
    assert list(report.results) == ["captions", "questions", "reconstruction", "tokens"]
    assert set(report.results["captions"]) == {"cider"}
    assert set(report.results["reconstruction"]) == {"psnr", "ssim"}
    assert "clip_model" in report.left_out["drawing"]
    assert "'instruction'" in report.left_out["edits"]
    assert "shapes of load_shapes" in report.left_out["own_words"]
    with pytest.raises(ValueError, match="'edits' cannot be run: the dataset has no column 'instruction'"):
        evaluate(model, processor, pipeline, photos, tasks=["edits"], **columns)
    with pytest.raises(ValueError, match="'drawing' cannot be run: only drawings of shapes"):
        evaluate(model, processor, pipeline, photos, tasks=["captions", "drawing"], **columns)

    report = evaluate(model, processor, None, photos.to_iterable_dataset(), num_samples=2, **columns, **FAST)
    assert list(report.results) == ["captions", "questions", "tokens"]
    assert report.results["tokens"]["kept_fraction"].count == 2
    with pytest.raises(ValueError, match="there is no pixel decoder"):
        evaluate(model, processor, None, rows, tasks=["reconstruction"])


def test_refusals(demo, rows):
    with pytest.raises(ValueError, match="tasks must be of captions, .*got 'singing'"):
        evaluate(*demo, rows, tasks=["captions", "singing"])
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1, got 0"):
        evaluate(*demo, rows, num_samples=0)
    with pytest.raises(ValueError, match="columns must be names for image, .*got 'photo'"):
        evaluate(*demo, rows, columns={"photo": "image"})
    with pytest.raises(ValueError, match="no rows"):
        evaluate(*demo, [])


BROKEN = {
    "captions": {"caption": [None, {"raw": "a star"}, [], b"a star", True]},
    "questions": {"answers": [None, "yes", [{}], ["yes"]], "questions": [None, 3, [""]]},
    "drawing": {"caption": [float("nan"), " "]},
    "edits": {"instruction": [None, ""], "edited_image": [None, "nowhere.png"]},
    "tokens": {"image": [None, "nowhere.png", 3]},
}


@pytest.mark.parametrize(
    ("task", "column", "value"),
    [(task, column, value) for task in BROKEN for column, values in BROKEN[task].items() for value in values],
)
def test_a_bad_row_is_named_before_time_is_spent(demo, rows, task, column, value):
    class Asked(Subject):
        def batches(self, items, task):
            pytest.fail("A task was run.")

    bad = [rows[0], rows[1] | {column: value}]
    message = rf"row 1, column '({column}|questions|answers)'"
    with pytest.raises(ValueError, match=message):
        evaluate(*demo, bad, tasks=list(dict.fromkeys(["tokens", task])), subject_class=Asked)


def test_numbers_are_texts(demo):
    """A missing text beside others is left out, as in a training."""
    row = {
        "image": Image.new("RGB", (64, 64)),
        "caption": ["a star", None, 7.0],
        "questions": ["how many?"],
        "answers": [[3, "three"]],
    }
    model, processor, _ = demo
    report = evaluate(model, processor, None, [row], tasks=["captions", "questions"], max_caption_tokens=2)
    assert report.results["questions"]["accuracy"].count == 1
    assert read_texts(row["caption"], "caption") == ["a star", "7"]
    assert read_questions(row, "questions", "answers") == [("how many?", ["3", "three"])]
    assert read_texts(10**20, "caption") == [str(10**20)]


@pytest.fixture(scope="module")
def folder(demo, tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "model"
    for part in demo:
        part.save_pretrained(path)
    return path


def test_command(command_line, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    output = tmp_path / "report.json"
    options = ("--num-samples", 3, "--steps", 1, "--device", "cpu", "--output", output, "--batch-size", 2)
    code, out, err = command_line(
        "evaluate", folder, *options, "--tasks", "drawing, tokens", "--samples-dir", tmp_path / "samples"
    )
    assert code == 0, err
    assert "drawing" in out
    assert "kept fraction" in out
    written = json.loads(output.read_text())
    assert list(written["results"]) == ["drawing", "tokens"]
    assert written["protocol"]["dataset"] == "shapes"
    assert written["protocol"]["split"] == "test"
    assert written["protocol"]["model"] == str(folder)
    assert (tmp_path / "samples" / "drawing.png").is_file()


def test_command_refuses_in_one_line(command_line, folder, tmp_path):
    cases = {
        "tasks must be of": (folder, "--tasks", "captions,singing"),
        "folder that does not exist": (folder, "--output", tmp_path / "no" / "report.json"),
        "there is no": (tmp_path / "no-model",),
        "expected one of train, validation, test": (folder, "--split", "dev", "--device", "cpu"),
    }
    for message, args in cases.items():
        code, _, err = command_line("evaluate", *args)
        assert code == 1
        assert message in err
        assert len(err.strip().splitlines()) == 1
