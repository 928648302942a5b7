# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Lengths that are known before the model runs, and losses that do not depend on what else is in the batch."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GPT2Config

from lavit_hf import LavitConfig

from ..tiny import (
    CODEBOOK_SIZE,
    IMAGE_END,
    IMAGE_START,
    PLACEHOLDER,
    TEXT,
    TEXT_TOKENS,
    VISUAL_OFFSET,
    pad_rows,
    pictures,
    tiny_lavit,
)


IMAGE = [IMAGE_START, PLACEHOLDER, IMAGE_END]
# An image, none, two: in one batch.
ROWS = [[*IMAGE, 9, 10, 11], [5, 6, 7, 8], [12, *IMAGE, *IMAGE, 13]]


def expand(rows: list[list[int]], counts: list[int]) -> list[list[int]]:
    """Rows with as many placeholders for each image as it has codes."""
    counts = iter(counts)
    return [
        [token for old in row for token in ([old] if old != PLACEHOLDER else [PLACEHOLDER] * next(counts))]
        for row in rows
    ]


def count_codes(model, images) -> list[int]:
    return model.model.visual_tokenizer(images).num_codes.tolist()


# One placeholder for each code


@torch.no_grad()
@pytest.mark.parametrize("image_inputs", ["features", "codes", ["codes", "features", "codes"]])
@pytest.mark.parametrize("side", ["left", "right"])
def test_expanded_images_change_no_length(model, image_inputs, side):
    images = pictures(3)
    short_ids, short_mask = pad_rows(ROWS, side)
    ids, mask = pad_rows(expand(ROWS, count_codes(model, images)), side)
    short = model(short_ids, images, short_mask, labels=short_ids, image_inputs=image_inputs)
    outputs = model(
        ids,
        images,
        mask,
        labels=ids,
        image_inputs=image_inputs,
        output_hidden_states=True,
        output_attentions=True,
    )
    assert outputs.logits.shape[:2] == outputs.labels.shape == outputs.hidden_states[0].shape[:2] == ids.shape
    assert torch.equal(outputs.sequences.attention_mask, mask)
    assert torch.equal(outputs.sequences.input_ids, short.sequences.input_ids)
    assert torch.equal(outputs.labels, short.labels)
    assert PLACEHOLDER not in outputs.labels
    torch.testing.assert_close(outputs.logits[mask.bool()], short.logits[mask.bool()])
    torch.testing.assert_close(outputs.loss, short.loss)


@torch.no_grad()
def test_positions_and_whole_masks_are_kept(model):
    ids, _ = pad_rows(expand(ROWS[:1], count_codes(model, pictures(1))))
    length = ids.shape[1]
    expected = model(ids, pictures(1)).logits
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    for mask_or_positions in ({"attention_mask": causal}, {"position_ids": torch.arange(length)[None]}):
        torch.testing.assert_close(model(ids, pictures(1), **mask_or_positions).logits, expected)
        with pytest.raises(ValueError, match="need one placeholder for each code of an image"):
            model(torch.tensor(ROWS[:1]), pictures(1), **mask_or_positions)


@torch.no_grad()
def test_inputs_given_as_embeddings(model):
    """As prompt tuning does it: embeddings, among which the placeholder's stand for images."""
    images = pictures(3)
    for rows in (ROWS, expand(ROWS, count_codes(model, images))):
        ids, mask = pad_rows(rows)
        embeds = model.get_input_embeddings()(ids)
        outputs = model(inputs_embeds=embeds, pixel_values=images, attention_mask=mask, labels=ids)
        torch.testing.assert_close(outputs.loss, model(ids, images, mask, labels=ids).loss)


