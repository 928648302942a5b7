# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The Python of the README, and of a new model, on the checkpoint of the goldens in place of the release."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from .guides import blocks_of
from .parity import GOLDENS
from .tiny import TEXT, TEXT_TOKENS, VISION, save_text_model


@pytest.fixture
def as_a_user(converted, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lavit-7b").symlink_to(converted)
    shutil.copy(GOLDENS / "image_0.png", "photo.jpg")
    return tmp_path


def test_using_the_release(as_a_user, capsys):
    [block] = blocks_of("README")
    exec(block, {})
    assert len(capsys.readouterr().out.splitlines()[0]) > 3
    assert Image.open(as_a_user / "fox.png").size == (64, 64)


def test_building_a_new_one(as_a_user):
    clip = CLIPConfig(vision_config=VISION, text_config=TEXT)
    CLIPModel(clip).save_pretrained("openai/clip-vit-base-patch16")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained("openai/clip-vit-base-patch16")
    save_text_model(Path("HuggingFaceTB/SmolLM2-135M"))
    names: dict = {}
    exec(blocks_of("new-backbones")[0], names)
    model, processor = names["model"].eval(), names["processor"]
    assert processor.image_token_id == model.config.image_token_id == TEXT_TOKENS + 2 + 4096
    inputs = processor(
        text=["word5 word6", "<image>word7"], images=[[], Image.new("RGB", (9, 5))], return_tensors="pt"
    )
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    ids = model.generate(**inputs, generation_mode="image", max_new_tokens=5)
    assert [len(processor.decode_interleaved(row)[-1].codes) for row in ids] == [4, 4]
