# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Modules that are trained and modules that are frozen: their gradients, modes and adapters."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


# The names of layers that get no adapters: they would change codes, or learn nothing from batches without images.
VISUAL_PARTS = r".*visual_(tokenizer|adapter)\..*"


def is_trained(module: nn.Module) -> bool:
    """Returns whether any parameter of a module requires a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def list_adapters(module: nn.Module) -> list[str]:
    """Returns the names of the layers of `module` that a layer of peft has taken the place of."""
    # The name of the library is compared, since peft need not be installed.
    return [
        name
        for name, part in module.named_modules()
        if type(part).__module__.startswith("peft.") and hasattr(part, "get_base_layer")
    ]


def keep_adapters_out(model: nn.Module, configs: dict[str, Any]) -> None:
    """
    Removes the adapters that peft has put into the visual tokenizer and the visual adapter of `model`. The
    configurations of peft then tell that there are none, also where an adapter is saved.

    Args:
        model (`nn.Module`): A LaVIT with adapters.
        configs (`dict[str, PeftConfig]`): Their configurations.

    Raises:
        ValueError: If no adapter is left.
    """
    names = list_adapters(model)
    visual = [name for name in names if re.fullmatch(VISUAL_PARTS, name)]
    for name in reversed(visual):  # inner layers first
        model.set_submodule(name, model.get_submodule(name).get_base_layer())
    if visual and visual == names:
        targets = [config.target_modules for config in configs.values()]
        raise ValueError(
            f"Adapters are put into the language model alone, which target_modules={targets} do not name."
        )
    for config in configs.values() if visual else ():
        excluded = config.exclude_modules or ""
        if not isinstance(excluded, str):
            excluded = rf"(.*\.)?({'|'.join(map(re.escape, sorted(excluded)))})"
        if VISUAL_PARTS not in excluded:
            config.exclude_modules = f"{excluded}|{VISUAL_PARTS}".removeprefix("|")


@contextmanager
def gradients_where_trained(module: nn.Module) -> Iterator[None]:
    """A context in which a graph is recorded only if a parameter of `module` is trained."""
    # `torch.compile` does not restore the mode after a `set_grad_enabled` that a function returns.
    with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(module)):
        yield


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """A context in which modules are in evaluation mode. Each of their parts returns to its own mode at the end."""
    # The mode of each part is stored, since a model in training may have frozen parts in evaluation mode.
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
