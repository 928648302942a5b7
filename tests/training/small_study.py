# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The recipes of the study with tiny models, few rows and few steps."""

import json
import math
from itertools import pairwise
from pathlib import Path

import yaml
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pretrain import list_texts, train_text_tokenizer
from study.json_files import write_json
from study.systems import describe_recipe, fingerprint_parts
from study.train import read_arguments

from lavit_hf import LavitImageDecoderPipeline
from lavit_hf.data.shapes import load_shapes
from lavit_hf.training import MixtureRows, SequenceArguments, new_image_decoder

from ..guides import ROOT
from .small import UNET, VAE, make_stage_one, save_visual_tokenizer


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
    "num_curve_points": 1,
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
LESS_OF = {"adapter_resampler": {"num_codes": 4}, "lavit_text_only_equal": {"per_device_train_batch_size": 2}}
IMAGE_TOKENS = {"adapter_linear": 16.0, "adapter_mlp": 16.0, "adapter_resampler": 4.0}


def read_recipe(row: str) -> dict:
    return yaml.safe_load((STUDY / "rows" / f"{row}.yaml").read_text(encoding="utf-8"))


def make_parts(folder: Path) -> Path:
    """Makes a folder with what rows are made of: data, a text tokenizer, a visual tokenizer and its pixel decoder."""
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = load_shapes(split, num_rows=24, image_size=32, cache_dir=str(folder / "cache"))
        rows.to_parquet(folder / "data" / f"{split}.parquet")
    arguments = SequenceArguments(["draw=1"], prompt_column="prompts")
    train_text_tokenizer(list_texts(MixtureRows(rows, arguments)), 300).save_pretrained(folder / "text")
    save_visual_tokenizer(folder / "tokenizer")
    make_image_decoder().save_pretrained(folder / "decoder")
    return folder


def make_image_decoder() -> LavitImageDecoderPipeline:
    """The pixel decoder of `make_stage_one`, which takes one step."""
    stage_one = make_stage_one()
    unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE).eval()
    pipe = new_image_decoder(stage_one, unet, vae, DDIMScheduler())
    pipe.register_to_config(default_num_inference_steps=1, default_guidance_scale=1.0)
    return pipe


def flags(row: str, parts: Path, output: Path, **settings) -> list[str]:
    paths = {
        "visual_tokenizer": parts / "tokenizer",
        "image_decoder": parts / "decoder",
        "text_tokenizer": parts / "text",
        "dataset_name": parts / "data",
        "output_dir": output,
        "results": output / f"{row}.json",
    }
    given = LESS | paths | LESS_OF.get(row, {}) | settings
    return [
        str(STUDY / "rows" / f"{row}.yaml"),
        *(text for pair in given.items() for text in (f"--{pair[0]}", str(pair[1]))),
    ]


class Recorded:
    """Runs nothing, and writes what the stages would, with losses from a table."""

    def __init__(self, losses: dict[str, float]):
        self.losses, self.runs = losses, []

    def __call__(self, module: str, given: list[str], jobs: int = 1, lock: int | None = None) -> None:
        self.runs.append((module, given))
        named = {name.removeprefix("--"): value for name, value in pairwise(given) if name.startswith("--")}
        if module == "study.dial":
            write_json(named["output"], {"num_rows": 0, "curves": []})
        elif module != "study.train":
            Path(named["output_dir"]).mkdir(parents=True)
            Path(named["output_dir"], "README.md").touch()
        elif "only_loss" in named:
            loss = self.losses[named["learning_rate"]]
            write_json(named["results"], {"held_out_loss": loss if math.isfinite(loss) else None})
        else:
            arguments = read_arguments(given)
            found = {"recipe": describe_recipe(*arguments), "parts": fingerprint_parts(arguments[0])}
            found |= {"row": arguments[0].row, "seed": arguments[3].seed, "evaluation": {"results": {}}}
            write_json(named["results"], found)
