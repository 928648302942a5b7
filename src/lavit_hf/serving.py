# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A LaVIT as the server of transformers takes it."""

import torch
from transformers import AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from .modeling import LavitConfig, LavitForCausalLM


class ServedLavit(LavitForCausalLM):
    """A LaVIT whose `generate` repeats prompts as they were given: the server cuts off as many ids as it sent."""

    def generate(self, inputs=None, *args, streamer=None, **kwargs):
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        new_ids = super().generate(inputs, *args, streamer=streamer, return_full_text=False, **kwargs)
        return torch.cat([prompt, new_ids], dim=1)


def register_served_lavit() -> None:
    """Has the server, which looks models up with `AutoModelForMultimodalLM`, find this one."""
    AutoModelForMultimodalLM.register(LavitConfig, ServedLavit, exist_ok=True)
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[LavitConfig.model_type] = ServedLavit.__name__
