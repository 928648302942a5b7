# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A conversation with the model that ships."""

import copy
import shutil

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig

from lavit_hf import Conversation, LavitProcessor
from lavit_hf.cli.chat import split_images
from lavit_hf.data.shapes import read_scene, render_scene, sample_scene
from lavit_hf.inference import draw_codes, write_texts

from . import tiny


@pytest.fixture
def image(tmp_path):
    """A star, a square and a triangle."""
    path = tmp_path / "my image.png"
    render_scene(sample_scene(6, "test")).save(path)
    shutil.copy(path, tmp_path / "image.png")
    return path


def test_a_conversation(monkeypatch, command_line, tmp_path, image):
    lines = iter(
        [
            f'"{image}" what color is the star?',
            "/reset",
            f"{image.parent / 'image.png'}",
            "/help",
            "/paint it black",
            "/draw a large red circle at the top left",
            "/edit make the circle blue",
            "/draw",
            "nothing.png what is that?",
            f"/save {tmp_path / 'star.png'}",
            f"/save {tmp_path / 'star.png'}",
            "/reset",
            "/edit make it green",
            f"/save {tmp_path / 'none.png'}",
            "bonjour",
            "draw a small blue star on the right",
            "/quit",
        ]
    )
    monkeypatch.setattr("lavit_hf.cli.loading.console.input", lambda prompt: next(lines))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "003.png").write_bytes(b"of another conversation")
    code, output, warnings = command_line("chat", "--output", tmp_path / "out", "--steps", 4)
    assert code == 0
    answer, description = (line for line in output.splitlines() if "orange" in line)
    assert answer.strip() == "orange"
    assert "orange star" in description
    assert output.count("/quit") == 3  # at the start, when asked for, and with an unknown command
    assert "/draw needs a text" in output
    assert "there is no image nothing.png" in output
    assert "edit needs an image: give one, or draw one first" in output
    assert "`draw a small blue star on the right` draws" in output.partition("orange")[0]
    assert "This model knows scenes of colored shapes" in output.partition("orange")[0]
    assert "does not know 'bonjour'. It knows scenes of colored shapes" in warnings
    assert output.count(f"{tmp_path / 'star.png'} exists") == 1
    assert output.count("/save needs a file") == 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["003.png", "004.png", "005.png", "006.png"]
    assert (tmp_path / "star.png").read_bytes() == (tmp_path / "out" / "005.png").read_bytes()
    [star] = read_scene(Image.open(tmp_path / "out" / "006.png"))
    assert (star.color, star.shape) == ("blue", "star")
    assert (tmp_path / "out" / "003.png").read_bytes() == b"of another conversation"
    assert str(tmp_path / "out" / "004.png") in output


def test_answers_stand_in_later_prompts_as_they_were_written(demo, image, monkeypatch):
    """Each prompt begins with the ids of the prompt before it and of its answer, up to the token that ended it."""
    model, processor, pipe = demo
    generate, prompts, results = model.generate, [], []

    def recorded(**kwargs):
        prompts.append(kwargs["input_ids"][0].tolist())
        results.append(generate(**kwargs))
        return results[-1]

    monkeypatch.setattr(model, "generate", recorded)
    conversation = Conversation(model, processor, pipe, seed=0)
    questions = [
        "what color is the star?",
        "how many shapes are there?",
        "is there a large blue square?",
        "describe it",
    ]
    for index, question in enumerate(questions):
        list(conversation.answer(*([Image.open(image)] if index == 0 else []), question))
    assert len(prompts) == len(questions)
    for result, prompt in zip(results, prompts[1:], strict=False):
        assert prompt[: result.shape[1] - 1] == result[0, :-1].tolist()


def test_a_drawing_of_a_conversation_may_be_drawn_without_a_plan(demo, monkeypatch):
    model, processor, pipe = demo
    generate, modes = model.generate, []

    def recorded(**kwargs):
        modes.append(kwargs.get("generation_mode", "text"))
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", recorded)
    conversation = Conversation(model, processor, pipe, num_inference_steps=1)
    for settings, expected in (({}, ["text", "image"]), ({"plan_generation": False}, ["image"])):
        modes.clear()
        list(conversation.draw("a large red star", **settings))
        assert modes == expected
        modes.clear()
        list(conversation.edit("paint the star blue", **settings))
        assert modes == expected


