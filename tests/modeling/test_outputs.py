# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments and outputs are those of transformers: tuples, hidden states, attentions, and no unknown argument."""

import pytest
import torch
from transformers import PreTrainedModel
from transformers.utils.output_capturing import CompileableContextVar

from lavit_hf import (
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitVisualTokenizer,
    LavitVisualTokenizerForPreTraining,
)

from ..tiny import NUM_PATCHES, loosen, pictures
from .test_tokenizer import make_config


NUM_LAYERS, NUM_HEADS, HIDDEN_SIZE = 2, 4, 32


def make(which: str, attention: str = "sdpa"):
    """A tiny model, and what its forward takes."""
    torch.manual_seed(0)
    if which == "feature decoder":
        config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(make_config(), attn_implementation=attention)
        mask = torch.arange(9) < torch.tensor([[9], [4]])
        given = {"codes": torch.randint(0, config.codebook_size, (2, 9)), "attention_mask": mask}
        return loosen(LavitFeatureDecoder(config)).eval(), given
    model_class = {"tokenizer": LavitVisualTokenizer, "stage 1": LavitVisualTokenizerForPreTraining}[which]
    config = make_config(attn_implementation=attention)
    return loosen(model_class(config)).eval(), {"pixel_values": pictures(3)}


MODELS = pytest.mark.parametrize("which", ["tokenizer", "stage 1", "feature decoder"])


@torch.no_grad()
@MODELS
def test_a_tuple_is_the_output_in_its_order(which):
    model, given = make(which)
    expected = model(**given).to_tuple()
    by_argument = model(**given, return_dict=False)
    model.config.return_dict = False
    by_configuration = model(**given)
    for outputs in (by_argument, by_configuration):
        assert isinstance(outputs, tuple)
        assert len(outputs) == len(expected)
        for value, other in zip(outputs, expected, strict=True):
            assert not isinstance(value, torch.Tensor) or torch.equal(value, other)


@torch.no_grad()
@MODELS
@pytest.mark.parametrize("ask", ["argument", "configuration"])
def test_hidden_states(which, ask):
    model, given = make(which)
    assert model(**given).hidden_states is None
    if ask == "configuration":
        model.config.output_hidden_states = True
        outputs = model(**given)
    else:
        outputs = model(**given, output_hidden_states=True)
    assert len(outputs.hidden_states) == NUM_LAYERS + 1
    decoder = model.feature_decoder if which == "stage 1" else model
    if which != "tokenizer":
        assert all(states.shape[1:] == (NUM_PATCHES, HIDDEN_SIZE) for states in outputs.hidden_states)
        rebuilt = outputs.rebuilt_features if which == "stage 1" else outputs.features
        torch.testing.assert_close(decoder.decode_head(decoder.norm(outputs.hidden_states[-1])), rebuilt)
    if which != "feature decoder":
        merged = outputs.tokenizer_output if which == "stage 1" else outputs
        tokenizer = model.visual_tokenizer if which == "stage 1" else model
        assert len(merged.hidden_states) == NUM_LAYERS + 1
        assert torch.equal(merged.hidden_states[0], merged.vision_features[merged.keep_mask])
        torch.testing.assert_close(tokenizer.merger.norm(merged.hidden_states[-1]), merged.merged_features)


@torch.no_grad()
def test_hidden_states_by_index():
    model, given = make("tokenizer")
    every = model(**given, output_hidden_states=True).hidden_states
    last = model(**given, output_hidden_states=[-1]).hidden_states
    assert last[:-1] == (None,) * NUM_LAYERS
    assert torch.equal(last[-1], every[-1])


@torch.no_grad()
def test_hidden_states_of_the_tower_are_no_other_after_those_of_the_merger():
    model, given = make("tokenizer")
    expected = model(**given)
    tower = model.vision_tower(**given, output_hidden_states=True).hidden_states
    merger = model(**given, output_hidden_states=True)
    assert torch.equal(merger.vision_features, expected.vision_features)
    again = model.vision_tower(**given, output_hidden_states=True).hidden_states
    assert len(again) == len(tower) == 3
    assert torch.equal(again[-1], tower[-1])


