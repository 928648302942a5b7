# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The base class of all models of LaVIT."""

import re
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import chain

import torch
from transformers import PreTrainedModel

from .freezing_lavit import is_trained
from .optional_mixins_lavit import LavitPublishingMixin
from .precision_lavit import HALF_DTYPES, ROTARY_TABLES


class LavitPreTrainedModel(LavitPublishingMixin, PreTrainedModel):
    """
    Base class of all models of LaVIT. Beside what a [`LavitPublishingMixin`] saves and loads, it keeps two promises.

    Submodules named in `_frozen_parts` require no gradients when a model is built or loaded. They stay in evaluation
    mode until one of their parameters requires a gradient.

    Some tensors stay float32 when a model is cast to half precision. They are the tables of rotary positions and the
    tensors named in `_keep_in_fp32_modules_strict` of the model and its backbones, which transformers respects only in
    `from_pretrained`.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["LavitBlock"]
    _keep_in_fp32_modules_strict = ["codebook$", "feature_mean$", "feature_transform$"]
    _frozen_parts: tuple[str, ...] = ()

    @classmethod
    def is_custom_code(cls) -> bool:
        """Returns False, as for the models of transformers, since `_init_weights` leaves loaded weights alone."""
        # If it were True, transformers would not initialize the buffers that a backbone fills in its children, as
        # Falcon-H1 does.
        return False

    # Frozen parts

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading replaces frozen parameters by new ones.
        for module in (loaded[0] if isinstance(loaded, tuple) else loaded).modules():
            if isinstance(module, LavitPreTrainedModel):
                module._freeze()
        return loaded

    def post_init(self):
        super().post_init()
        self._freeze()

    def _freeze(self) -> None:
        for name in self._frozen_parts:
            getattr(self, name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True):
        """Same arguments as `torch.nn.Module.train`. Frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in (getattr(self, name) for name in self._frozen_parts):
            if not is_trained(part):
                part.eval()
        return self

    # Float32 tensors

    def _float32_names(self) -> re.Pattern:
        patterns = [pattern.replace("*", ".*") for pattern in self._keep_in_fp32_modules_strict or ()]
        return re.compile("|".join([*patterns, ROTARY_TABLES]))

    def widest_dtype(self) -> torch.dtype | None:
        """
        Returns the narrowest dtype that holds all parameters without rounding, apart from those that are always
        float32. `dtype` is only the dtype of the first parameter.
        """
        pattern = self._float32_names()
        parameters = ((name, parameter) for name, parameter in self.named_parameters() if not pattern.search(name))
        dtypes = {parameter.dtype for _, parameter in parameters if parameter.is_floating_point()}
        return reduce(torch.promote_types, dtypes) if dtypes else None

    # A private method of torch, in which `to`, `half`, `type` and the casts of enclosing modules all end.
    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True):
        pattern = self._float32_names()
        tensors = chain(self.named_parameters(), self.named_buffers())
        kept = [tensor for name, tensor in tensors if tensor.is_floating_point() and pattern.search(name)]
        kept_ids = {id(part) for tensor in kept for part in (tensor, tensor.grad)}

        def apply(tensor: torch.Tensor) -> torch.Tensor:
            applied = fn(tensor)
            is_rounded = applied.dtype in HALF_DTYPES and tensor.dtype not in HALF_DTYPES
            if is_rounded and id(tensor) in kept_ids:
                return tensor.to(applied.device, torch.float32)
            return applied

        return super()._apply(apply, recurse)


def check_none_missing(name: str, missing: Sequence[str]) -> None:
    """Raises a `ValueError` if the files of the part `name` lack the weights `missing`, which would have no values."""
    if missing:
        raise ValueError(f"The files of {name} lack {len(missing)} of its weights, such as {missing[0]}.")
