# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""From hidden states to logits: what language models do beyond a linear layer."""

import torch
from torch import nn

from .configuration_lavit import LavitConfig


def all_logits(head: nn.Module, hidden_states: torch.Tensor, config: LavitConfig) -> torch.Tensor:
    """Hidden states (..., d) -> logits (..., vocab_size)."""
    return _scale(head(hidden_states), config.text_config)


def _scale(logits: torch.Tensor, text_config) -> torch.Tensor:
    # Cohere, Granite, Gemma 2
    if (scale := getattr(text_config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scaling := getattr(text_config, "logits_scaling", None)) is not None:
        logits = logits / scaling
    if (cap := getattr(text_config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
