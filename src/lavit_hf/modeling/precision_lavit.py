# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Float32 islands: tensors whose rounding would change codes or positions stay float32 through every cast."""

import re
from collections.abc import Callable
from functools import reduce
from itertools import chain
from typing import Any

import torch


HALF_DTYPES = (torch.float16, torch.bfloat16)
# Buffers of rotary positions in transformers' models: `inv_freq`, `original_inv_freq`, `full_attention_inv_freq`, and
# the tables of CodeGen and GPT-J.
ROTARY_TABLES = r"(inv_freq|rotary_emb\.embed_positions)$"


class LavitFloat32Mixin:
    """
    A `PreTrainedModel` that keeps some of its tensors in float32 when it is cast to a half precision: those named in
    `_keep_in_fp32_modules_strict`, its own and its backbones', which transformers respects in `from_pretrained` alone,
    and the tables of rotary positions.
    """

    named_parameters: Callable[..., Any]
    named_buffers: Callable[..., Any]
    _keep_in_fp32_modules_strict: Any

    def _kept_names(self) -> re.Pattern:
        patterns = [pattern.replace("*", ".*") for pattern in self._keep_in_fp32_modules_strict or ()]
        return re.compile("|".join([*patterns, ROTARY_TABLES]))

    def widest_dtype(self) -> torch.dtype | None:
        """
        Returns the dtype that holds all parameters without rounding, apart from those that are float32 always. `dtype`
        is that of the first parameter alone.
        """
        pattern = self._kept_names()
        parameters = ((name, parameter) for name, parameter in self.named_parameters() if not pattern.search(name))
        dtypes = {parameter.dtype for _, parameter in parameters if parameter.is_floating_point()}
        return reduce(torch.promote_types, dtypes) if dtypes else None

    # A private hook of torch, because `to`, `half`, `type` and the casts of any module around this one all end in it.
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
    """Raises the ValueError of a tensor that was rounded by something that casts tensors one by one."""
    if tensor.dtype in HALF_DTYPES:
        raise ValueError(
            f"{name} must be float32, got {tensor.dtype}. Cast the whole model with `to`, or load it in a dtype with "
            "`from_pretrained`: both leave it as it is."
        )


def read_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """
    The floating-point dtype that is meant by itself or by its name; None for None and `"auto"`.

    Raises:
        ValueError: anything else.
    """
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype of torch, its name or 'auto', got {dtype!r}.")
    return found
