# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The systems of the study: a regression draws what it was taught, and visual tokenizers are what they are called."""

from dataclasses import replace

import pytest
import torch
from pretrain import train_text_tokenizer
from study.adapters import drop_patches
from study.lengths import AnyLengthForCausalLM, draw_budgets
from study.regression import RegressionForCausalLM, RegressionSettings, RegressionSubject, codebook_of
from study.systems import SYSTEMS
from study.train_decoder import AnyLengthDecoderForTraining
from transformers import LlamaConfig

from lavit_hf import LavitProcessor
from lavit_hf.evaluation import EvaluationSettings
from lavit_hf.inference import decode_codes, prepare_prompts
from lavit_hf.training import LavitCollator, MixtureRows, SequenceArguments

from ..tiny import CODEBOOK_SIZE, TEXT, pictures
from .small import EVERY_KIND, SIZE, image_processor, make_dataset, make_image, make_stage_one
from .small_study import make_image_decoder


def test_a_system_that_does_not_draw_has_no_labels_in_images():
    sequences = SYSTEMS["linear"].choose_sequences(SequenceArguments(EVERY_KIND, supervise_images=True))
    assert sequences.weights == {"caption": 1.0, "question": 1.0, "text": 0.5}
    assert not sequences.supervise_images
    with pytest.raises(ValueError, match="needs one of caption, question, text"):
        SYSTEMS["linear"].choose_sequences(SequenceArguments(["draw=1"]))


# The regression


def make_regression(**settings) -> tuple[RegressionForCausalLM, LavitProcessor, dict, list[str]]:
    """A model, its processor, a batch of drawings of two images, and their prompts."""
    torch.manual_seed(0)
    dataset = make_dataset(2)
    tokenizer = train_text_tokenizer(dataset["caption"], 300)
    text = TEXT | {"vocab_size": len(tokenizer), "bos_token_id": None}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    visual_tokenizer = make_stage_one().visual_tokenizer
    visual_tokenizer.config.codebook_size = 1
    visual_tokenizer.quantizer.codebook = visual_tokenizer.quantizer.codebook[:1].clone()
    model = RegressionForCausalLM.from_backbones(visual_tokenizer, LlamaConfig(**text))
    model.regression = RegressionSettings(**settings)
    processor = LavitProcessor.from_backbones(vision=image_processor(), text=tokenizer, codebook_size=1)
    rows = MixtureRows(dataset, SequenceArguments(["draw=1"], prompt_dropout=0.0))
    batch = LavitCollator(processor, model.config.num_patches)([rows[0], rows[1]])
    model.fit_targets(visual_tokenizer(batch["pixel_values"]).vectors)
    return model, processor, batch, [rows[index][0].text for index in range(2)]


@pytest.mark.parametrize(
    "settings", [{"loss": "cosine", "noise": 0.1}, {"loss": "l2", "normalize": False, "weight": 4.0}], ids=str
)
def test_a_regression_draws_what_it_was_taught(settings):
    """Two images are learned by heart: vectors, which are fed back, and where each image ends."""
    model, processor, batch, prompts = make_regression(**settings)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for _ in range(150):
        outputs = model(**batch, skip_logits=True)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    model.eval()
    mean = (outputs.token_losses.sum() + model.regression.weight * outputs.vector_losses.sum()).item()
    assert outputs.loss.item() == pytest.approx(mean / len(outputs.token_losses), rel=1e-4)
    expected = model.model.visual_tokenizer(batch["pixel_values"])
    inputs = prepare_prompts(processor, prompts, generation_mode="image")
    drawn = model.draw_vectors(dict(inputs), guidance_scale=1.0)
    for rows, wanted in zip(drawn, expected.vectors.split(expected.num_codes.tolist()), strict=True):
        assert len(rows) == len(wanted)
        assert (rows * wanted).sum(dim=-1).min() > 0.9
    alone = prepare_prompts(processor, prompts[1:], generation_mode="image")
    torch.testing.assert_close(model.draw_vectors(dict(alone))[0], drawn[1], atol=1e-4, rtol=0)
    for threshold, length in ((0.0, 1), (1.0, model.config.num_patches)):
        model.regression = replace(model.regression, end_threshold=threshold)
        assert {len(rows) for rows in model.draw_vectors(dict(inputs))} == {length}


