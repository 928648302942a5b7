# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Prompt tuning, p-tuning and prefix tuning of peft: virtual tokens before sequences with images."""

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)

from lavit_hf import LavitForCausalLM
from lavit_hf.evaluation import evaluate
from lavit_hf.training import LavitForCausalLMTrainer

from .tiny import (
    CODEBOOK_SIZE,
    IMAGE_END,
    IMAGE_START,
    PLACEHOLDER,
    TEXT_TOKENS,
    VISUAL_OFFSET,
    pad_rows,
    pictures,
    tiny_lavit,
)
from .training.small import make_model, make_processor
from .training.test_accumulation import make_rows, train


NUM_VIRTUAL_TOKENS = 3
SHARED = {"task_type": "CAUSAL_LM", "num_virtual_tokens": NUM_VIRTUAL_TOKENS}
AS_EMBEDDINGS = {
    "prompt tuning": PromptTuningConfig(**SHARED),
    "p-tuning": PromptEncoderConfig(**SHARED, encoder_hidden_size=8),
}
KINDS = AS_EMBEDDINGS | {"prefix tuning": PrefixTuningConfig(**SHARED)}

IMAGE = [IMAGE_START, PLACEHOLDER, IMAGE_END]
ROWS = [[*IMAGE, 9, 10, 11], [5, 6, 7, 8], [12, *IMAGE, *IMAGE, 13]]


def build(kind: str, seed: int = 0) -> PeftModel:
    """A tiny LaVIT with virtual tokens that are as large as what they stand among."""
    torch.manual_seed(seed)
    model = get_peft_model(tiny_lavit(), KINDS[kind])
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def expand(model, rows: list[list[int]], images: torch.Tensor) -> list[list[int]]:
    """One placeholder for each code."""
    counts = iter(model.get_base_model().model.visual_tokenizer(images).num_codes.tolist())
    return [
        [token for old in row for token in ([old] if old != PLACEHOLDER else [PLACEHOLDER] * next(counts))]
        for row in rows
    ]


# Training


@pytest.mark.parametrize("kind", AS_EMBEDDINGS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("expanded", [False, True])
def test_a_step_with_images(kind, side, expanded):
    model, images = build(kind), pictures(3)
    rows = expand(model, ROWS, images) if expanded else ROWS
    ids, mask = pad_rows(rows, side)
    labels = pad_rows([[-100, *row[1:]] for row in rows], side, fill=-100)[0]
    outputs = model(input_ids=ids, attention_mask=mask, pixel_values=images, labels=labels)

    # By hand, each row alone: the embeddings of the virtual tokens, then those of the row with its image in it.
    base, prompt = model.get_base_model(), model.get_prompt(batch_size=1)
    total, count, done = 0.0, 0, 0
    for row in ROWS:
        own = images[done : (done := done + row.count(PLACEHOLDER))]
        ids, labels = torch.tensor([row]), torch.tensor([[-100, *row[1:]]])
        sequences = base.model.expand_images(ids, own, labels=labels) if len(own) else None
        embeds = base.get_input_embeddings()(ids) if sequences is None else sequences.inputs_embeds
        labels = labels if sequences is None else sequences.labels
        scores = base(inputs_embeds=torch.cat([prompt, embeds], dim=1)).logits[:, NUM_VIRTUAL_TOKENS - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(scores[0], labels[0], reduction="sum")
        count += int(labels.ne(-100).sum())
    assert outputs.labels.ne(-100).sum() == count
    torch.testing.assert_close(outputs.loss, total / count, atol=1e-4, rtol=1e-4)
    outputs.loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved
    assert all(name.startswith("prompt_encoder.") for name in moved)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.prompt_encoder.parameters())


def test_prefix_tuning_trains_on_text_and_on_features_of_images():
    """The prefix is a filled cache: images, whose codes only the forward knows, do not go with one."""
    model, images = build("prefix tuning"), pictures(3)
    ids, mask = pad_rows(ROWS[1:2] * 2)
    model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.prompt_encoder.parameters())
    ids, mask = pad_rows(expand(model, ROWS, images), "right")
    with pytest.raises(ValueError, match="Images belong to the first forward of a sequence, got a filled cache"):
        model(input_ids=ids, attention_mask=mask, pixel_values=images, labels=ids)
    encoded = {"image": model.get_base_model().get_image_features(images)}
    batch = model(input_ids=ids, attention_mask=mask, mm_encoder_outputs=encoded, labels=ids)
    alone = model(input_ids=ids[1:2, :4], labels=ids[1:2, :4])
    torch.testing.assert_close(batch.logits[1, :4], alone.logits[0], atol=1e-4, rtol=1e-4)
    assert PLACEHOLDER not in batch.labels
    batch.loss.backward()


# Generation


