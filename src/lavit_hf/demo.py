# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The small LaVIT that ships with the library, trained on scenes of coloured shapes, and a scene to try it on."""

from pathlib import Path

from PIL import Image

from .data.shapes import render_scene, sample_scene


# Of the test split, which the model was not trained on: a star, a square and a triangle.
DEMO_SCENE = 6


def demo_checkpoint() -> Path:
    """
    The folder of a small trained LaVIT, for `from_pretrained` of model, processor and pixel decoder.

    It reads and draws `lavit_hf.data.shapes` at 64 x 64 pixels and knows nothing else. Its card, `README.md`, says
    what it was trained on and how well it does.
    """
    return Path(__file__).parent / "assets" / "shapes"


def demo_image() -> Image.Image:
    """A scene of the test split, RGB, 64 x 64."""
    return render_scene(sample_scene(DEMO_SCENE, "test"))


__all__ = ["demo_checkpoint", "demo_image"]
