# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The rules of the house: remote code, the map of the files, their lengths, and the sentences of their comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "lavit_hf"
CODE = [
    path for folder in ("src", "examples", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]
# A sentence that begins with one of these words has no subject of its own.
FRAGMENT = re.compile(r"(?:^|[.:!?] )((?:As of|Of|What|Which|Whose) .*)")
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
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [*SOURCE.glob("*.py"), *(SOURCE / "modeling").glob("*.py")]
    names = [path.name for path in files if path.stem != "__init__"]
    names += [f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_files_fit_a_reader():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path.name: length for path, length in lengths.items() if length > 400} == {}


def paragraphs(path: Path) -> Iterator[str]:
    """Yields the paragraphs of docstrings and comments."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            # The explanation of an argument is a paragraph as well.
            yield from re.split(r"\n\s*\n|\n\s*(?=[\w, ]+ \(.*\):)", text)
    comments, last = [""], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += [""] if token.start[0] > last + 1 else []
            comments[-1] += token.string.lstrip("#")
            last = token.start[0]
    yield from comments


def test_sentences_have_subjects():
    found = [
        f"{path.relative_to(ROOT)}: {fragment[1]}"
        for path in CODE
        for text in paragraphs(path)
        if (fragment := FRAGMENT.search(" ".join(text.split())))
    ]
    assert found == []
