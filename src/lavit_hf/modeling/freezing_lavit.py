# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Parts of a model that are frozen when it is built or loaded, until a user trains them."""

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


class LavitFreezingMixin:
    """
    A `PreTrainedModel` whose submodules named in `_frozen_parts` require no gradients when it is built or loaded. They
    stay in evaluation mode until one of their parameters requires a gradient.
    """

    training: bool
    _frozen_parts: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc] # of PreTrainedModel
        # Loading replaces frozen parameters by new ones.
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
        """Same as `torch.nn.Module.train`, except that frozen parts stay in evaluation mode."""
        super().train(mode)  # type: ignore[misc]
        for part in (getattr(self, name) for name in self._frozen_parts):
            if not is_trained(part):
                part.eval()
        return self
