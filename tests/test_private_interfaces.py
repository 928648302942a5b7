# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The table of private interfaces in CONTRIBUTING.md is complete, and the code and the libraries have its entries."""

import ast
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest

import lavit_hf


ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "lavit_hf"
LIBRARIES = ("accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "torch", "transformers", "trl")
# Modules whose names their libraries document, although the libraries themselves do not export all of them.
DOCUMENTED = """
    datasets diffusers diffusers.callbacks diffusers.image_processor diffusers.models
    diffusers.pipelines.pipeline_utils diffusers.schedulers diffusers.training_utils diffusers.utils
    diffusers.utils.torch_utils huggingface_hub huggingface_hub.dataclasses huggingface_hub.errors peft accelerate
    torch torch.distributed.fsdp torch.distributed.tensor torch.distributions torch.nn.attention torch.nn.functional
    torch.nn.utils.rnn
    transformers
    transformers.activations transformers.cache_utils transformers.configuration_utils transformers.generation
    transformers.generation.streamers transformers.image_processing_backends transformers.image_processing_utils
    transformers.image_utils transformers.integrations transformers.modeling_layers transformers.modeling_outputs
    transformers.modeling_utils transformers.processing_utils transformers.quantizers transformers.trainer
    transformers.utils
""".split()
# Names that libraries look for in classes of others, and do not have in their own base classes.
CONVENTIONS = {"_callback_tensor_inputs", "_guidance_scale", "_interrupt", "_num_timesteps"}
CONVENTIONS |= {"_output_capturing_hooks_installed"}


def read_rows() -> list[list[str]]:
    """Returns the interface, the files, the reason and the tests of each row."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (.*) \|$", text.split("## Private interfaces")[1].split("\n## ")[0], re.MULTILINE)
    rows = [line.split(" | ") for line in lines]
    return [row for row in rows[2:] if len(row) == 4 and row[1].strip()]


ROWS = read_rows()
LISTED = {name for row in ROWS for name in re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", row[0])))}
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[a-z]\w*", name) is not None


def names_in(tree: ast.AST) -> set[str]:
    """Returns the attributes, keyword arguments and parameters in a piece of code, also those named by `getattr`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.keyword | ast.arg):
            names.add(node.arg or "")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return names


def names_defined() -> set[str]:
    """Returns the names of all functions, attributes and variables that the library itself gives a value."""
    names = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def list_classes() -> dict[str, type]:
    modules = [module.name for module in pkgutil.walk_packages(lavit_hf.__path__, "lavit_hf.")]
    members = [vars(import_module(name)).values() for name in modules if not name.endswith("__main__")]
    classes = (member for each in members for member in each if inspect.isclass(member))
    return {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes if cls.__module__.startswith("lavit_hf")}


def own_names(cls: type) -> set[str]:
    """Returns what the classes of this library define among a class and its bases, also as attributes of `self`."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("lavit_hf")]
    names = {name for base in ours for name in vars(base)}
    for base in ours:
        tree = TREES[Path(inspect.getfile(base))]
        [node] = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == base.__name__]
        attributes = (each for each in ast.walk(node) if isinstance(each, ast.Attribute))
        names |= {each.attr for each in attributes if getattr(each.value, "id", "") in ("self", "cls")}
    return names


def test_private_names_of_other_libraries_are_listed():
    used = {name for tree in TREES.values() for name in names_in(tree) if is_private(name)}
    assert used - names_defined() - LISTED == set()


@pytest.fixture(scope="module")
def overridden() -> dict[str, set[str]]:
    """The private names of each class that a library has as well, and those that none has."""
    found: dict[str, set[str]] = {"theirs": set(), "ours": set()}
    for cls in list_classes().values():
        theirs = {name for base in cls.__mro__ if base.__module__.split(".")[0] in LIBRARIES for name in vars(base)}
        for name in filter(is_private, own_names(cls)):
            found["theirs" if name in theirs else "ours"].add(name)
    found["ours"] -= found["theirs"]
    return found


def test_private_names_that_classes_override_are_listed(overridden):
    assert overridden["theirs"] - LISTED - {"_abc_impl"} == set()


def test_private_names_that_classes_override_exist(overridden):
    """Otherwise a library has renamed what is overridden, which then does nothing."""
    assert overridden["ours"] & LISTED - CONVENTIONS == set()


def test_imports_from_undocumented_modules_are_listed():
    imported = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in LIBRARIES:
            public = import_module(node.module.split(".")[0])
            if node.module not in DOCUMENTED:
                imported |= {alias.name for alias in node.names if not hasattr(public, alias.name)}
    assert imported - LISTED == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_an_entry_is_in_the_code_and_has_tests(row):
    interface, files, _, tests = row
    paths = [SOURCE / path for path in re.findall(r"`([^`]+)`", files)]
    texts = [
        path.read_text(encoding="utf-8")
        for path in paths
        for path in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    for code in re.findall(r"`([^`]+)`", interface):
        last = re.findall(r"\w+", code.partition("(")[0])[-1]
        assert any(last in text for text in texts), f"{last} is not in {files}"
    for path, _, words in re.findall(r"`(\S+\.py)`(, \"([^\"]+)\")?", tests):
        text = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"def test\w*{words.replace(' ', '_')}", text), f"{path} has no test {words!r}"
