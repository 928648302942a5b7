# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Label smoothing in transformers' own Trainer, which knows a causal language model by the name of its class."""

import copy

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaForCausalLM, Trainer, TrainingArguments
from transformers.models.auto import modeling_auto

from lavit_hf.training.language_trainer import LavitForCausalLMTrainer
from lavit_hf.training.lora import lora_config

from ..tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, VISUAL_OFFSET, pictures, tiny_lavit


def smoothed_loss(model, folder, inputs: dict) -> float:
    args = TrainingArguments(str(folder), use_cpu=True, report_to="none", label_smoothing_factor=0.1)
    with torch.no_grad():
        return Trainer(model, args).compute_loss(model, dict(inputs)).item()


def llama_of(model) -> LlamaForCausalLM:
    """The Llama that has the language model's weights."""
    llama = LlamaForCausalLM(copy.deepcopy(model.config.text_config)).eval()
    llama.model.load_state_dict(model.model.language_model.state_dict())
    llama.lm_head.load_state_dict(model.lm_head.state_dict())
    return llama


@pytest.mark.parametrize("lora", [False, True])
def test_text_has_the_loss_of_a_llama(tmp_path, lora):
    model = tiny_lavit()
    llama = llama_of(model)
    ids = torch.tensor([[5, 6, 7, 8, IMAGE_START, VISUAL_OFFSET + 3, IMAGE_END], [9, 8, 7, 6, 5, 4, 3]])
    labels = ids.clone()
    labels[1, :2] = -100
    expected = smoothed_loss(llama, tmp_path, {"input_ids": ids, "labels": labels})
    logits = llama(ids).logits
    unshifted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1).item()
    shifted = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1
    ).item()
    assert expected == pytest.approx(shifted, abs=1e-5)
    assert abs(expected - unshifted) > 0.05
    if lora:
        model = get_peft_model(model, lora_config(model))
    assert smoothed_loss(model, tmp_path, {"input_ids": ids, "labels": labels}) == pytest.approx(expected, abs=1e-5)


def test_expanded_images_have_the_loss_of_a_llama(tmp_path):
    """Of the same sequences with codes, which are what the model reads with `image_inputs="codes"`."""
    model = tiny_lavit()
    tokens = model.model.visual_tokenizer(pictures(1))
    codes = (tokens.codes + VISUAL_OFFSET).tolist()
    real = torch.tensor([[5, 6, IMAGE_START, *codes, IMAGE_END, 7, 8]])
    placed = torch.tensor([[5, 6, IMAGE_START, *[PLACEHOLDER] * len(codes), IMAGE_END, 7, 8]])
    expected = smoothed_loss(llama_of(model), tmp_path, {"input_ids": real, "labels": real})
    given = {"input_ids": placed, "pixel_values": pictures(1), "image_inputs": "codes", "labels": real}
    assert smoothed_loss(model, tmp_path, given) == pytest.approx(expected, abs=1e-5)


def test_one_placeholder_for_an_image_is_no_input_of_the_smoother(tmp_path):
    """The model makes the sequence longer than its labels, which the smoother takes away before the model runs."""
    model = tiny_lavit()
    ids = torch.tensor([[5, IMAGE_START, PLACEHOLDER, IMAGE_END, 6]])
    with pytest.raises(RuntimeError, match="[Ss]ize|shape"):
        smoothed_loss(model, tmp_path, {"input_ids": ids, "pixel_values": pictures(1), "labels": ids})


def test_our_trainer_refuses_to_smooth(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="label_smoothing_factor must be 0, got 0.1"):
        LavitForCausalLMTrainer(tiny_lavit(), args)


@pytest.mark.parametrize("table", ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"])
def test_the_tables_of_names_are_where_they_were(table):
    """A failure says that transformers moved a table, which `modeling/names_lavit.py` writes to."""
    names = getattr(modeling_auto, table)
    assert names["lavit"] == "LavitForCausalLM"
    assert names["llama" if "CAUSAL" in table else "gemma4"].endswith(("ForCausalLM", "ForConditionalGeneration"))
