# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The notebook of the examples reads well as it is stored, and runs."""

import base64
import io
import json
import re

import pytest
from PIL import Image

from .notebook import NOTEBOOK, code_cells, run_cell


# Numbers that show something, and those that are enough to run it.
FEWER = {
    "max_steps=60": "max_steps=1",
    "range(400)": "range(8)",
    "range(20)": "range(2)",
    "pipe.set_progress_bar_config(disable=True)": "pipe.register_to_config(default_num_inference_steps=2)",
}


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return code_cells(json.loads(NOTEBOOK.read_text(encoding="utf-8")))


def kinds(outputs: list[dict]) -> list[list[str]]:
    return [sorted(output.get("data", ["stdout"])) for output in outputs]


def test_the_stored_outputs(cells):
    assert NOTEBOOK.stat().st_size < 400_000
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}  # and no "error"
    images = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 5
    for image in images:
        assert Image.open(io.BytesIO(base64.b64decode(image))).convert("L").getextrema() != (0, 0)
    texts = json.dumps([output | {"data": None} for output in outputs])
    assert not re.search(r"/(home|root|tmp|usr|work|Users)/|[Ee]rror|Traceback", texts)


def test_the_notebook_runs(cells, tmp_path, monkeypatch):
    """Each cell has the kinds of outputs that are stored."""
    monkeypatch.chdir(tmp_path)
    names, sources = {}, ["".join(cell["source"]) for cell in cells]
    for many, few in FEWER.items():
        assert sum(source.count(many) for source in sources) == 1, many
        sources = [source.replace(many, few) for source in sources]
    for source, cell in zip(sources, cells, strict=True):
        assert kinds(run_cell(source, names)) == kinds(cell["outputs"]), source
