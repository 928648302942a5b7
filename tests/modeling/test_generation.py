# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`generate`: what may follow what, and guidance in one forward."""

import json

import pytest
import torch
from transformers import GenerationConfig, StaticCache, TextStreamer
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from lavit_hf import LavitForCausalLM
from lavit_hf.modeling.generation_settings_lavit import LavitGenerationConfig, LavitGenerationSettings
from lavit_hf.modeling.grammar_lavit import LavitGrammarLogitsProcessor

from ..causal_models import guided_by_hand
from ..tiny import (
    CODEBOOK_SIZE,
    IMAGE_END,
    IMAGE_START,
    NUM_PATCHES,
    PLACEHOLDER,
    TEXT_TOKENS,
    VISUAL_OFFSET,
    pad_rows,
    pictures,
    tiny_lavit,
)


IMAGE = [IMAGE_START, PLACEHOLDER, IMAGE_END]
PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
CODES = range(VISUAL_OFFSET, VISUAL_OFFSET + CODEBOOK_SIZE)


def decode(model, **settings) -> LavitGenerationSettings:
    """The settings of a call for prompts of five tokens."""
    image_settings = {name: settings.pop(name, None) for name in ("generation_mode", "image_generation")}
    return LavitGenerationSettings(model.config, model.generation_config, None, settings, 5, **image_settings)


def prompt(rows=PROMPTS, side="left") -> dict[str, torch.Tensor]:
    ids, mask = pad_rows(rows, side)
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, "static"])
def test_guidance_in_one_forward_is_guidance_in_two(model, cache):
    expected = [guided_by_hand(model, ids, 3.0, 6) for ids in PROMPTS]
    settings = {"guidance_scale": 3.0, "max_new_tokens": 7, "min_new_tokens": 7, "cache_implementation": cache}
    together = model.generate(**prompt(), generation_mode="image", disable_compile=True, **settings)
    assert together[:, -6:].tolist() == expected
    assert (together[:, -7] == IMAGE_START).all()


@torch.no_grad()
def test_guidance_with_a_picture_in_the_prompt(model):
    rows = [[*IMAGE, 5, 6], [7]]
    settings = {"generation_mode": "image", "guidance_scale": 3.0, "max_new_tokens": 7, "min_new_tokens": 7}
    given = prompt(rows) | {"pixel_values": pictures(1)}
    drawn = model.generate(**given, **settings)
    codes = (model.model.visual_tokenizer(pictures(1)).codes + VISUAL_OFFSET).tolist()
    expected = [guided_by_hand(model, ids, 3.0, 6) for ids in ([IMAGE_START, *codes, IMAGE_END, 5, 6], [7])]
    assert drawn[:, -6:].tolist() == expected
    assert torch.equal(drawn[:, :-7], given["input_ids"])
    coded = model.generate(**given, **settings, return_prompt_codes=True)
    assert coded[0, : len(codes) + 2].tolist() == [IMAGE_START, *codes, IMAGE_END]
    assert torch.equal(coded[:, -7:], drawn[:, -7:])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_negative_prompts(model, side):
    """Longer and shorter than the prompts, which end open or not, and hold a picture."""
    rows = [[*IMAGE, 5, 6], [7], [8, 9, IMAGE_START, CODES[4]]]
    negatives = [[11, 12], [13, 14, 15, 16, 17, 18], [19]]
    ids, mask = pad_rows(negatives, side)
    codes = (model.model.visual_tokenizer(pictures(1)).codes + VISUAL_OFFSET).tolist()
    given = prompt(rows) | {"pixel_values": pictures(1), "generation_mode": "image", "guidance_scale": 3.0}
    settings = {"max_new_tokens": 7, "min_new_tokens": 7, "return_full_text": False}
    together = model.generate(**given, negative_prompt_ids=ids, negative_prompt_attention_mask=mask, **settings)
    prompts = [([IMAGE_START, *codes, IMAGE_END, 5, 6], ()), ([7], ()), ([8, 9], [CODES[4]])]
    expected = [
        guided_by_hand(model, row, 3.0, 6 + len(begun), negative, begun)
        for (row, begun), negative in zip(prompts, negatives, strict=True)
    ]
    assert together[:2].tolist() == [[IMAGE_START, *codes] for codes in expected[:2]]
    assert together[2].tolist() == expected[2]
    text_only = prompt(rows[1:2]) | {"generation_mode": "image", "guidance_scale": 3.0}
    for count in (1, 3):
        sampled = model.generate(
            **text_only,
            negative_prompt_ids=torch.tensor(negatives[1]),
            do_sample=True,
            top_k=1,
            num_return_sequences=count,
            **settings,
        )
        assert sampled.tolist() == [[IMAGE_START, *guided_by_hand(model, [7], 3.0, 6, negatives[1])]] * count


