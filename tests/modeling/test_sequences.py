# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The language model over text and pictures: what must not change what it says."""

import pytest
import torch

from lavit_hf.modeling.merger_lavit import PatchPartition

from ..tiny import IMAGE_END, IMAGE_START, NUM_PATCHES, PLACEHOLDER, VISUAL_OFFSET, pad_rows, pictures, tiny_lavit


IMAGE = [IMAGE_START, PLACEHOLDER, IMAGE_END]
# No picture, one, three: in one batch.
ROWS = [[5, 6, 7, 8], [*IMAGE, 9, 10, 11], [12, *IMAGE, *IMAGE, 13, *IMAGE, 14]]


def run(model, rows, pixel_values, side="left", **kwargs):
    ids, mask = pad_rows(rows, side)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, pixel_values=pixel_values, **kwargs)


def real_logits(outputs) -> list[torch.Tensor]:
    """Each row's logits without padding."""
    mask = outputs.sequences.attention_mask.bool()
    return [logits[row] for logits, row in zip(outputs.logits, mask, strict=True)]


@pytest.mark.parametrize("image_inputs", ["features", "codes"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_says_what_its_rows_say_alone(model, image_inputs, side):
    images = pictures(4)
    batch = run(model, ROWS, images, side, image_inputs=image_inputs)
    alone = [
        model(torch.tensor([ROWS[0]])).logits[0],
        real_logits(run(model, ROWS[1:2], images[:1], image_inputs=image_inputs))[0],
        real_logits(run(model, ROWS[2:], images[1:], image_inputs=image_inputs))[0],
    ]
    for together, single in zip(real_logits(batch), alone, strict=True):
        torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-4)


def test_padding_stays_on_its_side(model):
    for side, edge in (("left", 0), ("right", -1)):
        mask = run(model, ROWS, pictures(4), side).sequences.attention_mask
        assert (mask[:, edge] == 0).any()
        assert (mask[:, -1 - edge] == 1).all()


def test_codes_as_ids_are_the_placeholder_in_codes_mode(model):
    outputs = run(model, ROWS, pictures(4), image_inputs="codes")
    sequences = outputs.sequences
    assert sequences.input_ids.max() < PLACEHOLDER
    with torch.no_grad():
        plain = model(sequences.input_ids, attention_mask=sequences.attention_mask)
    mask = sequences.attention_mask.bool()
    torch.testing.assert_close(outputs.logits[mask], plain.logits[mask], atol=1e-5, rtol=1e-4)


def test_features_are_not_the_codes(model):
    features = run(model, ROWS[1:2], pictures(1), image_inputs="features")
    codes = run(model, ROWS[1:2], pictures(1), image_inputs="codes")
    assert torch.equal(features.sequences.input_ids, codes.sequences.input_ids)
    assert (features.logits[:, -1] - codes.logits[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
def test_pictures_of_one_batch_enter_in_different_ways(model, side):
    images = pictures(4)
    ways = ["codes", "features", "codes", "features"]
    batch = real_logits(run(model, ROWS, images, side, image_inputs=ways))
    alone = [
        model(torch.tensor([ROWS[0]])).logits[0],
        real_logits(run(model, ROWS[1:2], images[:1], image_inputs="codes"))[0],
        real_logits(run(model, ROWS[2:], images[1:], image_inputs=ways[1:]))[0],
    ]
    for together, single in zip(batch, alone, strict=True):
        torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-4)
    # The readings of each picture of the last row
    counts = model.model.visual_tokenizer(images[1:]).num_codes.tolist()
    read = {}
    for name, given in {"features": "features", "codes": "codes", "mixed": ways[1:]}.items():
        sequences = run(model, ROWS[2:], images[1:], side, image_inputs=given).sequences
        read[name] = sequences.inputs_embeds[sequences.image_mask].split(counts)
    for index, way in enumerate(ways[1:]):
        torch.testing.assert_close(read["mixed"][index], read[way][index])


def test_every_picture_has_its_own_codes_in_place(model):
    images = pictures(4)
    with torch.no_grad():
        codes = [codes + VISUAL_OFFSET for codes in model.model.visual_tokenizer(images).split()]
    sequences = run(model, ROWS, images).sequences
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(sequences.input_ids, sequences.attention_mask, strict=True)]
    first, second, third, fourth = ([IMAGE_START, *ids.tolist(), IMAGE_END] for ids in codes)
    assert rows == [ROWS[0], [*first, 9, 10, 11], [12, *second, *third, 13, *fourth, 14]]


def test_labels_move_along(model):
    ids, mask = pad_rows(ROWS)
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, -6:-3] = -100  # this picture is part of a prompt that is not learned
    images = pictures(4)
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": images, "labels": labels}
    moved = model(**given).sequences
    expected = moved.input_ids.masked_fill(moved.attention_mask == 0, -100)
    inside = moved.image_mask[1].nonzero().flatten()
    expected[1, inside.min() - 1 : inside.max() + 2] = -100
    # Nothing precedes the first token of a row.
    expected.scatter_(1, moved.attention_mask.argmax(dim=1, keepdim=True), -100)
    assert torch.equal(moved.labels, expected)
    assert (moved.labels < PLACEHOLDER).all()

    unsupervised = model(**given, supervise_images=False).sequences
    assert torch.equal(unsupervised.labels, expected.masked_fill(moved.image_mask, -100))


