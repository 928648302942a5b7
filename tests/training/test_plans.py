# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Plans before drawings: how they are learned, written, left out and checked."""

import json
from functools import partial
from random import Random

import pytest
import torch
from pretrain import ModelArguments, read_plan_settings
from transformers import GenerationConfig

from lavit_hf import LavitForCausalLM
from lavit_hf.evaluation import EvaluationSettings, evaluate
from lavit_hf.inference import draw_codes, plan_drawings, prepare_prompts
from lavit_hf.processing.chat_lavit import turn_end_ids
from lavit_hf.training import LavitCollator, SequenceArguments, SequenceReader

from ..tiny import NUM_PATCHES
from .small import make_dataset, make_model, make_processor


def test_drawings_are_planned_if_a_plan_is_asked_for():
    """The library asks where a model has settings for plans. Prompts alone are drawn without a plan."""
    processor, dataset = make_processor(), make_dataset(3)
    plans = [row["caption"].replace(" above ", " ") for row in dataset]
    edited = [
        " ".join([row["instruction"].split()[-1], plan.split()[1]]) for row, plan in zip(dataset, plans, strict=True)
    ]
    rows = [row | {"plan": one, "after": other} for row, one, other in zip(dataset, plans, edited, strict=True)]
    model = make_model(processor).train()
    reader = partial(SequenceArguments, plan_column="plan", edited_plan_column="after", prompt_dropout=0.0)
    sequences = [
        SequenceReader(reader([f"{kind}=1"], plan_dropout=dropout)).compose(row, "row", Random(0))
        for row in rows
        for kind in ("draw", "edit")
        for dropout in (0.0, 1.0)
    ]
    batch = LavitCollator(processor, NUM_PATCHES)(sequences)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(120):
        model(**batch, skip_logits=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.eval()
    pixel_values = [
        processor.image_processor([row[name] for row in rows], return_tensors="pt")["pixel_values"]
        for name in ("image", "edited_image")
    ]
    drawn, changed = ([c.tolist() for c in model.model.visual_tokenizer(p).split()] for p in pixel_values)
    before = [[row["image"]] for row in rows]
    for settings in (None, {"max_new_tokens": 12}):
        model.generation_config.plan_generation = settings
        tasks = (("caption", None, plans, drawn), ("instruction", before, edited, changed))
        for column, images, expected, codes in tasks:
            texts = [row[column] for row in rows]
            prompts = [f"{text}\n{plan}\n" for text, plan in zip(texts, expected, strict=True)]
            assert plan_drawings(model, processor, texts, images) == (prompts if settings else texts)
            assert draw_codes(model, processor, texts, images, do_sample=False) == codes
    twice = draw_codes(model, processor, texts[:1], before[:1], num_return_sequences=2, do_sample=False)
    assert twice == changed[:1] * 2
    # A call may draw without plans, as the model does where a request alone is the prompt.
    inputs = prepare_prompts(processor, texts, before, generation_mode="image")
    ids = model.generate(**inputs, generation_mode="image", do_sample=False, return_full_text=False)
    expected = [processor.decode_interleaved(row)[0].codes for row in ids]
    assert draw_codes(model, processor, texts, before, plan_generation=False, do_sample=False) == expected
    # Line breaks of a request would end it.
    assert plan_drawings(model, processor, [f"{texts[0]}\n"], before[:1]) == prompts[:1]
    short = plan_drawings(model, processor, texts, before, plan_generation={"max_new_tokens": 1})
    assert all(len(one) < len(prompt) for one, prompt in zip(short, prompts, strict=True))


def test_settings_of_plans_are_saved_and_told(tmp_path):
    """An evaluation states the settings that it has used."""
    processor = make_processor()
    model = make_model(processor).eval()
    model.generation_config.plan_generation = {"max_new_tokens": 3}
    model.save_pretrained(tmp_path)
    model = LavitForCausalLM.from_pretrained(tmp_path)
    assert model.generation_config.plan_generation == {"max_new_tokens": 3}
    settings = {"tasks": ["captions"], "max_caption_tokens": 2}
    rows = list(make_dataset(1))
    assert evaluate(model, processor, None, rows, **settings).protocol["decoding"]["plans"] == {"max_new_tokens": 3}
    settings |= {"plan_generation": {"do_sample": True}}
    plans = evaluate(model, processor, None, rows, **settings).protocol["decoding"]["plans"]
    assert plans == {"max_new_tokens": 3, "do_sample": True}
    assert EvaluationSettings().plan_generation is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (48, "must be a dict with settings of a GenerationConfig, got 48"),
        (GenerationConfig(), "must be a dict with settings of a GenerationConfig, got GenerationConfig"),
        ({"max_new_tokenz": 12}, "got 'max_new_tokenz'"),
        ({"stop_strings": ["."]}, "without eos_token_id, num_return_sequences, stop_strings, got 'stop_strings'"),
        ({"num_return_sequences": 2}, "got 'num_return_sequences'"),
        ({"max_new_tokens": 0}, "max_new_tokens of plan_generation must be an integer of at least 1, got 0"),
    ],
    ids=str,
)
def test_wrong_settings_of_plans_are_refused_at_once(settings, message):
    model = make_model(make_processor())
    with pytest.raises(ValueError, match=message):
        model.generation_config.plan_generation = settings


