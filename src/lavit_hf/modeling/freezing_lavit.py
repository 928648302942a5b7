# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Modules that are trained and modules that are frozen: their gradients, modes and adapters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.utils import logging


logger = logging.get_logger(__name__)


def is_trained(module: nn.Module) -> bool:
    """Returns whether any parameter of a module requires a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def find_trained_adapter(module: nn.Module) -> str | None:
    """Returns the name of the first trained layer of peft in `module`, or None."""
    for name, part in module.named_modules():
        # The name of the library is compared, since peft need not be installed.
        if type(part).__module__.startswith("peft.") and is_trained(part):
            return name
    return None


def warn_of_trained_adapter(visual_tokenizer: nn.Module) -> None:
    """Warns about an adapter that changes codes in training, as `target_modules="all-linear"` adds it."""
    if (name := find_trained_adapter(visual_tokenizer)) is not None:
        logger.warning_once(
            f"An adapter is trained in the visual tokenizer, in {name!r}. It changes the codes of images, so that "
            "precomputed codes no longer fit. exclude_modules=r'.*visual_tokenizer\\..*' leaves it out."
        )


def gradients_where_trained(module: nn.Module) -> torch.set_grad_enabled:
    """Returns a context in which a graph is recorded only if a parameter of `module` is trained."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(module))


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
