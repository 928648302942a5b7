# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Quantized and offloaded loading: smaller, and still what it was."""

import inspect
from contextlib import suppress

import pytest
import torch
import transformers
from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
from torchao.utils import TorchAOBaseTensor
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from lavit_hf import LavitForCausalLM, demo_checkpoint
from lavit_hf.modeling.pretrained_language_lavit import EXCLUSIONS, UNQUANTIZED, quantize_language_model_alone

from ..tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, pictures, tiny_lavit


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
        pytest.param(
            Int4WeightOnlyConfig(32, int4_packing_format="tile_packed_to_4d"),
            "cuda",
            5.0,
            id="int4-packed",
            marks=needs_gpu,
        ),
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


def test_without_the_head_and_saved(tmp_path):
    """Names within a model are others without its head."""
    settings = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    for kind, prefix in ((AutoModelForCausalLM, "model."), (AutoModel, "")):
        model = kind.from_pretrained(demo_checkpoint(), **settings)
        names = quantized_weights(model)
        assert names
        assert all(name.startswith(f"{prefix}language_model.layers") for name in names)
        model.save_pretrained(tmp_path / kind.__name__)
        assert quantized_weights(kind.from_pretrained(tmp_path / kind.__name__)) == names


def test_other_quantizers_call_it_otherwise():
    config = BitsAndBytesConfig(load_in_8bit=True)
    assert quantize_language_model_alone(config).llm_int8_skip_modules == list(UNQUANTIZED)
    assert config.llm_int8_skip_modules is None
    assert quantize_language_model_alone(config.to_dict()).llm_int8_skip_modules == list(UNQUANTIZED)


def quantization_configs():
    """One of each kind of transformers that can be made without further libraries."""
    for name, kind in inspect.getmembers(transformers.utils.quantization_config, inspect.isclass):
        if issubclass(kind, QuantizationConfigMixin) and kind is not QuantizationConfigMixin:
            for arguments in ((), (4,), (Int8WeightOnlyConfig(),)):
                with suppress(Exception):  # of any kind, since an argument is missing or a library is
                    yield pytest.param(kind(*arguments), id=name)
                    break


@pytest.mark.parametrize("config", list(quantization_configs()))
def test_every_quantizer_leaves_parts_of_images_alone_or_is_refused(config):
    names = [name for name in EXCLUSIONS if hasattr(config, name)]
    if not names:
        with pytest.raises(ValueError, match=f"leave modules as they are, got {type(config).__name__}"):
            quantize_language_model_alone(config)
        return
    for name in names:
        assert set(UNQUANTIZED) <= set(getattr(quantize_language_model_alone(config), name))


@torch.no_grad()
@pytest.mark.parametrize("part", ["model.visual_tokenizer", "model.visual_adapter", "model.language_model", "lm_head"])
def test_each_part_can_be_offloaded(part, tmp_path):
    model = tiny_lavit()
    model.save_pretrained(tmp_path / "model")
    places = dict.fromkeys(
        ["model.visual_tokenizer", "model.visual_adapter", "model.language_model", "lm_head"], "cpu"
    )
    offloaded = LavitForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places | {part: "disk"}, offload_folder=tmp_path / "offloaded"
    )
    ids = torch.tensor([[5, IMAGE_START, PLACEHOLDER, IMAGE_END, 7, 8]])
    for settings in ({"max_new_tokens": 3}, {"generation_mode": "image", "guidance_scale": 2.0}):
        given = {"input_ids": ids, "pixel_values": pictures(1)} | settings
        assert torch.equal(offloaded.generate(**given), model.generate(**given))


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
