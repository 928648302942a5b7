# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The visual tokenizer, its merger's two paths, the codebook, and stage 1's loss."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPConfig, CLIPVisionConfig

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
    LavitVisualTokenizerForPreTraining,
)
from lavit_hf.modeling import select_patches
from lavit_hf.modeling.codebook_lavit import LavitQuantizer
from lavit_hf.modeling.merger_lavit import PackedLayout, PatchPartition

from ..tiny import CODEBOOK_SIZE, NUM_PATCHES, VISION, loosen, pictures


def make_config(**kwargs) -> LavitVisualTokenizerConfig:
    kwargs = {"codebook_size": CODEBOOK_SIZE, "num_merger_layers": 2} | kwargs
    return LavitVisualTokenizerConfig(vision_config=CLIPVisionConfig(**VISION), **kwargs)


@pytest.fixture(scope="module")
def tokenizer() -> LavitVisualTokenizer:
    torch.manual_seed(0)
    return loosen(LavitVisualTokenizer(make_config())).eval()


def probabilities(*keep: float) -> torch.Tensor:
    keep = torch.tensor([keep])
    return torch.stack([keep, 1 - keep], dim=-1).log()


def test_topk_keeps_as_many_as_the_probabilities_add_up_to():
    soft = probabilities(0.3, 0.4, 0.35, 0.2, 0.3, 0.4)  # adds up to 1.95; no patch alone would be kept
    assert select_patches(soft, "topk").tolist() == [[False, True, False, False, False, True]]
    assert select_patches(soft, "argmax").sum() == 1


@pytest.mark.parametrize("selection", ["topk", "argmax"])
def test_among_patches_that_are_alike_the_first_are_kept(selection):
    """Another kernel, batch or compiler rounds their scores differently, at any score that they share."""
    generator = torch.manual_seed(0)
    common, noise = torch.randn(500, 1, generator=generator), 1e-6 * torch.randn(500, 12, generator=generator)
    alike = torch.stack([common + noise, torch.zeros(500, 12)], dim=-1).log_softmax(dim=-1)
    assert select_patches(alike, selection, num_codes=4).int().tolist() == [[1] * 4 + [0] * 8] * 500
    assert select_patches(alike[common[:, 0] < 0], "argmax").int()[:, 0].all()
    # Confident patches are no less apart, nor are those of a new selector.
    confident = torch.tensor([[[9.0, -3.0], [9.0, -4.0]]]).log_softmax(dim=-1)
    assert select_patches(confident, selection, num_codes=1).tolist() == [[False, True]]
    close = torch.stack([0.3 + 1e-4 * torch.arange(12.0)[None], torch.zeros(1, 12)], dim=-1).log_softmax(dim=-1)
    assert select_patches(close, selection, num_codes=4).int().tolist() == [[0] * 8 + [1] * 4]


def test_at_least_one_patch_is_kept():
    for selection in ("topk", "argmax", "sample"):
        kept = select_patches(probabilities(1e-6, 2e-6, 1e-6), selection, torch.Generator().manual_seed(0))
        assert kept.tolist() == [[False, True, False]]


@pytest.mark.parametrize("selection", ["topk", "argmax", "sample"])
def test_any_number_of_codes_can_be_asked_for(selection):
    """The patches of a smaller number are among those of a larger one, and those of the selection among them."""
    log_probs = probabilities(*[0.5] * 12).repeat(3, 1, 1) + torch.randn(3, 12, 1, generator=torch.manual_seed(0))
    log_probs = log_probs.log_softmax(dim=-1)

    def select(**decision):
        return select_patches(log_probs, selection, torch.Generator().manual_seed(0), **decision)

    nested = [select(num_codes=count) for count in range(1, 13)]
    assert [mask.sum(dim=-1).tolist() for mask in nested] == [[count] * 3 for count in range(1, 13)]
    assert all((fewer <= more).all() for fewer, more in pairwise(nested))
    own = select()
    counts = own.sum(dim=-1)
    for given in (counts, counts.tolist()):
        assert torch.equal(select(num_codes=given), own)
    assert torch.equal(select(max_codes=12), own)
    assert select(max_codes=2).sum(dim=-1).tolist() == counts.clamp(max=2).tolist()
    assert select(max_codes=[1, 12, 12]).sum(dim=-1).tolist() == [1, *counts[1:].tolist()]
    assert torch.equal(select(keep_scale=0), nested[0])
    assert torch.equal(select(keep_scale=1e6), nested[-1])
    half = select(keep_scale=0.5)
    assert (half <= own).all()
    assert not torch.equal(half, own)


