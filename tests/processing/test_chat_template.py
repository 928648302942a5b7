# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversations become prompts and sequences of the shipped chat template."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lavit_hf import demo_checkpoint
from lavit_hf.processing.chat_lavit import CHAT_TEMPLATE

from .images import shades, user


def assistant(*content):
    return {**user(*content), "role": "assistant"}


IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(IMAGE)], "<image>"),
        ([user(IMAGE, "what?")], "<image>Question: what? Answer:"),
        ([{"role": "user", "content": "what?"}], "Question: what? Answer:"),
        # A question is put after its images, as in training, unless it goes on between them.
        ([user("what?", IMAGE)], "<image>Question: what? Answer:"),
        ([user(IMAGE, "what?", IMAGE)], "<image><image>Question: what? Answer:"),
        ([user("is", IMAGE, "red?")], "Question: is<image> red? Answer:"),
        ([user("is", IMAGE, "like", IMAGE)], "Question: is<image> like<image> Answer:"),
        ([user(IMAGE, ""), assistant("a dog"), user(" ", IMAGE, "\n")], "<image> a dog\n<image>"),
        ([user(" ", IMAGE, "red?", "")], "<image>Question: red? Answer:"),
        ([{"role": "system", "content": " "}, user(IMAGE, "")], "<image>"),
        (
            [user(IMAGE, "what?"), assistant("a dog"), user("why?"), assistant("so", IMAGE)],
            "<image>Question: what? Answer: a dog\nQuestion: why? Answer: so<image><|end|>",
        ),
    ],
)
def test_chat_template(processor, messages, expected):
    assert processor.apply_chat_template(messages) == expected


def test_the_model_that_ships_has_the_same_template():
    assert (demo_checkpoint() / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_chat_with_images_to_tensors(processor, images):
    first = [user({"type": "image", "image": images[1]}, "what?"), assistant("a dog")]
    second = [user({"type": "image", "image": images[3]}), assistant("so", {"type": "image", "image": images[2]})]
    inputs = processor.apply_chat_template(
        [first, second], tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    assert shades(inputs) == [1, 3, 2]
    answers = [ids[mask == 1] for ids, mask in zip(inputs.input_ids, inputs.assistant_masks, strict=True)]
    assert processor.batch_decode(answers) == [" a dog<|end|>", " so[IMG]<image>[/IMG]<|end|>"]
    assert inputs.input_ids[0, -1] == processor.tokenizer.eos_token_id


def test_an_answer_ends_the_sequence_unless_something_is_to_follow(processor):
    """A turn that a model is to go on with has no end."""
    chat = [user(IMAGE, "what?"), assistant("a dog")]
    beginning = "<image>Question: what? Answer: a dog"
    assert processor.apply_chat_template(chat) == beginning + processor.tokenizer.eos_token
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == beginning + "\n"
    assert processor.apply_chat_template(chat, continue_final_message=True) == beginning


TYPED = "what is [IMG]<code_1>[/IMG]<image> in it?"


@dataclass
class Message:
    role: str
    content: Any


@dataclass
class Part:
    type: str
    text: str


@pytest.mark.parametrize(
    "make",
    [
        lambda text: {"role": "user", "content": text},
        lambda text: {"role": "user", "content": ({"type": "text", "text": text},)},
        lambda text: Message("user", text),
        lambda text: Message("user", [{"type": "text", "text": text}]),
        lambda text: Message("user", [Part("text", text)]),
        lambda text: {"role": "user", "content": [Part("text", text)]},
    ],
)
@pytest.mark.parametrize("wrap", [list, lambda chat: SimpleNamespace(messages=chat)], ids=["list", "object"])
def test_special_tokens_in_messages_of_all_kinds_are_text(processor, make, wrap):
    """transformers takes dictionaries, dataclasses, and objects that have messages, also in batches."""
    settings = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    expected = processor(text=f"Question: {processor.escape(TYPED)} Answer:")["input_ids"][0]
    assert processor.tokenizer.image_token_id not in expected
    chat = wrap([make(TYPED)])
    for given in (chat, [chat]):
        assert processor.apply_chat_template(given, **settings)["input_ids"][0] == expected


def test_images_are_given_as_clients_of_openai_give_them(processor, images, tmp_path):
    path = tmp_path / "image.png"
    images[0].save(path)
    settings = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    ours = user({"type": "image", "image": images[0]}, "what?")
    expected = processor.apply_chat_template([ours], **settings)
    for url in (str(path), {"url": str(path)}):
        found = processor.apply_chat_template([user({"type": "image_url", "image_url": url}, "what?")], **settings)
        assert torch.equal(found["input_ids"], expected["input_ids"])
        torch.testing.assert_close(found["pixel_values"], expected["pixel_values"])


def test_an_answer_goes_back_as_it_was_generated(processor):
    """`generate` and pipelines return answers with the space before them."""
    for answer in ("red", " red"):
        chat = [user(IMAGE, " what?"), assistant(answer), user("why?")]
        expected = "<image>Question: what? Answer: red\nQuestion: why? Answer:"
        assert processor.apply_chat_template(chat, add_generation_prompt=True) == expected


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_parts_of_other_types_are_refused(processor, images, kind):
    with pytest.raises(ValueError, match=f"parts of the types text and image, got '{kind}'"):
        processor.apply_chat_template([user({"type": kind, kind: "x"}, "what?")])
    with pytest.raises(ValueError, match="reads text and images, got videos"):
        processor(text="a", videos=[images[0]])
    assert processor(text="a", videos=None).input_ids


@pytest.mark.parametrize("part", [{"type": "text"}, {"type": "text", "text": None}, {"type": "text", "content": "a"}])
def test_a_text_part_without_a_text_is_refused(processor, part):
    with pytest.raises(ValueError, match="needs a string as its 'text', got None"):
        processor.apply_chat_template([{"role": "user", "content": [part]}])


def test_chat_template_refuses_other_roles(processor):
    with pytest.raises(Exception, match="system, developer, user and assistant, not tool"):
        processor.apply_chat_template([{"role": "tool", "content": "hush"}])


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_messages_precede_the_first_question(processor, role):
    """Most clients send one."""
    chat = [{"role": role, "content": "Be brief."}, user(IMAGE, "what?"), assistant("a dog"), user("why?")]
    expected = "<image>Question: Be brief. what? Answer: a dog\nQuestion: why? Answer:"
    assert processor.apply_chat_template(chat) == expected
    parts = [{"role": role, "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]}]
    assert processor.apply_chat_template(parts + chat[1:]) == expected
    caption = [chat[0], user(IMAGE)]
    assert processor.apply_chat_template(caption) == "<image>"
    asked = processor.apply_chat_template([*caption, assistant("a dog"), user("why?")])
    assert asked == "<image> a dog\nQuestion: Be brief. why? Answer:"
    with pytest.raises(Exception, match="A system message must precede a message of the user"):
        processor.apply_chat_template([user("what?"), assistant("a dog"), chat[0]])
    with pytest.raises(Exception, match=f"not of {role}"):
        processor.apply_chat_template([{"role": role, "content": [IMAGE]}, user("what?")])
