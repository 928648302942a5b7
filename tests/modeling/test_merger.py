# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The merger's packed and dense paths, the softmax under a policy, and its gradient."""

import pytest
import torch
from torch import nn

from lavit_hf import LavitVisualTokenizer
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.modeling.merger_lavit import LavitAttention, PatchPartition, PolicyAttend

from ..tiny import NUM_PATCHES, loosen
from .test_tokenizer import make_config


SMOOTHINGS = (0.0, 1e-6)


@torch.no_grad()
def sharpen(merger: nn.Module, factor: float) -> None:
    """Multiplies the queries, so that single keys lead by far."""
    for layer in merger.layers:
        for attention in (layer.self_attn, layer.cross_attn):
            attention.q_proj.weight *= factor
            attention.q_proj.bias *= factor


def both_paths(tokenizer: LavitVisualTokenizer, features, keep_mask) -> tuple[torch.Tensor, torch.Tensor]:
    """The merged features of the kept patches, packed and dense."""
    packed = tokenizer.merger(features, PatchPartition(keep_mask))
    return packed, tokenizer.merger(features, policy=keep_mask.float())[keep_mask]


def codes_of(tokenizer: LavitVisualTokenizer, merged_features, keep_mask) -> torch.Tensor:
    positions = PatchPartition(keep_mask).kept_index % keep_mask.shape[1]
    return tokenizer.quantizer(merged_features, positions)[0]


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 8])
def test_packed_is_dense(factor):
    torch.manual_seed(0)
    tokenizer = loosen(LavitVisualTokenizer(make_config())).eval()
    sharpen(tokenizer.merger, factor)
    features = torch.randn(5, NUM_PATCHES, 32)
    keep_mask = torch.rand(5, NUM_PATCHES) < 0.4
    keep_mask[1], keep_mask[2] = True, False  # nothing is dropped; one patch alone is kept
    keep_mask[2, 7] = True
    packed, dense = both_paths(tokenizer, features, keep_mask)
    torch.testing.assert_close(packed, dense, atol=1e-5, rtol=0)
    assert torch.equal(codes_of(tokenizer, packed, keep_mask), codes_of(tokenizer, dense, keep_mask))


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 8])
def test_packed_is_dense_with_trained_weights(demo, factor):
    model, processor, _ = demo
    config = type(model.config.visual_tokenizer_config)(
        **model.config.visual_tokenizer_config.to_dict() | {"attention_smoothing": 0.0}
    )
    tokenizer = LavitVisualTokenizer(config).eval()
    tokenizer.load_state_dict(model.model.visual_tokenizer.state_dict())
    sharpen(tokenizer.merger, factor)
    images = [render_scene(sample_scene(index, "test")) for index in range(40)]
    outputs = tokenizer(processor.image_processor(images, return_tensors="pt")["pixel_values"])
    packed, dense = both_paths(tokenizer, outputs.vision_features, outputs.keep_mask)
    torch.testing.assert_close(packed, dense, atol=1e-5 * factor, rtol=0)
    assert torch.equal(outputs.codes, codes_of(tokenizer, dense, outputs.keep_mask))


def test_the_shipped_model_says_what_it_was_trained_with(demo):
    assert demo[0].config.visual_tokenizer_config.attention_smoothing == 0.0


def make_attention(scale: float):
    """An attention of large scores, and what it is asked: the sum of weighted outputs under a policy (2, 8)."""
    torch.manual_seed(0)
    attention = loosen(LavitAttention(make_config(), 32))
    hidden_states, context, weights = (torch.randn(2, 8, 32) for _ in range(3))

    def value(policy: torch.Tensor, smoothing: float) -> torch.Tensor:
        outputs = attention(hidden_states, scale * context, PolicyAttend(smoothing), policy[:, None])[0]
        return (outputs * weights).sum()

    return attention, hidden_states, scale * context, value


@torch.no_grad()
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_softmax_under_a_policy(smoothing):
    """With smoothing the authors' formula, without it a masked softmax; uniform where no key is seen."""
    attention, hidden_states, context, _ = make_attention(3.0)
    policy = torch.tensor([[1.0, 0, 0, 1, 0, 1, 0, 0], [0.0] * 8])
    projected = attention.q_proj(hidden_states), attention.k_proj(context), attention.v_proj(context)
    query, key, value = (attention.split_heads(states).transpose(1, 2).double() for states in projected)
    scores = query @ key.transpose(-1, -2) * attention.scaling
    if smoothing:
        seen = (scores - scores.amax(-1, keepdim=True)).exp() * policy[:, None, None].double()
        weights = (seen + smoothing / 8) / (seen.sum(-1, keepdim=True) + smoothing)
    else:
        weights = scores.masked_fill(policy[:, None, None] == 0, -torch.inf).softmax(-1)
        weights[1] = 1 / 8
    expected = (weights @ value).transpose(1, 2).flatten(2).float()
    given = (states.float().transpose(1, 2).flatten(2) for states in (query, key, value))
    outputs, _ = PolicyAttend(smoothing)(attention, *given, policy[:, None])
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [3.0, 300.0])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("row", [[1.0, 0, 0, 1, 0, 1, 0, 0], [0.0] * 8], ids=["some seen", "none seen"])
def test_an_unseen_key_has_the_gradient_of_what_seeing_it_would_change(row, smoothing, scale):
    *_, value = make_attention(scale)
    policy = torch.tensor([row, [0.0, 0, 0, 0, 1, 0, 1, 1]], requires_grad=True)
    before = value(policy, smoothing)
    before.backward()
    for place in (policy == 0).nonzero().tolist():
        seen = policy.detach().clone()
        seen[tuple(place)] = 1
        expected = (value(seen, smoothing) - before).detach()
        torch.testing.assert_close(policy.grad[tuple(place)], expected, rtol=1e-2, atol=1e-3 * scale)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_an_image_of_which_nothing_is_dropped_can_train(smoothing):
    torch.manual_seed(0)
    tokenizer = loosen(LavitVisualTokenizer(make_config(attention_smoothing=smoothing)))
    sharpen(tokenizer.merger, 8)
    features = torch.randn(3, NUM_PATCHES, 32, requires_grad=True)
    policy = (torch.rand(3, NUM_PATCHES) < 0.4).float()
    policy[1] = 1.0
    policy.requires_grad_()
    tokenizer.merger(features, policy=policy).square().sum().backward()
    for gradient in (policy.grad, features.grad, *(parameter.grad for parameter in tokenizer.merger.parameters())):
        assert gradient.isfinite().all()
    assert policy.grad[1].abs().min() > 0
