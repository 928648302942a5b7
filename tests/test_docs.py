# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The Python of those guides that run on the model that ships."""

import re
from pathlib import Path

import pytest
from PIL import Image


DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", ["generate", "serve-with-other-engines"])
def test_a_guide_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / f"{name}.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    if name == "generate":
        assert Image.open("circle.png").size == (64, 64)
        assert Image.open("star.png").size == (64, 64)
        assert names["answer"][0]["generated_text"].strip()
    else:
        assert (tmp_path / "language-model" / "model.safetensors").exists()
