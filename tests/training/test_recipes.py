# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of stage 2 and their recipes: files, flags, defaults of the device, and language models."""

import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from pretrain import ModelArguments, load_model, read_config, train_text_tokenizer
from transformers import GenerationConfig, TrainingArguments

from lavit_hf.training import (
    DataArguments,
    SequenceArguments,
    last_checkpoint,
    parse_recipe,
    prefers_bfloat16,
)

from .small import (
    COLORS,
    ROOT,
    make_model,
    make_processor,
)


def test_the_recipe():
    recipe = str(ROOT / "examples" / "recipes" / "shapes" / "pretrain.yaml")
    classes = (ModelArguments, SequenceArguments, DataArguments, TrainingArguments)
    model, sequences, _, arguments = parse_recipe(*classes, args=[recipe, "--learning_rates", "lm_head=1e-4"])
    assert sequences.weights == {
        "caption": 2,
        "draw": 2,
        "question": 2,
        "edit": 3.5,
        "interleaved": 0.5,
        "text": 2.5,
    }
    assert read_config(model.language_model_config, make_processor().tokenizer).hidden_size == 256
    assert model.part_learning_rates == {"lm_head": 1e-4}
    assert arguments.lr_scheduler_kwargs == {"num_decay_steps": 2000, "decay_type": "1-sqrt"}
    assert (sequences.caption_column, sequences.prompt_column) == ("captions", "prompts")


@pytest.mark.parametrize("flag", [["--bf16", "auto"], ["--bf16=Auto"]], ids=str)
@pytest.mark.parametrize("is_faster", [False, True])
def test_recipes_take_bfloat16_where_the_device_is_faster_in_it(is_faster, flag, tmp_path, monkeypatch):
    """A GPU counts unless the run leaves it alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    faster = {"cpu": is_faster, "cuda": not is_faster}
    monkeypatch.setattr("lavit_hf.training.scripts.prefers_bfloat16", lambda device: faster[device])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\n")

    def read(*words: str) -> bool:
        (arguments,) = parse_recipe(TrainingArguments, args=[str(recipe), *words])
        return arguments.bf16

    assert read(*flag) is is_faster
    assert read(*flag, "--bf16", "false") is False
    monkeypatch.setattr("lavit_hf.training.scripts.HfArgumentParser.parse_args_into_dataclasses", parse_known)
    assert parse_recipe(TrainingArguments, args=[str(recipe), *flag, "--use_cpu", "false"]) == str(not is_faster)


@pytest.fixture
def begun(tmp_path):
    """The folder of a run on the data "others" in bfloat16, with a checkpoint."""
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text("{}")
    (tmp_path / "arguments.yaml").write_text("dataset_name: others\nbf16: true\n")
    return tmp_path


def test_a_resumed_run_keeps_its_dtype_on_another_machine(begun, monkeypatch):
    monkeypatch.setattr("lavit_hf.training.scripts.prefers_bfloat16", lambda device: False)

    def read(folder, bf16):
        (arguments,) = parse_recipe(
            TrainingArguments, args=["--output_dir", str(folder), "--use_cpu", "true", "--bf16", bf16]
        )
        return arguments

    assert read(begun, "auto").bf16 is True
    assert read(begun / "another", "auto").bf16 is False
    with pytest.raises(ValueError, match="bf16 is False, and was True"):
        last_checkpoint(read(begun, "false"), DataArguments(dataset_name="others"))


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("pretrain", "--model nowhere --mixture caption=1"),
        ("finetune_lora", "--model nowhere --mixture caption=1"),
        ("train_image_decoder", "--visual_tokenizer nowhere --stable_diffusion nowhere"),
        ("train_visual_tokenizer", "--vision_tower nowhere"),
        ("train_vision_tower", "--config {}"),
        ("train_vae", "--config {}"),
    ],
)
def test_other_arguments_are_refused_before_anything_is_loaded(begun, script, flags, monkeypatch):
    words = f"{flags} --dataset_name nothing --output_dir {begun} --use_cpu true --bf16 true".split()
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(ValueError, match="has a run with different arguments: dataset_name is 'nothing'"):
        importlib.import_module(script).main()


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_the_faster_dtype_is_found_by_trying(slow, monkeypatch):
    """A product of matrices in one dtype takes longer than it does."""
    multiply = torch.Tensor.__matmul__

    def wait(self, other):
        time.sleep(0.05 if self.dtype == slow else 0)
        return multiply(self, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", wait)
    assert prefers_bfloat16.__wrapped__("cpu") is (slow == torch.float32)


def test_help_of_a_recipe_has_all_arguments(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("bf16: auto\nuse_cpu: true\n")
    with pytest.raises(SystemExit) as stopped:
        parse_recipe(SequenceArguments, TrainingArguments, args=[str(recipe), "--help"])
    assert stopped.value.code == 0
    assert "--plan_column" in capsys.readouterr().out


def test_threads_parse_side_by_side(request):
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)  # threads alternate within the parser
    args = ["--output_dir", "unused", "--use_cpu", "true"]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: parse_recipe(SequenceArguments, TrainingArguments, args=args)[0], range(64))
    assert set(map(str, found)) == {str(parse_recipe(SequenceArguments, TrainingArguments, args=args)[0])}


def parse_known(self, args, return_remaining_strings=False):
    """Parses the device alone, and returns the value of `bf16` otherwise: this machine may have no GPU to train on."""
    if return_remaining_strings:
        found, rest = self.parse_known_args(args)
        return type(self.dataclass_types[0].__name__, (), vars(found)), rest
    return args[max(index for index, word in enumerate(args) if word == "--bf16") + 1]


def test_a_text_tokenizer_for_a_narrow_domain():
    tokenizer = train_text_tokenizer([f"a {color} thing, {color}?" for color in COLORS] * 3, 400)
    assert all(len(tokenizer(f" {color}")["input_ids"]) == 1 for color in COLORS)
    text = "Ünknown: 漢字\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    again = train_text_tokenizer([f"a {color} thing, {color}?" for color in COLORS] * 3, 400)
    assert again.get_vocab() == tokenizer.get_vocab()
    small = train_text_tokenizer(["a red thing"] * 3, 400, lowercase=True)
    assert small("A RED Thing")["input_ids"] == small("a red thing")["input_ids"] != small("a bed thing")["input_ids"]


def test_a_whole_model_to_go_on_from(tmp_path):
    processor = make_processor()
    make_model(processor).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, loaded = load_model(ModelArguments(model=str(tmp_path), image_generation='{"top_k": 3}'))
    assert model.config.image_start_token_id == loaded.image_start_token_id
    assert model.generation_config.image_generation == GenerationConfig(do_sample=True, top_k=3)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"visual_tokenizer": "a"},
        {"visual_tokenizer": "a", "language_model": "b", "language_model_config": "c"},
        {"visual_tokenizer": "a", "language_model_config": "c"},
        {"model": "a", "learning_rates": ["model"]},
    ],
)
def test_refusals(given):
    with pytest.raises(ValueError, match="Give either|needs either|learning_rates must be NAME=NUMBER"):
        ModelArguments(**given)
