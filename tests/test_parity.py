# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Equality with the authors' code, as converted and as saved and loaded again in several files."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

from lavit_hf import LavitImageDecoderPipeline

from .parity import CHECKS, Candidate, Goldens


@pytest.fixture(scope="module")
def expected() -> Goldens:
    return Goldens()


@pytest.fixture(scope="module")
def saved(converted, tmp_path_factory) -> Path:
    """The converted folder, loaded and saved part by part."""
    folder = tmp_path_factory.mktemp("saved")
    AutoModelForCausalLM.from_pretrained(converted).save_pretrained(folder, max_shard_size="5MB")
    AutoProcessor.from_pretrained(converted).save_pretrained(folder)
    for subfolder in (None, "lowres_decoder"):
        pipeline = LavitImageDecoderPipeline.from_pretrained(converted, subfolder=subfolder)
        pipeline.save_pretrained(folder / (subfolder or ""))
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    assert not list(folder.rglob("*.bin"))
    return folder


@pytest.fixture(scope="module", params=["converted", "saved"])
def candidate(request, expected) -> Candidate:
    return Candidate(request.getfixturevalue(request.param), expected)


@torch.no_grad()
@pytest.mark.parametrize("item", CHECKS, ids=lambda item: item.name)
def test_parity(candidate, expected, item):
    assert item.measure(candidate, expected) <= item.tolerance
