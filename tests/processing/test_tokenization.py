# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.

import pytest
from transformers import AutoTokenizer

from lavit_hf.processing import extend_tokenizer


@pytest.fixture(scope="module")
def release_tokenizer(release_processor):
    return release_processor.tokenizer


@pytest.fixture(scope="module")
def saved(release_processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    release_processor.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder), folder


@pytest.fixture(params=["made", "loaded"])
def tokenizer(request, release_tokenizer, saved):
    return release_tokenizer if request.param == "made" else saved[0]


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def test_release_layout(tokenizer):
    assert len(tokenizer) == 48387
    assert tokenizer.convert_ids_to_tokens([32000, 32001, 32002, 48385, 48386]) == [
        "[IMG]",
        "[/IMG]",
        "<code_0>",
        "<code_16383>",
        "<image>",
    ]
    named = (tokenizer.image_start_token_id, tokenizer.image_end_token_id, tokenizer.image_token_id)
    assert named == (32000, 32001, 48386)
    assert tokenizer.pad_token == "<unk>"
    assert tokenizer.padding_side == "left"


def test_codes_are_visible_text_without_spaces(tokenizer):
    assert tokenizer.decode([32007]) == "<code_5>"
    assert tokenizer.decode([32000, 32007, 32001], skip_special_tokens=True) == ""
    assert 32007 not in tokenizer("<code_5>", split_special_tokens=True).input_ids
    assert ids_of(tokenizer, "<code_5>") == [32007]
    assert tokenizer.decode([32000, 32002, 48385, 32001]) == "[IMG]<code_0><code_16383>[/IMG]"
    assert ids_of(tokenizer, "[IMG]<code_0><code_16383>[/IMG]") == [32000, 32002, 48385, 32001]


@pytest.mark.parametrize("text", ["a photo of", "Question: what is this? Answer:", "in the water"])
def test_text_after_a_mark_is_tokenized_as_alone(tokenizer, release_text_tokenizer, text):
    alone = ids_of(release_text_tokenizer, text)
    assert ids_of(tokenizer, text) == alone
    assert ids_of(tokenizer, f"[IMG]<image>[/IMG]{text}") == [32000, 48386, 32001, *alone]
    assert ids_of(tokenizer, f"<code_3>{text}[IMG]") == [32005, *alone, 32000]


def test_golden_text_survives_a_round_trip(tokenizer, golden_json):
    text_ids = golden_json["multimodal_prompt_ids"][-3:]
    assert text_ids == [384, 352, 381]
    assert ids_of(tokenizer, tokenizer.decode(text_ids)) == text_ids


def test_llama_tokenizers_without_legacy_keep_their_space_after_marks(golden_folder):
    text_tokenizer = AutoTokenizer.from_pretrained(golden_folder / "checkpoint" / "language_model", legacy=False)
    tokenizer = extend_tokenizer(text_tokenizer, 4)
    assert ids_of(tokenizer, "[/IMG]a photo")[1:] == ids_of(text_tokenizer, "a photo")


def test_gap_before_the_marks_is_filled(byte_level_tokenizer):
    size = len(byte_level_tokenizer)
    tokenizer = extend_tokenizer(byte_level_tokenizer, 4, image_start_token_id=size + 3)
    assert tokenizer.convert_ids_to_tokens(list(range(size, size + 5))) == [
        "<reserved_0>",
        "<reserved_1>",
        "<reserved_2>",
        "[IMG]",
        "[/IMG]",
    ]
    assert tokenizer.image_token_id == size + 9 == len(tokenizer) - 1
    assert tokenizer.pad_token == "<|end|>"
    assert len(byte_level_tokenizer) == size
    assert ids_of(tokenizer, "a dog") == ids_of(byte_level_tokenizer, "a dog")


def test_errors(byte_level_tokenizer):
    size = len(byte_level_tokenizer)
    with pytest.raises(ValueError, match=f"image_start_token_id is 10, .* up to {size - 1}"):
        extend_tokenizer(byte_level_tokenizer, 4, image_start_token_id=10)
    with pytest.raises(ValueError, match=r"'\[IMG\]' cannot have id .*: the tokenizer holds it already"):
        extend_tokenizer(extend_tokenizer(byte_level_tokenizer, 4), 4)
    with pytest.raises(ValueError, match="codebook_size is 0"):
        extend_tokenizer(byte_level_tokenizer, 0)
