# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A processor with a visual tokenizer runs what it takes to know lengths, and no more."""

import pytest
import torch

from lavit_hf import LavitForCausalLM

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


def test_the_number_of_codes_of_each_image(tmp_path):
    """The processor decides it, and the model follows, also in chats and where all images are to have one number."""
    processor = make_processor()
    model = make_model(processor).eval()
    images = [row["image"] for row in make_dataset(2)]
    with pytest.raises(ValueError, match="num_codes needs the visual tokenizer"):
        processor(text=["<image>"] * 2, images=images, num_codes=3)
    processor.visual_tokenizer = model.model.visual_tokenizer
    inputs = processor(text=["<image>"] * 2, images=images, num_codes=[3, 5], return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum(-1).tolist() == [3, 5]
    outputs = model(**inputs, labels=inputs["input_ids"])
    assert outputs.logits.shape[:2] == inputs["input_ids"].shape
    messages = [{"role": "user", "content": [{"type": "image", "image": images[0]}]}]
    chat = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"max_codes": 2}
    )
    assert (chat["input_ids"] == processor.image_token_id).sum() == 2
    # The configuration of a whole LaVIT reaches every door.
    model.save_pretrained(tmp_path)
    fixed = LavitForCausalLM.from_pretrained(tmp_path, visual_tokenizer_config={"num_codes": 4})
    processor.visual_tokenizer = None
    inputs = processor(text=["<image>"] * 2, images=images, return_tensors="pt")
    ids = fixed(**inputs, labels=inputs["input_ids"]).labels
    assert (ids >= processor.visual_token_offset).sum(-1).tolist() == [4, 4]


def test_showing_a_processor_leaves_it_as_it_is():
    """Also meanwhile: another thread that calls the processor gets the same form of inputs as before."""
    processor = make_processor()
    processor.visual_tokenizer = tokenizer = make_model(processor).model.visual_tokenizer
    seen = []

    class Witness:
        def __deepcopy__(self, memo):
            seen.append(processor.visual_tokenizer)
            return "copied"

    processor.witness = Witness()  # `to_dict` copies all attributes
    assert "visual_tokenizer" not in processor.to_dict()
    assert "visual_tokenizer" not in repr(processor)
    assert seen
    assert all(part is tokenizer for part in [*seen, processor.visual_tokenizer])