def test_guided_rows_end_on_their_own(model):
    rows = [[seed, seed + 1, seed + 2][: 1 + seed % 3] for seed in range(3, 40, 3)]
    settings = {"generation_mode": "image", "guidance_scale": 2.0, "do_sample": False}
    together = model.generate(**prompt(rows), **settings, return_full_text=False)
    lengths = set()
    for row, drawn in zip(rows, together.tolist(), strict=True):
        alone = model.generate(**prompt([row]), **settings, return_full_text=False)[0].tolist()
        end = drawn.index(IMAGE_END) + 1
        lengths.add(end)
        assert drawn[:end] == alone
        assert set(drawn[end:]) <= {0}
    assert len(lengths) > 1


def test_guidance_for_every_returned_sequence(model):
    settings = {"generation_mode": "image", "guidance_scale": 3.0, "max_new_tokens": 6}
    greedy = model.generate(**prompt(), **settings)
    likeliest = model.generate(**prompt(), **settings, do_sample=True, top_k=1, num_return_sequences=3)
    assert torch.equal(likeliest, greedy.repeat_interleave(3, dim=0))


def test_a_forward_per_token_with_both_branches(model, monkeypatch):
    batches = []
    forward = model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda **kwargs: batches.append(len(kwargs["input_ids"])) or forward(**kwargs)
    )
    settings = {"generation_mode": "image", "guidance_scale": 2.0, "max_new_tokens": 5, "min_new_tokens": 5}
    model.generate(**prompt(), **settings)
    assert batches == [2 * len(PROMPTS)] * 5


@pytest.mark.parametrize("side", ["left", "right"])
def test_drawing_is_codes_and_an_end(model, side):
    torch.manual_seed(0)
    ids = model.generate(
        **prompt(side=side),
        generation_mode="image",
        do_sample=True,
        temperature=5.0,
        num_return_sequences=16,
    )
    lengths = set()
    for row in ids.tolist():
        drawn = row[row.index(IMAGE_START) + 1 :]
        codes = drawn[: drawn.index(IMAGE_END)]
        lengths.add(len(codes))
        assert 1 <= len(codes) <= NUM_PATCHES
        assert all(code in CODES for code in codes)
        assert set(drawn[len(codes) + 1 :]) <= {0}
    assert len(lengths) > 1


def test_a_full_picture_is_closed(model):
    head = model.lm_head.weight.data.clone()
    model.lm_head.weight.data[IMAGE_END] = 0  # never the likeliest by itself
    ids = model.generate(**prompt(), generation_mode="image", guidance_scale=1.0)
    model.lm_head.weight.data.copy_(head)
    assert (ids[:, -1] == IMAGE_END).all()
    assert ids.shape[1] == 5 + 1 + NUM_PATCHES + 1


def test_text_has_no_picture_ids(model):
    torch.manual_seed(0)
    ids = model.generate(**prompt(), do_sample=True, temperature=10.0, max_new_tokens=20, num_return_sequences=8)
    assert (ids < TEXT_TOKENS).all()


def test_text_mode_does_not_draw_on(model):
    ids = model.generate(**prompt([[5, IMAGE_START, CODES[3]]]), max_new_tokens=4, eos_token_id=None)
    assert (ids[:, 3:] < TEXT_TOKENS).all()


