# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The study at toy size: rows train and are evaluated, budgets are compared, the page says what was measured."""

import json
import runpy
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pretrain import list_texts, train_text_tokenizer
from study.budgets import BASE, OWN, ROWS, check_budgets
from study.dial import main as measure_dial
from study.json_files import read_json, write_json
from study.regression import RegressionForCausalLM, RegressionSettings, RegressionSubject, codebook_of
from study.report import find_pictures, load_results, render, write_page
from study.run import Study, parse_options
from study.systems import SYSTEMS, describe_recipe
from study.train import NUM_DRAWINGS, read_arguments, train_row
from study.train_tokenizer import draw_budgets, drop_merger
from transformers import LlamaConfig

from lavit_hf import LavitImageDecoderPipeline, LavitProcessor
from lavit_hf.data.shapes import load_shapes
from lavit_hf.evaluation import EvaluationSettings
from lavit_hf.inference import decode_codes, prepare_prompts
from lavit_hf.training import (
    LavitCollator,
    MixtureRows,
    SequenceArguments,
    last_checkpoint,
    load_stage_one,
    new_image_decoder,
)

from ..guides import ROOT, blocks_of
from ..tiny import CODEBOOK_SIZE, TEXT, pictures, save_clip, save_text_model
from .small import (
    EVERY_KIND,
    SIZE,
    UNET,
    VAE,
    image_processor,
    make_dataset,
    make_image,
    make_processor,
    make_stage_one,
    save_visual_tokenizer,
)


STUDY = ROOT / "examples" / "study"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "tie_word_embeddings": True,
}
LESS = {
    "language_model_config": json.dumps(LLAMA),
    "num_train_rows": 24,
    "num_eval_rows": 2,
    "num_test_rows": 2,
    "num_curve_rows": 1,
    "num_counted_steps": 1,
    "max_steps": 3,
    "warmup_steps": 1,
    "lr_scheduler_kwargs": json.dumps({"num_decay_steps": 1}),
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "save_strategy": "no",
    "image_generation": json.dumps({"guidance_scale": 2.0, "do_sample": True, "max_new_tokens": 4}),
    "disable_tqdm": True,
}
# The toy visual tokenizer has 16 patches, fewer than the recipe has queries.
FEWER_CODES = {"adapter_resampler": 4}
IMAGE_TOKENS = {"adapter_linear": 16.0, "adapter_mlp": 16.0, "adapter_resampler": 4.0}
EVALUATED_TWICE = ("lavit", "regression")