def test_plans_go_with_all_drawings_or_with_none():
    for mixture, columns in (
        (["draw=1", "edit=1"], {"plan_column": "plan"}),
        (["draw=1", "edit=1"], {"edited_plan_column": "plan"}),
        (["caption=1"], {"plan_column": "plan"}),
    ):
        with pytest.raises(ValueError, match="Either all drawings have plans or none"):
            SequenceArguments(mixture, **columns)
    both = SequenceArguments(["draw=1", "edit=1"], plan_column="plan", edited_plan_column="after")
    assert both.plans == {"draw": "plan", "edit": "after"}
    assert both.only("edit").plans == {"edit": "after"}
    assert SequenceArguments(["caption=1", "draw=1"]).plans == {}


def test_rows_may_lack_plans_and_a_plan_is_one_line():
    reader = SequenceReader(SequenceArguments(["draw=1"], plan_column="plan", plan_dropout=0.0, prompt_dropout=0.0))
    row = {"caption": "two\nlines", "image_codes": [1, 2]}

    def texts(plan):
        return [getattr(part, "text", "image") for part in reader.compose(row | {"plan": plan}, "row 3", Random(0))]

    assert texts("a red star ") == ["two lines", "\n", "a red star\n", "image"]
    for plan in (None, "", []):
        assert texts(plan) == ["two\nlines", "image"]
    with pytest.raises(
        ValueError, match=r"row 3: A plan must be a single line, got '1\. star\\n2\. ring' in column 'plan'"
    ):
        texts("1. star\n2. ring")
    with pytest.raises(ValueError, match="kind 'draw' need a column 'plan'.*plan_column"):
        reader.select(make_dataset(1))


def test_a_model_that_learns_plans_is_saved_as_one_that_writes_them():
    def read(settings: dict, **columns):
        arguments = ModelArguments(model="folder", plan_generation=json.dumps(settings))
        return read_plan_settings(arguments, SequenceArguments(["draw=1"], **columns))

    assert read({}) is None
    assert read({}, plan_column="plan") == {}
    assert read({"do_sample": True}, plan_column="plan") == {"do_sample": True}
    with pytest.raises(
        ValueError, match="plan_generation needs a plan_column or an edited_plan_column, got {'do_sample'"
    ):
        read({"do_sample": True})


def test_a_turn_ends_with_every_token_that_ends_a_line():
    """Many tokenizers join a mark and a line break."""
    tokenizer = make_processor().tokenizer
    tokenizer.add_tokens([".\n"])
    joined = tokenizer.convert_tokens_to_ids(".\n")
    assert {joined, tokenizer.encode("\n", add_special_tokens=False)[-1]} <= set(turn_end_ids(tokenizer))