def test_each_image_is_read_in_one_turn(demo, monkeypatch):
    """Later turns take its features, and answer as if they had read it again."""
    model, processor, pipe = demo
    images = [render_scene(sample_scene(index, "test")) for index in range(2)]
    turns = [(images[0], "what color is the star?"), ("how many shapes are there?",), (images[1], "and here?")]
    tower, seen, answers = model.model.visual_tokenizer.vision_tower, [], []
    with monkeypatch.context() as patch:
        forward = tower.forward
        patch.setattr(tower, "forward", lambda pixels, **kwargs: seen.append(len(pixels)) or forward(pixels, **kwargs))
        conversation = Conversation(model, processor, pipe)
        for turn in turns:
            list(conversation.answer(*turn))
            answers.append(conversation.messages[-1])
    assert seen == [1, 1]
    conversation = Conversation(model, processor, pipe)
    for turn, answer in zip(turns, answers, strict=True):
        conversation._read.clear()
        list(conversation.answer(*turn))
        assert conversation.messages[-1] == answer


def test_an_image_that_has_changed_is_read_again(demo):
    """A camera may write into the same object again and again."""
    model, processor, pipe = demo
    frame, answers = render_scene(sample_scene(0, "test")), []
    conversation = Conversation(model, processor, pipe)
    list(conversation.answer(frame, "what is in the image?"))
    frame.paste(render_scene(sample_scene(1, "test")))
    for each in (conversation, Conversation(model, processor, pipe)):
        each.messages.clear()
        list(each.answer(frame, "what is in the image?"))
        answers.append(each.messages[-1])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("expanded", [False, True])
def test_what_no_longer_fits_is_left_out(demo, expanded, monkeypatch):
    """No sooner than at the most positions that images may take, which placeholders tell exactly."""
    model, processor, pipe = demo
    conversation = Conversation(model, copy.copy(processor), pipe, seed=0)
    conversation.processor.domain = None  # which allows one image
    if expanded:
        conversation.processor.visual_tokenizer = model.model.visual_tokenizer
    for _ in range(8):
        conversation.add("user", Image.new("RGB", (64, 64), "red"), "what is that?")
        conversation.add("assistant", "a square")
    prompts = []
    generate = type(model).generate

    def record(self, *args, **kwargs):
        prompts.append(kwargs["pixel_values" if expanded else "vision_features"])
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", record)
    list(conversation.answer("and that?"))
    assert (2 if expanded else 0) < len(prompts[0]) < 8
    assert len(conversation.images) == 8  # the visitor still has all of them
    assert conversation.messages[-1]["role"] == "assistant"


def test_the_image_of_a_long_conversation_is_not_left_out(demo, image, monkeypatch):
    """The turns between it and the last question are, by few prompts that are too long."""
    conversation = Conversation(*demo)
    prompts, prepare = [], LavitProcessor.apply_chat_template
    monkeypatch.setattr(
        LavitProcessor, "apply_chat_template", lambda *args, **kwargs: prompts.append(args) or prepare(*args, **kwargs)
    )
    opened = Image.open(image)
    list(conversation.answer(opened, "what color is the star?"))
    assert len(prompts) == 1
    for _ in range(60):
        conversation.add("user", "where is the square?")
        conversation.add("assistant", "bottom")
    for question, answer in (("what color is the star?", "orange"), ("what shape is at the bottom?", "square")):
        pieces = list(conversation.answer(question))
        assert "".join(piece.text for piece in pieces).strip() == answer
    assert conversation.images == [opened]
    assert len(prompts) <= 1 + 2 * 8


