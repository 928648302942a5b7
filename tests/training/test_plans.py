# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Plans before drawings: how they are learned, written, left out and checked."""

import json
from functools import partial
from random import Random

import pytest
import torch
from pretrain import ModelArguments, read_plan_settings, set_plans
from transformers import GenerationConfig

from lavit_hf import LavitForCausalLM
from lavit_hf.evaluation import EvaluationSettings, evaluate
from lavit_hf.inference import draw_codes, plan_drawings, prepare_prompts, write_texts
from lavit_hf.processing.chat_lavit import turn_end_ids
from lavit_hf.training import LavitCollator, SequenceArguments, SequenceReader

from ..tiny import NUM_PATCHES, text_tokenizer
from .small import make_dataset, make_model, make_processor


def test_drawings_are_planned_if_a_plan_is_asked_for(caplog):
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
    # A plan that is cut off would be drawn as if it were whole.
    assert plan_drawings(model, processor, texts, before, plan_generation={"max_new_tokens": 1}) == texts
    assert "does not end within 1 tokens, and is left out" in caplog.text
    # An empty request has no plan, and one whose plan is empty is drawn as it is.
    assert plan_drawings(model, processor, ["", texts[0], " \n"], [*before[:1] * 3]) == ["", prompts[0], ""]
    line_break = processor.tokenizer.encode("\n", add_special_tokens=False)[-1]
    empty = {"sequence_bias": {(line_break,): 100.0}}
    assert plan_drawings(model, processor, texts, before, plan_generation=empty) == texts
    assert plan_drawings(model, processor, texts, before, plan_generation=False) == texts
    for call in (plan_drawings, draw_codes):
        with pytest.raises(ValueError, match="images must be a list of images for each of 3 texts"):
            call(model, processor, texts, before[:2])
    # A plan has room for more than the default of transformers.
    model.generation_config.plan_generation = {}
    endless = {"sequence_bias": {(line_break,): -100.0, (processor.tokenizer.eos_token_id,): -100.0}}
    assert plan_drawings(model, processor, texts[:1], before[:1], plan_generation=endless) == texts[:1]
    assert "does not end within 64 tokens" in caplog.text
    # Settings of texts are none of plans, and codes are returned as they are whatever `generate` returns.
    model.generation_config.min_new_tokens, model.generation_config.return_dict_in_generate = 40, True
    assert plan_drawings(model, processor, texts, before) == prompts
    assert draw_codes(model, processor, texts, before, do_sample=False) == changed
    assert write_texts(model, processor, texts[:1], max_new_tokens=40)[0]


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
    settings |= {"plan_generation": False}
    assert "plans" not in evaluate(model, processor, None, rows, **settings).protocol["decoding"]
    assert EvaluationSettings().plan_generation is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (48, "must be a dict with settings of a GenerationConfig, got 48"),
        (GenerationConfig(), "must be a dict with settings of a GenerationConfig, got GenerationConfig"),
        ({"max_new_tokenz": 12}, "got 'max_new_tokenz'"),
        (
            {"stop_strings": ["."]},
            "without eos_token_id, .*, return_dict_in_generate, stop_strings, got 'stop_strings'",
        ),
        ({"guidance_scale": 2.0}, "got 'guidance_scale'"),
        ({"num_return_sequences": 2}, "got 'num_return_sequences'"),
        ({"max_new_tokens": 0}, "max_new_tokens of plan_generation must be an integer of at least 1, got 0"),
    ],
    ids=str,
)
def test_wrong_settings_of_plans_are_refused_at_once(settings, message):
    model = make_model(make_processor())
    with pytest.raises(ValueError, match=message):
        model.generation_config.plan_generation = settings
    model.generation_config.plan_generation = {}
    for given in (settings, True, "off"):
        with pytest.raises(ValueError, match="plan_generation must"):
            EvaluationSettings(plan_generation=given)
        with pytest.raises(ValueError, match="plan_generation must"):
            draw_codes(model, None, ["red"], plan_generation=given)


def test_settings_of_plans_for_a_model_without_plans_are_refused():
    processor = make_processor()
    model, rows = make_model(processor).eval(), list(make_dataset(1))
    settings = {"do_sample": True}
    for call in (
        lambda: draw_codes(model, processor, ["red"], plan_generation=settings),
        lambda: plan_drawings(model, processor, ["red"], plan_generation=settings),
        lambda: evaluate(model, processor, None, rows, plan_generation=settings),
    ):
        with pytest.raises(ValueError, match="This model writes no plans, got plan_generation={'do_sample': True}"):
            call()
    inputs = prepare_prompts(processor, ["red"], generation_mode="image")
    with pytest.raises(ValueError, match="has no settings of tasks, got plan_generation: use .*plan_drawings"):
        model.generate(**inputs, generation_mode="image", plan_generation=settings)


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

    def texts(plan, **columns):
        planned = row | {"plan": plan} | columns
        return [getattr(part, "text", "image") for part in reader.compose(planned, "row 3", Random(0))]

    assert texts("a red star ") == ["two lines", "\n", "a red star\n", "image"]
    # These are the prompts that `plan_drawings` returns.
    for plan in (None, "", [], " \n"):
        assert texts(plan) == ["two lines", "image"]
    with pytest.raises(ValueError, match="Row 3 has no value in 'caption'"):
        texts("a red star", caption=" \n")
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

    assert read({}) == read({}, plan_column="plan") == {}
    assert read({"do_sample": True}, plan_column="plan") == {"do_sample": True}
    with pytest.raises(
        ValueError, match="plan_generation needs a plan_column or an edited_plan_column, got {'do_sample'"
    ):
        read({"do_sample": True})


def test_training_keeps_the_settings_of_plans_while_drawings_have_plans():
    model = make_model(make_processor())
    planned, plain = SequenceArguments(["draw=1"], plan_column="plan"), SequenceArguments(["draw=1"])

    def settings_after(sequences, settings):
        set_plans(model, sequences, settings)
        return model.generation_config.plan_generation

    assert settings_after(SequenceArguments(["caption=1"]), {}) is None
    assert settings_after(planned, {"do_sample": True}) == {"do_sample": True}
    assert settings_after(planned, {}) == {"do_sample": True}
    assert settings_after(planned, {"max_new_tokens": 9}) == {"do_sample": True, "max_new_tokens": 9}
    assert settings_after(SequenceArguments(["caption=1"]), {}) == {"do_sample": True, "max_new_tokens": 9}
    assert settings_after(plain, {}) is None


def test_a_turn_ends_with_every_token_that_ends_a_line():
    """Many tokenizers join a mark and a line break."""
    tokenizer = make_processor().tokenizer
    tokenizer.add_tokens([".\n"])
    joined = tokenizer.convert_tokens_to_ids(".\n")
    ends = set(turn_end_ids(tokenizer))
    assert {joined, tokenizer.encode("\n", add_special_tokens=False)[-1]} <= ends
    others = set(tokenizer.get_vocab().values()) - ends
    assert not any("\n" in text for text in tokenizer.batch_decode([[index] for index in others]))
    assert len(others) > len(ends)


def test_a_tokenizer_without_line_breaks_has_no_token_that_ends_a_turn():
    assert turn_end_ids(text_tokenizer()) == []
