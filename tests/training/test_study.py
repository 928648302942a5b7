# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The study at toy size: every row trains and is evaluated, budgets are compared, and the page says what was measured."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pretrain import list_texts, train_text_tokenizer
from study.budgets import BASE, OWN, ROWS, check_budgets
from study.train import read_arguments, train_row

from lavit_hf.data.shapes import load_shapes
from lavit_hf.training import MixtureRows, SequenceArguments, load_stage_one, new_image_decoder

from ..guides import ROOT
from .small import UNET, VAE, save_visual_tokenizer


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
    print(json.dumps(found)[:1500])
    draws = found["recipe"]["system"] in ("lavit", "regression")
    tasks = {"captions", "questions"} | ({"drawing", "edits", "reconstruction", "own_words"} if draws else set())
    assert set(found["evaluation"]["results"]) == tasks
    assert [point["step"] for point in found["curve"]] == [1, 2, 3]
