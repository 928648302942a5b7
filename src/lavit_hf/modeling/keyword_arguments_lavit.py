# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Keyword arguments of a forward beyond its named ones."""

import inspect

from torch import nn
from transformers.utils import TransformersKwargs


def check_keyword_arguments(model: nn.Module, kwargs: dict, *modules: nn.Module) -> None:
    """Raises a `TypeError` for an argument that neither transformers nor the forward of any of `modules` knows."""
    if not kwargs:
        return
    # There is no other list of the arguments that transformers passes to every model.
    known = {*TransformersKwargs.__annotations__, "return_dict"}
    for module in modules:
        known |= inspect.signature(module.forward).parameters.keys()
    if unknown := [name for name in kwargs if name not in known]:
        raise TypeError(f"{type(model).__name__} got an unexpected argument {unknown[0]!r}.")