def test_an_earlier_image_takes_no_room_from_the_last_message(demo, image):
    """The image goes to a question without one where both have room, and is left out where the question alone has."""
    conversation = Conversation(*demo)
    for repeats in (20, 78, 82):
        conversation.messages.clear()
        conversation.add("user", Image.open(image), "what color is the star?")
        conversation.add("assistant", "orange")
        assert list(conversation.answer("is there a red square? " * repeats))


def test_two_messages_of_the_user_are_two_turns(demo, image):
    """The messages that are left begin with one of the user, to which an earlier image goes."""
    conversation = Conversation(*demo)
    conversation.add("user", Image.open(image), "what is in the image?")
    conversation.add("user", "where is the square? " * 60)
    conversation.add("assistant", "bottom")
    pieces = list(conversation.answer("what color is the star?"))
    assert "".join(piece.text for piece in pieces).strip() == "orange"


def test_without_images_the_turns_before_stay(demo):
    conversation = Conversation(*demo)
    conversation.processor = copy.copy(conversation.processor)
    conversation.processor.domain = {"max_images": 0}
    for _ in range(2):
        conversation.add("user", "what color is the star?")
        conversation.add("assistant", "orange")
    conversation.add("user", "and the square?")
    inputs, _ = conversation._prompt()
    assert conversation.processor.decode(inputs["input_ids"][0]).count("star") == 2


def test_the_last_message_is_not_left_out(demo):
    conversation = Conversation(*demo)
    for _ in range(2):
        conversation.add("user", "what color is the star? " * 50)
    assert list(conversation.answer())


@pytest.mark.parametrize("draws", [False, True])
def test_an_answer_ends_with_the_context(draws, monkeypatch):
    processor = LavitProcessor.from_backbones(
        text=tiny.text_tokenizer(), codebook_size=tiny.CODEBOOK_SIZE, image_size=tiny.IMAGE_SIZE
    )
    model = tiny.tiny_lavit(text=LlamaConfig(**tiny.TEXT | {"max_position_embeddings": 64}))
    model.generation_config.min_new_tokens = 40
    generate, results = model.generate, []
    monkeypatch.setattr(
        model, "generate", lambda **kwargs: results.append(generate(**kwargs, return_prompt_codes=True))
    )
    conversation = Conversation(model, processor)
    image = Image.new("RGB", (32, 32), "red")
    for drawing in (conversation.draw("word9"), conversation.edit("word9", image)):
        with pytest.raises(ValueError, match="Drawing needs a pixel decoder, and this conversation has none"):
            list(drawing)
    if draws:
        monkeypatch.setattr(conversation, "pipeline", object())
        monkeypatch.setattr(conversation, "_decode", lambda codes: Image.new("RGB", (8, 8)))
    for content in (["word9 " * 30], ["word9 " * 50], [image, "word9 " * 36]):
        assert list(conversation.answer(*content))
        assert 60 < results.pop().shape[1] <= 64
        conversation.messages.clear()
    with pytest.raises(ValueError, match=r"holds 64 tokens, but the last message has \d+, which leaves no room"):
        list(conversation.answer("word9 " * 64))


def test_saved_settings_do_not_stop_a_conversation(demo, monkeypatch):
    monkeypatch.setattr(demo[0].generation_config, "num_beams", 2)
    monkeypatch.setattr(demo[0].generation_config, "num_return_sequences", 2)
    monkeypatch.setattr(demo[0].generation_config, "stop_strings", ["zebra"])
    conversation = Conversation(*demo, num_inference_steps=1)
    assert list(conversation.answer(render_scene(sample_scene(6, "test")), "what color is the star?"))
    assert list(conversation.draw("a large red star"))