@torch.no_grad()
def continue_by_hand(model, rows, images, num_tokens: int, allowed: slice) -> list[list[int]]:
    """Greedy continuations of each row alone, without a cache, by the forward of the adapted model."""
    continued, done = [], 0
    for row in rows:
        own = images[done : (done := done + row.count(PLACEHOLDER))]
        row = expand(model, [row], own)[0] if len(own) else list(row)
        given = {}
        if len(own):
            given["mm_encoder_outputs"] = {"image": model.get_base_model().get_image_features(own)}
        new = []
        for _ in range(num_tokens):
            scores = model(input_ids=torch.tensor([row + new]), **given).logits[0, -1]
            new.append(allowed.start + int(scores[allowed].argmax()))
        continued.append(new)
    return continued


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("expanded", [False, True])
def test_text_behind_images(kind, expanded):
    model, images = build(kind), pictures(3)
    expected = continue_by_hand(model, ROWS, images, 5, slice(0, TEXT_TOKENS))
    ids, mask = pad_rows(expand(model, ROWS, images) if expanded else ROWS)
    settings = {"max_new_tokens": 5, "eos_token_id": None}
    output = model.generate(input_ids=ids, attention_mask=mask, pixel_values=images, **settings)
    assert torch.equal(output[:, : ids.shape[1]], ids)
    assert output[:, ids.shape[1] :].tolist() == expected
    without_cache = {"input_ids": ids[:1], "attention_mask": mask[:1], "pixel_values": images[:1], "use_cache": False}
    assert model.generate(**without_cache, **settings)[0, ids.shape[1] :].tolist() == expected[0]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_drawing(kind):
    model = build(kind)
    rows = [[5, 6, 7, 8, IMAGE_START], [9, 10, IMAGE_START]]
    expected = continue_by_hand(model, rows, pictures(0), 5, slice(VISUAL_OFFSET, VISUAL_OFFSET + CODEBOOK_SIZE))
    ids, mask = pad_rows(rows)
    settings = {"generation_mode": "image", "min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}
    output = model.generate(input_ids=ids, attention_mask=mask, guidance_scale=1.0, **settings)
    assert output[:, ids.shape[1] :].tolist() == expected
    with pytest.raises(ValueError, match="guidance_scale must be 1 with prompt learning of peft, got 3.0"):
        model.generate(input_ids=ids, attention_mask=mask, guidance_scale=3.0, **settings)


# Saving and loading


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_is_loaded(kind, tmp_path):
    processor = make_processor()
    base = make_model(processor)
    base.save_pretrained(tmp_path / "base")
    model = get_peft_model(LavitForCausalLM.from_pretrained(tmp_path / "base"), KINDS[kind]).eval()
    for parameter in model.prompt_encoder.parameters():
        parameter.normal_(std=0.5)
    model.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = model(input_ids=ids).logits
    assert (expected[:, -4:] - base(ids).logits).abs().max() > 1e-2
    loaded = PeftModel.from_pretrained(LavitForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(loaded.eval()(input_ids=ids).logits, expected)
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(loaded.eval()(input_ids=ids).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("train_embeddings", [False, True])
def test_an_adapter_beside_its_processor_resizes_nothing(train_embeddings, tmp_path):
    """`AutoPeftModelForCausalLM` gives the model as many rows as the tokenizer beside the adapter has tokens."""
    processor = make_processor()
    model = make_model(processor)
    model.save_pretrained(tmp_path / "base")
    whole = ["embed_tokens", "lm_head"] if train_embeddings else None
    lora = LoraConfig(
        r=2,
        target_modules=["q_proj"],
        modules_to_save=whole,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(LavitForCausalLM.from_pretrained(tmp_path / "base"), lora).eval()
    model.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    row = torch.tensor([[processor.image_start_token_id, processor.image_token_id, processor.image_end_token_id, 7]])
    expected = model(input_ids=row, pixel_values=pictures(1)).logits
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    rows = loaded.get_base_model().get_input_embeddings().weight.shape[0]
    assert rows == loaded.config.vocab_size == len(processor.tokenizer) == model.config.vocab_size
    torch.testing.assert_close(loaded(input_ids=row, pixel_values=pictures(1)).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_does_not_leave_virtual_tokens_out_silently(kind):
    with pytest.raises(ValueError, match="Adapters of prompt learning, .* are not evaluated, got P"):
        evaluate(build(kind), None, None, [{"image": None, "caption": "word5"}])


@pytest.mark.parametrize("kind", KINDS)
def test_virtual_tokens_are_trained(kind, tmp_path):
    """The trainer of stage 2 trains virtual tokens, and does not pack sequences behind them."""
    model = build(kind)
    rows = make_rows(model.get_base_model(), "text")
    trained = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    loss, changes = train(LavitForCausalLMTrainer, model, tmp_path, rows, batch_size=len(rows))
    assert 0 < loss < 20
    assert all(changes[name].abs().max() > 0 for name in trained)
