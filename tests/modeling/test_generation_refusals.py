# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments of `generate` that are refused, and bounds that hold: lengths, contexts, and labels."""

import copy

import pytest
import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
)

from lavit_hf import LavitGenerationConfig

from ..tiny import (
    IMAGE_END,
    IMAGE_START,
    NUM_PATCHES,
    PLACEHOLDER,
    TEXT,
    pictures,
    tiny_lavit,
)
from .prompts import IMAGE, MODES, PROMPTS, prompts


@pytest.mark.parametrize("name", ["position_ids", "inputs_embeds"])
@pytest.mark.parametrize("moved", ["padding on the right", "an image of one placeholder"])
def test_what_belongs_to_positions_is_refused_where_these_move(model, name, moved):
    arguments = prompts([5, 6, 7], [8], side="right") if moved.startswith("padding") else prompts([5, *IMAGE, 6])
    values = {
        "position_ids": torch.arange(arguments["input_ids"].shape[1])[None].expand_as(arguments["input_ids"]),
        "inputs_embeds": model.get_input_embeddings()(arguments["input_ids"]),
    }
    with pytest.raises(ValueError, match=name):
        model.generate(**arguments, **{name: values[name]})


def test_going_on_behind_a_placeholder_is_refused(model):
    begun = model.generate(**prompts([5, *IMAGE, 6]), max_new_tokens=2, return_dict_in_generate=True)
    longer = torch.cat([begun.sequences, torch.arange(20, 40)[None]], dim=1)
    with pytest.raises(ValueError, match="`return_prompt_codes=True`"):
        model.generate(longer, cache=begun.cache)


def test_caches_that_do_not_fit(model):
    arguments = prompts([5, *IMAGE, 6])
    guided = model.generate(
        **arguments | MODES["guided image"], max_new_tokens=3, return_prompt_codes=True, return_dict_in_generate=True
    )
    with pytest.raises(ValueError, match="cache must hold 1 rows"):
        model.generate(guided.sequences, cache=guided.cache, generation_mode="image")
    plain = model.generate(**arguments, max_new_tokens=3, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="cache holds .* `return_prompt_codes=True`"):
        model.generate(plain.sequences, cache=plain.cache)
    with pytest.raises(ValueError, match="cache holds"):
        model.generate(plain.sequences, cache=plain.cache, pixel_values=pictures(1))


# The grammar


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generation_mode": "image", "guidance_scale": float("inf")}, "guidance_scale must be a finite number"),
        (
            {"generation_mode": "image", "guidance_scale": 3.0, "inputs_embeds": torch.zeros(3, 4, 32)},
            "guidance_scale=3.0 does not work with inputs_embeds",
        ),
        ({"generation_mode": "image", "guidance_scale": "3"}, "guidance_scale must be a finite number .* got '3'"),
        (
            {"generation_mode": "image", "image_generation": {"guidance_scale": float("nan")}},
            "guidance_scale of .* must be",
        ),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be an integer of at least 1, got 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be an integer of at least 1, got True"),
        ({"min_new_tokens": -1}, "min_new_tokens must be an integer of at least 0, got -1"),
        ({"num_return_sequences": 0}, "num_return_sequences must be an integer of at least 1, got 0"),
        ({"generation_mode": "interleaved", "image_generation": {"bogus": 1}}, "GenerationConfig, got 'bogus'"),
        ({"generation_mode": "image", "image_generation": {"bogus": 1}}, "GenerationConfig, got 'bogus'"),
        ({"image_generation": {"bogus": 1}}, "GenerationConfig, got 'bogus'"),
        (
            {"generation_mode": "interleaved", "image_generation": {"repetition_penalty": 1.2}},
            "in interleaved generation, got 'repetition_penalty'",
        ),
        (
            {"generation_mode": "image", "image_generation": {"max_new_tokens": 2.5}},
            "max_new_tokens of image_generation",
        ),
        ({"generation_mode": "image", "image_generation": "x"}, "image_generation must be a dict .* got 'x'"),
        ({"attention_mask": torch.ones(1, 4).long()}, r"attention_mask must be of shape \(3, 4\), got \(1, 4\)"),
        ({"attention_mask": torch.ones(3, 5).long()}, r"attention_mask must be of shape \(3, 4\), got \(3, 5\)"),
        ({"input_ids": torch.tensor([[5, -1]])}, "input_ids must be from 0 to 142, got -1 to 5"),
        ({"input_ids": torch.tensor([[5, 143]])}, "input_ids must be from 0 to 142, got 5 to 143"),
        ({"input_ids": torch.tensor([[5.0, 6.0]])}, "input_ids must be integers"),
        ({"input_ids": torch.tensor([5, 6])}, r"of shape \(B, L\), got torch.int64 of \(2,\)"),
        ({"attention_mask": torch.ones(4).long()}, r"attention_mask must be of shape \(B, L\), got \(4,\)"),
        ({"image_inputs": "bogus"}, "image_inputs must be 'features' or 'codes', got 'bogus'"),
        ({"keep_mask": torch.ones(1, 16).bool()}, "keep_mask goes with pixel_values or vision_features"),
        ({"assistant_early_exit": 1}, "assistant_early_exit does not work"),
        (
            {"input_ids": torch.zeros(1, 0).long(), "generation_mode": "image", "max_new_tokens": 1},
            "max_new_tokens must be at least 2 to draw from empty prompts",
        ),
        ({"bogus": 1}, "'bogus'"),
    ],
)
def test_wrong_values_are_named(model, arguments, message):
    rows = {"input_ids": torch.tensor([[5, 6, 7, 8]] * 3)}
    with pytest.raises(ValueError, match=message):
        model.generate(**rows | arguments)


