# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A static cache and a compiled decoding step: the same ids, and one compilation however a sequence goes."""

import pytest
import torch
from transformers import CompileConfig

from ..tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, VISUAL_OFFSET, pad_rows, pictures, tiny_lavit


IMAGE = [IMAGE_START, VISUAL_OFFSET + 1, VISUAL_OFFSET + 2, IMAGE_END]


@pytest.fixture
def compiled():
    """Settings of a call, and the list of graphs that its steps compile, which run as they were captured."""
    graphs = []

    def capture(graph: torch.fx.GraphModule, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    config = CompileConfig(backend=capture, fullgraph=True, dynamic=False, mode=None)
    config._compile_all_devices = True
    yield {"cache_implementation": "static", "compile_config": config}, graphs
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "settings",
    [
        {"generation_mode": "image", "guidance_scale": 3.0, "max_new_tokens": 12},
        {"generation_mode": "image", "max_new_tokens": 12},
        {"generation_mode": "text", "max_new_tokens": 12},
        {
            "generation_mode": "interleaved",
            "guidance_scale": 3.0,
            "first_modality": "image",
            "max_new_tokens": 40,
            "image_generation": {"max_new_tokens": 4},
            "min_new_tokens": 40,
        },
    ],
    ids=["guided", "drawing", "text", "interleaved"],
)
def test_one_compilation_and_the_same_ids(compiled, settings):
    model, (static, graphs) = tiny_lavit(), compiled
    ids, mask = pad_rows([[5, 6, 7], [*IMAGE, 8]])
    settings = {"attention_mask": mask, "do_sample": False} | settings
    expected = model.generate(ids, **settings)
    assert torch.equal(model.generate(ids, **settings, **static), expected)
    assert len(graphs) == 1


def test_after_a_picture_that_is_read(compiled):
    model, (static, graphs) = tiny_lavit(), compiled
    ids, mask = pad_rows([[IMAGE_START, model.config.image_token_id, IMAGE_END, 5]])
    settings = {"attention_mask": mask, "pixel_values": pictures(1), "max_new_tokens": 8}
    assert torch.equal(model.generate(ids, **settings, **static), model.generate(ids, **settings))
    assert len(graphs) == 1


def test_a_compiled_forward_with_an_image_records_its_gradients():
    """Its visual tokenizer is frozen, and runs without gradients."""
    model, losses = tiny_lavit().train(), []
    inputs = {"input_ids": torch.tensor([[5, IMAGE_START, PLACEHOLDER, IMAGE_END, 6, 7]]), "pixel_values": pictures(1)}
    for forward in (model, torch.compile(model, backend="eager")):
        losses.append(forward(**inputs, labels=inputs["input_ids"]).loss)
        assert torch.is_grad_enabled()
    weight = model.get_input_embeddings().weight
    torch.testing.assert_close(*(torch.autograd.grad(loss, weight)[0] for loss in losses))