@torch.no_grad()
def test_features_that_were_computed_before(model):
    images = pictures(3)
    ids, mask = pad_rows(expand(ROWS, count_codes(model, images)))
    expected = model(ids, images, mask).logits
    encoded = {"image": model.get_image_features(images)}
    torch.testing.assert_close(model(ids, attention_mask=mask, mm_encoder_outputs=encoded).logits, expected)
    labelled = model(ids, attention_mask=mask, mm_encoder_outputs=encoded, labels=ids)
    assert PLACEHOLDER not in labelled.labels
    assert labelled.loss.isfinite()
    with pytest.raises(ValueError, match="either images or mm_encoder_outputs"):
        model(ids, images, mask, mm_encoder_outputs=encoded)
    with pytest.raises(ValueError, match="features for [0-9]+ placeholders"):
        model(ids[:2], attention_mask=mask[:2], mm_encoder_outputs=encoded)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_the_tower_runs_once(model, training):
    """A processor with a visual tokenizer hands on what it has computed."""
    images, tokenizer, runs = pictures(3), model.model.visual_tokenizer, []
    tokens = tokenizer(images)
    ids, mask = pad_rows(expand(ROWS, tokens.num_codes.tolist()))
    expected = model(ids, images, mask).logits
    hook = tokenizer.vision_tower.register_forward_hook(lambda *args: runs.append(1))
    try:
        known = {"vision_features": tokens.vision_features, "keep_mask": tokens.keep_mask, "attention_mask": mask}
        for pixel_values in (None, images):
            model.train(training)
            outputs = model(ids, pixel_values, **known)
            torch.testing.assert_close(outputs.logits, expected)
        model.generate(ids, **known, max_new_tokens=2)
    finally:
        hook.remove()
        model.eval()
    assert not runs
    with pytest.raises(ValueError, match="those of the 2 images of pixel_values, got 3"):
        model(ids, images[:2], **known)


@torch.no_grad()
def test_counts_that_do_not_fit(model):
    images = pictures(2)
    first, second = count_codes(model, images)
    assert first != second
    rows = [[IMAGE_START, *[PLACEHOLDER] * count, IMAGE_END, 5] for count in (first, second)]
    with pytest.raises(
        ValueError, match=f"hold {first + second - 1} image placeholders, but 2 images with {first + second} codes"
    ):
        model(pad_rows([rows[0][:1] + rows[0][2:], rows[1]])[0], images)
    # The total fits, but not image by image.
    few = min(first, second)
    with pytest.raises(ValueError, match=rf"Image \d has \d+ codes, but {few} placeholders stand for it"):
        model(*[pad_rows(rows)[0], images.flip(0), pad_rows(rows)[1]])
    ids, mask = pad_rows(rows[:1])
    with pytest.raises(ValueError, match=r"attention_mask must be of shape \(1, 1?\d\), got \(1, 3\)"):
        model(ids, images[:1], mask[:, :3])


# The vocabulary


def test_the_placeholder_is_a_row_of_the_vocabulary(model):
    config = model.config
    assert config.image_token_id == PLACEHOLDER == config.vocab_size - 1
    assert [config.image_end_token_id, config.visual_token_offset] == [IMAGE_END, VISUAL_OFFSET]
    assert model.get_input_embeddings()(torch.tensor([PLACEHOLDER])).shape == (1, TEXT["hidden_size"])
    text_config = {**TEXT, "model_type": "llama", "vocab_size": TEXT_TOKENS + CODEBOOK_SIZE + 2}
    tokenizer_config = config.visual_tokenizer_config.to_dict()
    with pytest.raises(
        StrictDataclassError, match="vocab_size must hold .* from image_start_token_id=100 on, got 142"
    ):
        LavitConfig(
            text_config=text_config, visual_tokenizer_config=tokenizer_config, image_start_token_id=TEXT_TOKENS
        )
    padded = {**text_config, "vocab_size": 160}
    config = LavitConfig(
        text_config=padded, visual_tokenizer_config=tokenizer_config, image_start_token_id=TEXT_TOKENS
    )
    assert config.image_token_id == PLACEHOLDER
    saved = config.to_dict()
    assert not {"image_end_token_id", "visual_token_offset", "image_token_id"} & set(saved)


# Losses


