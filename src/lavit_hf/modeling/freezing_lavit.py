# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Parts that are frozen when a model is made or loaded, until the user decides otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.utils import logging


logger = logging.get_logger(__name__)


def is_trained(module: nn.Module) -> bool:
    """Whether any parameter of a module requires a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def find_trained_adapter(module: nn.Module) -> str | None:
    """The name of the first layer in `module` that peft has put there and that is trained."""
    for name, part in module.named_modules():
        # By the name of its library, which need not be installed.
        if type(part).__module__.startswith("peft.") and is_trained(part):
            return name
    return None


def warn_of_trained_adapter(visual_tokenizer: nn.Module) -> None:
    """Warns of an adapter that changes codes in training, say by `target_modules="all-linear"`."""
    if (name := find_trained_adapter(visual_tokenizer)) is not None:
        logger.warning_once(
            f"An adapter is trained in the visual tokenizer, in {name!r}. It changes the codes of images, which a "
            "tokenized dataset then no longer fits. exclude_modules=r'.*visual_tokenizer\\..*' leaves it out."
        )


def gradients_where_trained(module: nn.Module) -> torch.set_grad_enabled:
    """A context in which a graph is recorded only if something in `module` is trained."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(module))


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """A context in which modules are in evaluation mode. On leaving, each part of them is in the mode it was in."""
    # Part by part: a model in training may well have frozen parts in evaluation mode.
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


class LavitFreezingMixin:
    """
    A `PreTrainedModel` whose `_frozen_parts`, names of submodules, require no gradients from the beginning. While
    nothing in such a part is trained, it stays in evaluation mode.
    """

    training: bool
    _frozen_parts: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc] # of PreTrainedModel
        # Loading puts new parameters in the place of frozen ones.
        for module in (loaded[0] if isinstance(loaded, tuple) else loaded).modules():
            if isinstance(module, LavitFreezingMixin):
                module._freeze()
        return loaded

    def post_init(self):
        super().post_init()  # type: ignore[misc]
        self._freeze()

    def _freeze(self) -> None:
        for name in self._frozen_parts:
            getattr(self, name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True):
        """As `torch.nn.Module.train`, but what is frozen stays in evaluation mode."""
        super().train(mode)  # type: ignore[misc]
        for part in (getattr(self, name) for name in self._frozen_parts):
            if not is_trained(part):
                part.eval()
        return self