def test_open_prompts_are_not_opened_again(model):
    rows = [[5, 6], [7, 8, IMAGE_START], [IMAGE_START]]
    settings = {"generation_mode": "image", "max_new_tokens": 4, "min_new_tokens": 4}
    ids = model.generate(**prompt(rows), **settings)
    assert (ids == IMAGE_START).sum(-1).tolist() == [1, 1, 1]
    assert ids[0, 3] == IMAGE_START
    alone = [model.generate(**prompt([row]), **settings) for row in rows]
    assert ids[:, -4:].tolist() == [row[0, -4:].tolist() for row in alone]


@torch.no_grad()
def test_text_after_pictures_is_what_repeated_forwards_say(model):
    rows, images = [[*IMAGE, 5], [6, *IMAGE, 7, *IMAGE, 8]], pictures(3)
    ids = model.generate(**prompt(rows), pixel_values=images, max_new_tokens=4, eos_token_id=None)
    ids_, mask = pad_rows(rows)
    for _ in range(4):
        outputs = model(ids_, images, mask)
        following = outputs.logits[:, -1, :TEXT_TOKENS].argmax(-1, keepdim=True)
        ids_, mask = torch.cat([ids_, following], 1), torch.cat([mask, torch.ones_like(following)], 1)
    assert torch.equal(ids, ids_)


def test_beams_and_returned_sequences(model):
    given = prompt([[*IMAGE, 5], [*IMAGE, 6, 7]]) | {"pixel_values": pictures(2)}
    ids = model.generate(**given, num_beams=3, num_return_sequences=2, max_new_tokens=5)
    assert ids.shape[0] == 4
    alone = model.generate(**prompt([[*IMAGE, 5]]), pixel_values=pictures(2)[:1], num_beams=3, max_new_tokens=5)
    assert ids[0, -5:].tolist() == alone[0, -5:].tolist()


def test_a_static_cache_of_ones_own(model):
    cache = StaticCache(config=model.config.text_config, max_cache_len=64)
    settings = {"generation_mode": "image", "guidance_scale": 3.0, "max_new_tokens": 6, "disable_compile": True}
    expected = model.generate(**prompt(), **settings)
    assert torch.equal(model.generate(**prompt(), cache=cache, **settings), expected)


def test_the_older_name_of_a_cache(model):
    first, rest = torch.tensor([[5, 6]]), torch.tensor([[7]])
    with pytest.warns(FutureWarning, match="past_key_values"):
        step = model(rest, past_key_values=model(first, use_cache=True).cache)
    torch.testing.assert_close(step.logits[:, -1], model(torch.cat([first, rest], dim=1)).logits[:, -1])