@torch.no_grad()
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_row_counts_the_same_alone_and_in_a_batch(model, data):
    """Token losses and label counts, on either side of padding, with images in either form, also as logits."""
    parts = st.sampled_from([[7], [8, 9], [10, 11, 12], IMAGE])
    rows = data.draw(
        st.lists(st.lists(parts, min_size=1, max_size=4).map(lambda row: sum(row, [])), min_size=2, max_size=4)
    )
    side = data.draw(st.sampled_from(["left", "right"]))
    image_inputs = data.draw(st.sampled_from(["features", "codes"]))
    num_images = sum(row.count(PLACEHOLDER) for row in rows)
    images = pictures(num_images, seed=data.draw(st.integers(0, 3))) if num_images else None
    if num_images and data.draw(st.booleans()):
        rows = expand(rows, count_codes(model, images))
        counts = count_codes(model, images)
    else:
        counts = [1] * num_images
    ids, mask = pad_rows(rows, side)
    arguments = {"attention_mask": mask, "labels": ids, "image_inputs": image_inputs}
    batch = model(ids, images, **arguments, skip_logits=True)
    losses, done = [], 0
    for row in rows:
        own, taken = 0, row.count(PLACEHOLDER)
        while taken:
            taken -= counts[done + own]
            own += 1
        row_images = images[done : done + own] if own else None
        done += own
        alone = model(
            torch.tensor([row]), row_images, labels=torch.tensor([row]), image_inputs=image_inputs, skip_logits=True
        )
        losses.append(alone.token_losses)
    losses = torch.cat(losses)
    assert len(batch.token_losses) == len(losses)
    torch.testing.assert_close(batch.token_losses, losses, atol=1e-5, rtol=1e-4)
    if len(losses):
        whole = model(ids, images, **arguments)
        torch.testing.assert_close(whole.loss, losses.mean(), atol=1e-5, rtol=1e-4)
        assert int((whole.labels[:, 1:] != -100).sum()) == len(losses)