def test_the_configuration_sets_the_number_of_codes(tmp_path):
    torch.manual_seed(0)
    tokenizer = loosen(LavitVisualTokenizer(make_config())).eval()
    tokenizer.save_pretrained(tmp_path)
    images, own = pictures(3), tokenizer(pictures(3)).num_codes
    fixed = LavitVisualTokenizer.from_pretrained(tmp_path, num_codes=5)
    assert fixed(images).num_codes.tolist() == fixed.tokenize_images(images).num_codes.tolist() == [5, 5, 5]
    assert fixed.select_patches(images)[1].sum(dim=-1).tolist() == [5, 5, 5]
    # An argument displaces the setting of the configuration.
    assert fixed(images, num_codes=[1, 2, 3]).num_codes.tolist() == [1, 2, 3]
    for number in (np.int64(7), np.array(7), torch.tensor(7)):
        assert fixed(images, num_codes=number).num_codes.tolist() == [7, 7, 7]
    assert torch.equal(fixed(images, keep_scale=1.0).num_codes, own)
    assert torch.equal(tokenizer(images, num_codes=5).codes, fixed(images).codes)
    limited = LavitVisualTokenizer.from_pretrained(tmp_path, max_codes=2)
    assert limited(images).num_codes.tolist() == own.clamp(max=2).tolist()
    halved = LavitVisualTokenizer.from_pretrained(tmp_path, keep_scale=0.5)
    assert (halved(images).num_codes < own).all()
    assert halved(images, num_codes=16).num_codes.tolist() == [16, 16, 16]
    with pytest.raises(ValueError, match="num_codes must be 1 to the number of patches, 16, got 17"):
        LavitVisualTokenizer.from_pretrained(tmp_path, num_codes=17)


