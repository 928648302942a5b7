# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Public names type-check in the hands of those who use them: the Python of README and guides passes mypy. The inside of
the library is not checked, since its own dependencies are typed for reading, not for inference.
"""

import subprocess
import sys

import pytest

import lavit_hf

from .guides import blocks_of, pages_with


# What a block takes for given, and what other libraries' annotations do not admit though they document it.
LET_PASS = ("name-defined", "list-item", "call-overload", "assignment")


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[str]:
    """What mypy says of the blocks, one module per guide, and of all public names."""
    folder = tmp_path_factory.mktemp("guides")
    modules = {name: blocks_of(name) for name in pages_with("python") if name != "serve"}  # about another's client
    modules["public_names"] = ["import lavit_hf", *(f"reveal_type(lavit_hf.{name})" for name in lavit_hf.__all__)]
    for name, blocks in modules.items():
        (folder / f"{name.replace('-', '_')}.py").write_text("\n".join(blocks), encoding="utf-8")
    settings = ["--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary"]
    settings += [f"--disable-error-code={code}" for code in LET_PASS]
    command = [sys.executable, "-m", "mypy", *settings, *map(str, sorted(folder.glob("*.py")))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert not run.stderr
    return run.stdout.splitlines()


def test_the_guides_type_check(said):
    assert [line for line in said if ": error:" in line] == []


def test_every_public_name_has_a_type(said):
    types = [line.split("Revealed type is ")[1].strip('"') for line in said if "Revealed type is" in line]
    assert len(types) == len(lavit_hf.__all__)
    assert "Any" not in types
