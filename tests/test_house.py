# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`modeling/` and `processing/` can travel with a checkpoint as remote code, and the map of the files is complete."""

import ast
from pathlib import Path

import pytest


SOURCE = Path(__file__).parent.parent / "src" / "lavit_hf"
TRAVELLERS = sorted((SOURCE / "modeling").glob("*.py")) + sorted((SOURCE / "processing").glob("*.py"))


@pytest.mark.parametrize("path", TRAVELLERS, ids=lambda path: path.stem)
def test_imports_stay_among_siblings(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"line {node.lineno} leaves the folder"
            is_optional = (
                path.stem == "optional_mixins_lavit"
            )  # which goes without, where the package is not installed
            assert is_optional or not (node.module or "").startswith("lavit_hf"), f"line {node.lineno}"
            # Strings in place of annotations would switch the configurations' checks off.
            assert node.module != "__future__", f"line {node.lineno}"
        elif isinstance(node, ast.Import):
            assert not any(name.name.startswith("lavit_hf") for name in node.names), f"line {node.lineno}"


def test_files_have_different_names():
    """Remote code lies in one folder, where a file of `processing/` would replace one of `modeling/`."""
    names = [path.name for path in TRAVELLERS if path.stem != "__init__"]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)


def test_the_map_has_every_file():
    """Each package, each file beside the packages, and each file of a concept has its place in the guide."""
    text = (SOURCE.parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [*SOURCE.glob("*.py"), *(SOURCE / "modeling").glob("*.py")]
    names = [path.name for path in files if path.stem != "__init__"]
    names += [f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")]
    assert [name for name in names if f"`{name}`" not in text] == []
