# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Quantized and offloaded loading: smaller, and still what it was."""

import pytest
import torch
from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
from torchao.utils import TorchAOBaseTensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from lavit_hf import LavitForCausalLM, demo_checkpoint
from lavit_hf.modeling.interop_lavit import UNQUANTIZED, quantize_language_model_alone


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="packed int4 needs a GPU, and there is none")


def load(config, **kwargs) -> LavitForCausalLM:
    return AutoModelForCausalLM.from_pretrained(
        demo_checkpoint(), quantization_config=TorchAoConfig(**config), **kwargs
    )


def quantized_weights(model) -> set[str]:
    return {name for name, weight in model.named_parameters() if isinstance(weight, TorchAOBaseTensor)}


@torch.no_grad()
@pytest.mark.parametrize(
    ("weights", "device", "tolerance"),
    [
        pytest.param(Int8WeightOnlyConfig(), "cpu", 0.5, id="int8"),
        pytest.param(IntxWeightOnlyConfig(torch.int4, PerGroup(32)), "cpu", 5.0, id="int4-values"),
        pytest.param(Int4WeightOnlyConfig(32), "cuda", 5.0, id="int4-packed", marks=needs_gpu),
    ],
)
def test_weights_of_the_language_model_alone(demo, weights, device, tolerance):
    model, processor, _ = demo
    small = load({"quant_type": weights}, device_map=device, dtype="bfloat16" if device == "cuda" else "auto")
    names = quantized_weights(small)
    assert len(names) == 7 * model.config.text_config.num_hidden_layers
    assert all("language_model.layers" in name for name in names)
    inputs = processor(text="a large red circle at the top left", return_tensors="pt").to(small.device)
    difference = (small(**inputs).logits.cpu() - model(**inputs.to("cpu")).logits).abs().max()
    assert 0 < difference < tolerance
    drawn = small.generate(**inputs, generation_mode="image", guidance_scale=2.0)
    assert processor.decode_interleaved(drawn[0])[-1].complete


def test_what_a_configuration_says_itself_holds():
    given = {"quant_type": Int8WeightOnlyConfig(), "modules_to_not_convert": ["model.language_model"]}
    assert not [name for name in quantized_weights(load(given)) if "language_model" in name]
    assert quantize_language_model_alone(TorchAoConfig(**given)).modules_to_not_convert == ["model.language_model"]


def test_other_quantizers_call_it_otherwise():
    config = BitsAndBytesConfig(load_in_8bit=True)
    assert quantize_language_model_alone(config).llm_int8_skip_modules == list(UNQUANTIZED)
    assert config.llm_int8_skip_modules is None
    assert quantize_language_model_alone(config.to_dict()).llm_int8_skip_modules == list(UNQUANTIZED)


@torch.no_grad()
def test_offloaded_to_disk(demo, tmp_path):
    model, processor, _ = demo
    offloaded = LavitForCausalLM.from_pretrained(
        demo_checkpoint(), device_map="auto", max_memory={"cpu": "12MB"}, offload_folder=tmp_path
    )
    assert "disk" in offloaded.hf_device_map.values()
    inputs = processor(text=["a large red circle", "a blue star on the left"], return_tensors="pt")
    settings = {"generation_mode": "image", "guidance_scale": 2.0, "do_sample": False}
    assert torch.equal(offloaded.generate(**inputs, **settings), model.generate(**inputs, **settings))
