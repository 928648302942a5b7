# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import pytest

from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline, LavitProcessor, demo_checkpoint
from lavit_hf.data.shapes.loading import make_row


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """Rows of the shapes' test split."""
    return [make_row(index, "test") for index in range(40)]


@pytest.fixture(scope="session")
def demo():
    """The model that ships, its processor and its pixel decoder."""
    path = demo_checkpoint()
    return tuple(part.from_pretrained(path) for part in (LavitForCausalLM, LavitProcessor, LavitImageDecoderPipeline))
