# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`generate` with every option that touches prefill or cache, and whatever state the prompts are in."""

import inspect
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LlamaConfig,
    LlamaForCausalLM,
    MaxLengthCriteria,
    SuppressTokensLogitsProcessor,
)

from lavit_hf.modeling.generation_settings_lavit import DEFAULT_MAX_LENGTH, DEFAULT_TOP_K
from lavit_hf.modeling.sampling_lavit import WARPERS, make_warpers

from ..tiny import (
    IMAGE_END,
    IMAGE_START,
    NUM_PATCHES,
    PLACEHOLDER,
    TEXT,
    TEXT_TOKENS,
    pad_rows,
    pictures,
    tiny_lavit,
)
from .prompts import CODES, IMAGE, MODES, PROMPTS, prompts


OPTIONS = {
    "prefill_chunk_size": {"prefill_chunk_size": 3},
    "one chunk": {"prefill_chunk_size": 100},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 2},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "offloaded": {"cache_implementation": "offloaded"},
    "offloaded_static": {"cache_implementation": "offloaded_static", "disable_compile": True},
    "quantized": {"cache_implementation": "quantized"},
    "use_cache": {"use_cache": False},
    "output_logits": {"output_logits": True, "output_hidden_states": True, "return_dict_in_generate": True},
    "num_return_sequences": {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("start", PROMPTS)
@pytest.mark.parametrize("mode", MODES)
def test_options_of_prefill_and_cache(model, mode, start, option):
    """The same ids as without the option, or an error that names it."""
    if mode != "text" and start == "open" and "interleaved" in mode:
        start = "text"
    rows = [PROMPTS[start]] if option == "prompt_lookup_num_tokens" else [PROMPTS[start], [5, 6], [7]]
    arguments = prompts(*rows) | MODES[mode]
    expected = model.generate(**arguments)
    refusal = ""
    try:
        found = model.generate(**arguments, **OPTIONS[option])
    except (ValueError, ImportError) as error:
        refusal = str(error)
    if refusal:
        named = {"quantized": "quanto", "offloaded": "offload", "offloaded_static": "offload"}.get(option, option)
        assert named in refusal
        return
    found = getattr(found, "sequences", found)
    if option == "num_return_sequences":
        expected = expected.repeat_interleave(2, dim=0)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("start", PROMPTS)
@pytest.mark.parametrize("mode", MODES)
def test_an_assistant_changes_nothing(model, mode, start):
    arguments = prompts(PROMPTS["text" if start == "open" and "interleaved" in mode else start]) | MODES[mode]
    assistant = tiny_lavit(seed=1)
    if "guided" in mode:
        with pytest.raises(ValueError, match="guidance_scale=3.0 does not work with assistant_model"):
            model.generate(**arguments, assistant_model=assistant)
        return
    expected = model.generate(**arguments)
    torch.manual_seed(1)
    llama = LlamaForCausalLM(LlamaConfig(**TEXT | {"vocab_size": PLACEHOLDER + 1})).eval()
    assert torch.equal(model.generate(**arguments, assistant_model=llama), expected)
    if mode == "text" and start == "text":
        assert torch.equal(model.generate(**arguments, assistant_model=assistant), expected)
    else:
        with pytest.raises(ValueError, match="assistant_model must be a plain language model"):
            model.generate(**arguments, assistant_model=assistant)


def test_the_first_mark_counts_as_a_new_token(model, caplog):
    """An empty prompt is replaced by the `[IMG]` that is asked for."""
    given = {"generation_mode": "interleaved", "first_modality": "image", "eos_token_id": 2}
    for number in (25, 40):
        drawn = model.generate(torch.zeros(1, 0).long(), min_new_tokens=number, max_new_tokens=number, **given)
        assert drawn.shape == (1, number)
    assert "min_length" not in caplog.text


@pytest.mark.parametrize(
    "settings_", [{}, {"max_new_tokens": 12, "min_new_tokens": 12}, {"max_length": 20}, {"min_length": 15}]
)
def test_embeddings_alone_have_the_grammar_of_ids(model, settings_):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with_ids = model.generate(ids, **settings_)[:, 5:]
    alone = model.generate(inputs_embeds=model.get_input_embeddings()(ids), **settings_)
    assert torch.equal(alone, with_ids)
    assert (alone < TEXT_TOKENS).all()


def test_features_that_were_computed_before(model):
    pixel_values = pictures(2)
    counts = model.model.tokenize_images(pixel_values).num_codes.tolist()
    rows = [[5, IMAGE_START, *[PLACEHOLDER] * count, IMAGE_END, 6] for count in counts]
    ids, mask = pad_rows(rows, "right")
    given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 5}
    expected = model.generate(**given, pixel_values=pixel_values)
    features = {"image": model.get_image_features(pixel_values)}
    for _ in range(2):  # rows that are repeated leave the features as they are
        model.generate(**given, mm_encoder_outputs=features, num_beams=2, num_return_sequences=2)
        assert torch.equal(model.generate(**given, mm_encoder_outputs=features), expected)
    embedded = given | {"inputs_embeds": model.get_input_embeddings()(given.pop("input_ids"))}
    embedded.pop("input_ids", None)
    first = model.generate(**embedded, mm_encoder_outputs=features)
    model.generate(**embedded, mm_encoder_outputs=features, num_beams=2, num_return_sequences=2)
    assert torch.equal(model.generate(**embedded, mm_encoder_outputs=features), first)