@torch.no_grad()
def test_padding_does_not_count_as_positions():
    """Also for a language model with learned positions, in every forward with a cache."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": TEXT_TOKENS, "n_positions": 64}
    model = tiny_lavit(text=GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))
    ids, mask = pad_rows([[5, 6, 7], [8, 9, 10, 11, 12]])
    first = model(ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True)
    last = model(ids[:, -1:], attention_mask=mask, cache=first.cache)
    alone = model(torch.tensor([[5, 6, 7]]))
    torch.testing.assert_close(first.logits[0, -2:], alone.logits[0, :2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last.logits[0, -1], alone.logits[0, -1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_shifted_labels_of_sequence_parallel_training(model):
    ids = torch.tensor([[5, 6, 7, 8]])
    shifted = torch.tensor([[6, 7, 8, -100]])
    expected = model(ids, labels=ids).loss
    for settings_ in ({}, {"skip_logits": True}):
        torch.testing.assert_close(model(ids, labels=ids, shift_labels=shifted, **settings_).loss, expected)
        assert model(ids, labels=ids, shift_labels=torch.tensor([[9, 7, 8, -100]]), **settings_).loss != expected
    for wrong in (ids[:, :3], ids.expand(2, 4), ids.view(2, 2)):
        for labels in ({"labels": wrong}, {"labels": ids, "shift_labels": wrong}):
            with pytest.raises(ValueError, match="labels must have the shape"):
                model(ids, **labels, skip_logits=True)
    features = model.get_image_features(pictures(1))
    ids = torch.tensor([[IMAGE_START, *[PLACEHOLDER] * len(features.pooler_output[0]), IMAGE_END, 5, 6]])
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    given = {"input_ids": ids, "mm_encoder_outputs": {"image": features}, "labels": ids}
    expected = model(**given).loss  # placeholders are no labels
    for settings_ in ({}, {"skip_logits": True}):
        torch.testing.assert_close(model(**given, shift_labels=shifted, **settings_).loss, expected)
    with pytest.raises(ValueError, match="shift_labels go neither with images"):
        model(torch.tensor([IMAGE]), pictures(1), labels=torch.tensor([IMAGE]), shift_labels=torch.tensor([IMAGE]))


# Arguments


@torch.no_grad()
def test_unknown_arguments_are_refused(model):
    ids = torch.tensor([IMAGE])
    for call in (model, model.model):
        with pytest.raises(TypeError, match="unexpected argument 'pixel_value'"):
            call(ids, pixel_value=pictures(1))
    with pytest.raises(TypeError, match="unexpected argument 'selecton'"):
        model.get_image_features(pictures(1), selecton="sample")


@torch.no_grad()
def test_outputs_as_tuples():
    model, ids = tiny_lavit(), torch.tensor([IMAGE])
    model.set_attn_implementation("eager")
    asked = {"pixel_values": pictures(1), "output_hidden_states": True, "output_attentions": True}
    whole = model(ids, **asked)
    assert len(whole.hidden_states) == TEXT["num_hidden_layers"] + 1
    assert len(whole.attentions) == TEXT["num_hidden_layers"]
    as_tuple = model(ids, **asked, return_dict=False)
    torch.testing.assert_close(as_tuple[0], whole.logits)
    torch.testing.assert_close(model.model(ids, **asked, return_dict=False)[0], whole.hidden_states[-1])
    features = model.get_image_features(pictures(1), return_dict=False)
    torch.testing.assert_close(features[1][0], model.get_image_features(pictures(1)).pooler_output[0])


@torch.no_grad()
@pytest.mark.parametrize("ask", ["argument", "configuration"])
def test_hidden_states_and_attentions_of_image_features(ask):
    model, asked = tiny_lavit(), {"output_hidden_states": True, "output_attentions": True}
    model.set_attn_implementation("eager")
    expected = model.get_image_features(pictures(2))
    assert expected.hidden_states is expected.attentions is None
    of_tokenizer = model.model.visual_tokenizer(pictures(2), **asked)
    if ask == "configuration":
        for name, value in asked.items():
            setattr(model.config.visual_tokenizer_config, name, value)
        asked = {}
    for part in (model, model.model):
        features = part.get_image_features(pictures(2), **asked)
        for name in ("hidden_states", "attentions"):
            ours, theirs = getattr(features, name), getattr(of_tokenizer, name)
            assert len(ours) == len(theirs) > 0
            assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
        assert all(torch.equal(*pair) for pair in zip(features.pooler_output, expected.pooler_output, strict=True))


@pytest.mark.parametrize("left", [1, 2, 0])
def test_placeholders_that_were_cut_off_are_refused(model, left):
    """Whoever gives features and masks of images has expanded them, so that one placeholder is too few."""
    outputs = model.model.tokenize_images(pictures(1))
    images = {"vision_features": outputs.vision_features, "keep_mask": outputs.keep_mask}
    ids = torch.tensor([[5, IMAGE_START, *[PLACEHOLDER] * left]])
    with pytest.raises(ValueError, match=f"hold {left} image placeholders, .* one placeholder for each code"):
        model(ids, **images)
    with pytest.raises(ValueError, match=f"hold {left} image placeholders, .* one placeholder for each code"):
        model.generate(ids, max_new_tokens=2, **images)


@pytest.mark.parametrize("part", ["whole", "without head"])
@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
@pytest.mark.parametrize("with_cache", [False, True])
def test_placeholders_without_images_are_refused(model, part, given, with_cache):
    ids = torch.tensor([[5, IMAGE_START, PLACEHOLDER, IMAGE_END]])
    inputs = {given: ids if given == "input_ids" else model.get_input_embeddings()(ids)}
    cache = DynamicCache(config=model.config.text_config) if with_cache else None
    with pytest.raises(ValueError, match="hold 1 image placeholders, but 0 images"):
        (model if part == "whole" else model.model)(**inputs, cache=cache)
