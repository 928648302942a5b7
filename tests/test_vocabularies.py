# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A model and a processor that do not mean the same by an id."""

import pytest
from PIL import Image
from transformers import TrainingArguments

from lavit_hf import Conversation, LavitProcessor
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