def test_outputs_as_a_dict(model):
    outputs = model.generate(
        **prompt(),
        generation_mode="image",
        guidance_scale=2.0,
        max_new_tokens=3,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert len(outputs.scores) == 3
    assert outputs.scores[0].shape == (3, model.config.text_config.vocab_size)


def test_without_the_prompt(model):
    given = prompt([[*IMAGE, 5], [6]]) | {"pixel_values": pictures(1), "max_new_tokens": 5, "eos_token_id": None}
    everything = model.generate(**given)
    assert torch.equal(model.generate(**given, return_full_text=False), everything[:, -5:])
    outputs = model.generate(**given, return_full_text=False, return_dict_in_generate=True)
    assert torch.equal(outputs.sequences, everything[:, -5:])


def test_streamers_see_the_tokens(model):
    class Collector(TextStreamer):
        def __init__(self):
            self.ids = []

        def put(self, value):
            self.ids.extend(value.flatten().tolist())

        def end(self):
            self.ended = True

    streamer = Collector()
    ids = model.generate(
        **prompt([[5, 6]]), generation_mode="image", guidance_scale=2.0, max_new_tokens=4, streamer=streamer
    )
    assert streamer.ids == ids[0].tolist()
    assert streamer.ended


def test_saved_defaults_of_drawing(tmp_path):
    model = tiny_lavit()
    model.generation_config.image_generation = {"max_new_tokens": 3, "guidance_scale": 2.0, "min_new_tokens": 3}
    model.save_pretrained(tmp_path)
    loaded = LavitForCausalLM.from_pretrained(tmp_path)
    ids = loaded.generate(**prompt(), generation_mode="image")
    # These settings count the codes of an image. The call counts the marks as well.
    assert all(row[5] == IMAGE_START and row[9] == IMAGE_END for row in ids.tolist())
    assert torch.equal(ids[:, :-1], loaded.generate(**prompt(), generation_mode="image", max_new_tokens=4))
    loaded.generation_config.image_generation = {"guidance_scale": 2.0}
    longer = loaded.generate(**prompt(), generation_mode="image", min_new_tokens=9)
    assert torch.equal(ids[:, :-1], longer[:, :9])
    assert loaded.generate(**prompt(), max_new_tokens=7, eos_token_id=None).shape[1] == 5 + 7


def test_settings_of_drawing_are_a_nested_configuration(tmp_path):
    model = tiny_lavit()
    assert model.generation_config.eos_token_id == 2
    model.generation_config.image_generation = {"do_sample": True, "temperature": 0.5}
    model.generation_config.image_generation.guidance_scale = 3.0
    model.save_pretrained(tmp_path)
    expected = {"do_sample": True, "temperature": 0.5, "guidance_scale": 3.0}
    assert json.loads((tmp_path / "generation_config.json").read_text())["image_generation"] == expected
    nested = LavitForCausalLM.from_pretrained(tmp_path).generation_config.image_generation
    assert nested == GenerationConfig(**expected)
    given = LavitGenerationConfig(image_generation=nested, eos_token_id=2)
    assert given == LavitForCausalLM.from_pretrained(tmp_path, generation_config=given).generation_config
    with pytest.raises(ValueError, match="image_generation must be a dict or a GenerationConfig, got 3"):
        model.generation_config.image_generation = 3


def test_a_generation_config_of_the_call(model):
    config = GenerationConfig(max_new_tokens=4, min_new_tokens=4, guidance_scale=3.0, pad_token_id=0)
    ids = model.generate(**prompt(), generation_mode="image", generation_config=config)
    expected = model.generate(
        **prompt(), generation_mode="image", guidance_scale=3.0, max_new_tokens=4, min_new_tokens=4
    )
    assert torch.equal(ids, expected)
    assert config.guidance_scale == 3.0


def test_lengths_of_the_call_count(model):
    for config in ({"max_length": 8, "min_length": 8}, {"max_new_tokens": 4, "min_new_tokens": 4}):
        by_name = model.generate(**prompt([[5, 6, 7, 8]]), generation_mode="image", **config)
        config = GenerationConfig(**config, pad_token_id=0)
        by_config = model.generate(**prompt([[5, 6, 7, 8]]), generation_mode="image", generation_config=config)
        assert torch.equal(by_name, by_config)
        assert by_name.shape[1] == 8


@pytest.mark.parametrize("mode", ["text", "image", "interleaved"])
def test_lengths_of_the_call_warn_of_nothing(model, mode):
    bounds = {"min_new_tokens": 4, "max_new_tokens": 20, "image_generation": {"max_new_tokens": 2}}
    with CaptureLogger(logging.get_logger("transformers.generation.utils")) as captured:
        model.generate(**prompt(), generation_mode=mode, **bounds)
    assert not captured.out


@pytest.mark.parametrize("mode", ["image", "interleaved"])
def test_the_states_of_a_sequence(model, mode):
    config, vocab_size = model.config, VISUAL_OFFSET + CODEBOOK_SIZE + 3
    bounds = {"max_new_tokens": 8, "image_generation": {"max_new_tokens": 2}}
    processor = LavitGrammarLogitsProcessor(decode(model, generation_mode=mode, **bounds), config, prompt_length=0)
    text, codes = {*range(TEXT_TOKENS), PLACEHOLDER + 1, PLACEHOLDER + 2}, set(CODES)
    outside = text | {IMAGE_START} if mode == "interleaved" else text
    states = {
        (5, 6, 7, 8): outside,
        (5, 6, 7, IMAGE_START): codes,
        (5, 6, IMAGE_START, CODES[1]): codes | {IMAGE_END},
        (5, IMAGE_START, CODES[1], CODES[2]): {IMAGE_END},
        (IMAGE_START, CODES[1], IMAGE_END, 7): outside,
        (IMAGE_START, CODES[1], IMAGE_END, IMAGE_START): codes,
    }
    scores = processor(torch.tensor(list(states)), torch.zeros(len(states), vocab_size))
    for row, allowed in zip(scores, states.values(), strict=True):
        assert set(row.isfinite().nonzero().flatten().tolist()) == allowed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generation_mode": "video"}, "generation_mode must be one of .* got 'video'"),
        (
            {"generation_mode": "image", "guidance_scale": 0.5},
            "guidance_scale must be a finite number of at least 1, got 0",
        ),
        (
            {"generation_mode": "image", "guidance_scale": float("nan")},
            "guidance_scale must be a finite number .* got nan",
        ),
        ({"guidance_scale": 2.0}, "got 2.0 with generation_mode='text'"),
        ({"generation_mode": "image", "guidance_scale": 2.0, "num_beams": 2}, "does not work with num_beams=2"),
        ({"generation_mode": "image", "min_new_tokens": 19}, "min_new_tokens must be at most 18"),
        ({"generation_mode": "image", "negative_prompt_ids": torch.tensor([[1]])}, "guidance_scale above 1, got 1.0"),
        (
            {"generation_mode": "image", "guidance_scale": 2.0, "negative_prompt_ids": torch.ones(2, 4).long()},
            r"one row or 3, one per prompt, got \(2, 4\)",
        ),
        (
            {"generation_mode": "image", "guidance_scale": 2.0, "negative_prompt_ids": torch.tensor([PLACEHOLDER])},
            "1 .*placeholder",
        ),
        ({"inputs": torch.tensor([[1]])}, "either inputs or input_ids"),
    ],
)
def test_refusals(model, settings, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**prompt(), **settings)


