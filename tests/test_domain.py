# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A model of a narrow domain says which words it does not know, and settings of tasks are saved with a model."""

import copy
import json
import logging
import re
import shutil
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor, GenerationConfig, StopStringCriteria

from lavit_hf import LavitProcessor, LavitVisualTokenizer, demo_checkpoint
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.data.shapes.loading import make_row
from lavit_hf.inference import describe_unknown_words, draw_codes, plan_drawings, prepare_prompts, write_texts
from lavit_hf.modeling.generation_settings_lavit import LavitGenerationConfig
from lavit_hf.modeling.grammar_lavit import LavitStopStringCriteria

from .guides import ROOT
from .parity import GOLDENS


def test_words_of_the_small_model(demo):
    """It knows the words of its data, and all others are named."""
    processor = demo[1]
    for index in range(200):
        row = make_row(index, "train")
        columns = ("captions", "prompts", "questions", "answers", "edited_captions")
        for text in (row["caption"], row["instruction"], *(text for name in columns for text in row[name])):
            assert describe_unknown_words(processor, text.upper()) is None, text
    warning = describe_unknown_words(processor, "A photo of a cat, a photo of 2 red zebras")
    assert warning.startswith("This model does not know 'photo', 'cat', 'zebras'. It knows scenes of colored shapes")
    example = re.search("“(.+)”", warning)[1]
    assert describe_unknown_words(processor, example) is None
    assert processor.domain == json.loads((ROOT / "model_cards" / "shapes_domain.json").read_text())


def test_a_domain_is_saved(demo, tmp_path):
    processor = demo[1]
    processor.save_pretrained(tmp_path)
    assert describe_unknown_words(AutoProcessor.from_pretrained(tmp_path), "a red zebra") == describe_unknown_words(
        processor, "a red zebra"
    )


def test_a_model_of_the_whole_language_has_no_domain(converted):
    processor = AutoProcessor.from_pretrained(converted)
    assert processor.domain is None
    assert describe_unknown_words(processor, "a red zebra") is None


@pytest.mark.parametrize("line", [("draw", "a photo of a zebra", "--steps", 1), ("ask", "image.png", "a zebra?")])
def test_commands_warn_of_unknown_words(line, command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDENS / "image_0.png", "image.png")
    code, _, error = command_line(*line)
    assert code == 0
    assert "does not know" in error
    assert "'zebra'" in error
    assert "does not know" not in command_line("ask", "image.png", "is there a red star?")[2]


def test_settings_of_tasks(demo, tmp_path, command_line):
    """Those that are saved with a model hold, and those that are given replace them."""
    model, processor, _ = demo
    image = render_scene(sample_scene(6, "test"))
    image.save(tmp_path / "image.png")
    for path in demo_checkpoint().iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    config["caption_generation"] = {"max_new_tokens": 40, "stop_strings": [",", " and"]}
    config["answer_generation"] = {"num_beams": 2, "min_new_tokens": 4, "max_new_tokens": 4, "length_penalty": 0.0}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    [whole] = write_texts(model, processor, [""], [[image]], task="caption")
    assert "," in whole
    common = (tmp_path / "image.png", "--model", tmp_path)
    code, output, error = command_line("caption", *common)
    assert (code, output.partition(": ")[2].strip()) == (0, re.split(",| and", whole)[0]), error
    _, output, _ = command_line("caption", *common, "--max-new-tokens", 2)
    assert 0 < len(output.partition(": ")[2]) < 20
    question = ("ask", tmp_path / "image.png", "what color is the star?", "--model", tmp_path)
    one_word = ("--num-beams", 1, "--max-new-tokens", 1)  # the settings of beams and the least length give way
    longer, one = (command_line(*question, *given) for given in ((), one_word))
    assert (longer[0], one[0]) == (0, 0), longer[2] + one[2]
    assert len(longer[1].split()) > len(one[1].split()) == 1


