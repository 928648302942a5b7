# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Packed sequences are trained like separate ones: the same labels, losses and gradients, in fewer rows."""

import pytest
import torch
from transformers import CLIPVisionConfig, DynamicCache

from lavit_hf import LavitForCausalLM
from lavit_hf.modeling import modeling_lavit_model
from lavit_hf.modeling.expansion_lavit import LavitSequences
from lavit_hf.modeling.packing_lavit import fill_rows, needs_one_row, pack_sequences, supports_packing
from lavit_hf.training import LavitForCausalLMTrainer

from ..causal_models import tiny_text_config
from ..tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, VISION, VISUAL_OFFSET, pad_rows, pictures, tiny_lavit
from ..training.test_accumulation import make_rows
from ..training.test_accumulation import train as train_one_step


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


def test_rows_keep_their_order_where_none_is_saved():
    """The `adapter_names` of peft then fit, and otherwise have another length than there are rows."""
    assert fill_rows([5, 6, 4], 6) == ([0, 6, 12], [5, 6, 4])
    assert len(fill_rows([5, 1, 4], 6)[1]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": None}, "pack needs labels"),
        ({"position_ids": torch.arange(3)[None]}, r"pack makes position_ids itself, got some of shape \(1, 3\)"),
        ({"cache": DynamicCache()}, "pack goes without a cache, got a DynamicCache"),
        (
            {"attention_mask": torch.ones(1, 1, 3, 3)},
            r"pack takes an attention_mask of shape \(B, L\), got torch.Size",
        ),
        ({"attention_mask": {"full_attention": None}}, "got dict"),
        ({"attention_mask": torch.ones(1, 5).long()}, r"attention_mask must be of shape \(1, 3\), got \(1, 5\)"),
        ({"attention_mask": torch.zeros(1, 3).long()}, "pack needs tokens"),
        ({"token_type_ids": torch.ones(1, 3).long()}, r"pack does not move token_type_ids, got a tensor of shape"),
        ({"shift_labels": torch.ones(1, 3).long()}, "nor with pack"),
    ],
)
def test_what_does_not_go_with_packing_is_named(arguments, message):
    ids, model = torch.tensor([[5, 6, 7]]), make_lavit("gpt2")
    with pytest.raises(ValueError, match=message):
        model(**({"input_ids": ids, "labels": ids, "pack": True} | arguments))


def test_a_cache_that_the_language_model_would_make_does_not_join_sequences():
    """transformers tells packed sequences apart only without a cache, which most configurations ask for."""
    model = tiny_lavit()
    assert model.config.text_config.use_cache
    apart, packed = (train(model, ROWS["text"], "right", use_cache=True, pack=pack)[0] for pack in (False, True))
    torch.testing.assert_close(packed.loss, apart.loss, atol=1e-5, rtol=1e-5)
    assert packed.cache is None


def test_one_row(model, monkeypatch):
    """The layout for FlashAttention, which other kernels compute as well."""
    apart, expected = train(model, ROWS["images"], "left")
    monkeypatch.setattr(modeling_lavit_model, "needs_one_row", lambda language_model: True)
    packed, gradients = train(model, ROWS["images"], "left", pack=True)
    assert packed.labels.shape == (1, int(apart.sequences.attention_mask.sum()))
    torch.testing.assert_close(packed.loss, apart.loss, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[name], atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "eager": False,
        "sdpa": False,
        "flex_attention": False,
        "flash_attention_2": True,
        "flash_attention_3": True,
        "kernels-community/flash-attn2": True,
        "kernels-community/vllm-flash-attn3": True,
    }.items(),
)
def test_flash_attention_needs_one_row(name, expected):
    """transformers itself replaces the name of FlashAttention by that of a kernel if the package is missing."""
    language_model = tiny_lavit().model.language_model
    language_model.config._attn_implementation = name
    assert needs_one_row(language_model) == expected


def test_sequences_longer_than_a_window_that_slides():
    config = tiny_text_config("gemma3_text")
    model = tiny_lavit(text=config)
    rows = [list(range(3, 3 + length)) for length in (40, 21, 19, 3)]
    assert config.sliding_window < 21
    apart, packed = (train(model, rows, "right", pack=pack)[0] for pack in (False, True))
    assert packed.labels.shape == (3, 40)
    torch.testing.assert_close(
        packed.token_losses.sort().values, apart.token_losses.sort().values, atol=1e-4, rtol=1e-4
    )


def test_gradient_checkpointing_and_bfloat16(model):
    results = []
    for pack in (False, True):
        model.gradient_checkpointing_enable()
        with torch.autocast("cpu", torch.bfloat16):
            results.append(train(model.train(), ROWS["images"], "right", pack=pack))
        model.gradient_checkpointing_disable()
        model.eval()
    (apart, expected), (packed, gradients) = results
    torch.testing.assert_close(packed.loss, apart.loss, atol=0.1, rtol=0.02)
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 0.1 * expected[name].norm() + 1e-3, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "mixtral"])
def test_language_models_that_can_be_packed(model_type, dtype):
    model = make_lavit(model_type).to(dtype)
    assert supports_packing(model, model.config, model.device)


# OPT does not build its mask from positions, Bamba has recurrent layers, and BLOOM adds biases by distance.
@pytest.mark.parametrize("model_type", ["opt", "bamba", "bloom"])
def test_language_models_that_cannot(model_type):
    model = make_lavit(model_type)
    assert not supports_packing(model, model.config, model.device)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("jamba", {}),
        ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
        ("lfm2_moe", {}),
        ("inkling2_text", {}),
        ("minimax_m3_vl_text", {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2}),
    ],
)
def test_new_weights_hide_nothing(model_type, settings):
    """They let so little of a neighbor through that a trial on a few tokens does not see it."""
    text = tiny_text_config(model_type, **settings)
    model = LavitForCausalLM.from_backbones(CLIPVisionConfig(**VISION), text, codebook_size=16, num_merger_layers=1)
    assert not supports_packing(model, model.config, model.device)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_model_that_tells_nothing_is_not_packed(value):
    model = tiny_lavit()
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.fill_(value)
    assert not supports_packing(model, model.config, model.device)


def make_lavit(model_type: str):
    return tiny_lavit(text=None if model_type == "llama" else tiny_text_config(model_type))


@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_training_is_the_same(batch_size, tmp_path):
    model = tiny_lavit()
    rows = make_rows(model, "placeholder")
    results = []
    for packing in (None, False):

        class Trainer(LavitForCausalLMTrainer):
            def __init__(self, *args, packing=packing, **kwargs):
                super().__init__(*args, **kwargs)
                self.packing = packing

        results.append(train_one_step(Trainer, model, tmp_path, rows, batch_size))
    (loss, changes), (expected, expected_changes) = results
    assert loss == pytest.approx(expected, abs=1e-5)
    for name, change in changes.items():
        assert torch.allclose(change, expected_changes[name], atol=1e-4, rtol=1e-3), name


def test_a_model_that_cannot_be_packed_is_trained_on_padded_rows(tmp_path, caplog):
    model = make_lavit("opt")
    loss, _ = train_one_step(LavitForCausalLMTrainer, model, tmp_path, make_rows(model, "text"), 4)
    assert 0 < loss < 20
    assert "Batches are padded: a 'opt' does not keep packed sequences apart." in caplog.text