def test_drawing_needs_a_prompt(model):
    with pytest.raises(ValueError, match="need input_ids"):
        model.generate(generation_mode="image")


def test_padding_takes_no_room_in_the_context(model):
    longest = model.config.text_config.max_position_embeddings
    ids = torch.zeros(2, longest, dtype=torch.long)
    ids[0, -3:], ids[1, -2:] = torch.tensor([5, 6, 7]), torch.tensor([8, 9])
    mask = torch.arange(longest)[None] >= torch.tensor([[longest - 3], [longest - 2]])
    found = model.generate(ids, attention_mask=mask.long(), max_new_tokens=4)
    short = model.generate(ids[:, -3:], attention_mask=mask[:, -3:].long(), max_new_tokens=4)
    assert torch.equal(found[:, -short.shape[1] :], short)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_of_other_integers(model, dtype):
    inputs = prompt([[5] + IMAGE + [6]]) | {"pixel_values": pictures(1)}
    expected = model.generate(**inputs, max_new_tokens=3)
    inputs["input_ids"] = inputs["input_ids"].to(dtype)
    assert torch.equal(model.generate(**inputs, max_new_tokens=3).long(), expected)
    assert model(**inputs).logits.isfinite().all()


def test_pictures_that_the_context_does_not_hold(model, monkeypatch):
    """Refused before the vision tower runs where the ids alone tell, else once the codes are counted."""
    longest = model.config.text_config.max_position_embeddings
    with pytest.raises(ValueError, match=f"holds {longest} positions: prompts of {longest} leave no room"):
        model.generate(torch.full((1, longest), 5), max_new_tokens=1)
    rows = [[5] * (longest - 4) + IMAGE]
    with pytest.raises(ValueError, match=f"holds {longest} positions"):
        model.generate(**prompt(rows), pixel_values=pictures(1), generation_mode="image")
    monkeypatch.setattr(model.model.visual_tokenizer, "forward", lambda *args, **kwargs: pytest.fail("it was asked"))
    with pytest.raises(ValueError, match=f"holds {longest} positions"):
        model.generate(**prompt([[5] * longest + IMAGE]), pixel_values=pictures(1))


def test_continuous_batching_is_refused(model):
    with pytest.raises(ValueError, match="LavitForCausalLM does not work with continuous batching"):
        model.generate_batch([[5, 6, 7]])