@pytest.mark.parametrize("place", ["argument", "configuration of the call", "configuration of the model", "task"])
def test_a_stop_string_ends_a_text_wherever_it_is_set(demo, monkeypatch, place):
    model, processor, _ = demo
    given = ["", ""], [[render_scene(sample_scene(index, "test"))] for index in (6, 7)]
    stop = {"stop_strings": [" star", " square"], "max_new_tokens": 40}
    whole = write_texts(model, processor, *given, max_new_tokens=40)
    expected = [re.split(" star| square", text)[0] for text in whole]
    assert expected != whole
    settings = {"max_new_tokens": 40}
    if place == "argument":
        settings = stop
    elif place == "configuration of the call":
        settings = {"generation_config": GenerationConfig(**stop)}
    elif place == "configuration of the model":
        monkeypatch.setattr(model.generation_config, "stop_strings", stop["stop_strings"])
    else:
        monkeypatch.setattr(model.generation_config, "caption_generation", stop)
        settings = {"task": "caption"}
    generate, lengths = model.generate, []

    def generate_and_count(**kwargs):
        ids = generate(**kwargs)
        lengths.append(ids.shape[1])
        return ids

    monkeypatch.setattr(model, "generate", generate_and_count)
    assert write_texts(model, processor, *given, **settings) == expected
    assert write_texts(model, processor, *given, **settings, num_beams=2)
    assert lengths[0] < 20
    assert lengths[1] > 20 or place.startswith("configuration")  # beams of `generate` end at stop strings


def test_stop_strings_match_tokens_that_were_added_behind_the_codes(demo):
    tokenizer, config = copy.deepcopy(demo[1].tokenizer), demo[0].config
    tokenizer.add_tokens(["<stop>"], special_tokens=True)
    start, end = config.image_start_token_id, tokenizer.convert_tokens_to_ids("<stop>")
    rows = torch.tensor([[*range(40, 43), token] for token in range(40, end + 1)])
    own = StopStringCriteria(tokenizer, ["<stop>", "1"])(rows, None)
    found = LavitStopStringCriteria(tokenizer, ["<stop>", "1"], config)(rows, None)
    is_text = torch.ones(len(rows), dtype=torch.bool)
    is_text[start - 40 : config.image_token_id + 1 - 40] = False
    assert found[-1]
    assert found.equal(own & is_text)
    assert (own & ~is_text).any()


@pytest.mark.parametrize("mode", ["image", "interleaved"])
@pytest.mark.parametrize("place", ["argument", "configuration of the call", "configuration of the model"])
def test_stop_strings_do_not_match_the_names_of_codes(demo, monkeypatch, place, mode):
    """They would cut images."""
    model, processor, _ = demo
    stops = {"stop_strings": ["1", "2", "_", "[", "]", ">", "IMG"]}
    inputs = dict(processor(text=["a red circle", "a blue star above a red ring"], return_tensors="pt"))
    inputs |= {"generation_mode": mode, "max_new_tokens": 70, "tokenizer": processor.tokenizer}
    inputs |= {"do_sample": False, "image_generation": {"do_sample": False}}
    if mode == "interleaved":
        inputs["first_modality"] = "image"
    expected = model.generate(**inputs)
    if place == "argument":
        inputs |= stops
    elif place == "configuration of the call":
        inputs["generation_config"] = GenerationConfig(**stops)
    else:
        monkeypatch.setattr(model.generation_config, "stop_strings", stops["stop_strings"])
    assert torch.equal(model.generate(**inputs), expected)


def test_settings_of_the_release(converted):
    config = AutoModelForCausalLM.from_pretrained(converted).generation_config
    assert config.caption_generation["num_beams"] == 2
    assert config.answer_generation["length_penalty"] == 0.0


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("caption_generation", {"num_beans": 2}, "caption_generation must hold settings .* got 'num_beans'"),
        ("answer_generation", [2], r"answer_generation must be a dict .* got \[2\]"),
        ("answer_generation", {"max_new_tokens": 0}, "max_new_tokens of answer_generation must be .* got 0"),
        ("plan_generation", {"stop_strings": ["."]}, "plan_generation must hold settings .* got 'stop_strings'"),
    ],
)
def test_wrong_settings_of_tasks(task, settings, message):
    with pytest.raises(ValueError, match=message):
        LavitGenerationConfig(**{task: settings})


def test_generate_has_no_tasks(demo):
    model, processor, _ = demo
    inputs = processor(text="a", return_tensors="pt")
    with pytest.raises(ValueError, match="no settings of tasks, got caption_generation: use .*write_texts"):
        model.generate(**inputs, caption_generation={"max_new_tokens": 2})
    assert write_texts(model, processor, ["a"], task="caption", min_new_tokens=1, max_new_tokens=None)