def read_recipe(row: str) -> dict:
    return yaml.safe_load((STUDY / "rows" / f"{row}.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A folder with what rows are made of: data, a text tokenizer, a visual tokenizer and its pixel decoder."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = load_shapes(split, num_rows=24, image_size=32, cache_dir=str(folder / "cache"))
        rows.to_parquet(folder / "data" / f"{split}.parquet")
    arguments = SequenceArguments(["draw=1"], prompt_column="prompts")
    train_text_tokenizer(list_texts(MixtureRows(rows, arguments)), 300).save_pretrained(folder / "text")
    stage_one = load_stage_one(save_visual_tokenizer(folder / "tokenizer"))
    torch.manual_seed(0)
    unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE).eval()
    pipe = new_image_decoder(stage_one, unet, vae, DDIMScheduler())
    pipe.register_to_config(default_num_inference_steps=1, default_guidance_scale=1.0)
    pipe.save_pretrained(folder / "decoder")
    return folder


def flags(row: str, parts: Path, output: Path, **settings) -> list[str]:
    paths = {
        "visual_tokenizer": parts / "tokenizer",
        "image_decoder": parts / "decoder",
        "text_tokenizer": parts / "text",
        "dataset_name": parts / "data",
        "output_dir": output,
        "results": output / f"{row}.json",
    }
    paths |= {"num_codes": FEWER_CODES[row]} if row in FEWER_CODES else {}
    paths["num_curve_points"] = 2 if row in EVALUATED_TWICE else 1
    given = LESS | paths | settings
    return [
        str(STUDY / "rows" / f"{row}.yaml"),
        *(text for pair in given.items() for text in (f"--{pair[0]}", str(pair[1]))),
    ]


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
    draws = found["recipe"]["system"] in ("lavit", "regression")
    tasks = {"captions", "questions"} | ({"drawing", "edits", "reconstruction", "own_words"} if draws else set())
    assert set(found["evaluation"]["results"]) == tasks
    assert [point["step"] for point in found["curve"]] == ([1, 3] if row in EVALUATED_TWICE else [3])
    assert [step for step, _ in found["losses"]] == [1, 2, 3]
    assert found["image_tokens"] == IMAGE_TOKENS.get(row, results[BASE]["image_tokens"])
    assert found["operations"]["total"] == 3 * found["operations"]["per_step"] > 0
    assert min(found["seconds"].values()) > 0
    assert len(found["drawings"]) == (NUM_DRAWINGS if draws else 0)


def test_rows_cost_what_they_should(results):
    """Reading all patches takes more operations than reading few, and a vocabulary without codes fewer weights."""
    operations = {row: found["operations"]["per_step"] for row, found in results.items()}
    assert operations["adapter_mlp"] > operations["adapter_linear"]
    weights = {row: found["trained_parameters"] for row, found in results.items()}
    assert weights["lavit"] - weights["lavit_text_only"] == (CODEBOOK_SIZE - 1) * LLAMA["hidden_size"]
    assert weights["adapter_linear"] < weights["adapter_mlp"] < weights["lavit_text_only"]


def test_another_budget_is_refused(results):
    """A fault is put into a recipe, and into results."""
    recipes = {row: read_recipe(row) for row in ROWS}
    recipes["adapter_mlp"]["max_steps"] *= 2
    with pytest.raises(ValueError, match=r"Row 'adapter_mlp' has max_steps=3000, but 'lavit' has 1500"):
        check_budgets(recipes)
    made = {row: dict(found["recipe"]) for row, found in results.items() if row != "adapter_resampler"}
    check_budgets(made)
    made["regression"]["mixture"] = ["caption=1", "draw=1"]
    with pytest.raises(ValueError, match="Row 'regression' has mixture="):
        check_budgets(made)


def test_a_system_that_does_not_draw_has_no_labels_in_images():
    sequences = SYSTEMS["linear"].choose_sequences(SequenceArguments(EVERY_KIND, supervise_images=True))
    assert sequences.weights == {"caption": 1.0, "question": 1.0, "text": 0.5}
    assert not sequences.supervise_images
    with pytest.raises(ValueError, match="needs one of caption, question, text"):
        SYSTEMS["linear"].choose_sequences(SequenceArguments(["draw=1"]))


# The regression


def make_regression(**settings) -> tuple[RegressionForCausalLM, LavitProcessor, dict, list[str]]:
    """A model, its processor, a batch of drawings of two images, and their prompts."""
    torch.manual_seed(0)
    processor = make_processor()
    tokenizer = processor.tokenizer
    text = TEXT | {"vocab_size": processor.image_start_token_id, "bos_token_id": None}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    visual_tokenizer = make_stage_one().visual_tokenizer
    visual_tokenizer.config.codebook_size = 1
    visual_tokenizer.quantizer.codebook = visual_tokenizer.quantizer.codebook[:1].clone()
    model = RegressionForCausalLM.from_backbones(visual_tokenizer, LlamaConfig(**text))
    model.regression = RegressionSettings(**settings)
    processor = LavitProcessor.from_backbones(vision=image_processor(), text=tokenizer, codebook_size=1)
    rows = MixtureRows(make_dataset(2), SequenceArguments(["draw=1"], prompt_dropout=0.0))
    batch = LavitCollator(processor, model.config.num_patches)([rows[0], rows[1]])
    model.fit_targets(visual_tokenizer(batch["pixel_values"]).vectors)
    return model, processor, batch, [rows[index][0].text for index in range(2)]


@pytest.mark.parametrize(
    "settings", [{"loss": "cosine", "noise": 0.1}, {"loss": "l2", "normalize": False, "weight": 4.0}], ids=str
)
def test_a_regression_draws_what_it_was_taught(settings):
    """Two images are learned by heart: vectors, which are fed back, and where each image ends."""
    model, processor, batch, prompts = make_regression(**settings)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for _ in range(150):
        outputs = model(**batch, skip_logits=True)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    model.eval()
    mean = (outputs.token_losses.sum() + model.regression.weight * outputs.vector_losses.sum()).item()
    assert outputs.loss.item() == pytest.approx(mean / len(outputs.token_losses), rel=1e-4)
    expected = model.model.visual_tokenizer(batch["pixel_values"])
    inputs = prepare_prompts(processor, prompts, generation_mode="image")
    drawn = model.draw_vectors(dict(inputs), guidance_scale=1.0)
    for rows, wanted in zip(drawn, expected.vectors.split(expected.num_codes.tolist()), strict=True):
        assert len(rows) == len(wanted)
        assert (rows * wanted).sum(dim=-1).min() > 0.9
    alone = prepare_prompts(processor, prompts[1:], generation_mode="image")
    torch.testing.assert_close(model.draw_vectors(dict(alone))[0], drawn[1], atol=1e-4, rtol=0)


def test_rows_of_a_codebook_are_decoded_like_their_codes(parts):
    """The vectors of codes make the same pixels as the codes, and the codebook is the old one afterwards."""
    pipe = LavitImageDecoderPipeline.from_pretrained(parts / "decoder")
    codes, codebook = [[3, 1, 4], [1, 5, 9, 2, 6]], pipe.feature_decoder.codebook
    expected = decode_codes(pipe, codes)
    with codebook_of(pipe, [codebook[row] for row in codes]) as rows:
        found = decode_codes(pipe, rows)
    assert [image.tobytes() for image in found] == [image.tobytes() for image in expected]
    assert pipe.feature_decoder.codebook is codebook
    assert pipe.feature_decoder.config.codebook_size == CODEBOOK_SIZE


def test_a_regression_that_is_evaluated_uses_its_vectors(parts):
    model, processor, *_ = make_regression()
    model.eval()
    pipe = LavitImageDecoderPipeline.from_pretrained(parts / "decoder")
    subject = RegressionSubject(model, processor, pipe, EvaluationSettings(image_generation={"guidance_scale": 2.0}))
    images = [make_image("red", "blue"), make_image("white", "green")]
    tokens = subject.encode(images)
    assert [len(rows) for rows in tokens.split()] == tokens.num_codes.tolist()
    torch.testing.assert_close(torch.cat(tokens.split()), tokens.vectors)
    rebuilt = subject.decode([rows.tolist() for rows in tokens.split()], 0)
    drawn, edited = subject.draw(["red", "blue"], 0), subject.draw(["make it red"] * 2, 0, images)
    sides = {image.size for image in (*rebuilt, *drawn, *edited)}
    assert sides == {(SIZE, SIZE)}
    assert rebuilt[0].tobytes() != rebuilt[1].tobytes()


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
    second = train_row(read_arguments(flags(row, parts, tmp_path, **arguments)))
    assert second["losses"] == first["losses"]
    assert second["held_out_loss"] == pytest.approx(first["held_out_loss"], abs=1e-6)
    assert second["curve"] == first["curve"]


# Visual tokenizers


def test_nothing_is_folded_without_a_merger():
    model = make_stage_one()
    drop_merger(model.visual_tokenizer.merger)
    pixel_values = pictures(2)
    tokens = model.visual_tokenizer(pixel_values)
    features = tokens.vision_features[tokens.keep_mask]
    torch.testing.assert_close(tokens.merged_features, model.visual_tokenizer.merger.norm(features))
    model.train()(pixel_values).loss.backward()
    trained = {name for name, value in model.visual_tokenizer.named_parameters() if value.grad is not None}
    assert any(name.startswith("selector.") for name in trained)
    assert {name for name in trained if name.startswith("merger.")} == {"merger.norm.weight", "merger.norm.bias"}


def test_budgets_are_random_in_training_alone():
    model, pixel_values = make_stage_one(), pictures(8)
    expected = model.visual_tokenizer(pixel_values).num_codes
    model.visual_tokenizer.register_forward_pre_hook(draw_budgets, with_kwargs=True)
    model.freeze_selector = True
    counts = [model.train()(pixel_values).tokenizer_output.num_codes for _ in range(4)]
    assert len(torch.cat(counts).unique()) > 4
    assert torch.equal(model.eval()(pixel_values).tokenizer_output.num_codes, expected)


# The driver and the page


class Recorded:
    """Runs nothing, and writes what the stages would, with losses from a table."""

    def __init__(self, losses: dict[str, float]):
        self.losses, self.runs = losses, []

    def __call__(self, module: str, given: list[str]) -> None:
        self.runs.append((module, given))
        named = {name.removeprefix("--"): value for name, value in pairwise(given) if name.startswith("--")}
        if module != "study.train":
            Path(named["output_dir"]).mkdir(parents=True)
            Path(named["output_dir"], "README.md").touch()
        elif "only_loss" in named:
            write_json(named["results"], {"held_out_loss": self.losses[named["learning_rate"]]})
        else:
            arguments = read_arguments(given)
            write_json(named["results"], {"recipe": describe_recipe(*arguments)})


def test_the_driver_takes_the_best_rate_and_runs_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "write_page", lambda self: None)
    monkeypatch.setattr(Study, "make_text_tokenizer", lambda self: None)
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
    options = parse_options([*command.split(), "--row", "--max_steps 7"])
    with pytest.raises(ValueError, match="seed0.json was made with max_steps=1500, and the recipe has 7"):
        Study(options, run).run_all()


