# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The results of `generate`, and the inputs of a user's logits processors, stopping criteria and streamers."""

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextStreamer
from transformers.generation import LogitsProcessor

from ..tiny import IMAGE_START, PLACEHOLDER, TEXT_TOKENS, pad_rows, pictures
from .prompts import IMAGE, MODES, prompts


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_results_begin_with_the_ids_that_were_given(model, mode, side):
    for form in ("one per image", "one per code"):
        rows = [[5, *IMAGE, 6], [7, 8], [*IMAGE, *IMAGE]]
        if form == "one per code":
            counts = iter(model.model.visual_tokenizer(pictures(3)).num_codes.tolist())
            rows = [
                [t for token in row for t in ([PLACEHOLDER] * next(counts) if token == PLACEHOLDER else [token])]
                for row in rows
            ]
        ids, mask = pad_rows(rows, side)
        arguments = {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures(3)}
        given_ids = ids.clone()
        output = model.generate(**arguments, **MODES[mode])
        assert torch.equal(output[:, : ids.shape[1]], given_ids)
        assert not (output[:, ids.shape[1] :] == PLACEHOLDER).any()
        new = model.generate(**arguments, **MODES[mode], return_full_text=False)
        assert torch.equal(new, output[:, ids.shape[1] :])
        coded = model.generate(**arguments, **MODES[mode], return_prompt_codes=True)
        assert PLACEHOLDER not in coded
        assert torch.equal(coded[:, -new.shape[1] :], new)


@pytest.mark.parametrize("mode", ["text", "image"])
def test_max_length_counts_the_ids_as_given(model, mode):
    arguments = prompts([5, *IMAGE, 6, *IMAGE]) | {"generation_mode": mode, "eos_token_id": None}
    length = arguments["input_ids"].shape[1]
    output = model.generate(**arguments, max_length=length + 4, min_length=length + 4)
    assert output.shape[1] == length + 4
    assert torch.equal(output, model.generate(**arguments, max_new_tokens=4, min_new_tokens=4))
    config = GenerationConfig(max_length=length + 4, pad_token_id=0)
    assert model.generate(**arguments, generation_config=config).shape[1] == length + 4
    with pytest.raises(
        ValueError, match=f"max_length={length} leaves no room behind the input, whose length is {length}"
    ):
        model.generate(**arguments, max_length=length)


class Recorder(LogitsProcessor, StoppingCriteria):
    """A user's logits processor and stopping criterion at once."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(input_ids.clone())
        return scores if isinstance(scores, torch.Tensor) else torch.zeros(len(input_ids), dtype=torch.bool)


class Collector(TextStreamer):
    def __init__(self):
        self.values = []

    def put(self, value):
        self.values.append(value.reshape(-1).tolist())

    def end(self):
        pass


def test_users_see_the_prompts_as_they_gave_them(model):
    """Other libraries' criteria cut off as many ids as they sent."""
    arguments = prompts([5, *IMAGE, 6]) | {"max_new_tokens": 4, "eos_token_id": None}
    processor, criterion, streamer, prefixes = Recorder(), Recorder(), Collector(), []

    def allowed(batch_id, ids):
        prefixes.append(ids.tolist())
        return list(range(TEXT_TOKENS))

    output = model.generate(
        **arguments,
        logits_processor=LogitsProcessorList([processor]),
        stopping_criteria=StoppingCriteriaList([criterion]),
        prefix_allowed_tokens_fn=allowed,
        streamer=streamer,
    )
    given_ids = arguments["input_ids"]
    assert torch.equal(output, model.generate(**arguments))
    for step in range(4):
        expected = output[:, : given_ids.shape[1] + step]
        assert torch.equal(processor.seen[step], expected)
        assert prefixes[step] == expected[0].tolist()
        assert torch.equal(criterion.seen[step], output[:, : given_ids.shape[1] + step + 1])
    assert streamer.values == [given_ids[0].tolist(), *[[token] for token in output[0, given_ids.shape[1] :].tolist()]]


def test_repeated_and_beamed_rows_keep_their_own_prompts(model):
    arguments = prompts([5, *IMAGE, 6], [7, 8]) | {"max_new_tokens": 4}
    output = model.generate(**arguments, num_beams=3, num_return_sequences=2)
    length = arguments["input_ids"].shape[1]
    assert torch.equal(output[:, :length], arguments["input_ids"].repeat_interleave(2, dim=0))


# Empty prompts


def test_empty_prompts(model):
    empty = torch.zeros(2, 0, dtype=torch.long)
    drawn = model.generate(empty, generation_mode="image", guidance_scale=2.0)
    assert (drawn[:, 0] == IMAGE_START).all()
    begun = model.generate(torch.full((1, 1), IMAGE_START), generation_mode="image", guidance_scale=2.0)
    assert torch.equal(drawn[:1], begun)
    batch = model.generate(**prompts([], [5, 6]), generation_mode="image")
    alone = [model.generate(**prompts(row), generation_mode="image") for row in ([5, 6],)]
    assert batch[1].tolist()[: alone[0].shape[1]] == alone[0][0].tolist()
    unconditional = model.generate(empty[:1], generation_mode="image")[0].tolist()
    assert batch[0].tolist()[2 : 2 + len(unconditional)] == unconditional
    interleaved = {"generation_mode": "interleaved", "first_modality": "image"}
    begun = model.generate(torch.full((1, 1), IMAGE_START), generation_mode="image")[0].tolist()
    assert model.generate(empty[:1], **interleaved)[0].tolist()[: len(begun)] == begun
    for settings_ in ({}, {"generation_mode": "interleaved", "max_new_tokens": 40}):
        with pytest.raises(ValueError, match="Prompt 0 is empty"):
            model.generate(empty, **settings_)
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        model.generate(**prompts([5, 6], []))
