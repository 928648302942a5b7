# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`generate` with text and pictures in one sequence: grammar, guidance in the middle, settings of each modality."""

from itertools import groupby

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from lavit_hf import LavitForCausalLM

from ..tiny import CODEBOOK_SIZE, IMAGE_END, IMAGE_START, NUM_PATCHES, TEXT_TOKENS, VISUAL_OFFSET, pictures, tiny_lavit
from .test_generation import CODES, IMAGE, PROMPTS, prompt


EOS, MOST = 2, NUM_PATCHES


class OpenOften(LogitsProcessor):
    """Random weights hardly ever open a picture."""

    def __init__(self, bias: float = 4.0, token_id: int = IMAGE_START):
        self.bias, self.token_id = bias, token_id

    def __call__(self, input_ids, scores):
        bias = torch.zeros(scores.shape[1])
        bias[self.token_id] = self.bias
        return scores + bias


OFTEN = LogitsProcessorList([OpenOften()])


def interleaved(model, given, **settings) -> list[list[int]]:
    """Returns the generated ids, without the prompts and what comes after the end."""
    settings = {"generation_mode": "interleaved", "max_new_tokens": 60, "logits_processor": OFTEN} | settings
    rows = model.generate(**given, **settings, return_full_text=False).tolist()
    ends = settings.get("eos_token_id", EOS)
    return [row[: row.index(ends) + 1] if ends in row else row for row in rows]


def read(ids: list[int], is_open: bool = False) -> list[list[int]]:
    """The pictures' codes in a sequence that keeps the grammar."""
    images = [[]] if is_open else []
    for token in ids:
        if is_open:
            assert token in CODES or token == IMAGE_END
            if token == IMAGE_END:
                is_open = False
            else:
                images[-1].append(token)
        else:
            assert token < TEXT_TOKENS or token == IMAGE_START
            if token == IMAGE_START:
                is_open = True
                images.append([])
    assert not is_open
    return images


@pytest.mark.parametrize("temperature", [1.0, 8.0])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_the_grammar(model, temperature, guidance_scale):
    torch.manual_seed(0)
    rows = [*PROMPTS, [5, *IMAGE, 6], [*IMAGE, *IMAGE]]
    given = prompt(rows) | {"pixel_values": pictures(3)}
    settings = {"do_sample": True, "temperature": temperature, "guidance_scale": guidance_scale}
    bounds = {"temperature": temperature, "min_new_tokens": 2, "max_new_tokens": 6}
    settings |= {
        "image_generation": bounds,
        "max_images": 2,
        "logits_processor": LogitsProcessorList([OpenOften(2.0)]),
    }
    drawn = interleaved(model, given, **settings, num_return_sequences=12)
    images = [read(row) for row in drawn]
    num_images, num_codes = {len(row) for row in images}, {len(codes) for row in images for codes in row}
    assert {1, 2} <= num_images <= {0, 1, 2}
    assert 2 <= min(num_codes) < max(num_codes) == 6
    assert len({tuple(key for key, _ in groupby(row, lambda token: token < TEXT_TOKENS)) for row in drawn}) > 3


def test_none_is_cut(model):
    torch.manual_seed(0)
    given, open_always = prompt(PROMPTS * 8), LogitsProcessorList([OpenOften(100.0)])
    settings = {"do_sample": True, "temperature": 3.0, "eos_token_id": None, "logits_processor": open_always}
    for room in (MOST + 2, MOST + 9, 2 * MOST + 3, 2 * MOST + 4):
        drawn = interleaved(model, given, max_new_tokens=room, **settings)
        assert {len(row) for row in drawn} == {room}
        assert all(len(read(row)) >= 1 for row in drawn)


def open_start(row: list[int]) -> int | None:
    """Where the picture that a sequence has not closed begins."""
    start = len(row) - 1 - row[::-1].index(IMAGE_START) if IMAGE_START in row else None
    return None if start is None or IMAGE_END in row[start:] else start


