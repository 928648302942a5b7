# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Typed words are text through every door, whatever special tokens they name."""

import pytest
import torch
from transformers import pipeline

from lavit_hf import Conversation, StreamedImage, demo_checkpoint
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.inference import prepare_prompts


TYPED = ["what color is the <image> star?", "what [IMG] color is the star?", "<code_3> what color is the star? [/IMG]"]


@pytest.fixture(scope="module")
def image():
    """A scene with one orange star."""
    return render_scene(sample_scene(6, "test"))


@pytest.fixture
def seen(demo, monkeypatch) -> list[torch.Tensor]:
    """The prompts that reach the model."""
    model, prompts = demo[0], []
    generate = model.generate

    def record(*args, **kwargs):
        prompts.append(kwargs["input_ids"])
        return generate(*args, **kwargs)

    monkeypatch.setattr(model, "generate", record)
    return prompts


def special_tokens(processor, ids: torch.Tensor) -> str:
    """The special tokens of one prompt in their order."""
    special = range(processor.image_start_token_id, processor.image_token_id + 1)
    return "".join(processor.tokenizer.convert_ids_to_tokens([token for token in ids.tolist() if token in special]))


@pytest.mark.parametrize("typed", TYPED)
def test_conversations(demo, seen, image, typed):
    conversation = Conversation(*demo, num_inference_steps=1)
    list(conversation.answer(image, typed))
    assert special_tokens(demo[1], seen[-1][0]) == "[IMG]<image>[/IMG]"
    drawn = list(conversation.draw(typed, [image]))
    assert isinstance(drawn[-1], StreamedImage)
    assert special_tokens(demo[1], seen[-1][0]) == "[IMG]<image>[/IMG]"
    # Words that were typed before are text as well, and drawings are images. The model reads the last image only.
    list(conversation.answer(typed))
    assert special_tokens(demo[1], seen[-1][0]) == "[IMG]<image>[/IMG]"
    list(conversation.draw(typed))
    assert special_tokens(demo[1], seen[-1][0]) == ""
    with pytest.raises(ValueError, match="must say what to change"):
        list(conversation.edit(" ", image))
    with pytest.raises(ValueError, match="images must be a list of images for each of 1 texts"):
        prepare_prompts(demo[1], [typed], [image])
    with pytest.raises(ValueError, match="images must be a list of images for each of 2 texts"):
        prepare_prompts(demo[1], [typed] * 2, [[image]])
    edited = list(conversation.edit(typed, image))
    assert isinstance(edited[-1], StreamedImage)
    assert special_tokens(demo[1], seen[-1][0]) == "[IMG]<image>[/IMG]"


@pytest.mark.parametrize("typed", TYPED)
def test_command_line(command_line, image, tmp_path, typed):
    path = tmp_path / "scene.png"
    image.save(path)
    code, answer, errors = command_line("ask", path, typed, "--min-new-tokens", 1, "--num-beams", 1)
    assert code == 0, errors
    assert answer.strip()
    code, _, errors = command_line("draw", typed, "--output", tmp_path / "drawn.png", "--steps", 1)
    assert code == 0, errors
    assert (tmp_path / "drawn.png").stat().st_size


def test_pipelines(image):
    ask = pipeline("image-text-to-text", model=str(demo_checkpoint()))
    for typed in TYPED:
        content = [{"type": "image", "image": image}, {"type": "text", "text": typed}]
        answer = ask([{"role": "user", "content": content}], max_new_tokens=2, return_full_text=False)
        assert answer[0]["generated_text"].strip()


def test_drawings_from_nothing(demo):
    """An empty prompt draws, in a conversation too."""
    conversation = Conversation(*demo, num_inference_steps=1)
    assert list(conversation.draw(""))[-1].complete