@pytest.mark.parametrize(
    "refused", [{"token_healing": True}, {"assistant_early_exit": 1}, {"assistant_tokenizer": object()}]
)
def test_what_does_not_work_is_refused(model, refused):
    with pytest.raises(ValueError, match=f"{next(iter(refused))} does not work with a LaVIT, got"):
        model.generate(torch.tensor([[5, 6]]), **refused)
    model.generate(torch.tensor([[5, 6]]), max_new_tokens=1, token_healing=False)


@pytest.mark.parametrize("mode", MODES)
def test_lengths_that_contradict_each_other_are_refused(model, mode):
    arguments = MODES[mode] | {"min_new_tokens": 12, "max_new_tokens": 11}
    with pytest.raises(
        ValueError, match="min_new_tokens must be at most max_new_tokens=11, got 12|no room for an image"
    ):
        model.generate(torch.tensor([[5, 6]]), **arguments)


def test_negative_prompts_must_be_ids(model):
    with pytest.raises(ValueError, match="negative_prompt_ids must be a tensor of ids, got 'ugly'"):
        model.generate(torch.tensor([[5, 6]]), generation_mode="image", guidance_scale=2.0, negative_prompt_ids="ugly")


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("room", [4, 5, 8, NUM_PATCHES + 1, NUM_PATCHES + 2])
def test_an_image_ends_within_the_context(room, guidance_scale):
    """The last position is that of `[/IMG]`, and no image begins that may not fit."""
    model = tiny_lavit()
    longest = model.config.text_config.max_position_embeddings
    prompt = torch.full((1, longest - room), 5)
    settings = {"do_sample": True, "min_new_tokens": 2, "max_new_tokens": NUM_PATCHES}
    torch.manual_seed(0)
    ids = model.generate(prompt, generation_mode="image", guidance_scale=guidance_scale, image_generation=settings)[
        0
    ].tolist()
    assert len(ids) <= longest
    assert (ids[prompt.shape[1]], ids[-1]) == (IMAGE_START, IMAGE_END)
    ids = model.generate(prompt, generation_mode="interleaved", max_new_tokens=40, eos_token_id=None)[0].tolist()
    assert (IMAGE_START in ids) <= (room >= NUM_PATCHES + 2)


def test_labels_are_one_for_each_token(model):
    inputs = prompts(PROMPTS["image"], [5, 6])
    for labels in (inputs["input_ids"][:, 1:], inputs["input_ids"][:1]):
        with pytest.raises(ValueError, match=r"labels must have the shape of the ids, \(2, 6\), got"):
            model(**inputs, labels=labels)
        with pytest.raises(ValueError, match="labels must have the shape"):
            model(input_ids=torch.full((2, 6), 5), labels=labels, skip_logits=True)
    ids = torch.full((2, 6), 5)
    assert model(input_ids=ids, labels=ids[:, -4:], logits_to_keep=4).loss > 0


@pytest.mark.parametrize("mode", ["image", "interleaved"])
def test_padding_takes_no_room_in_the_context(mode):
    text = TEXT | {"vocab_size": PLACEHOLDER + 1, "max_position_embeddings": 40}
    model = tiny_lavit(text=LlamaConfig(**text))
    given = {"generation_mode": mode, "max_new_tokens": NUM_PATCHES + 2, "image_generation": {"min_new_tokens": 12}}
    if mode == "interleaved":
        given |= {"first_modality": "image", "max_images": 1}
    short, long = [5, 6, 7], [5] * 25
    alone = model.generate(**prompts(short), return_full_text=False, **given)[0].tolist()
    found = model.generate(**prompts(short, long), return_full_text=False, **given)[0].tolist()
    assert found[: len(alone)] == alone


def test_a_copied_configuration_gives_way_as_the_model_s_own(model):
    copied = copy.deepcopy(model.generation_config)
    copied.min_new_tokens = 20
    ids = model.generate(torch.tensor([[5, 6]]), generation_config=copied, max_new_tokens=5, eos_token_id=None)
    assert ids.shape == (1, 7)
    copied.max_new_tokens = 5
    with pytest.raises(ValueError, match="min_new_tokens must be at most max_new_tokens=5, got 20"):
        model.generate(torch.tensor([[5, 6]]), generation_config=copied)


def test_settings_of_drawings_may_have_attributes_of_their_own(tmp_path):
    """As every `GenerationConfig` may. Values that are out of their ranges are refused."""
    config = LavitGenerationConfig(image_generation=GenerationConfig(do_sample=True, my_note="x"))
    config.save_pretrained(tmp_path)
    assert LavitGenerationConfig.from_pretrained(tmp_path).image_generation.do_sample
    config.image_generation = LavitGenerationConfig(top_k=3)
    assert config.image_generation.top_k == 3
    with pytest.raises(ValueError, match="guidance_scale of image_generation"):
        config.image_generation = {"guidance_scale": 0.5}
