# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A processor with a visual tokenizer runs what it takes to know lengths, and no more."""

import pytest
import torch

from ..training.small import make_dataset, make_model, make_processor


@pytest.mark.parametrize("training", [False, True])
def test_tower_and_selector_run_once(training):
    """Also where the visual tokenizer trains: its forward would then sample which patches are kept."""
    processor = make_processor()
    model = make_model(processor)
    tokenizer = model.model.visual_tokenizer
    images = [row["image"] for row in make_dataset(3)]
    with torch.no_grad():
        expected = tokenizer(processor.image_processor(images, return_tensors="pt")["pixel_values"])
    processor.visual_tokenizer = tokenizer.requires_grad_(training).train(training)
    runs = []
    for name in ("vision_tower", "selector", "merger", "quantizer"):
        getattr(tokenizer, name).register_forward_hook(lambda *args, name=name: runs.append(name))
    inputs = processor(text=["<image>"] * 3, images=images, padding_side="right", return_tensors="pt")
    assert runs == ["vision_tower", "selector"]
    assert torch.equal(inputs["keep_mask"], expected.keep_mask)
    torch.testing.assert_close(inputs["vision_features"], expected.vision_features)
    counts = (inputs["input_ids"] == processor.image_token_id).sum(-1)
    assert counts.tolist() == expected.num_codes.tolist()

    model.eval()
    outputs = model(**inputs, labels=inputs["input_ids"])
    assert runs[2:] == ["selector", "merger", "quantizer"]
    offset = processor.visual_token_offset
    assert outputs.labels[outputs.labels >= offset].tolist() == (offset + expected.codes).tolist()
