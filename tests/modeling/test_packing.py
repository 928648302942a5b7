# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Packed sequences are trained like separate ones: the same labels, losses and gradients, in fewer rows."""

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, LlamaConfig

from lavit_hf.modeling.expansion_lavit import LavitSequences
from lavit_hf.modeling.packing_lavit import keeps_sequences_apart, pack_sequences

from ..causal_models import tiny_text_config
from ..tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, TEXT, VISUAL_OFFSET, loosen, pad_rows, pictures, tiny_lavit


IMAGE = [IMAGE_START, PLACEHOLDER, IMAGE_END]
CODES = [IMAGE_START, *range(VISUAL_OFFSET, VISUAL_OFFSET + 5), IMAGE_END]
ROWS = {
    "text": [[5, 6, 7, 8, 9, 10, 11], [15], [16, 17, 18], [20, 21]],
    "images": [[5, 6, 7], [*IMAGE, 9, 10], [12, *IMAGE, *IMAGE, 13, *IMAGE, 14], [3, 4]],
    "an image first": [[*IMAGE], [*IMAGE, 8], [7, *IMAGE, 6, 5], [4]],
    "codes": [[5, *CODES], [*CODES, 6], [7, 8], [*CODES, *CODES]],
    "one row": [[5, 6, 7]],
}


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request):
    model = tiny_lavit()
    model.model.language_model.set_attn_implementation(request.param)
    return model


def train(model, rows, side: str, **kwargs):
    """Returns the losses of all labels in ascending order, and the gradients."""
    ids, mask = pad_rows(rows, side)
    num_images = int((ids == PLACEHOLDER).sum())
    model.zero_grad()
    outputs = model(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=pictures(num_images) if num_images else None,
        labels=ids.masked_fill(mask == 0, -100),
        skip_logits=True,
        **kwargs,
    )
    outputs.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return outputs, {name: grad.clone() for name, grad in gradients.items()}


@pytest.mark.parametrize("image_inputs", ["features", "codes"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ROWS)
def test_labels_losses_and_gradients_stay(model, kind, side, image_inputs):
    kwargs = {"image_inputs": image_inputs} if "image" in kind else {}
    apart, expected = train(model, ROWS[kind], side, **kwargs)
    packed, gradients = train(model, ROWS[kind], side, pack=True, **kwargs)
    torch.testing.assert_close(packed.loss, apart.loss, atol=1e-5, rtol=1e-5)
    order = packed.token_losses.sort().values, apart.token_losses.sort().values
    torch.testing.assert_close(*order, atol=1e-4, rtol=1e-4)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[name], atol=1e-4, rtol=1e-3), name
    labels = [outputs.labels[:, 1:][outputs.labels[:, 1:] != -100].sort().values for outputs in (packed, apart)]
    assert torch.equal(*labels)


def test_rows_are_few_and_as_long_as_the_longest_sequence(model):
    lengths = [30, 29, 15, 14, 10, 9, 5, 4, 1, 1]
    ids, mask = pad_rows([[3 + index] * length for index, length in enumerate(lengths)], "right")
    packed = pack_sequences(model.config, LavitSequences(ids, mask, labels=ids))
    assert packed.input_ids.shape == (4, 30)  # 118 tokens do not fit into three
    assert packed.attention_mask is None
    for index, length in enumerate(lengths):
        row, columns = (packed.input_ids == 3 + index).nonzero().T
        assert len(set(row.tolist())) == 1
        assert columns.tolist() == list(range(int(columns[0]), int(columns[0]) + length))
        assert packed.position_ids[row, columns].tolist() == list(range(length))
        assert packed.labels[row, columns].tolist() == [-100, *[3 + index] * (length - 1)]
    assert packed.position_ids.max() < 30
    flat = pack_sequences(model.config, LavitSequences(ids, mask, labels=ids), in_one_row=True)
    assert flat.input_ids.shape == (1, sum(lengths))
    assert (flat.input_ids != 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": None}, "pack needs labels"),
        ({"position_ids": torch.arange(3)[None]}, "pack goes neither with a cache, nor with position_ids"),
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, "attention_mask of 4 dimensions"),
        ({"shift_labels": torch.ones(1, 3).long()}, "nor with pack"),
    ],
)
def test_what_does_not_go_with_packing_is_named(model, arguments, message):
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match=message):
        model(**({"input_ids": ids, "labels": ids, "pack": True} | arguments))


def test_a_cache_that_the_language_model_would_make_does_not_join_sequences():
    """transformers tells packed sequences apart only without a cache, which most configurations ask for."""
    model = tiny_lavit()
    assert model.config.text_config.use_cache
    apart, packed = (train(model, ROWS["text"], "right", use_cache=True, pack=pack)[0] for pack in (False, True))
    torch.testing.assert_close(packed.loss, apart.loss, atol=1e-5, rtol=1e-5)
    assert packed.cache is None


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "mixtral"])
def test_language_models_that_keep_sequences_apart(model_type):
    assert keeps_sequences_apart(make_language_model(model_type))


# One whose mask does not come from positions, one with recurrent layers, one with biases of distances.
@pytest.mark.parametrize("model_type", ["opt", "bamba", "bloom"])
def test_language_models_that_do_not(model_type):
    assert not keeps_sequences_apart(make_language_model(model_type))


def make_language_model(model_type: str):
    config = LlamaConfig(**TEXT) if model_type == "llama" else tiny_text_config(model_type)
    torch.manual_seed(0)
    return loosen(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)).eval().base_model
