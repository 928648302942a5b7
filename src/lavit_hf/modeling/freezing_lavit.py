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
# The names of the parts that are always frozen beside adapters.
VISUAL_TOKENIZER = r".*visual_tokenizer(\..*)?"
# The values of `LoraConfig.init_lora_weights` with which peft does not change the weights of a layer.
KEEPS_WEIGHTS = ("true", "false", "gaussian", "orthogonal", "eva", "mica")


def is_trained(module: nn.Module) -> bool:
    """Returns whether any parameter of a module requires a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def list_adapters(module: nn.Module) -> list[str]:
    """Returns the names of the layers of `module` that a layer of peft has taken the place of."""
    return _list_modules_of_peft(module, "get_base_layer")


def list_copies(module: nn.Module) -> list[str]:
    """Returns the names of the parts of `module` of which peft trains a copy, those of `modules_to_save`."""
    return _list_modules_of_peft(module, "original_module")


def check_no_adapters(model: nn.Module) -> None:
    """Raises a `ValueError` if layers of `model` have adapters, with which peft has changed the names of weights."""
    if found := [*list_adapters(model), *list_copies(model)]:
        raise ValueError(
            f"{found[0]!r} of {type(model).__name__} has an adapter, which changes the names of its weights: save the "
            "`PeftModel`, or first call `merge_and_unload` of it."
        )


def _list_modules_of_peft(module: nn.Module, attribute: str) -> list[str]:
    # The name of the library is compared, since peft need not be installed.
    return [
        name
        for name, part in module.named_modules()
        if type(part).__module__.startswith("peft.") and hasattr(part, attribute)
    ]


def keep_adapters_out(model: nn.Module, configs: dict[str, Any]) -> None:
    """
    Removes the adapters that peft has put into the visual tokenizer and the visual adapter of `model`, and freezes the
    visual tokenizer. The configurations of peft then tell that there are none, also where an adapter is saved.

    Args:
        model (`nn.Module`): A LaVIT with adapters.
        configs (`dict[str, PeftConfig]`): Their configurations.

    Raises:
        ValueError: If tokens activate an adapter, if no adapter is left, if `modules_to_save` name a part of the
            visual tokenizer, or if adapters have changed the weights of the layers that they are removed from.
    """
    for config in configs.values():
        if (invocation := getattr(config, "alora_invocation_tokens", None)) is not None:
            raise ValueError(
                f"alora_invocation_tokens must be None, got {invocation}: peft counts positions before images are "
                "expanded."
            )
    names = list_adapters(model)
    visual = [name for name in names if re.fullmatch(VISUAL_PARTS, name)]
    copies = [name for name in list_copies(model) if re.fullmatch(VISUAL_TOKENIZER, name)]
    if copies:
        saved = [config.modules_to_save for config in configs.values()]
        raise ValueError(
            f"modules_to_save={saved} name {copies[0]!r}, but training a part of the visual tokenizer would change "
            "the codes of images."
        )
    for adapter, config in configs.items():
        initialization = getattr(config, "init_lora_weights", True)
        kept = str(initialization).lower() in KEEPS_WEIGHTS
        if not kept and any(adapter in getattr(model.get_submodule(name), "lora_A", ()) for name in visual):
            raise ValueError(
                f"init_lora_weights={initialization!r} has changed the weights of {visual[0]!r}, which gets no "
                f"adapter: load the model again, and set exclude_modules={VISUAL_PARTS!r} in the configuration."
            )
    for name in reversed(visual):  # inner layers first
        model.set_submodule(name, model.get_submodule(name).get_base_layer())
    if visual and visual == names:
        targets = [config.target_modules for config in configs.values()]
        raise ValueError(
            f"Adapters are put into the language model alone, which target_modules={targets} do not name."
        )
    for name, parameter in model.named_parameters():
        if re.fullmatch(VISUAL_TOKENIZER, name):
            parameter.requires_grad_(False)  # for `bias="all"`
    for config in configs.values() if visual else ():
        if not hasattr(config, "exclude_modules"):
            continue  # a method without this option, whose adapters are removed again when they are loaded
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