def test_going_on_from_a_cache_needs_padding_on_the_left(model):
    arguments = prompts([5, 6, 7, 8], [9, 10], side="right") | {"max_new_tokens": 3, "min_new_tokens": 3}
    begun = model.generate(**arguments, return_dict_in_generate=True)
    mask = torch.cat([arguments["attention_mask"], torch.ones(2, 3, dtype=torch.long)], dim=1)
    for dtype in (torch.long, torch.bool, torch.uint8, torch.float32):
        with pytest.raises(ValueError, match="attention_mask must have its zeros on the left"):
            model.generate(begun.sequences, attention_mask=mask.to(dtype), cache=begun.cache)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_dtype_of_a_mask_says_nothing(model, mode, dtype, side):
    arguments = prompts([5, *IMAGE, 6], [7, 8], side=side) | MODES[mode]
    mask = arguments["attention_mask"]
    expected = model.generate(**arguments)
    assert torch.equal(model.generate(**arguments | {"attention_mask": mask.to(dtype)}), expected)
    inputs = {name: arguments[name] for name in ("input_ids", "pixel_values")} | {"labels": arguments["input_ids"]}
    torch.testing.assert_close(
        model(**inputs, attention_mask=mask.to(dtype)).loss, model(**inputs, attention_mask=mask).loss
    )


@pytest.mark.parametrize("mode", ["image", "guided image"])
def test_going_on_from_a_returned_cache(model, mode):
    arguments = prompts([5, *IMAGE, 6], [7, 8]) | MODES[mode]
    whole = model.generate(**arguments, return_prompt_codes=True)
    begun = model.generate(**arguments | {"max_new_tokens": 4}, return_prompt_codes=True, return_dict_in_generate=True)
    length = begun.sequences.shape[1]
    padding = length - torch.tensor(
        [row.index(5 if index == 0 else 7) for index, row in enumerate(begun.sequences.tolist())]
    )
    mask = (torch.arange(length) >= length - padding[:, None]).long()
    settings_ = MODES[mode] | {"max_new_tokens": whole.shape[1] - length}
    rest = model.generate(begun.sequences, attention_mask=mask, cache=begun.cache, **settings_)
    assert torch.equal(rest, whole)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_grammar_holds_for_every_state_and_bound(model, data):
    """Prompts with and without open images of any number of codes, any mode, any bounds."""
    codes = st.lists(st.sampled_from(CODES), max_size=NUM_PATCHES + 2)
    text = st.lists(st.integers(3, TEXT_TOKENS - 1), min_size=1, max_size=3)
    closed = codes.filter(bool).map(lambda row: [IMAGE_START, *row, IMAGE_END])
    row = st.tuples(
        text, st.one_of(st.just([]), closed), st.one_of(st.just([]), codes.map(lambda row: [IMAGE_START, *row]))
    )
    rows = data.draw(st.lists(row.map(lambda parts: sum(map(list, parts), [])), min_size=1, max_size=3))
    mode = data.draw(st.sampled_from(["text", "image", "interleaved"]))
    least = data.draw(st.integers(1, NUM_PATCHES))
    most = data.draw(st.integers(least, NUM_PATCHES))
    arguments = {"generation_mode": mode, "image_generation": {"min_new_tokens": least, "max_new_tokens": most}}
    if mode == "image":
        arguments["min_new_tokens"] = data.draw(st.integers(0, most + 2))
        arguments["max_new_tokens"] = data.draw(st.integers(max(1, arguments["min_new_tokens"]), NUM_PATCHES + 4))
    else:
        arguments["max_new_tokens"] = data.draw(st.integers(most + 2, most + 12))
        arguments["min_new_tokens"] = data.draw(st.integers(0, arguments["max_new_tokens"]))
    if mode != "text":
        arguments["guidance_scale"] = data.draw(st.sampled_from([1.0, 3.0]))
    sampled = data.draw(st.booleans())
    arguments |= {"do_sample": sampled}
    arguments["image_generation"]["do_sample"] = sampled
    given_prompts = prompts(*rows)
    torch.manual_seed(0)
    output = model.generate(**given_prompts, **arguments)
    length = given_prompts["input_ids"].shape[1]
    for prompt, new in zip(rows, output[:, length:].tolist(), strict=True):
        ended = IMAGE_END if mode == "image" else 2
        new = new[: new.index(ended) + 1] if ended in new else new
        is_open, count, first = False, 0, True
        for token in prompt:
            is_open, count = (token == IMAGE_START) or (is_open and token != IMAGE_END), count + 1
            count = 0 if token == IMAGE_START else count
        for position, token in enumerate(new):
            if mode == "text":
                assert token < TEXT_TOKENS
            elif is_open:
                assert token in CODES or token == IMAGE_END
                if token == IMAGE_END:
                    assert count >= 1
                    is_full = count >= most
                    enough = position >= arguments["min_new_tokens"] if mode == "image" else True
                    assert is_full or (count >= least and enough)
                    is_open = False
                else:
                    count += 1
                    assert count <= most
            elif token == IMAGE_START:
                assert mode == "interleaved" or first
                is_open, count = True, 0
            else:
                assert mode == "interleaved"
                assert token < TEXT_TOKENS
            first = False


