# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every public class, function and method says what it is for and what each of its arguments means."""

import dataclasses
import inspect
import pkgutil
import re
from importlib import import_module

import pytest
from transformers import PreTrainedConfig


# Packages whose exports are checked, and packages and modules of which all public names are.
EXPORTING = ("conversion", "diffusion", "evaluation", "modeling", "processing", "publishing", "training")
WHOLE = ("data", "publishing", "training")
PLAIN = ("lavit_hf.conversation", "lavit_hf.inference", "lavit_hf.visualization")
# Where a name in a sentence explains an argument even if it is not marked as code.
IN_PLAIN_WORDS = ("lavit_hf.data.shapes",)
SECTIONS = r"Args|Returns|Raises|Attributes"
# Where another docstring is pointed to that does.
ELSEWHERE = re.compile(r"[Aa]rguments( and \w+)? as (of|there|in)|Same (arguments|as)")


def list_modules() -> list[str]:
    names = ["lavit_hf", *(f"lavit_hf.{name}" for name in EXPORTING), *PLAIN, *IN_PLAIN_WORDS]
    for package in map(import_module, (f"lavit_hf.{name}" for name in WHOLE)):
        modules = (each for each in pkgutil.iter_modules(package.__path__) if not each.ispkg)
        names += [f"{package.__name__}.{each.name}" for each in modules]
    return names


def exports(module) -> dict:
    """Returns what a module exports, or else what it defines itself under public names."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    own = {
        name: member for name, member in vars(module).items() if getattr(member, "__module__", "") == module.__name__
    }
    return {name: member for name, member in own.items() if not name.startswith("_")}


def methods(cls: type):
    """Lists the methods that a class adds, and those that it overrides and documents anew."""
    for name, attribute in vars(cls).items():
        function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
        is_new = not any(hasattr(base, name) for base in cls.__bases__)
        if inspect.isfunction(function) and not name.startswith("_") and (is_new or function.__doc__):
            yield f"{cls.__name__}.{name}", function, function.__doc__


def documented(module):
    """Name, function and docstring of all that a module exports."""
    for name, member in exports(module).items():
        if inspect.isclass(member):
            doc = inspect.getdoc(member)
            if dataclasses.is_dataclass(member):  # those of command lines explain their fields one by one
                helped = [field.name for field in dataclasses.fields(member) if "help" in field.metadata]
                doc += "".join(f"\n\n`{field}`" for field in helped)
            # A configuration also takes what all of them take, and a class without a constructor what its base takes.
            init_module = getattr(member.__init__, "__module__", "")  # `object.__init__` has none
            is_ours = init_module.startswith("lavit_hf") and not issubclass(member, PreTrainedConfig)
            yield name, member.__init__ if is_ours else object, doc
            yield from methods(member)
        elif inspect.isfunction(member):
            yield name, member, member.__doc__


def parameters(function) -> list[str]:
    try:
        names = inspect.signature(function).parameters
        return [name for name in names if name not in ("self", "cls", "args", "kwargs")]
    except ValueError:  # without one, as `object`
        return []


def explained(doc: str, in_plain_words: bool = False) -> set[str]:
    """
    Returns the arguments that a docstring explains: those with an entry in its section `Args`, or those that its
    sentences name as code if it has no such section.
    """
    doc = inspect.cleandoc(doc)
    section = re.search(rf"^Args:\n(.*?)(?=^(?:{SECTIONS}):|\Z)", doc, re.MULTILINE | re.DOTALL)
    if section is None:
        texts = [doc] if in_plain_words else re.findall(r"`([^`\n]+)`", doc)
    else:
        entries = re.findall(r"^    (\S.*)", section[1], re.MULTILINE)
        texts = [re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", entry).partition(":")[0] for entry in entries]
    return {name for text in texts for name in re.findall(r"\w+", text)}


@pytest.mark.parametrize("module", list_modules())
def test_every_argument_is_explained(module):
    unexplained = []
    for name, function, doc in documented(import_module(module)):
        if not doc:
            unexplained.append(name)
        elif not ELSEWHERE.search(doc):
            known = explained(doc, module in IN_PLAIN_WORDS)
            unexplained += [f"{name}({arg})" for arg in parameters(function) if arg not in known]
    assert not unexplained


def test_a_name_in_passing_explains_nothing():
    doc = (
        'Reads `rows`.\n\nArgs:\n    path, name (`str`, *optional*, defaults to `"(a)"`):\n        A `folder`: any.\n'
    )
    assert explained(doc) == {"path", "name"}
    assert explained(doc + "\nReturns:\n    `rows`: The rows.") == {"path", "name"}
    assert explained("Reads the `rows` of a path.") == {"rows"}