def test_loss_is_the_mean_over_text_and_codes(model):
    ids, mask = pad_rows(ROWS)
    outputs = model(ids, pictures(4), mask, labels=ids.masked_fill(mask == 0, -100))
    targets = outputs.sequences.labels[:, 1:]
    expected = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), targets.flatten())
    torch.testing.assert_close(outputs.loss, expected)
    assert (targets >= VISUAL_OFFSET).sum() > 10


def test_without_logits_the_loss_is_the_same():
    ids, mask = pad_rows(ROWS)
    labels = ids.masked_fill(mask == 0, -100)
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures(4), "labels": labels}
    losses, gradients = [], []
    for skip_logits in (False, True):
        model = tiny_lavit().train()
        outputs = model(**given, skip_logits=skip_logits)
        outputs.loss.backward()
        losses.append(outputs.loss)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert outputs.logits is None
    assert outputs.token_losses.shape == ((outputs.sequences.labels[:, 1:] != -100).sum(),)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    for skip_logits in (False, True):
        nothing = model(ids, pictures(4), mask, labels=torch.full_like(ids, -100), skip_logits=skip_logits)
        assert nothing.loss == 0


def test_cached_is_uncached(model):
    outputs = run(model, ROWS[2:], pictures(3), use_cache=True)
    sequences, following = outputs.sequences, torch.tensor([[20, 21, 22]])
    with torch.no_grad():
        step = model(following, cache=outputs.cache)
        embeds = torch.cat([sequences.inputs_embeds, model.get_input_embeddings()(following)], dim=1)
        whole = model(inputs_embeds=embeds)
    torch.testing.assert_close(step.logits, whole.logits[:, -3:], atol=1e-5, rtol=1e-4)


def test_logits_to_keep(model):
    everything = run(model, ROWS, pictures(4)).logits
    torch.testing.assert_close(run(model, ROWS, pictures(4), logits_to_keep=2).logits, everything[:, -2:])


def test_get_image_features_are_what_the_model_reads(model):
    images = pictures(2)
    with torch.no_grad():
        features = model.get_image_features(images).pooler_output
    sequences = run(model, [IMAGE, [7, *IMAGE]], images).sequences
    assert all(1 <= len(rows) <= NUM_PATCHES for rows in features)
    torch.testing.assert_close(sequences.inputs_embeds[sequences.image_mask], torch.cat(features))


@torch.no_grad()
def test_positions_tell_equal_patches_apart():
    adapter = tiny_lavit(encode_positions=True).model.visual_adapter
    keep_mask = torch.ones(2, NUM_PATCHES, dtype=torch.bool)
    keep_mask[0, ::2] = False
    kept = keep_mask.sum(-1).tolist()
    features = torch.ones(2, NUM_PATCHES, 1) * torch.randn(32)
    half, whole = adapter(features, PatchPartition(keep_mask)).split(kept)
    assert (torch.cdist(whole, whole) + torch.eye(NUM_PATCHES)).min() > 0.1
    where = adapter.projection.weight @ adapter.position_embeddings.T
    torch.testing.assert_close(half - half[:1], (where[:, 1::2] - where[:, 1:2]).T, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_adapter_and_the_language_model_alone():
    model = tiny_lavit().train()
    ids, mask = pad_rows(ROWS)
    model(ids, pictures(4), mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("model.visual_adapter.merger") for name in trained)
    assert any(name.startswith("model.language_model") for name in trained)
    assert not any(name.startswith("model.visual_tokenizer") for name in trained)
    asked = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("model.visual_tokenizer") for name in asked)
    assert not model.model.visual_tokenizer.training


