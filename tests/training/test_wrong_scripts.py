# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Mistakes in the arguments of the training scripts are named before a model is loaded or trained."""

import runpy
import sys
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING, LlamaConfig, PreTrainedModel

from lavit_hf import LavitForCausalLM, LavitGenerationConfig, LavitProcessor
from lavit_hf.modeling.arguments_lavit import check_fields
from lavit_hf.training import LavitVisualTokenizerTrainer, TokenizerSchedule

from ..tiny import NUM_PATCHES
from .small import ROOT, make_dataset, make_model, make_processor
from .test_tokenizer_training import make_model as make_tokenizer
from .test_tokenizer_training import train as train_tokenizer


PARTS = "--visual_tokenizer nowhere --train_text_tokenizer True"
DECODER = "--visual_tokenizer nowhere --vae nowhere"
WRONG = [
    ("pretrain", f"{PARTS} --language_model_config {{", "language_model_config must be JSON, got '{'"),
    ("pretrain", PARTS + ' --language_model_config {"model_type":"lama"}', "a model_type of transformers, got 'lama'"),
    (
        "pretrain",
        PARTS + ' --language_model_config {"model_type":"llama","hidden_sise":32}',
        "fields of a LlamaConfig, got 'hidden_sise'. Did you mean 'hidden_size'",
    ),
    (
        "pretrain",
        PARTS + ' --language_model_config {"model_type":"llama","vocab_size":10}',
        r"vocab_size of language_model_config must be at least the \d+ tokens of the tokenizer, got 10",
    ),
    ("pretrain", "--model x --image_generation {", "image_generation must be JSON, got '{'"),
    ("pretrain", "--model x --image_generation [1]", "image_generation must be a mapping in JSON"),
    ("pretrain", '--model x --image_generation {"gidance_scale":2}', "GenerationConfig, got 'gidance_scale'"),
    (
        "pretrain",
        '--model x --image_generation {"guidance_scale":0.2}',
        "guidance_scale of image_generation .* 0.2",
    ),
    ("pretrain", "--model x --plan_generation {", "plan_generation must be JSON"),
    ("pretrain", "--model ADAPTER", "holds an adapter, and a whole model is needed"),
    ("pretrain", "--model x --mixture draw=nan", r"weights of 0 and more, got \['draw=nan'\]"),
    ("pretrain", "--model x --mixture draw=inf", r"weights of 0 and more, got \['draw=inf'\]"),
    ("finetune_lora", "--model ADAPTER", "holds an adapter, and a whole model is needed"),
    ("train_image_decoder", f"{DECODER} --num_inference_steps 0", "num_inference_steps must be an integer .* got 0"),
    ("train_image_decoder", f"{DECODER} --guidance_scale -3", "guidance_scale must be a finite number .* got -3.0"),
    ("train_image_decoder", f"{DECODER} --unet {{", "unet must be JSON"),
    ("train_vision_tower", '--config {"hidden_sise":32}', "fields of a ViTMAEConfig, got 'hidden_sise'"),
    ("train_vision_tower", "--annotation_column layout", "no annotation_column 'layout'; the dataset has image"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model, an adapter for it, and a dataset."""
    root = tmp_path_factory.mktemp("folders")
    processor = make_processor()
    make_model(processor).save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    base = LavitForCausalLM.from_pretrained(root / "model")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(root / "adapter")
    make_dataset(8).save_to_disk(root / "data")
    return {"MODEL": root / "model", "ADAPTER": root / "adapter", "DATA": root / "data"}


def run(script: str, flags: str, folders: dict[str, Path], output: Path, monkeypatch) -> None:
    """Runs a script with `flags`, in which words in capitals stand for folders."""
    words = [str(folders.get(word, word)) for word in flags.split()]
    words += ["--dataset_name", str(folders["DATA"]), "--output_dir", str(output)]
    words += ["--max_steps", "1", "--use_cpu", "True", "--report_to", "none", "--per_device_train_batch_size", "2"]
    path = ROOT / "examples" / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(("script", "flags", "message"), WRONG, ids=lambda value: None)
def test_a_mistake_is_named_before_anything_is_loaded(script, flags, message, folders, tmp_path, monkeypatch):
    for cls in (PreTrainedModel, LavitForCausalLM):
        monkeypatch.setattr(cls, "from_pretrained", lambda *args, **kwargs: pytest.fail("A model was loaded."))
    with pytest.raises(ValueError, match=message):
        run(script, flags, folders, tmp_path / "out", monkeypatch)
    assert not list(tmp_path.glob("out/checkpoint-*"))


def test_lora_saves_plans_and_merges_afterwards(folders, tmp_path, monkeypatch):
    """The same command with `--save_merged` finds the training complete."""
    flags = "--model MODEL --mixture draw=1 --plan_column caption --lora_rank 2"
    run("finetune_lora", flags, folders, tmp_path, monkeypatch)
    assert LavitGenerationConfig.from_pretrained(tmp_path).plan_generation == {}
    card = (tmp_path / "README.md").read_text()
    assert 'LavitForCausalLM.from_pretrained("model")' in card
    run("finetune_lora", f"{flags} --save_merged True", folders, tmp_path, monkeypatch)
    assert LavitForCausalLM.from_pretrained(tmp_path / "merged").generation_config.plan_generation == {}
    LavitProcessor.from_pretrained(tmp_path / "merged")


def test_the_card_names_the_model_that_was_trained_on(folders, tmp_path, monkeypatch):
    flags = "--model MODEL --mixture caption=1 --save_steps 1"
    run("pretrain", f"{flags} --visual_tokenizer nowhere", folders, tmp_path, monkeypatch)  # as of a recipe
    assert "nowhere" not in (tmp_path / "README.md").read_text()
    assert "| model | model |" in (tmp_path / "README.md").read_text()
    run("pretrain", f"{flags} --visual_tokenizer nowhere", folders, tmp_path, monkeypatch)  # resumed
    assert "| model | model |" in (tmp_path / "README.md").read_text()


def test_misspelled_fields_of_parts_are_refused(folders):
    for given in ({"visual_tokenizer_config": {"num_cods": 4}}, {"text_config": {"hidden_sise": 4}}):
        name = next(iter(given))
        with pytest.raises(ValueError, match=f"{name} must have fields of a .*Config, got '(num_cods|hidden_sise)'"):
            LavitForCausalLM.from_pretrained(folders["MODEL"], **given)
    config = LavitForCausalLM.config_class.from_pretrained(
        folders["MODEL"], visual_tokenizer_config={"num_codes": 4}, text_config={"rms_norm_eps": 1e-3}
    )
    assert (config.visual_tokenizer_config.num_codes, config.text_config.rms_norm_eps) == (4, 1e-3)
    assert isinstance(config.text_config, LlamaConfig)
    # The fields of a loaded configuration, and those of older versions, are not misspelled.
    fields = config.text_config.to_dict() | {"partial_rotary_factor": 0.5}
    again = LavitForCausalLM.config_class.from_pretrained(folders["MODEL"], text_config=fields)
    assert again.text_config.rms_norm_eps == 1e-3


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3_moe", "gemma3_text", "mamba", "gpt_neox"])
def test_saved_configurations_of_language_models_are_read(model_type, tmp_path):
    CONFIG_MAPPING[model_type](vocab_size=60_000).save_pretrained(tmp_path)
    runpy_globals = runpy.run_path(str(ROOT / "examples" / "pretrain.py"))
    config = runpy_globals["read_config"](str(tmp_path / "config.json"), make_processor().tokenizer)
    assert config.model_type == model_type
    check_fields("x", {"partial_rotary_factor": 0.5, "sliding_window_pattern": 3}, CONFIG_MAPPING[model_type])


def test_a_codebook_larger_than_the_data_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(LavitVisualTokenizerTrainer, "training_step", lambda *args: pytest.fail("A step was made."))
    model = make_tokenizer(codebook_size=3 * NUM_PATCHES + 1)
    message = (
        f"codebook_size must be at most the {3 * NUM_PATCHES} patches of the 3 images .* got {3 * NUM_PATCHES + 1}"
    )
    with pytest.raises(ValueError, match=message):
        train_tokenizer(model, tmp_path, TokenizerSchedule(quantize_from=2), steps=4, rows=3, batch_size=1)
