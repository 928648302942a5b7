# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Logits from hidden states: the head of the language model, and the scales and caps of some language models."""

import torch
from torch import nn

from .configuration_lavit import LavitConfig


# Attributes of text configurations. `from_backbones` refuses a language model that does something else with them.
FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, MiniCPM3; Inkling
CAP = "final_logit_softcapping"  # Gemma


def all_logits(head: nn.Module, hidden_states: torch.Tensor, config: LavitConfig) -> torch.Tensor:
    """Computes the logits (..., vocab_size) of hidden states (..., hidden_size)."""
    return _scale(head(hidden_states), config.text_config)


def _scale(logits: torch.Tensor, text_config) -> torch.Tensor:
    """Scales and caps logits as the causal language models do whose configuration has one of these attributes."""
    for name in FACTORS:
        if (factor := getattr(text_config, name, None)) is not None:
            logits = logits * factor
    for name in DIVISORS:
        if (divisor := getattr(text_config, name, None)) is not None:
            logits = logits / divisor
    if (cap := getattr(text_config, CAP, None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