def test_rows_of_a_codebook_are_decoded_like_their_codes():
    """The vectors of codes make the same pixels as the codes, and the codebook is the old one afterwards."""
    pipe = make_image_decoder()
    codes, codebook = [[3, 1, 4], [1, 5, 9, 2, 6]], pipe.feature_decoder.codebook
    expected = decode_codes(pipe, codes)
    with codebook_of(pipe, [codebook[row] for row in codes]) as rows:
        found = decode_codes(pipe, rows)
    assert [image.tobytes() for image in found] == [image.tobytes() for image in expected]
    assert pipe.feature_decoder.codebook is codebook
    assert pipe.feature_decoder.config.codebook_size == CODEBOOK_SIZE


def test_a_regression_that_is_evaluated_uses_its_vectors():
    model, processor, *_ = make_regression()
    model.eval()
    pipe = make_image_decoder()
    subject = RegressionSubject(model, processor, pipe, EvaluationSettings(image_generation={"guidance_scale": 2.0}))
    images = [make_image("red", "blue"), make_image("white", "green")]
    tokens = subject.encode(images)
    assert [len(rows) for rows in tokens.split()] == tokens.num_codes.tolist()
    torch.testing.assert_close(torch.cat(tokens.split()), tokens.vectors)
    rebuilt = subject.decode([rows.tolist() for rows in tokens.split()], 0)
    drawn, edited = subject.draw(["red", "blue"], 0), subject.draw(["make it red"] * 2, 0, images)
    sides = {image.size for image in (*rebuilt, *drawn, *edited)}
    assert sides == {(SIZE, SIZE)}
    assert rebuilt[0].tobytes() != rebuilt[1].tobytes()


# Visual tokenizers


def test_dropped_patches_are_not_folded_in():
    """The features of kept patches do not depend on the others, and all but the cross-attention is trained."""
    model = make_stage_one()
    tokenizer, pixel_values = model.visual_tokenizer, pictures(2)
    before = tokenizer(pixel_values)
    changed = torch.where(before.keep_mask[..., None], before.vision_features, 1.0)
    settings = {"vision_features": changed, "keep_mask": before.keep_mask}
    assert (tokenizer(**settings).merged_features - before.merged_features).abs().max() > 1e-3
    drop_patches(tokenizer.merger)
    expected = tokenizer(pixel_values).merged_features
    torch.testing.assert_close(tokenizer(**settings).merged_features, expected)
    model.train()(pixel_values).loss.backward()
    trained = {name for name, value in tokenizer.named_parameters() if value.grad is not None}
    assert any(name.startswith("selector.") for name in trained)
    merger = {name for name, _ in tokenizer.merger.named_parameters(prefix="merger")}
    assert merger - trained == {name for name in merger if "cross_attn" in name or "context" in name}


def count_codes(model, inputs: dict) -> list[torch.Tensor]:
    """The numbers of codes of all images that the visual tokenizer of a model sees in a forward."""
    counts = []
    tokenizer = model.visual_tokenizer if hasattr(model, "visual_tokenizer") else model.model.visual_tokenizer
    hook = tokenizer.register_forward_hook(lambda module, args, output: counts.append(output.num_codes))
    model(**inputs)
    hook.remove()
    return counts


def make_any_length(stage: int):
    """A model of a stage that is trained at random lengths, and a batch of 8 images."""
    torch.manual_seed(0)
    stage_one = make_stage_one()
    stage_one.freeze_selector = True
    if stage == 1:
        draw_budgets(stage_one)
        return stage_one, {"pixel_values": pictures(8)}
    if stage == 2:
        model = AnyLengthForCausalLM.from_backbones(stage_one.visual_tokenizer, LlamaConfig(**TEXT))
        ids = torch.full((8, 1), model.config.image_token_id)
        return model, {"input_ids": ids, "labels": ids, "pixel_values": pictures(8), "image_inputs": "features"}
    pipeline = make_image_decoder()
    images = torch.rand(8, 3, SIZE, SIZE)
    return AnyLengthDecoderForTraining(pipeline, stage_one.visual_tokenizer), {
        "images": images,
        "pixel_values": pictures(8),
    }


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_budgets_are_random_in_training_alone(stage):
    model, inputs = make_any_length(stage)
    expected = make_any_length(1)[0].visual_tokenizer(inputs["pixel_values"]).num_codes
    counts = torch.cat([each for _ in range(4) for each in count_codes(model.train(), inputs)])
    assert len(counts) == 32
    assert len(counts.unique()) > 4
    with torch.no_grad():
        assert torch.equal(torch.cat(count_codes(model.eval(), inputs)), expected)