def test_a_failed_answer_leaves_no_trace(demo, monkeypatch):
    model, processor, pipe = demo
    conversation = Conversation(model, processor, pipe, seed=0)
    monkeypatch.setattr(model, "generate", lambda **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(conversation.answer("what is that?"))
    assert conversation.messages == []
    with pytest.raises((TypeError, ValueError)):
        list(conversation.answer(3, "what is that?"))
    assert conversation.messages == []
    conversation.add("user", "what is that?")
    with pytest.raises(ZeroDivisionError):
        list(conversation.answer())
    assert len(conversation.messages) == 1


def test_an_answer_needs_a_question(demo):
    conversation = Conversation(*demo)
    for role in (None, "assistant", "user", "assistant"):
        if role:
            conversation.add(role, "hello" if role == "assistant" else " ")
        with pytest.raises(ValueError, match="needs a message of the user at the end"):
            list(conversation.answer())
    with pytest.raises(ValueError, match="needs a message of the user at the end"):
        list(conversation.answer(" \n"))


def test_lines(image):
    assert split_images(f'look at "{image}" and say what it\'s') == ("look at and say what it's", [image])
    plain = image.rename(image.with_name("plain.png"))
    assert split_images(f"what is in {plain}?") == ("what is in", [plain])
    with pytest.raises(ValueError, match=r"there is no image .*gone\.jpg"):
        split_images("gone.jpg what is that?")


def test_settings_that_the_pixel_decoder_does_not_have_are_refused(demo):
    with pytest.raises(TypeError, match="arguments of the pixel decoder, got 'num_steps'"):
        Conversation(*demo, num_steps=3)
    assert Conversation(*demo, num_inference_steps=3).settings == {"num_inference_steps": 3}


def test_a_processor_of_another_model_is_refused(demo, converted):
    other = LavitProcessor.from_pretrained(converted)
    for function in (draw_codes, write_texts):
        with pytest.raises(ValueError, match="The processor has .* the model at id"):
            function(demo[0], other, ["a star"])


def test_a_model_that_has_learned_one_image_reads_the_last_one():
    """It would mix the objects of both. Other models read all images that fit into the context."""
    processor = LavitProcessor.from_backbones(
        text=tiny.text_tokenizer(), codebook_size=tiny.CODEBOOK_SIZE, image_size=tiny.IMAGE_SIZE
    )
    model = tiny.tiny_lavit()
    shown = {}
    for most in (None, 1):
        processor.domain = most and {"description": "shapes", "words": [], "max_images": most}
        conversation = Conversation(model, processor)
        for color in ("red", "blue"):
            conversation.add("user", Image.new("RGB", (32, 32), color), "what?")
            conversation.add("assistant", color)
        conversation.add("user", "why?")
        inputs, _ = conversation._prompt()
        shown[most] = len(inputs["vision_features"])
        assert len(conversation.images) == 2  # the conversation itself is kept
    assert shown == {None: 2, 1: 1}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_latest_images_are_read_wherever_they_are(most):
    """An edit has two images in one turn. The images of the last message are all read."""
    processor = LavitProcessor.from_backbones(
        text=tiny.text_tokenizer(), codebook_size=tiny.CODEBOOK_SIZE, image_size=tiny.IMAGE_SIZE
    )
    processor.domain = {"description": "shapes", "words": [], "max_images": most}
    conversation, seen = Conversation(tiny.tiny_lavit(), processor), []

    def pixels(*colors: str) -> list[torch.Tensor]:
        return [processor.image_processor(Image.new("RGB", (32, 32), color))["pixel_values"][0] for color in colors]

    def read() -> list[torch.Tensor]:
        conversation._prompt()
        return [pixels for pixels, *_ in conversation._read]

    for turn in [("red",), ("green", "blue"), (), ("white",)]:
        conversation.add("user", *(Image.new("RGB", (32, 32), color) for color in turn[:1]), "change it")
        seen += turn[:1]
        assert all(map(torch.equal, read(), pixels(*seen[-most:])))
        conversation.add("assistant", *(Image.new("RGB", (32, 32), color) for color in turn[1:]), "done")
        seen += turn[1:]
    conversation.add("user", "why?")
    shown = read()
    assert len(shown) == most
    assert all(map(torch.equal, shown, pixels("red", "green", "blue", "white")[-most:]))
    conversation.add("assistant", "so")
    conversation.add("user", *(Image.new("RGB", (32, 32), color) for color in ("black", "gray", "pink", "cyan")), "?")
    assert len(read()) == 4
