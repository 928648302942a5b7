# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The images show what the model does."""

from threading import Event, Thread, current_thread

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from transformers import AutoModelForCausalLM, AutoProcessor

from lavit_hf import LavitProcessor, demo_checkpoint
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.visualization import (
    Sample,
    attend_to_patches,
    draw_sheet,
    find_merge_targets,
    show_attention,
    show_kept_patches,
    show_merging,
    show_tokens,
)

from .tiny import CODEBOOK_SIZE, IMAGE_SIZE, pictures, text_tokenizer, tiny_lavit


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [render_scene(sample_scene(index, "test")) for index in range(3)]


@pytest.fixture(scope="module")
def pixel_values(demo, images):
    return demo[1].image_processor(images, return_tensors="pt")["pixel_values"]


def patch_means(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.BOX)).astype(int)


def test_kept_patches_keep_their_color():
    image = Image.new("RGB", (64, 64), "red")
    mask = torch.zeros(16, dtype=torch.bool)
    mask[5] = True
    means = patch_means(show_kept_patches(image, mask, 256), 4)
    assert means[1, 1, 1] < 60
    others = np.delete(means.reshape(16, 3), 5, axis=0)
    assert others.min() > 190  # pale
    with pytest.raises(ValueError, match=r"keep_mask must be of shape \(num_patches,\), a square number, got \(15,\)"):
        show_kept_patches(image, mask[:15])


def merge_weights(tokenizer, outputs) -> torch.Tensor:
    """The weights (B, kept patches, dropped patches) by their definition, the mean over blocks and heads."""
    recorded = []
    hooks = [
        layer.cross_attn.register_forward_pre_hook(lambda module, args: recorded.append((module, *args[:2])))
        for layer in tokenizer.merger.layers
    ]
    tokenizer.merger(outputs.vision_features, outputs.partition)
    for hook in hooks:
        hook.remove()
    kept, folded = outputs.partition.kept, outputs.partition.folded
    weights = []
    for module, hidden_states, context in recorded:
        query, key = kept.pad(module.q_proj(hidden_states)), folded.pad(module.k_proj(context))
        query, key = (module.split_heads(states).transpose(1, 2) for states in (query, key))
        scores = (query @ key.transpose(-1, -2)).float() * module.scaling
        weights.append(scores.masked_fill(~folded.mask[:, None, None], -torch.inf).softmax(-1).mean(1))
    return torch.stack(weights).mean(0)


@torch.no_grad()
def test_merge_targets(demo, pixel_values):
    """A batch gives the targets of each image alone. A dropped patch goes to the kept one that attends most to it."""
    tokenizer = demo[0].model.visual_tokenizer
    outputs = tokenizer(pixel_values)
    targets = find_merge_targets(tokenizer, outputs)
    patches = torch.arange(targets.shape[1]).expand_as(targets)
    assert torch.equal(targets[outputs.keep_mask], patches[outputs.keep_mask])
    assert outputs.keep_mask.gather(1, targets).all()
    for row, together in zip(pixel_values, targets, strict=True):
        alone = tokenizer(row[None])
        found = find_merge_targets(tokenizer, alone)[0]
        # A batch and a single image differ in their last bits: where two kept patches weigh the same, either is right.
        weights = merge_weights(tokenizer, alone)[0]
        kept, folded = alone.keep_mask[0].nonzero().flatten(), (~alone.keep_mask[0]).nonzero().flatten()
        of_kept = {patch: index for index, patch in enumerate(kept.tolist())}
        for column, patch in enumerate(folded.tolist()):
            ours, theirs = (weights[of_kept[int(target[patch])], column] for target in (found, together))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    assert tokenizer.config._attn_implementation == "sdpa"  # as before

    alone = torch.zeros(1, targets.shape[1], dtype=torch.bool)
    alone[0, 9] = True
    assert find_merge_targets(tokenizer, tokenizer(pixel_values[:1], keep_mask=alone)).unique().tolist() == [9]
    everything = torch.ones_like(alone)
    assert torch.equal(find_merge_targets(tokenizer, tokenizer(pixel_values[:1], keep_mask=everything)), patches[:1])

    # By its definition, of one block's first head: the weights that the merger itself computes.
    layer, mask = tokenizer.merger.layers[0], outputs.keep_mask[0]
    recorded = []
    hook = layer.cross_attn.register_forward_pre_hook(lambda module, args: recorded.append(args[:2]))
    single = torch.nn.ModuleList([layer])
    layers, tokenizer.merger.layers = tokenizer.merger.layers, single
    try:
        found = find_merge_targets(tokenizer, tokenizer(pixel_values[:1]))[0]
    finally:
        tokenizer.merger.layers = layers
        hook.remove()
    queries, context = recorded[0]
    query, key = (
        layer.cross_attn.split_heads(projection(states)).transpose(0, 1)
        for projection, states in ((layer.cross_attn.q_proj, queries), (layer.cross_attn.k_proj, context))
    )
    weights = (query @ key.transpose(1, 2) * layer.cross_attn.scaling).softmax(-1).mean(0)  # (kept, dropped)
    of_kept = (mask.nonzero().flatten()[:, None] == found[~mask]).long().argmax(0)
    torch.testing.assert_close(weights.gather(0, of_kept[None])[0], weights.amax(0), rtol=1e-4, atol=0)


