# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A resumed run equals an uninterrupted one bit for bit. A checkpoint that lacks a weight is refused by its name."""

import json
import logging
import runpy
import shutil
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Image
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from train_vae import VaeForTraining, VaeTrainer, new_vae
from transformers import (
    AutoModel,
    MixtralConfig,
    Qwen2MoeConfig,
    TrainingArguments,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from lavit_hf import LavitForCausalLM
from lavit_hf.training import LavitTrainer, LoraArguments, lora_config
from lavit_hf.training.image_decoder_trainer import AVERAGED_WEIGHTS_NAME
from lavit_hf.training.trainer import load_weights

from ..guides import ROOT
from ..modeling.test_backbones import VISION_CONFIGS
from ..tiny import IMAGE_SIZE, TEXT, pictures, tiny_lavit
from .small import UNET, VAE, image_processor, make_dataset, make_model, make_processor, save_visual_tokenizer
from .small_image_decoder import losses, make_decoder
from .small_image_decoder import train as train_decoder
from .small_pretrain import make_trainer


EXPERTS = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4}
TEXT_MODELS = {
    "llama": {},
    "qwen2_moe": EXPERTS | {"num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
MAE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
MAE |= {f"decoder_{name}": value for name, value in MAE.items()} | {"image_size": IMAGE_SIZE, "patch_size": 8}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Returns all weights in a folder except those of its checkpoints."""
    files = [path.relative_to(folder) for path in folder.rglob("*.safetensors")]
    files = sorted(path for path in files if not path.parts[0].startswith("checkpoint-"))
    return {f"{path}: {name}": value for path in files for name, value in load_file(folder / path).items()}


def check_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name, value in found.items() if not torch.equal(value, expected[name])]
    assert not different


def entries(folder: Path, after: int) -> list[dict]:
    """Returns the log of the steps after one, without durations."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    timed = ("runtime", "per_second")
    return [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in log if entry["step"] > after]


class Heard(logging.Handler):
    """Keeps the messages of transformers' loggers, which do not reach the root logger."""

    def __init__(self):
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def heard():
    handler = Heard()
    loggers = [logging.getLogger("transformers"), logging.getLogger("lavit_hf")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.messages
    for logger in loggers:
        logger.removeHandler(handler)


# The scripts


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A folder with the inputs of the scripts: data, a visual tokenizer, a VAE."""
    folder = tmp_path_factory.mktemp("parts")
    dataset = make_dataset(24)
    # The images serve as label maps as well.
    labels = [Image().encode_example(image.convert("L")) for image in dataset["image"]]
    dataset = dataset.add_column("annotation", labels, feature=Image())
    dataset.to_parquet(folder / "data" / "train.parquet")
    save_visual_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    new_vae(**VAE).save_pretrained(folder / "vae")
    return folder


def save_tower(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(VISION_CONFIGS[kind]()).save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def save_lavit(folder: Path, kind: str) -> Path:
    processor = make_processor()
    make_moe(processor, kind).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_moe(processor, kind: str):
    text = TEXT | {"vocab_size": processor.image_start_token_id, "bos_token_id": None}
    tokenizer = processor.tokenizer
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = {"qwen2_moe": Qwen2MoeConfig, "mixtral": MixtralConfig}.get(kind)
    return make_model(processor) if config is None else tiny_lavit(text=config(**text, **TEXT_MODELS[kind]))


def as_lists(config: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}


def language_model(kind: str) -> dict:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {name: TEXT[name] for name in names} | {"model_type": kind} | TEXT_MODELS[kind]


MIXTURE = {"mixture": ["caption=1", "draw=1"]}
RECIPES = {
    "train_vision_tower": lambda parts, folder, kind: {
        "config": MAE,
        "annotation_column": "annotation",
        "num_annotation_labels": 256,
    },
    "train_visual_tokenizer": lambda parts, folder, kind: {
        "vision_tower": str(save_tower(folder / "tower", kind)),
        "config": {
            "codebook_size": 8,
            "num_merger_layers": 1,
            "feature_whitening": 0.05,
            "reconstruction_norm_power": 2,
        },
        "quantize_from": 1,
        "codebook_start_vectors": 2,
        "final_gumbel_temperature": 0.3,
        "num_sample_images": 2,
    },
    "train_vae": lambda parts, folder, kind: {"config": as_lists(VAE), "num_sample_images": 2},
    "train_image_decoder": lambda parts, folder, kind: {
        "visual_tokenizer": str(parts / "tokenizer"),
        "vae": str(parts / "vae"),
        "unet": as_lists(UNET),
        "num_inference_steps": 2,
        "num_sample_images": 2,
    },
    "pretrain": lambda parts, folder, kind: (
        {
            "visual_tokenizer": str(parts / "tokenizer"),
            "language_model_config": language_model(kind),
            "train_text_tokenizer": True,
            "text_vocab_size": 300,
            "use_muon": kind == "mixtral",
        }
        | MIXTURE
    ),
    "finetune_lora": lambda parts, folder, kind: (
        {
            "model": str(save_lavit(folder / "lavit", kind)),
            "lora_rank": 2,
            "train_adapter": True,
        }
        | MIXTURE
    ),
}
KINDS = {
    "train_vision_tower": ["vit_mae"],
    "train_visual_tokenizer": list(VISION_CONFIGS),
    "train_vae": ["kl"],
    "train_image_decoder": ["unet"],
    "pretrain": list(TEXT_MODELS),
    "finetune_lora": ["llama", "qwen2_moe"],
}


def run(monkeypatch, script: str, recipe: dict, output: Path) -> Path:
    output.parent.mkdir(exist_ok=True)
    path = output.parent / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(recipe | {"output_dir": str(output)}))
    monkeypatch.setattr(sys, "argv", [f"examples/{script}.py", str(path)])
    runpy.run_path(str(ROOT / "examples" / f"{script}.py"), run_name="__main__")
    return output


@pytest.mark.parametrize(("script", "kind"), [(script, kind) for script, kinds in KINDS.items() for kind in kinds])
def test_a_resumed_script_is_the_undisturbed_one(monkeypatch, parts, tmp_path, heard, script, kind):
    recipe = RECIPES[script](parts, tmp_path, kind) | {
        "dataset_name": str(parts / "data"),
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1.0e-2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    undisturbed = run(monkeypatch, script, recipe, tmp_path / "undisturbed")
    assert not [message for message in heard if "Resuming" in message]
    resumed = tmp_path / "resumed"
    shutil.copytree(undisturbed / "checkpoint-2", resumed / "checkpoint-2")
    heard.clear()
    run(monkeypatch, script, recipe, resumed)
    assert [message for message in heard if "Resuming" in message] == [f"Resuming from {resumed / 'checkpoint-2'}."]
    assert not [message for message in heard if "missing" in message.lower() or "unexpected" in message.lower()]
    check_equal(weights(resumed), weights(undisturbed))
    assert weights(undisturbed)
    assert entries(resumed, after=2)[:-1] == entries(undisturbed, after=2)[:-1]
    for name in ("config.json", "adapter_config.json"):
        if (undisturbed / name).exists():
            assert (resumed / name).read_text() == (undisturbed / name).read_text()


def test_a_visual_tokenizer_whose_codes_were_not_trained_says_so(monkeypatch, parts, tmp_path):
    script, kind = "train_visual_tokenizer", KINDS["train_visual_tokenizer"][0]
    recipe = RECIPES[script](parts, tmp_path, kind) | {
        "dataset_name": str(parts / "data"),
        "quantize_from": 2,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "use_cpu": True,
    }
    output = run(monkeypatch, script, recipe, tmp_path / "run")
    warning = "No codes are trained: quantize_from is 2, of 2 steps."
    assert f"**Warning:** {warning}" in (output / "README.md").read_text()


# The trainers


def train_mae(folder: Path, **settings) -> LavitTrainer:
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(ViTMAEConfig(**MAE))
    return run_trainer(LavitTrainer, model, folder, **settings)


def train_vae(folder: Path, **settings) -> LavitTrainer:
    torch.manual_seed(0)
    vae = new_vae(**(VAE | {"sample_size": IMAGE_SIZE}))
    return run_trainer(VaeTrainer, VaeForTraining(vae), folder, **settings)


def run_trainer(trainer_class, model, folder: Path, resume=None, **settings) -> LavitTrainer:
    defaults = {"max_steps": 4, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 2, "report_to": "none"}
    args = TrainingArguments(str(folder), use_cpu=True, **(defaults | settings))
    rows = [{"pixel_values": picture} for picture in pictures(16)]
    trainer = trainer_class(model, args, train_dataset=rows, eval_dataset=rows[:4])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def train_experts(folder: Path, kind: str = "qwen2_moe", resume=None, lora: LoraArguments | None = None, **settings):
    model = make_moe(make_processor(), kind)
    if lora is not None:
        model = get_peft_model(model, lora_config(model, lora))
    rows = None
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2} | settings
    trainer = make_trainer(folder, rows=rows, model=model, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def train_lora(folder: Path, train_adapter: bool = True, **settings):
    return train_experts(folder, "llama", lora=LoraArguments(lora_rank=2, train_adapter=train_adapter), **settings)


def train_unet(folder: Path, resume=None, **settings):
    settings = {"save_strategy": "steps", "save_steps": 2} | settings
    return train_decoder(make_decoder(), folder, resume=resume, **settings)


TRAINERS = {
    "mae": train_mae,
    "experts": train_experts,
    "mixtral": lambda folder, **settings: train_experts(folder, "mixtral", **settings),
    "lora": train_lora,
    "vae": train_vae,
    "unet": train_unet,
}


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_weight_that_is_missing_is_named(tmp_path, kind):
    TRAINERS[kind](tmp_path, max_steps=2)
    (file,) = (tmp_path / "checkpoint-2").glob("*model.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fit the model: it lacks .*\w"):
        TRAINERS[kind](tmp_path, resume=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("shard_size", [None, "20KB"])
def test_a_checkpoint_in_shards(tmp_path, monkeypatch, shard_size):
    whole = train_experts(tmp_path / "whole")
    if shard_size is not None:
        save = LavitForCausalLM.save_pretrained
        in_shards = partialmethod(save, max_shard_size=shard_size)
        monkeypatch.setattr(LavitForCausalLM, "save_pretrained", in_shards)
    train_experts(tmp_path / "half")
    checkpoint = tmp_path / "half" / "checkpoint-2"
    assert (len(list(checkpoint.glob("model*.safetensors"))) > 1) == (shard_size is not None)
    resumed = train_experts(tmp_path / "half", resume=str(checkpoint))
    check_equal(resumed.model.state_dict(), whole.model.state_dict())


def test_an_adapter_that_had_less_is_refused(tmp_path):
    train_lora(tmp_path, train_adapter=False, max_steps=2)
    with pytest.raises(ValueError, match="lacks .*visual_adapter.* and .* more"):
        train_lora(tmp_path, resume=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("kind", TRAINERS)
def test_the_best_model_is_the_one_that_was_saved(tmp_path, kind):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 3}
    # The loss decreases. With the largest as the best, the first checkpoint is the best.
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    if kind in ("experts", "mixtral", "lora"):
        settings["eval_dataset"] = make_trainer(tmp_path).train_dataset
    trainer = TRAINERS[kind](tmp_path, **settings)
    best = tmp_path / "checkpoint-1"
    assert Path(trainer.state.best_model_checkpoint) == best
    if kind == "unet":
        average = torch.load(best / AVERAGED_WEIGHTS_NAME)["shadow_params"]
        assert all(torch.equal(*pair) for pair in zip(trainer.average.shadow_params, average, strict=True))
    trainer.save_model(str(tmp_path / "saved"), **({"_internal_call": True} if kind == "unet" else {}))
    check_equal(weights(tmp_path / "saved"), weights(best))
    last = weights(tmp_path / "checkpoint-3")
    assert any(not torch.equal(value, last[name]) for name, value in weights(best).items())


@torch.no_grad()
def test_weights_of_several_dtypes_are_loaded_as_they_are(tmp_path):
    model = make_moe(make_processor(), "qwen2_moe")
    model.model.language_model.to(torch.bfloat16)
    model.lm_head.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    other = make_moe(make_processor(), "qwen2_moe")
    other.model.language_model.to(torch.bfloat16)
    other.lm_head.to(torch.bfloat16)
    parameters = dict(other.named_parameters())
    for parameter in parameters.values():
        parameter.zero_()
    load_weights(other, tmp_path)
    check_equal(other.state_dict(), model.state_dict())
    assert all(parameter is parameters[name] for name, parameter in other.named_parameters())
    assert {p.requires_grad for p in other.model.visual_tokenizer.parameters()} == {False}


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    make_moe(make_processor(), "qwen2_moe").save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="does not fit the model: it lacks model.language_model.layers.0.mlp.down_proj"
    ):
        load_weights(make_moe(make_processor(), "llama"), tmp_path)


def test_true_resumes_from_the_last_whole_checkpoint(tmp_path):
    """As the scripts do. `Trainer` itself takes the newest folder."""
    train_experts(tmp_path)
    newest = tmp_path / "checkpoint-99"
    newest.mkdir()
    (newest / "trainer_state.json").write_text('{"global_step"')
    assert train_experts(tmp_path, resume=True, max_steps=6).state.global_step == 6
    with pytest.raises(ValueError, match="resume_from_checkpoint is True, but .* has no whole checkpoint"):
        train_experts(tmp_path / "empty", resume=True)


def test_losses_go_on_in_the_log(tmp_path):
    whole = train_unet(tmp_path / "whole")
    train_unet(tmp_path / "half")
    resumed = train_unet(tmp_path / "half", resume=str(tmp_path / "half" / "checkpoint-2"))
    assert losses(resumed) == losses(whole)