@torch.no_grad()
def by_hand(model, ids: list[int], scale: float, length: int, negative=()) -> list[int]:
    """Greedy and guided, with two forwards per token and no cache; text ends in no way but its length."""
    new = []
    while len(new) < length:
        row = [*ids, *new]
        opened = open_start(row)
        conditional = model(torch.tensor([row])).logits[0, -1].log_softmax(-1)
        allowed = torch.full_like(conditional, -torch.inf)
        if opened is not None:
            unconditional = model(torch.tensor([[*negative, *row[opened:]]])).logits[0, -1].log_softmax(-1)
            conditional = unconditional + scale * (conditional - unconditional)
            num_codes = len(row) - 1 - opened
            if num_codes < MOST:
                allowed[CODES.start : CODES.stop] = 0
            if num_codes:
                allowed[IMAGE_END] = 0
        else:
            allowed[:TEXT_TOKENS] = 0
            if length - len(new) >= MOST + 2:
                allowed[IMAGE_START] = 4.0
        new.append(int((conditional + allowed).argmax()))
    return new


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guidance_in_the_middle_is_that_of_two_passes(model, scale, cache):
    rows = [*PROMPTS, [5, IMAGE_START, CODES[3], CODES[9], IMAGE_END, 7]]
    settings = {"guidance_scale": scale, "eos_token_id": None, "cache_implementation": cache, "disable_compile": True}
    together = interleaved(model, prompt(rows), **settings)
    assert together == [by_hand(model, row, scale, 60) for row in rows]
    assert any(len(read(row)) > 1 for row in together)
    negatives = torch.tensor([[11, 12]] * 3 + [[13, 14]])
    steered = interleaved(model, prompt(rows), **settings | {"guidance_scale": 3.0}, negative_prompt_ids=negatives)
    pairs = zip(rows, negatives.tolist(), strict=True)
    assert steered == [by_hand(model, row, 3.0, 60, negative) for row, negative in pairs]
    twice = interleaved(model, prompt(rows), **settings, num_return_sequences=2, num_beams=1, do_sample=True, top_k=1)
    assert twice == [row for row in together for _ in range(2)]


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, "static"])
def test_logits_are_those_of_two_passes_at_every_step(model, cache):
    """Padded rows that end at different steps, with a picture behind them or open, four times each."""
    torch.manual_seed(0)
    rows = [*PROMPTS, [5, IMAGE_START, CODES[3], CODES[9], IMAGE_END, 7], [8, IMAGE_START, CODES[2], CODES[2]]]
    given = prompt(rows) | {"generation_mode": "interleaved", "guidance_scale": 2.0, "logits_processor": OFTEN}
    returned = {"output_logits": True, "return_dict_in_generate": True, "return_full_text": False}
    static = {"cache_implementation": cache, "disable_compile": True}
    settings = {"do_sample": True, "temperature": 4.0, "num_return_sequences": 4, "max_new_tokens": 60}
    outputs = model.generate(**given, **settings, **static, **returned)
    differences, ends = [], set()
    for index, new in enumerate(outputs.sequences.tolist()):
        row, end = rows[index // 4], new.index(EOS) if EOS in new else len(new) - 1
        ends.add(end)
        for step, logits in enumerate(outputs.logits[: end + 1]):
            assert len(logits) == len(outputs.sequences)
            seen = [*row, *new[:step]]
            expected = model(torch.tensor([seen])).logits[0, -1].log_softmax(-1)
            opened = open_start(seen)
            if opened is not None:
                unconditional = model(torch.tensor([seen[opened:]])).logits[0, -1].log_softmax(-1)
                expected = unconditional + 2.0 * (expected - unconditional)
            differences.append(expected - logits[index])
    assert len(ends) > 2
    assert float(torch.stack(differences).abs().max()) < 1e-4


def test_what_it_begins_with(model):
    often = LogitsProcessorList([OpenOften(100.0)])
    begun = {
        first: interleaved(model, prompt(), logits_processor=often, first_modality=first)
        for first in ("text", "image")
    }
    assert all(row[0] < TEXT_TOKENS and row[1] == IMAGE_START for row in begun["text"])
    assert all(row[0] == IMAGE_START and read(row) for row in begun["image"])
    once = interleaved(model, prompt(), logits_processor=often, first_modality="image", max_images=1)
    assert [len(read(row)) for row in once] == [1, 1, 1]


def test_pictures_are_sampled_and_text_is_not(model):
    torch.manual_seed(0)
    sampled = {"do_sample": True, "temperature": 5.0, "min_new_tokens": 8}
    drawn = interleaved(model, prompt(PROMPTS[:1]), image_generation=sampled, num_return_sequences=6)
    assert len({tuple(row) for row in drawn}) == 6
    for row in drawn:
        for index, token in enumerate(row):
            context = torch.tensor([[*PROMPTS[0], *row[:index]]])
            if token < TEXT_TOKENS:
                scores = model(context).logits[0, -1]
                assert token == int(scores[:TEXT_TOKENS].argmax())


@torch.no_grad()
def test_text_is_sampled_and_pictures_are_not(model):
    torch.manual_seed(0)
    settings = {"do_sample": True, "temperature": 5.0, "image_generation": {"do_sample": False}}
    drawn = interleaved(model, prompt(PROMPTS[:1]), **settings, num_return_sequences=6)
    assert len({tuple(row) for row in drawn}) == 6
    codes = 0
    for row in drawn:
        for index, token in enumerate(row):
            if token in CODES:
                scores = model(torch.tensor([[*PROMPTS[0], *row[:index]]])).logits[0, -1]
                following = scores[IMAGE_END : VISUAL_OFFSET + CODEBOOK_SIZE]
                if row[index - 1] == IMAGE_START:
                    following[0] = -torch.inf
                assert token == IMAGE_END + int(following.argmax())
                codes += 1
    assert codes > 20


def test_beams_keep_the_grammar(model):
    settings = {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": None}
    drawn = interleaved(model, prompt(), **settings)
    assert any(read(row) for row in drawn)


def test_saved_settings_of_pictures(tmp_path):
    model = tiny_lavit()
    model.generation_config.image_generation = {"guidance_scale": 3.0, "min_new_tokens": 3, "max_new_tokens": 3}
    model.save_pretrained(tmp_path)
    loaded = LavitForCausalLM.from_pretrained(tmp_path)
    drawn = interleaved(loaded, prompt())
    images = [codes for row in drawn for codes in read(row)]
    assert images
    assert {len(codes) for codes in images} == {3}
    unguided = interleaved(loaded, prompt(), guidance_scale=1.0)
    assert unguided != drawn
    assert unguided == interleaved(loaded, prompt(), image_generation={"guidance_scale": 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_images": 0}, "max_images must be an integer of at least 1, got 0"),
        ({"max_images": "2"}, "max_images must be an integer of at least 1, got '2'"),
        ({"first_modality": "sound"}, "first_modality must be 'text' or 'image', got 'sound'"),
        ({"generation_mode": "text", "max_images": 2}, "max_images and first_modality go with .* got 'text'"),
        ({"guidance_scale": 2.0, "num_beams": 2}, "does not work with num_beams=2"),
        ({"max_new_tokens": MOST + 1}, "max_new_tokens=17 has no room for an image of up to 16 codes"),
        ({"max_images": 171}, "holds 512 positions: prompts of [0-9]+ leave no room for 171 images"),
        ({"image_generation": {"min_new_tokens": 17}}, "at least 17 codes .* at most 16"),
        ({"image_generation": {"min_new_tokens": 5, "max_new_tokens": 4}}, "at least 5 codes .* at most 4"),
    ],
)
def test_refusals(model, settings, message):
    with pytest.raises(ValueError, match=message):
        interleaved(model, prompt(), **settings)