def test_threads_that_share_a_model_leave_its_attention_as_it_was():
    tokenizer = tiny_lavit().model.visual_tokenizer
    outputs = tokenizer(pictures(1))
    before, found = tokenizer.config._attn_implementation, []
    is_beside, first_has_ended = Event(), Event()
    second = Thread(target=lambda: found.append(find_merge_targets(tokenizer, outputs)))

    def wait(*args):
        if current_thread() is second:
            is_beside.set()
            first_has_ended.wait(60)
        else:
            second.start()
            is_beside.wait(0.5)  # in vain, if the threads take turns

    tokenizer.merger.register_forward_hook(wait)
    found.append(find_merge_targets(tokenizer, outputs))
    first_has_ended.set()
    second.join()
    assert torch.equal(*found)
    assert tokenizer.config._attn_implementation == before == "sdpa"


def test_merging_has_a_color_for_each_kept_patch():
    targets = torch.tensor([0, 0, 2, 2] + [2] * 12)
    shown = show_merging(Image.new("RGB", (64, 64), "white"), targets, 256)
    means = patch_means(shown, 4).reshape(16, 3)
    assert np.abs(means[3:] - means[3]).max() == 0
    assert np.abs(means[1] - means[3]).max() > 60
    assert shown.getpixel((32, 32)) == (255, 255, 255)  # a kept patch as it is, in a frame
    assert shown.getpixel((0, 0)) != (255, 255, 255)


def test_attention(images):
    model, processor = (auto.from_pretrained(demo_checkpoint()) for auto in (AutoModelForCausalLM, AutoProcessor))
    with pytest.raises(ValueError, match="returns no weights: call model.set_attn_implementation"):
        attend_to_patches(model, processor, images[0], "a small red cross")
    model.set_attn_implementation({"text_config": "eager"})
    words, weights = attend_to_patches(model, processor, images[0], "a small red cross")
    assert words == ["a", "small", "red", "cross"]
    assert weights.shape == (4, model.config.num_patches)
    inputs = processor(text="<image>", images=images[0], return_tensors="pt")
    with torch.no_grad():
        keep_mask = model.model.visual_tokenizer(inputs["pixel_values"]).keep_mask[0]
    assert (weights[:, ~keep_mask] == 0).all()
    assert (weights[:, keep_mask] > 0).all()
    assert (weights.sum(1) < 1).all()  # words look at words, too
    sheet = show_attention(images[0], words, weights)
    assert sheet.width > 4 * 192
    with pytest.raises(ValueError, match="weights of a word must be of shape"):
        show_attention(images[0], words, weights[:, :15])
    with pytest.raises(ValueError, match="text must have at least one token, got ''"):
        attend_to_patches(model, processor, images[0], "")


def test_attention_with_random_patches():
    """The weights are on the patches whose codes the words have read."""
    processor = LavitProcessor.from_backbones(
        text=text_tokenizer(), codebook_size=CODEBOOK_SIZE, image_size=IMAGE_SIZE
    )
    model = tiny_lavit()
    model.set_attn_implementation({"text_config": "eager"})
    model.model.visual_tokenizer.config.selection = "sample"
    selected = []
    model.model.visual_tokenizer.register_forward_hook(
        lambda module, args, tokens: selected.append(tokens.keep_mask[0])
    )
    image = Image.effect_noise((40, 30), 90)
    for seed in range(10):
        torch.manual_seed(seed)
        _, weights = attend_to_patches(model, processor, image, "word9")
        assert torch.equal(weights[0] > 0, selected[-1])
    assert len({tuple(mask.tolist()) for mask in selected}) > 1


def test_attention_is_brightest_where_a_word_looks():
    weights = torch.zeros(1, 16)
    weights[0, 10] = 0.3
    sheet = show_attention(Image.new("RGB", (64, 64), "white"), ["here"], weights, size=192)
    brightness = patch_means(sheet.crop((8, 8, 200, 200)), 4)[..., 0]
    assert np.unravel_index(brightness.argmax(), (4, 4)) == (2, 2)


def test_sheets(demo, images):
    masks = torch.zeros(3, 64, dtype=torch.bool)
    masks[:, :5] = True
    assert show_tokens(images, masks).width > show_tokens(images[:1], masks[:1]).width
    sheet = show_tokens(images, masks, [Image.new("RGB", (64, 64), "lime")] * 3, side=64)
    left = 8 + 2 * 64  # the third image of the first sample
    assert sheet.getpixel((left + 30, 40)) == ImageColor.getrgb("lime")
    with pytest.raises(ValueError, match="zip"):
        show_tokens(images, masks[:2], images)
    narrow = draw_sheet([Sample((images[0],), ("a line that is far too long for the width of one image",))])
    assert narrow.height > 128 + 2 * 15
    titled = draw_sheet([Sample(images[:2], ())] * 3, columns=2, titles=("image", "kept"))
    assert titled.height > draw_sheet([Sample(images[:2], ())] * 3, columns=2).height
    dark = np.asarray(titled.convert("L"))[:20] < 128  # a title above each image of both columns
    assert all(
        dark[:, 8 + column * (2 * 128 + 8) + place * 128 :][:, :40].any() for column in (0, 1) for place in (0, 1)
    )
