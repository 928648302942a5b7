# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The tiny LaVIT that tests of models share, one for each file."""

import pytest

from lavit_hf import LavitForCausalLM

from ..tiny import tiny_lavit


@pytest.fixture(scope="module")
def model() -> LavitForCausalLM:
    return tiny_lavit()
