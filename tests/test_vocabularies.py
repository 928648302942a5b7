# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A model with a processor or a pixel decoder that do not mean the same by an id or a code."""

import pytest
import torch
from PIL import Image
from transformers import TrainingArguments

from lavit_hf import Conversation, LavitForCausalLM, LavitProcessor
from lavit_hf.evaluation import evaluate
from lavit_hf.processing import extend_tokenizer
from lavit_hf.training.collator import LavitCollator
from lavit_hf.training.language_trainer import LavitForCausalLMTrainer

from .tiny import text_tokenizer


def test_a_processor_of_another_vocabulary_is_refused_where_it_meets_a_model(demo, tmp_path):
    model, processor, pipe = demo
    other = LavitProcessor(
        processor.image_processor, extend_tokenizer(text_tokenizer(), processor.codebook_size), processor.chat_template
    )
    args = TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    meetings = [
        lambda: Conversation(model, other, pipe),
        lambda: evaluate(model, other, None, [{"image": Image.new("RGB", (8, 8)), "caption": "red"}]),
        lambda: model.save_pretrained(tmp_path / "saved", processor=other),
        lambda: LavitForCausalLMTrainer(model, args, data_collator=LavitCollator(other, model.config.num_patches)),
    ]
    for meet in meetings:
        with pytest.raises(ValueError, match=f"the model at id {model.config.image_start_token_id}"):
            meet()
    assert not (tmp_path / "saved").exists()


@pytest.fixture
def other_codebook(demo, monkeypatch):
    """The small model, whose codebook has another order than that of its pixel decoder."""
    quantizer = demo[0].model.visual_tokenizer.quantizer
    monkeypatch.setitem(quantizer._buffers, "codebook", quantizer.codebook.flip(0))
    return demo


def test_a_pixel_decoder_of_another_codebook_is_refused_where_it_meets_a_model(other_codebook, command_line, tmp_path):
    model, processor, pipe = other_codebook
    model.save_pretrained(tmp_path / "mixed", processor=processor)
    pipe.save_pretrained(tmp_path / "mixed")
    loaded = LavitForCausalLM.from_pretrained(tmp_path / "mixed")
    changed = LavitForCausalLM.from_pretrained(tmp_path / "mixed")
    changed.image_decoder = pipe
    ids = torch.tensor([[model.config.visual_token_offset]])
    meetings = [
        lambda: Conversation(model, processor, pipe),
        lambda: evaluate(model, processor, pipe, "shapes", num_samples=1),
        lambda: model.save_pretrained(tmp_path / "saved", image_decoder=pipe),
        lambda: loaded.image_decoder,
        lambda: changed.decode_image_tokens(ids),
    ]
    for meet in meetings:
        with pytest.raises(ValueError, match="the pixel decoder was trained for other codes"):
            meet()
    assert not (tmp_path / "saved").exists()
    assert evaluate(model, processor, pipe, "shapes", num_samples=1, tasks=["captions"]).results
    code, _, error = command_line("draw", "a star", "--model", tmp_path / "mixed", "--output", tmp_path / "star.png")
    assert code == 1
    assert "the pixel decoder was trained for other codes" in error
