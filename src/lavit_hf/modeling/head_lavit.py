# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Logits from hidden states: the head of the language model, with the scales and caps that some of them have."""

import torch
from torch import nn

from .configuration_lavit import LavitConfig


# Attributes of text configurations. `from_backbones` refuses a language model that gives them another meaning.
FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, MiniCPM3; Inkling
CAP = "final_logit_softcapping"  # Gemma


def all_logits(head: nn.Module, hidden_states: torch.Tensor, config: LavitConfig) -> torch.Tensor:
    """
    Computes the logits (..., vocab_size) of hidden states (..., hidden_size), with the scales and the cap of the
    language model.
    """
    logits = head(hidden_states)
    for name in FACTORS:
        if (factor := getattr(config.text_config, name, None)) is not None:
            logits = logits * factor
    for name in DIVISORS:
        if (divisor := getattr(config.text_config, name, None)) is not None:
            logits = logits / divisor
    if (cap := getattr(config.text_config, CAP, None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
