# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The small LaVIT that ships with the library, trained on scenes of colored shapes."""

from pathlib import Path


def demo_checkpoint() -> Path:
    """
    Returns the folder of a small trained LaVIT, for `from_pretrained` of model, processor and pixel decoder.

    It reads and draws images of `lavit_hf.data.shapes` at 64 x 64 pixels and knows nothing else. Its model card,
    `README.md`, describes its training data and its evaluation.
    """
    return Path(__file__).parent / "assets" / "shapes"
