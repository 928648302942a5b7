# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Dtypes, and the tensors that stay float32, since rounding them would change codes or positions."""

import torch


HALF_DTYPES = (torch.float16, torch.bfloat16)
# The buffers of rotary positions in transformers: `inv_freq`, `original_inv_freq`, `full_attention_inv_freq`, and the
# tables of CodeGen and GPT-J.
ROTARY_TABLES = r"(inv_freq|rotary_emb\.embed_positions)$"


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