def test_sampling_follows_its_generator(tokenizer):
    log_probs = probabilities(*[0.5] * 64)
    draws = [select_patches(log_probs, "sample", torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    many = select_patches(probabilities(0.3).expand(20000, 1, 2).transpose(0, 1), "sample")
    assert abs(many.float().mean() - 0.3) < 0.02


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager"])
def test_attention_implementations_agree(tokenizer, implementation):
    expected = tokenizer(pictures(3))
    try:
        tokenizer.set_attn_implementation(implementation)
        outputs = tokenizer(pictures(3))
    finally:
        tokenizer.set_attn_implementation("sdpa")
    assert torch.equal(outputs.keep_mask, expected.keep_mask)
    torch.testing.assert_close(outputs.merged_features, expected.merged_features, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_batch_says_what_its_pictures_say_alone(tokenizer):
    images = pictures(4)
    together = tokenizer(images)
    assert together.num_codes.tolist() == together.keep_mask.sum(-1).tolist()
    assert together.codes.shape == (together.num_codes.sum(),)
    for image, codes in zip(images, together.split(), strict=True):
        assert torch.equal(tokenizer(image[None]).codes, codes)


@torch.no_grad()
def test_dropped_patches_are_folded_in(tokenizer):
    features = tokenizer.encode_vision(pictures(1))
    keep_mask = torch.arange(NUM_PATCHES)[None] % 3 == 0
    before = tokenizer(vision_features=features, keep_mask=keep_mask).merged_features
    features[0, 1] += torch.randn(32)  # a dropped one
    after = tokenizer(vision_features=features, keep_mask=keep_mask).merged_features
    assert ((after - before).abs().amax(-1) > 1e-4).all()


@torch.no_grad()
def test_kept_patches_see_no_later_ones(tokenizer):
    features = tokenizer.encode_vision(pictures(1))
    keep_mask = torch.arange(NUM_PATCHES)[None] % 2 == 0
    before = tokenizer(vision_features=features, keep_mask=keep_mask).merged_features
    features[0, 8] += torch.randn(32)  # the fifth kept one
    after = tokenizer(vision_features=features, keep_mask=keep_mask).merged_features
    changed = (after - before).abs().amax(-1) > 1e-5
    assert changed.tolist() == [index >= 4 for index in range(8)]


def test_layout_round_trip():
    packed = torch.randn(9, 3)
    layout = PackedLayout(torch.tensor([4, 1, 4]), total=9, length=4)
    padded = layout.pad(packed)
    assert padded.shape == (3, 4, 3)
    assert layout.mask.sum() == 9
    assert (padded[~layout.mask] == 0).all()
    assert torch.equal(layout.pack(padded), packed)


def test_codes_are_the_nearest_rows():
    quantizer = LavitQuantizer(make_config())
    quantizer.chunk_size = 7
    quantizer.codebook = torch.randn(CODEBOOK_SIZE, 32)  # as stored: not unit rows
    vectors = torch.nn.functional.normalize(torch.randn(50, 32), dim=-1)
    expected = torch.cdist(vectors, quantizer.codebook).argmin(-1)
    assert torch.equal(quantizer.nearest(vectors), expected)


def test_quantizing_is_float32_under_autocast(tokenizer):
    features = torch.randn(30, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, _, quantized = tokenizer.quantizer(features)
    assert quantized.dtype == torch.float32


def test_stage_1_loss_has_a_gradient_for_every_part():
    torch.manual_seed(0)
    model = loosen(LavitVisualTokenizerForPreTraining(make_config())).train()
    outputs = model(pictures(4))
    outputs.loss.backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert model.visual_tokenizer.selector.out_proj.weight.grad.abs().max() > 0
    assert not any(p.requires_grad for p in model.visual_tokenizer.vision_tower.parameters())
    expected = outputs.reconstruction_loss + 2.0 * outputs.keep_ratio_loss + 0.25 * outputs.commitment_loss
    torch.testing.assert_close(outputs.loss, expected)


@torch.no_grad()
def test_unusual_patches_may_weigh_more():
    model = loosen(LavitVisualTokenizerForPreTraining(make_config())).eval()
    outputs = model(pictures(4))
    targets = outputs.tokenizer_output.vision_features
    distances = 1 - torch.cosine_similarity(outputs.rebuilt_features, targets, dim=-1)
    torch.testing.assert_close(outputs.reconstruction_loss, distances.mean())
    model.config.reconstruction_norm_power = 2
    weights = targets.square().sum(dim=-1)
    torch.testing.assert_close(model(pictures(4)).reconstruction_loss, (distances * weights).sum() / weights.sum())


def test_a_dropped_patch_learns_what_it_would_add():
    torch.manual_seed(0)
    model = loosen(LavitVisualTokenizerForPreTraining(make_config())).train()
    outputs = model(pictures(4))
    tokens = outputs.tokenizer_output
    (gradient,) = torch.autograd.grad(outputs.reconstruction_loss, tokens.selector_log_probs)
    assert gradient[~tokens.keep_mask].abs().min() > 0


def test_stage_1_learns_a_batch():
    torch.manual_seed(0)
    model = LavitVisualTokenizerForPreTraining(make_config()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(80):
        outputs = model(pictures(8))
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        losses.append(outputs.reconstruction_loss.item())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_pretrained_tokenizer_of_stage_1(tmp_path):
    model = loosen(LavitVisualTokenizerForPreTraining(make_config())).eval()
    model.save_pretrained(tmp_path)
    tokenizer = LavitVisualTokenizer.from_pretrained(tmp_path)
    assert torch.equal(tokenizer(pictures(2)).codes, model.visual_tokenizer(pictures(2)).codes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pixel_values": torch.zeros(1, 3, 48, 48)}, r"\(num_images, 3, 32, 32\), got \(1, 3, 48, 48\)"),
        ({}, "either pixel_values or vision_features"),
        ({"pixel_values": pictures(1), "selection": "best"}, "'topk', 'sample' or 'argmax', got 'best'"),
        ({"pixel_values": pictures(2), "keep_mask": torch.ones(1, 16).bool()}, r"bool of shape \(2, 16\)"),
        ({"pixel_values": pictures(1), "keep_mask": torch.zeros(1, 16).bool()}, "none is kept of image 0"),
        (
            {"pixel_values": pictures(1), "keep_mask": torch.ones(1, 16).bool(), "num_codes": 4},
            "not go with num_codes",
        ),
        ({"pixel_values": pictures(1), "num_codes": 0}, "num_codes must be an integer from 1 to 16, got 0"),
        ({"pixel_values": pictures(1), "num_codes": 2.5}, "num_codes must be an integer from 1 to 16, got 2.5"),
        ({"pixel_values": pictures(1), "max_codes": 17}, "max_codes must be an integer from 1 to 16, got 17"),
        ({"pixel_values": pictures(2), "num_codes": [4, 2.5]}, "num_codes must be an integer from 1 to 16, got 4.0"),
        ({"pixel_values": pictures(2), "num_codes": [4]}, r"one for each of 2 images, got \[4\]"),
        ({"pixel_values": pictures(2), "num_codes": "16"}, "num_codes must be one number, or .* got '16'"),
        (
            {"pixel_values": pictures(2), "max_codes": [8, None]},
            r"max_codes must be one number, or .* got \[8, None\]",
        ),
        ({"pixel_values": pictures(1), "num_codes": True}, "num_codes must be an integer from 1 to 16, got True"),
        (
            {"pixel_values": pictures(1), "keep_scale": -0.5},
            "keep_scale must be a finite number of at least 0, got -0.5",
        ),
        ({"pixel_values": pictures(1), "num_codes": 4, "keep_scale": 0.5}, "num_codes=4 does not go with keep_scale"),
    ],
)
def test_refusals(tokenizer, given, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(**given)


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"selection": "best"}, "selection"),
        ({"keep_ratio": 1.5}, "keep_ratio"),
        ({"num_codes": 0}, "num_codes"),
        ({"max_codes": 17}, "max_codes"),
        ({"keep_scale": -1}, "keep_scale"),
        ({"num_codes": 4, "keep_scale": 2}, "num_codes"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"code_dim": "wide"}, "code_dim"),
        ({"commitment_loss_weight": -1.0}, "commitment_loss_weight"),
        ({"reconstruction_norm_power": -1}, "reconstruction_norm_power"),
        ({"attention_smoothing": -1e-6}, "attention_smoothing"),
        ({"attention_smoothing": float("nan")}, "attention_smoothing"),
    ],
)
def test_wrong_values_are_named(kwargs, name):
    with pytest.raises(StrictDataclassError, match=name):
        make_config(**kwargs)


