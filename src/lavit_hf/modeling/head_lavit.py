# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""From hidden states to logits: what language models do beyond a linear layer, and codes alone where they suffice."""

import torch
from torch import nn

from .configuration_lavit import LavitConfig


# No probability in any dtype, yet finite whatever the temperature: rows that have ended have nothing else.
UNCOMPUTED_LOGIT = -1.0e4


def all_logits(head: nn.Module, hidden_states: torch.Tensor, config: LavitConfig) -> torch.Tensor:
    """Hidden states (..., d) -> logits (..., vocab_size)."""
    return _scale(head(hidden_states), config.text_config)


def is_plain(head: nn.Module) -> bool:
    """Whether a head is its weights alone: no adapter around it, not quantized, not kept elsewhere."""
    return type(head) is nn.Linear and type(head.weight.data) is torch.Tensor and not hasattr(head, "_hf_hook")


def code_logits(head: nn.Linear, hidden_states: torch.Tensor, config: LavitConfig) -> torch.Tensor:
    """As [`all_logits`], but of `[/IMG]` and the codes behind it alone: others are [`UNCOMPUTED_LOGIT`]."""
    rows = slice(config.image_end_token_id, config.image_end_token_id + 1 + config.codebook_size)
    bias = None if head.bias is None else head.bias[rows]
    logits = _scale(nn.functional.linear(hidden_states, head.weight[rows], bias), config.text_config)
    behind = head.out_features - rows.stop
    return nn.functional.pad(logits, (rows.start, behind), value=UNCOMPUTED_LOGIT)


def _scale(logits: torch.Tensor, text_config) -> torch.Tensor:
    # Cohere, Granite, Gemma 2
    if (scale := getattr(text_config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scaling := getattr(text_config, "logits_scaling", None)) is not None:
        logits = logits / scaling
    if (cap := getattr(text_config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
