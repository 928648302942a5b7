# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets with images, runs that precompute their codes, and scenes that are told in plain words."""

from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from lavit_hf import LavitProcessor, LavitVisualTokenizer
from lavit_hf.data import code_files
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.data.shapes import edits as edits_module
from lavit_hf.data.shapes import prompts
from lavit_hf.data.shapes import questions as questions_module
from lavit_hf.processing import read_image

from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, text_tokenizer, tiny_lavit


NUM_ROWS = 11
COLUMNS = ("image", "edited_image")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder with a whole LaVIT and its processor."""
    folder = tmp_path_factory.mktemp("model")
    tiny_lavit().save_pretrained(folder)
    LavitProcessor.from_backbones(
        text=text_tokenizer(), codebook_size=CODEBOOK_SIZE, image_size=IMAGE_SIZE
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> datasets.Dataset:
    return load_rows("shapes", num_rows=NUM_ROWS, cache_dir=str(tmp_path_factory.mktemp("cache")))


def load_model(folder) -> tuple:
    return LavitVisualTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)


@pytest.fixture
def compute(model, tmp_path):
    """Precomputes the codes of a dataset, or of the scenes where its name is given."""

    def call(
        dataset, output, split="train", streaming=False, selection="topk", max_codes=None, dtype="auto", **settings
    ):
        if isinstance(dataset, str):
            cache = str(tmp_path / "cache")
            dataset = load_rows(dataset, split, num_rows=NUM_ROWS, streaming=streaming, cache_dir=cache)
        visual_tokenizer, image_processor = load_model(model)
        visual_tokenizer.config.selection, visual_tokenizer.config.max_codes = selection, max_codes
        if dtype != "auto":
            visual_tokenizer.to(getattr(torch, dtype))
        usual = {"image_columns": COLUMNS, "batch_size": 2, "rows_per_shard": 4, "num_workers": 0}
        return precompute_codes(dataset, output, visual_tokenizer, image_processor, split=split, **usual | settings)

    return call


@pytest.fixture
def read(tmp_path):
    def read(output, split="train", **kwargs):
        return list(load_rows(output, split, cache_dir=str(tmp_path / "cache"), **kwargs))

    return read


@pytest.fixture(scope="module")
def expected(model, shapes) -> list[dict]:
    """Each row with the codes of its images, computed one by one."""
    tokenizer = LavitVisualTokenizer.from_pretrained(model).eval()
    image_processor = AutoImageProcessor.from_pretrained(model)

    @torch.no_grad()
    def codes(value) -> list[int]:
        return tokenizer(**image_processor(read_image(value), return_tensors="pt")).codes.tolist()

    fingerprint = {"codebook_fingerprint": code_files.codebook_fingerprint(tokenizer.quantizer.codebook)}
    return [row | {f"{column}_codes": codes(row[column]) for column in COLUMNS} | fingerprint for row in shapes]


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with images of several modes and captions. The third image and the last one are broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, mode in enumerate(("RGB", "L", "RGB", "RGBA", "P", "CMYK", "LA")):
        name = f"{index}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new("RGB", (30 + index, 20), (30 * index, 90, 0)).convert(mode).save(folder / name)
    for name in ("2.png", "6.png"):
        (folder / name).write_bytes(b"no image")
    lines = [f"{path.name},number {path.stem}" for path in sorted(folder.iterdir())]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]))
    return folder


def shard_names(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("train/[0-9]*.parquet"))


def file_times(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in output.glob("train/*.parquet")}


@pytest.fixture
def without_talk(monkeypatch):
    """Leaves out small talk, other spellings, denials and comparisons, which have tests of their own."""
    for module in (prompts, edits_module, questions_module):
        monkeypatch.setattr(module, "add_talk", lambda text, rng, **kwargs: text)
        monkeypatch.setattr(module, "respell", lambda text, rng: text)
    monkeypatch.setattr(prompts, "_deny", lambda text, scene, rng: text)
    for name in ("compare", "ask_all"):
        monkeypatch.setattr(questions_module, name, lambda scene, rng: None)