@pytest.mark.parametrize("task", ["caption", "answer"])
def test_a_length_that_is_given_displaces_that_of_a_task(demo, task):
    image = render_scene(sample_scene(6, "test"))
    write = partial(write_texts, *demo[:2], ["what is that?"], [[image]])
    for settings in (
        {"max_length": 12},
        {"generation_config": GenerationConfig(max_new_tokens=3, num_beams=1)},
        {"generation_config": GenerationConfig(max_length=12, num_beams=1)},
    ):
        [short], [whole] = write(task=task, **settings), write(task=task)
        assert len(short.split()) <= 6 < len(whole.split()), settings


def test_an_unknown_task(demo):
    with pytest.raises(ValueError, match="task must be one of caption, answer, got 'nope'"):
        write_texts(*demo[:2], ["a"], task="nope")


def test_strings_that_end_a_text(demo):
    """One string, several or none, as in transformers."""
    image = render_scene(sample_scene(6, "test"))
    write = partial(write_texts, *demo[:2], [""], [[image]], task="caption")
    [whole] = write(stop_strings=None)
    assert " and" in whole
    assert write(stop_strings=" and") == write(stop_strings=[" and"]) == [whole.partition(" and")[0]]


def test_a_text_is_no_list_of_its_letters(demo):
    model, processor, _ = demo
    for call in (
        lambda: prepare_prompts(processor, "ab"),
        lambda: write_texts(model, processor, "ab"),
        lambda: plan_drawings(model, processor, "ab"),
        lambda: draw_codes(model, processor, "ab"),
        lambda: draw_codes(model, processor, "ab", plan_generation=False),
    ):
        with pytest.raises(ValueError, match="texts must be a list of texts, got 'ab'"):
            call()


def test_a_drawing_that_was_cut_is_told(demo, caplog, monkeypatch):
    model, processor, _ = demo
    monkeypatch.setattr(logging.getLogger("lavit_hf"), "propagate", True)
    [codes] = draw_codes(model, processor, ["a red circle"], image_generation={"max_new_tokens": 5})
    assert len(codes) <= 5
    assert "was cut" not in caplog.text
    assert draw_codes(model, processor, ["a red circle"], plan_generation=False, max_new_tokens=5)
    assert "Drawing 0 was cut after 4 codes, before its [/IMG]" in caplog.text
    with pytest.raises(ValueError, match=r"Drawing 0 was cut after 0 codes, before its \[/IMG\]"):
        draw_codes(model, processor, ["a red circle"], plan_generation=False, max_time=1e-6)


def test_an_adapter_draws_on_the_command_line(demo, command_line, tmp_path):
    """By the pixel decoder of its base model, with the settings of generation beside the adapter."""
    model = AutoModelForCausalLM.from_pretrained(demo_checkpoint())
    adapter = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    adapter.peft_config["default"].base_model_name_or_path = str(demo_checkpoint())
    adapter.save_pretrained(tmp_path / "adapter")
    demo[1].save_pretrained(tmp_path / "adapter")
    command = ("--model", tmp_path / "adapter", "--steps", 1, "--output", tmp_path / "star.png")
    code, _, error = command_line("draw", "a red star", *command)
    assert code == 0, error
    assert (tmp_path / "star.png").is_file()
    render_scene(sample_scene(6, "test")).save(tmp_path / "image.png")
    asked = ("caption", tmp_path / "image.png", "--model", tmp_path / "adapter")
    whole = command_line(*asked)[1]
    LavitGenerationConfig(caption_generation={"max_new_tokens": 1}).save_pretrained(tmp_path / "adapter")
    assert len(command_line(*asked)[1]) < len(whole)


@pytest.mark.parametrize("settings", [{"num_codes": 4}, {"keep_scale": 0.3}, {"max_codes": 5}], ids=str)
def test_the_number_of_codes_is_set_wherever_a_visual_tokenizer_is_loaded(settings):
    image = render_scene(sample_scene(6, "test"))
    tokenizer = LavitVisualTokenizer.from_pretrained(demo_checkpoint(), **settings)
    processor = LavitProcessor.from_pretrained(demo_checkpoint(), visual_tokenizer=True, **settings)
    plain = LavitProcessor.from_pretrained(demo_checkpoint(), visual_tokenizer=True)
    inputs = [one(text="<image>", images=image, return_tensors="pt") for one in (processor, plain)]
    lengths = [int((one["input_ids"] == processor.image_token_id).sum()) for one in inputs]
    expected = tokenizer(processor.image_processor(image, return_tensors="pt")["pixel_values"]).codes
    assert lengths[0] == len(expected) < lengths[1]
    with pytest.raises(ValueError, match="can only be given with visual_tokenizer=True"):
        LavitProcessor.from_pretrained(demo_checkpoint(), **settings)
