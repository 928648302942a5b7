# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Label smoothing in transformers' own Trainer, which knows a causal language model by the name of its class."""

import copy

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaForCausalLM, Trainer, TrainingArguments
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from lavit_hf.training import LavitForCausalLMTrainer, lora_config

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
    """The Llama reads the codes that the model reads with `image_inputs="codes"`."""
    model = tiny_lavit()
    tokens = model.model.visual_tokenizer(pictures(1))
    codes = (tokens.codes + VISUAL_OFFSET).tolist()
    real = torch.tensor([[5, 6, IMAGE_START, *codes, IMAGE_END, 7, 8]])
    placed = torch.tensor([[5, 6, IMAGE_START, *[PLACEHOLDER] * len(codes), IMAGE_END, 7, 8]])
    expected = smoothed_loss(llama_of(model), tmp_path, {"input_ids": real, "labels": real})
    given = {"input_ids": placed, "pixel_values": pictures(1), "image_inputs": "codes", "labels": real}
    assert smoothed_loss(model, tmp_path, given) == pytest.approx(expected, abs=1e-5)


def train_one_step(model, folder, inputs: dict, **kwargs) -> None:
    """In transformers' own Trainer, which takes the labels away from the model before it runs."""
    args = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to="none",
        max_steps=1,
        remove_unused_columns=False,
        disable_tqdm=True,
        **kwargs,
    )
    Trainer(model, args, train_dataset=[0], data_collator=lambda rows: dict(inputs)).train()


@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_one_placeholder_for_an_image_is_refused(tmp_path, step):
    """The model makes the sequence longer than its labels, which it is not given."""
    ids = torch.tensor([[5, IMAGE_START, PLACEHOLDER, IMAGE_END, 6]])
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", label_smoothing_factor=0.1)
    args.remove_unused_columns = False
    inputs = {"input_ids": ids, "pixel_values": pictures(1), "labels": ids}
    trainer = Trainer(tiny_lavit(), args, train_dataset=[0], eval_dataset=[0], data_collator=lambda rows: dict(inputs))
    with pytest.raises(ValueError, match="one placeholder for each code.*label_smoothing_factor"):
        getattr(trainer, step)()


def test_labels_of_expanded_images(tmp_path, caplog):
    """The model does not see whether they are codes, and warns; `expand_images` makes them."""
    logger = logging.get_logger("lavit_hf.modeling.expansion_lavit")
    logger.warning_once.cache_clear()
    logger.addHandler(caplog.handler)
    model = tiny_lavit()
    tokens = model.model.visual_tokenizer(pictures(1))
    placed = torch.tensor([[5, 6, IMAGE_START, *[PLACEHOLDER] * len(tokens.codes), IMAGE_END, 7, 8]])
    given = {"input_ids": placed, "pixel_values": pictures(1)}
    labels = model.model.expand_images(**given, labels=placed).labels
    assert torch.equal(labels[labels != placed], tokens.codes + VISUAL_OFFSET)
    train_one_step(model, tmp_path, given | {"labels": labels}, label_smoothing_factor=0.1)
    assert "labels of images must be their codes or -100" in caplog.text
    logger.removeHandler(caplog.handler)


def test_our_trainer_refuses_to_smooth(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="label_smoothing_factor must be 0, got 0.1"):
        LavitForCausalLMTrainer(tiny_lavit(), args)


def test_our_trainer_refuses_another_loss(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="compute_loss_func must be None, got <function"):
        LavitForCausalLMTrainer(tiny_lavit(), args, compute_loss_func=lambda outputs, labels, num_items_in_batch: 0)


@pytest.mark.parametrize("table", ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"])
def test_the_tables_of_names_are_where_they_were(table):
    """A failure says that transformers moved a table, which `modeling/modeling_lavit.py` writes to."""
    names = getattr(modeling_auto, table)
    assert names["lavit"] == "LavitForCausalLM"
    assert names["llama" if "CAUSAL" in table else "gemma4"].endswith(("ForCausalLM", "ForConditionalGeneration"))
