# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stands for transformers' tests of `generate`, which its source distribution lacks; ours are in `tests/modeling`."""


class GenerationTesterMixin:
    """No test."""
