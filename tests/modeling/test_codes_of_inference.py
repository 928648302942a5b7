# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""An image has the same codes wherever they are made, whatever mode, precision or gradients surround the call."""

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig

from lavit_hf import LavitProcessor
from lavit_hf.inference import encode_images
from lavit_hf.modeling import distributed_lavit

from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, VISION, text_tokenizer, tiny_lavit


def make_images(count: int) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(image.numpy()) for image in pixels]


def make_processor(visual_tokenizer=None) -> LavitProcessor:
    processor = LavitProcessor.from_backbones(
        text=text_tokenizer(), codebook_size=CODEBOOK_SIZE, image_size=IMAGE_SIZE
    )
    processor.visual_tokenizer = visual_tokenizer
    return processor


def pixels_of(images: list[Image.Image]) -> torch.Tensor:
    return make_processor()(images=images, return_tensors="pt")["pixel_values"]


# Each route gives the kept patches (num_images, N) of images, or None where it hides them, and all of their codes.


def of_model(model, images):
    outputs = model.model.tokenize_images(pixels_of(images))
    return outputs.keep_mask, outputs.codes


def of_forward(model, images):
    ids = model(**make_processor()(images=images, return_tensors="pt")).sequences
    return None, ids.input_ids[ids.image_mask] - model.config.visual_token_offset


def of_processor(model, images):
    """Runs the processor, and the model without gradients on what the processor hands on."""
    inputs = make_processor(model.model.visual_tokenizer)(images=images, return_tensors="pt")
    assert inputs["input_ids"].eq(model.config.image_token_id).sum() == inputs["keep_mask"].sum()
    with torch.no_grad():
        ids = model(**inputs).sequences
    return inputs["keep_mask"], ids.input_ids[ids.image_mask] - model.config.visual_token_offset


def of_images(model, images):
    outputs = encode_images(model.model.visual_tokenizer, make_processor(), images)
    return outputs.keep_mask, outputs.codes


ROUTES = [of_model, of_forward, of_processor, of_images]


@pytest.fixture(scope="module")
def model():
    """A model whose vision tower has dropout, and is trained."""
    vision = CLIPVisionConfig(**VISION, attention_dropout=0.5)
    model = tiny_lavit(vision=vision)
    model.model.visual_tokenizer.requires_grad_(True)
    return model


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_codes_are_those_of_inference(model, monkeypatch, route, training, autocast):
    def refuse(values):
        raise AssertionError("A collective operation.")

    images = make_images(24)
    with torch.no_grad():
        expected = model.eval().model.visual_tokenizer(pixels_of(images))
    # As if two processes trained, neither of which may wait for the other.
    monkeypatch.setattr(distributed_lavit, "process_index_and_count", lambda: (0, 2))
    monkeypatch.setattr(distributed_lavit, "all_reduce", refuse)
    model.train(training)
    modes = [module.training for module in model.modules()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        keep_mask, codes = route(model, images)
        masks, codes_alone = zip(*(route(model, [image]) for image in images), strict=True)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(codes, expected.codes)
    assert torch.equal(torch.cat(codes_alone), expected.codes)
    if keep_mask is not None:
        assert torch.equal(keep_mask, expected.keep_mask)
        assert torch.equal(torch.cat(masks), expected.keep_mask)
