# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every public class, function and method says what it is for and what each of its arguments means."""

import dataclasses
import inspect
import re
from importlib import import_module

import pytest
from transformers import PreTrainedConfig


MODULES = [
    "lavit_hf",
    *("lavit_hf.conversion", "lavit_hf.data.shapes", "lavit_hf.diffusion", "lavit_hf.evaluation"),
    *("lavit_hf.inference", "lavit_hf.modeling", "lavit_hf.processing", "lavit_hf.training", "lavit_hf.visualization"),
]
# Where another docstring is pointed to that does.
ELSEWHERE = re.compile(r"[Aa]rguments( and \w+)? as (of|there|in)|Same (arguments|as in)")


def methods(cls: type):
    """What a class adds: of what it overrides, only that which it documents anew."""
    for name, attribute in vars(cls).items():
        function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
        is_new = not any(hasattr(base, name) for base in cls.__bases__)
        if inspect.isfunction(function) and not name.startswith("_") and (is_new or function.__doc__):
            yield f"{cls.__name__}.{name}", function, function.__doc__


def documented(module: str):
    """Name, function and docstring of all that a module exports."""
    module = import_module(module)
    for name in module.__all__:
        member = getattr(module, name)
        if inspect.isclass(member):
            doc = inspect.getdoc(member)
            if dataclasses.is_dataclass(member):  # those of command lines explain their fields one by one
                doc += " ".join(field.name for field in dataclasses.fields(member) if "help" in field.metadata)
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


@pytest.mark.parametrize("module", MODULES)
def test_every_argument_is_explained(module):
    unexplained = []
    for name, function, doc in documented(module):
        if not doc:
            unexplained.append(name)
        elif not ELSEWHERE.search(doc):
            unexplained += [f"{name}({arg})" for arg in parameters(function) if not re.search(rf"\b{arg}\b", doc)]
    assert not unexplained
