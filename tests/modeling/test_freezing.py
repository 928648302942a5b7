# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Parts are frozen once, when a model is made or loaded; afterwards the user decides what is trained."""

import copy

import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from peft import get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, CLIPVisionConfig

from lavit_hf import LavitForCausalLM, LavitVisualTokenizer, LavitVisualTokenizerForPreTraining
from lavit_hf.training import lora_config

from ..tiny import CODEBOOK_SIZE, IMAGE_END, IMAGE_START, PLACEHOLDER, VISION, loosen, pictures, tiny_lavit


IDS = torch.tensor([[IMAGE_START, PLACEHOLDER, IMAGE_END, 5, 6]])


def stage_one() -> LavitVisualTokenizerForPreTraining:
    torch.manual_seed(0)
    config = CLIPVisionConfig(**VISION)
    model = LavitVisualTokenizerForPreTraining.from_vision_tower(
        config, codebook_size=CODEBOOK_SIZE, num_merger_layers=1
    )
    return loosen(model, 0.1)


def trained(module: torch.nn.Module) -> set[bool]:
    return {parameter.requires_grad for parameter in module.parameters()}


def frozen_part(model) -> torch.nn.Module:
    return {
        LavitForCausalLM: lambda: model.model.visual_tokenizer,
        LavitVisualTokenizer: lambda: model.vision_tower,
        LavitVisualTokenizerForPreTraining: lambda: model.visual_tokenizer.vision_tower,
    }[type(model)]()


def reload(model, folder, **kwargs):
    model.save_pretrained(folder)
    loaded = type(model).from_pretrained(folder, **kwargs)
    return loaded[0] if isinstance(loaded, tuple) else loaded


def dispatch(model, folder):
    model.save_pretrained(folder)
    with init_empty_weights():
        empty = type(model)(AutoConfig.from_pretrained(folder))
    return load_checkpoint_and_dispatch(empty, folder, device_map={"": "cpu"})


MAKERS = {
    "from_backbones": lambda folder: tiny_lavit(),
    "lavit": lambda folder: LavitForCausalLM(tiny_lavit().config),
    "tokenizer": lambda folder: LavitVisualTokenizer(tiny_lavit().config.visual_tokenizer_config),
    "stage_one": lambda folder: stage_one(),
    "loaded_lavit": lambda folder: reload(tiny_lavit(), folder),
    "loaded_lavit_with_info": lambda folder: reload(tiny_lavit(), folder, output_loading_info=True),
    "loaded_tokenizer": lambda folder: reload(tiny_lavit().model.visual_tokenizer, folder),
    "loaded_stage_one": lambda folder: reload(stage_one(), folder),
    "dispatched": lambda folder: dispatch(tiny_lavit(), folder),
    "copied": lambda folder: copy.deepcopy(tiny_lavit()),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_frozen_from_the_beginning(tmp_path, maker):
    model = MAKERS[maker](tmp_path)
    part = frozen_part(model)
    assert trained(part) == {False}
    assert trained(model) == {True, False}
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is mode
        assert not any(module.training for module in part.modules())
        assert trained(part) == {False}


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM])
def test_auto_classes_freeze(tmp_path, auto_class):
    tiny_lavit().save_pretrained(tmp_path)
    model = auto_class.from_pretrained(tmp_path).train()
    (tokenizer,) = (module for module in model.modules() if isinstance(module, LavitVisualTokenizer))
    assert trained(tokenizer) == {False}
    assert not tokenizer.training


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_unfrozen_stays_so(tmp_path, maker):
    model = MAKERS[maker](tmp_path)
    part = frozen_part(model)
    part.requires_grad_(True)
    for mode in (True, False, True):
        model.train(mode)
        assert trained(part) == {True}
        assert {module.training for module in part.modules()} == {mode}


def test_a_tower_that_is_unfrozen_learns_in_stage_one():
    model = stage_one()
    tower = model.visual_tokenizer.vision_tower
    tower.encoder.layers[-1].requires_grad_(True)
    model.train()
    model(pictures(4)).loss.backward()
    gradients = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
    assert gradients == {name for name, _ in tower.named_parameters() if name.startswith("encoder.layers.1.")}


def test_a_tower_that_is_unfrozen_learns_to_be_read():
    model = tiny_lavit()
    expected = model(IDS, pictures(1), labels=IDS)
    tokenizer = model.model.visual_tokenizer
    tokenizer.vision_tower.requires_grad_(True)
    outputs = model.train()(IDS, pictures(1), labels=IDS)
    # Codes are those of inference, also where a part of the tokenizer is in training mode.
    assert torch.equal(outputs.sequences.input_ids, expected.sequences.input_ids)
    outputs.loss.backward()
    assert tokenizer.vision_tower.encoder.layers[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert tokenizer.merger.norm.weight.grad is None


def test_a_frozen_tower_costs_no_graph():
    """Also where an adapter with gradient checkpointing asks for gradients of every embedding."""
    model = tiny_lavit()
    model.enable_input_require_grads()
    tokenizer = model.model.visual_tokenizer
    assert not tokenizer.encode_vision(pictures(1)).requires_grad
    assert not model.train().model.get_image_features(pictures(1)).last_hidden_state.requires_grad


def test_lora_trains_adapters_alone():
    model = tiny_lavit()
    lora = get_peft_model(model, lora_config(model)).train()
    assert all("lora_" in name for name, parameter in lora.named_parameters() if parameter.requires_grad)
    assert not model.model.visual_tokenizer.training
    assert model.model.language_model.training


@pytest.mark.parametrize("part", ["vision_tower", "vision_tower.encoder.layers.1.mlp.fc1"])
@pytest.mark.parametrize("inner", [False, True], ids=["with_head", "without_head"])
def test_a_trained_tower_refuses_features_without_gradients(part, inner):
    model = tiny_lavit()
    tokenizer = model.model.visual_tokenizer
    tokenizer.get_submodule(part).requires_grad_(True)
    called = model.model if inner else model
    with torch.no_grad():
        given = {"input_ids": IDS, "vision_features": tokenizer.encode_vision(pictures(1))}
        called.train()(**given)
    called.eval()(**given)
    for pixels in ({}, {"pixel_values": pictures(1)}):
        with pytest.raises(ValueError, match="vision_features .*vision tower.* pixel_values"):
            called.train()(**given, **pixels)


@pytest.mark.parametrize("part", ["visual_adapter", "language_model", "visual_tokenizer.selector"])
def test_parts_behind_the_features_learn_from_them(part):
    """Gradients are those of the images themselves."""
    model = tiny_lavit().requires_grad_(False)
    model.model.get_submodule(part).requires_grad_(True)
    model.model.visual_adapter.projection.requires_grad_(True)
    model.train()
    gradients = []
    features = model.model.visual_tokenizer.encode_vision(pictures(1))
    for given in ({"pixel_values": pictures(1)}, {"vision_features": features}):
        model.zero_grad()
        model(IDS, labels=IDS, **given).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert "model.visual_adapter.projection.weight" in gradients[0]
    torch.testing.assert_close(gradients[0], gradients[1])