def test_the_results_have_the_rates_of_the_sweep():
    sweep = read_json(STUDY / "results" / "sweep.json")
    for row, found in load_results(STUDY / "results").items():
        assert {result["recipe"]["learning_rate"] for result in found} == {sweep[row]["best"]}, row


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
    dial = {"budget": 4, "tokens": 3.9, "values": {"captions": {"everything": 0.125}}}
    write_json(tmp_path / "dial.json", {"curves": [{"tokenizer": "plain", "selection": "fixed", "points": [dial]}]})
    write_page(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    value = results["lavit"]["evaluation"]["results"]["questions"]["accuracy"]["value"]
    line = next(line for line in text.splitlines() if line.startswith("| `lavit` |"))
    assert f"| {100 * (value + 0.05):.1f} ± 5.0 |" in line
    assert "| 3.9 | plain | fixed | - | - | 12.5 | - |" in text
    difference = value - results["regression"]["evaluation"]["results"]["questions"]["accuracy"]["value"]
    verdict = "within the spread" if abs(difference) <= 0.1 else "holds" if difference > 0 else "does not hold"
    assert f"| `regression` | questions | {100 * difference:+.1f} ± 10.0 | {verdict} |" in text
    for name in ("curves", "dial", "drawings"):
        assert f"![{name}](page/{name}.png)" in text
        assert (tmp_path / "page" / f"{name}.png").exists()
    assert render(text, tmp_path, find_pictures(tmp_path / "page.md")) == text


def test_the_dial_compares_equal_lengths(results, parts, tmp_path):
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
    given += ["--dataset_name", parts / "data", "--num_rows", "4", "--tasks", "reconstruction", "captions"]
    measure_dial([str(word) for word in given])
    curves = read_json(tmp_path / "dial.json")["curves"]
    assert [(curve["tokenizer"], curve["selection"]) for curve in curves] == [
        (name, selection) for name in ("plain", "random") for selection in ("adaptive", "fixed")
    ]
    for curve in curves:
        assert [point["budget"] for point in curve["points"]] == [4, 8, 12, 16]
        assert all(abs(point["tokens"] - point["budget"]) <= 0.5 for point in curve["points"])
        assert all(set(point["values"]) == {"reconstruction", "captions"} for point in curve["points"])
    assert curves[0]["points"] != curves[1]["points"]


# Flags that make the command line for a GPU do little, by the option that they are added to.
ABRIDGED = {
    "--common": "--num_train_rows 8 --num_eval_rows 2 --dataloader_num_workers 0 --per_device_train_batch_size 2 "
    "--per_device_eval_batch_size 2 --report_to none --bf16 false --use_cpu true --max_steps 1",
    "--tokenizer": "--max_steps 1",
    "--decoder": "--max_steps 1",
    "--row": "--max_steps 2 --warmup_steps 1 --num_test_rows 2 --num_counted_steps 1 --num_curve_points 1 "
    "--lr_scheduler_kwargs '{\"num_decay_steps\": 1}' --max_length 64",
}


def run_here(module: str, given: list[str]) -> None:
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
    for split in ("train", "validation"):
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
    for [found] in results.values():
        assert set(found["evaluation"]["results"]) == {"captions", "reconstruction"}
        assert found["recipe"]["language_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert "| `regression` | " in Path("runs/my-study/study.md").read_text(encoding="utf-8")