@pytest.mark.parametrize("image_inputs", ["codes", []])
def test_all_parts_run_whatever_a_batch_holds(image_inputs):
    """Processes that train together would wait for each other's gradients for ever."""
    model = tiny_lavit().train()
    rows, images = ([[5, *IMAGE, 6]], pictures(1)) if image_inputs else ([[5, 6]], pictures(0))
    ids, _ = pad_rows(rows)
    loss = model(ids, images, labels=ids, image_inputs=image_inputs).loss
    loss.backward()
    adapter = list(model.model.visual_adapter.parameters())
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in adapter)
    expected = model.eval()(ids, images if image_inputs else None, labels=ids, image_inputs=image_inputs).loss
    torch.testing.assert_close(loss, expected)


def test_codes_do_not_depend_on_autocast(model):
    images = pictures(4)
    with torch.autocast("cpu", torch.bfloat16):
        ids = run(model, ROWS, images).sequences.input_ids
    assert torch.equal(ids, run(model, ROWS, images).sequences.input_ids)


def test_gradient_checkpointing_changes_nothing_but_memory():
    ids, mask = pad_rows(ROWS)
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures(4), "labels": ids}
    gradients = []
    for checkpointing in (False, True):
        model = tiny_lavit().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.model.visual_adapter.merger.layers[0].gradient_checkpointing
        model(**given).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("rows", "num_images", "message"),
    [
        ([[*IMAGE, *IMAGE]], 1, "2 image placeholders, but 1 images"),
        ([IMAGE], 2, "1 image placeholders, but 2 images"),
        ([IMAGE], 0, "1 image placeholders, but 0 images"),
        ([[5, 6]], 1, "0 image placeholders, but 1 images"),
    ],
)
def test_as_many_placeholders_as_pictures(model, rows, num_images, message):
    with pytest.raises(ValueError, match=message):
        run(model, rows, pictures(num_images))


def test_placeholder_without_any_picture(model):
    with pytest.raises(ValueError, match="1 image placeholders, but 0 images"):
        model(torch.tensor([IMAGE]))
    with pytest.raises(ValueError, match="1 image placeholders, but 0 images"):
        model.generate(torch.tensor([IMAGE]))


def test_wrong_image_inputs(model):
    with pytest.raises(ValueError, match="'features' or 'codes', got 'pixels'"):
        run(model, [IMAGE], pictures(1), image_inputs="pixels")
    with pytest.raises(ValueError, match="'features' or 'codes', got 'pixels'"):
        run(model, [IMAGE], pictures(1), image_inputs=["pixels"])
    with pytest.raises(ValueError, match="each of 1 images, got 2 words"):
        run(model, [IMAGE], pictures(1), image_inputs=["codes", "features"])


@pytest.mark.parametrize("inner", [False, True], ids=["with_head", "without_head"])
def test_arguments_of_images_without_images(model, inner):
    forward = model.model if inner else model
    ids = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="image_inputs must be 'features' or 'codes', got 'bogus'"):
        forward(ids, image_inputs="bogus")
    with pytest.raises(ValueError, match="image_inputs must have one word for each of 0 images, got 1 words"):
        forward(ids, image_inputs=["codes"])
    with pytest.raises(ValueError, match="keep_mask goes with pixel_values or vision_features"):
        forward(ids, keep_mask=torch.ones(1, NUM_PATCHES, dtype=torch.bool))
    with pytest.raises(ValueError, match="keep_mask must be that of 0 images, got 1 rows"):
        forward(ids, pixel_values=pictures(0), keep_mask=torch.ones(1, NUM_PATCHES, dtype=torch.bool))
    forward(ids, image_inputs="codes")  # that of all images, of which there may be none


@torch.no_grad()
def test_image_inputs_of_features_that_were_computed_before(model):
    features = model.get_image_features(pictures(1))
    ids = torch.tensor([[IMAGE_START, *[PLACEHOLDER] * len(features.pooler_output[0]), IMAGE_END]])
    given = {"input_ids": ids, "mm_encoder_outputs": {"image": features}}
    expected = model(**given).logits
    for image_inputs in ("features", ["features"]):
        assert torch.equal(model(**given, image_inputs=image_inputs).logits, expected)
    for image_inputs in ("codes", ["codes"]):
        with pytest.raises(ValueError, match="image_inputs must be 'features' with mm_encoder_outputs"):
            model(**given, image_inputs=image_inputs)
    with pytest.raises(ValueError, match="each of 1 images, got 2 words"):
        model(**given, image_inputs=["features", "features"])


def test_pictures_with_a_filled_cache(model):
    cache = model(torch.tensor([[5, 6]]), use_cache=True).cache
    with pytest.raises(ValueError, match="filled cache"):
        model(torch.tensor([IMAGE]), pictures(1), cache=cache)