def choices_of_attention(model) -> dict[str, str]:
    parts = ((name, part) for name, part in model.named_modules() if isinstance(part, PreTrainedModel))
    return {name: part.config._attn_implementation for name, part in parts}


@MODELS
def test_the_choice_of_attention_reaches_every_part(which):
    model, _ = make(which, "eager")
    for implementation in ("eager", "sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert set(choices_of_attention(model).values()) == {implementation}


def test_the_choice_of_attention_of_one_part():
    model, _ = make("stage 1")
    assert set(choices_of_attention(model).values()) == {"sdpa"}
    model.set_attn_implementation({"vision_config": "eager"})
    changed = {name for name, choice in choices_of_attention(model).items() if choice == "eager"}
    assert changed == {"visual_tokenizer.vision_tower"}


@torch.no_grad()
def test_the_feature_decoder_computes_the_same_with_each_choice_of_attention():
    model, given = make("feature decoder")
    expected = model(**given).features
    model.set_attn_implementation("eager")
    outputs = model(**given, output_attentions=True)
    torch.testing.assert_close(outputs.features, expected)
    assert outputs.attentions[0] is not None


@torch.no_grad()
def test_attentions_of_the_tokenizer():
    model, given = make("tokenizer", "eager")
    outputs = model(**given, output_attentions=True)
    kept, folded = outputs.num_codes, NUM_PATCHES - outputs.num_codes
    for weights, keys in ((outputs.attentions, kept), (outputs.cross_attentions, folded)):
        assert len(weights) == NUM_LAYERS
        for layer in weights:
            assert layer.shape == (3, NUM_HEADS, kept.max(), keys.max())
            for image in range(3):
                rows = layer[image, :, : kept[image]]
                torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))
                assert (rows[..., keys[image] :] == 0).all()  # padding
    assert (outputs.attentions[0].triu(1) == 0)[0, :, : kept[0]].all()


@torch.no_grad()
@pytest.mark.parametrize("which", ["feature decoder", "stage 1"])
def test_attentions_of_the_feature_decoder(which):
    model, given = make(which, "eager")
    outputs = model(**given, output_attentions=True)
    assert len(outputs.attentions) == len(outputs.cross_attentions) == NUM_LAYERS
    if which == "feature decoder":
        assert outputs.attentions[0].shape == (2, NUM_HEADS, NUM_PATCHES, NUM_PATCHES)
        assert outputs.cross_attentions[0].shape == (2, NUM_HEADS, NUM_PATCHES, 9)
        assert (outputs.cross_attentions[0][1, ..., 4:] == 0).all()
    else:
        assert len(outputs.tokenizer_output.attentions) == NUM_LAYERS


@MODELS
def test_an_unknown_argument_is_refused_by_name(which):
    model, given = make(which)
    with pytest.raises(TypeError, match="'selecton'"):
        model(**given, selecton="sample")


@torch.no_grad()
@MODELS
def test_what_transformers_passes_to_every_model_is_taken(which):
    model, given = make(which)
    expected = model(**given).to_tuple()
    outputs = model(**given, output_attentions=False, output_hidden_states=None, num_items_in_batch=None).to_tuple()
    assert torch.equal(outputs[0], expected[0])


@torch.no_grad()
@MODELS
def test_outputs_are_captured_one_model_at_a_time(which, monkeypatch):
    """A captured forward inside another one of the same kind would take the hidden states of both for its own."""
    model, given = make(which, "eager")
    running = []

    def enter(self, value, *, _set=CompileableContextVar.set):
        assert not running, "a captured forward runs within another one"
        running.append(self)
        return _set(self, value)

    def leave(self, token, *, _reset=CompileableContextVar.reset):
        running.remove(self)
        return _reset(self, token)

    monkeypatch.setattr(CompileableContextVar, "set", enter)
    monkeypatch.setattr(CompileableContextVar, "reset", leave)
    model(**given, output_hidden_states=True, output_attentions=True)
    assert not running
