# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tensors that stay float32 when a model is cast, since rounding them would change codes or positions."""

import re
from collections.abc import Callable
from functools import reduce
from itertools import chain
from typing import Any

import torch


HALF_DTYPES = (torch.float16, torch.bfloat16)
# The buffers of rotary positions in transformers: `inv_freq`, `original_inv_freq`, `full_attention_inv_freq`, and the
# tables of CodeGen and GPT-J.
ROTARY_TABLES = r"(inv_freq|rotary_emb\.embed_positions)$"


class LavitFloat32Mixin:
    """
    A `PreTrainedModel` that keeps some tensors in float32 when it is cast to half precision. They are the tables of
    rotary positions and the tensors named in `_keep_in_fp32_modules_strict` of the model and its backbones, which
    transformers respects only in `from_pretrained`.
    """

    named_parameters: Callable[..., Any]
    named_buffers: Callable[..., Any]
    _keep_in_fp32_modules_strict: Any

    def _kept_names(self) -> re.Pattern:
        patterns = [pattern.replace("*", ".*") for pattern in self._keep_in_fp32_modules_strict or ()]
        return re.compile("|".join([*patterns, ROTARY_TABLES]))

    def widest_dtype(self) -> torch.dtype | None:
        """
        Returns the narrowest dtype that holds all parameters without rounding, apart from those that are always
        float32. `dtype` is only the dtype of the first parameter.
        """
        pattern = self._kept_names()
        parameters = ((name, parameter) for name, parameter in self.named_parameters() if not pattern.search(name))
        dtypes = {parameter.dtype for _, parameter in parameters if parameter.is_floating_point()}
        return reduce(torch.promote_types, dtypes) if dtypes else None

    # A private method of torch, in which `to`, `half`, `type` and the casts of enclosing modules all end.
    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True):
        pattern = self._kept_names()
        tensors = chain(self.named_parameters(), self.named_buffers())
        kept = [tensor for name, tensor in tensors if tensor.is_floating_point() and pattern.search(name)]
        kept_ids = {id(part) for tensor in kept for part in (tensor, tensor.grad)}

        def apply(tensor: torch.Tensor) -> torch.Tensor:
            applied = fn(tensor)
            is_rounded = applied.dtype in HALF_DTYPES and tensor.dtype not in HALF_DTYPES
            if is_rounded and id(tensor) in kept_ids:
                return tensor.to(applied.device, torch.float32)
            return applied

        return super()._apply(apply, recurse)  # type: ignore[misc] # of torch.nn.Module


def require_float32(name: str, tensor: torch.Tensor) -> None:
    """Raises a `ValueError` for a tensor in half precision, which the casts of a model leave in float32."""
    if tensor.dtype in HALF_DTYPES:
        raise ValueError(
            f"{name} must be float32, got {tensor.dtype}. Cast the model with `to`, or load it with the dtype "
            f"argument of `from_pretrained`: both leave {name} in float32."
        )


def read_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """
    Returns the floating-point dtype given by itself or by its name, or None for None and `"auto"`.

    Raises:
        ValueError: If `dtype` is anything else.
    """
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype of torch, its name or 'auto', got {dtype!r}.")
    return found
