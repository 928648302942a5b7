# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The notebook of the examples, run cell by cell without Jupyter. This writes new outputs into it:

    python -m tests.notebook
"""

import ast
import base64
import io
import json
import os
import tempfile
from contextlib import redirect_stdout
from typing import Any

from PIL import Image

from .guides import ROOT


NOTEBOOK = ROOT / "examples" / "lavit.ipynb"


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def show(value: Any) -> dict:
    """The value of the last line of a cell, as Jupyter stores it."""
    data = {"text/plain": [repr(value)]}
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG", optimize=True)
        data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": ["an image"]}
    return {"output_type": "display_data", "data": data, "metadata": {}}


def run_cell(source: str, names: dict) -> list[dict]:
    """Runs a cell, and returns its outputs as Jupyter stores them. Output to stderr is left out."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
    outputs = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    return outputs if value is None else [*outputs, show(value)]


def main():
    notebook, names = json.loads(NOTEBOOK.read_text(encoding="utf-8")), {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, cell in enumerate(code_cells(notebook), 1):
            cell |= {"outputs": run_cell("".join(cell["source"]), names), "execution_count": number}
        os.chdir(ROOT)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
