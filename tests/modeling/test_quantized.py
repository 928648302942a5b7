# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Quantized and offloaded loading: smaller, and still what it was."""

import torch
from torchao.quantization import Int8WeightOnlyConfig
from torchao.utils import TorchAOBaseTensor
from transformers import TorchAoConfig

from lavit_hf import LavitForCausalLM, demo_checkpoint


def quantized_weights(model) -> set[str]:
    return {name for name, weight in model.named_parameters() if isinstance(weight, TorchAOBaseTensor)}


@torch.no_grad()
def test_int8(demo):
    model, processor, _ = demo
    small = LavitForCausalLM.from_pretrained(
        demo_checkpoint(), quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    assert quantized_weights(small)
    assert all("language_model.layers" in name for name in quantized_weights(small))
    inputs = processor(text="a large red circle at the top left", return_tensors="pt")
    difference = (small(**inputs).logits - model(**inputs).logits).abs().max()
    assert 0 < difference < 0.5
