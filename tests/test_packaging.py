# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`pyproject.toml` is right about the package: its dependencies and their oldest versions, and its version."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Tools of development, and what only a job of the workflow installs.
NOT_AT_THEIR_OLDEST = {"hypothesis", "mypy", "playwright", "pytest", "pytest-xdist", "ruff"}
OTHER_EXTRAS = {"conformance", "docs"}
# Packages whose modules need no more than the dependencies without extras.
WITHOUT_EXTRAS = ("modeling", "processing", "diffusion", "publishing", "conversion", "data/shapes")


def read_requirements(*extras: str) -> dict[str, Requirement]:
    """Returns the dependencies and those of extras, by name. An extra may consist of others of this package."""
    found = {}
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found |= read_requirements(*requirement.extras)
        elif requirement.specifier:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def list_imports(path: Path, everywhere: bool) -> set[str]:
    """Returns the top-level modules that a file imports, `everywhere` or only where it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names


def find_undeclared(paths, declared, own: set[str], everywhere: bool = True) -> dict[str, set[str]]:
    distributions = importlib.metadata.packages_distributions()
    undeclared = {}
    for path in paths:
        for module in list_imports(path, everywhere) - own:
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            if not names & declared:
                undeclared.setdefault(module, set()).add(path.relative_to(ROOT).as_posix())
    return undeclared


def test_oldest_versions_are_the_lower_bounds():
    oldest = {}
    for line in (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            oldest[canonicalize_name(name)] = version
    requirements = read_requirements(*(EXTRAS.keys() - OTHER_EXTRAS))
    bounds = {
        name: bound.version
        for name, requirement in requirements.items()
        if name not in NOT_AT_THEIR_OLDEST
        for bound in requirement.specifier
        if bound.operator == ">="
    }
    assert oldest == bounds


def test_every_import_is_declared():
    declared = set(read_requirements(*EXTRAS))
    assert not find_undeclared((ROOT / "src").rglob("*.py"), declared, {"lavit_hf"})
    for folder in ("examples", "benchmarks"):
        paths = list((ROOT / folder).rglob("*.py"))
        own = {"lavit_hf", *(path.stem for path in paths), *(path.parent.name for path in paths)}
        assert not find_undeclared(paths, declared, own)


@pytest.mark.parametrize("package", WITHOUT_EXTRAS)
def test_an_import_without_extras_needs_no_extra(package):
    paths = (ROOT / "src" / "lavit_hf" / package).rglob("*.py")
    assert not find_undeclared(paths, set(read_requirements()), {"lavit_hf"}, everywhere=False)


def test_version_stands_in_one_place():
    """The distributions take it from the package, so that a tag is compared with what users see."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "src" / "lavit_hf").glob("*.py"))
    assert sum(len(re.findall(r"^__version__ = ", text, re.MULTILINE)) for text in texts) == 1
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]


def test_a_release_needs_all_tests_and_the_tag_of_its_version():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/ci.yml"
    assert set(jobs["publish"]["needs"]) == {"tests", "check"}
    assert any("GITHUB_REF_NAME#v" in step.get("run", "") for step in jobs["check"]["steps"])
    # The action that gets the right to publish is named by a commit, which nobody can change.
    [publisher] = [step["uses"] for step in jobs["publish"]["steps"] if "pypi-publish" in step["uses"]]
    assert re.fullmatch(r"pypa/gh-action-pypi-publish@[0-9a-f]{40}", publisher)
