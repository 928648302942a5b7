# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import pytest

from lavit_hf.data.shapes.loading import make_row
from lavit_hf.demo import build_demo


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """Rows of the shapes' test split."""
    return [make_row(index, "test") for index in range(40)]


@pytest.fixture(scope="session")
def demo():
    """A small model with random weights, its processor and its pixel decoder, which draws in muted colours: of noise
    in bright ones the judge would have to fit hundreds of regions."""
    model, processor, pipeline = build_demo()
    pipeline.vae.decoder.conv_out.weight.data.mul_(0.05)
    return model, processor, pipeline