def test_defaults_are_those_of_transformers():
    # A private method: this test tells when transformers' defaults move.
    defaults = GenerationConfig()._get_default_generation_params()
    assert (defaults["max_length"], defaults["top_k"]) == (DEFAULT_MAX_LENGTH, DEFAULT_TOP_K)


def test_sampling_is_that_of_transformers(model):
    """A text in interleaved generation has the warpers of transformers: all of them, with their values, in order."""
    settings = {"temperature": 0.7, "top_h": 0.4, "top_k": 1, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8}
    settings |= {"epsilon_cutoff": 0.01, "eta_cutoff": 0.02, "do_sample": True}
    # A private method: this test tells when its settings of sampling change.
    source = inspect.getsource(GenerationMixin._get_logits_processor)
    branch = source.partition("if generation_config.do_sample:")[2].partition("watermarking_config")[0]
    names = re.findall(r"^ {12}if generation_config\.(\w+) is not None", branch, re.MULTILINE)
    assert [name for name in names if name != "num_beams"] == [*WARPERS]
    assert settings.keys() == {*WARPERS, "do_sample"}
    for num_beams in (1, 2):
        config = GenerationConfig(num_beams=num_beams, **settings)
        config._eos_token_tensor = torch.tensor([2, 3])
        expected = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
        ours = make_warpers(settings, 3 if num_beams > 1 else 1)
        assert [type(warper) for warper in ours] == [type(warper) for warper in expected]
        assert [repr(vars(warper)) for warper in ours] == [repr(vars(warper)) for warper in expected]


def test_greedy_texts_take_one_of_equal_tokens():
    scores = torch.tensor([[0.5, 2.0, 2.0, 1.0], [3.0, 3.0, 0.0, 3.0]])
    kept = make_warpers({"do_sample": False}, 1)(torch.zeros(2, 1, dtype=torch.long), scores)
    assert kept.isfinite().tolist() == [[False, True, False, False], [True, False, False, False]]


# Wrong values


def test_a_cache_has_one_check_under_both_names(model):
    """`past_key_values` is the old name."""
    for name in ("cache", "past_key_values"):
        cache = DynamicCache(config=model.config.text_config)
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, **{name: cache})
        assert cache.get_seq_length() == 4
        with pytest.raises(ValueError, match="cache holds 4 positions, and input_ids must be those and further ones"):
            model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, **{name: cache})


@pytest.mark.parametrize("neighbor", [[8, 9], [5, 6, 7, 8], [5, *IMAGE, 6]])
def test_processors_and_criteria_do_not_depend_on_neighbors(model, neighbor):
    """A processor of a type that settings create is called beside theirs, whether or not a batch is padded."""

    def run(*rows):
        return model.generate(
            **prompts(*rows),
            max_new_tokens=6,
            suppress_tokens=list(range(5)),
            logits_processor=[SuppressTokensLogitsProcessor(list(range(5, TEXT_TOKENS - 2)))],
            stopping_criteria=[MaxLengthCriteria(100)],
            return_full_text=False,
        )

    alone = run([5, 6, 7])
    assert alone.shape == (1, 6)
    assert {*alone[0].tolist()} <= {TEXT_TOKENS - 2, TEXT_TOKENS - 1}
    assert torch.equal(run([5, 6, 7], neighbor)[0], alone[0])
