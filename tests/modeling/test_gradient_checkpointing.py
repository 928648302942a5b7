# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Gradient checkpointing, re-entrant or not, gives the gradients that there are without it."""

import pytest
import torch

from lavit_hf import LavitFeatureDecoder, LavitFeatureDecoderConfig, LavitVisualTokenizerForPreTraining

from ..tiny import CODEBOOK_SIZE, NUM_PATCHES, loosen, pad_rows, pictures, tiny_lavit
from .test_sequences import ROWS
from .test_tokenizer import make_config


def stage_1_loss():
    model = loosen(LavitVisualTokenizerForPreTraining(make_config())).train()
    return model, lambda: model(pictures(4)).loss


def frozen_selector_loss():
    model, loss = stage_1_loss()
    model.freeze_selector = True
    return model, loss


def language_model_loss():
    model = tiny_lavit().train()
    ids, mask = pad_rows(ROWS)
    return model, lambda: model(ids, pixel_values=pictures(4), attention_mask=mask, labels=ids).loss


def feature_decoder(**given):
    config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(make_config())
    model = loosen(LavitFeatureDecoder(config)).train()
    return model, lambda: model(**given).features.square().mean()


def padded_codes_loss():
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    return feature_decoder(codes=torch.arange(18).view(2, 9) % CODEBOOK_SIZE, attention_mask=mask)


def policy_loss():
    """The inputs of the feature decoder in stage 1: vectors of every patch under a policy, both with a gradient."""
    model, _ = feature_decoder()
    # As parameters of the model, so that their gradients are compared as well.
    model.policy = torch.nn.Parameter((torch.rand(2, NUM_PATCHES) < 0.4).float())
    model.vectors = torch.nn.Parameter(torch.randn(2, NUM_PATCHES, 32))
    return model, lambda: model(code_embeds=model.vectors, attention_mask=1.0 * model.policy).features.square().mean()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(
    "make", [stage_1_loss, frozen_selector_loss, language_model_loss, padded_codes_loss, policy_loss]
)
def test_gradients_are_those_without_checkpointing(make, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model, loss = make()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(1)
        loss().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)