def test_a_config_of_two_towers_is_no_vision_config():
    with pytest.raises(ValueError, match="CLIPConfig .* give its vision_config"):
        LavitVisualTokenizerConfig(vision_config=CLIPConfig())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_start_token_id": 60000}, "vocab_size"),
        ({"image_inputs": "pixels"}, "image_inputs"),
    ],
)
def test_wrong_ids_are_named(kwargs, message):
    with pytest.raises(StrictDataclassError, match=message):
        LavitConfig(**kwargs)


def test_the_defaults_are_the_release():
    config = LavitConfig()
    assert config.text_config.vocab_size == 48387
    assert (config.image_start_token_id, config.image_end_token_id, config.visual_token_offset) == (
        32000,
        32001,
        32002,
    )
    assert config.image_token_id == 48386
    tokenizer_config = config.visual_tokenizer_config
    assert tokenizer_config.vision_config.num_hidden_layers == 40
    assert (tokenizer_config.num_patches, tokenizer_config.intermediate_size) == (256, 6144)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"codes": torch.zeros(1, 17, dtype=torch.long)}, "1 to 16 codes, got 17"),
        ({"codes": torch.zeros(1, 0, dtype=torch.long)}, "1 to 16 codes, got 0"),
        ({}, "either codes or code_embeds"),
    ],
)
def test_feature_decoder_refusals(given, message):
    decoder = LavitFeatureDecoder(LavitFeatureDecoderConfig.from_visual_tokenizer_config(make_config()))
    with pytest.raises(ValueError, match=message):
        decoder(**given)


@torch.no_grad()
def test_feature_decoder_does_not_see_padding():
    config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(make_config(), condition_dims=[8])
    decoder = loosen(LavitFeatureDecoder(config)).eval()
    codes = torch.randint(0, CODEBOOK_SIZE, (2, 9))
    mask = torch.ones_like(codes)
    mask[1, 5:] = 0
    padded = decoder(codes, mask)
    torch.testing.assert_close(padded.features[1], decoder(codes[1:, :5]).features[0], atol=1e-5, rtol=1e-4)
    assert padded.prompt_embeds.shape == (2, 16, 8)


@torch.no_grad()
def test_feature_decoder_under_a_policy_sees_just_what_it_keeps():
    decoder = loosen(LavitFeatureDecoder(LavitFeatureDecoderConfig.from_visual_tokenizer_config(make_config()))).eval()
    keep_mask = torch.rand(3, NUM_PATCHES) < 0.4
    keep_mask[:, 2] = True
    embeds, kept = torch.randn(3, NUM_PATCHES, 32), PatchPartition(keep_mask).kept
    expected = decoder(code_embeds=kept.pad(embeds[keep_mask]), attention_mask=kept.mask).features
    dense = decoder(code_embeds=embeds, attention_mask=keep_mask.float().requires_grad_()).features
    torch.testing.assert_close(dense, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("selection", ["topk", "argmax", "sample", None])
def test_images_that_are_not_numbers(selection):
    """In training, too: without an image of its own, a `nan` spreads over the batch."""
    tokenizer = LavitVisualTokenizer(make_config()).eval()
    images = pictures(3)
    images[1] = torch.nan
    with pytest.raises(ValueError, match="none is kept of image 1: .* finite numbers"):
        tokenizer(images, selection=selection)
