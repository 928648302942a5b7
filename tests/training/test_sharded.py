# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Two processes that share the weights of a model, by FSDP2 or by ZeRO, generate and train as one process does."""

from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainingArguments

from lavit_hf import LavitForCausalLM
from lavit_hf.training import LavitImageDecoderTrainer, LavitVisualTokenizerTrainer

from .run_sharded import TRAINING, generate
from .small import make_model, make_processor, make_stage_one, run_in_processes
from .small_image_decoder import make_decoder
from .small_pretrain import losses, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and what one process finds with it."""
    folder = tmp_path_factory.mktemp("sharded")
    model = make_model(make_processor()).eval()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder) -> dict:
    model = LavitForCausalLM.from_pretrained(folder)
    generated = [generate(model, rank) for rank in (0, 1)]
    return {"generated": generated, "losses": losses(train(folder, model=model, max_steps=TRAINING["max_steps"]))}


@pytest.mark.parametrize("way", ["language_model", "all_layers"])
def test_fsdp_is_one_process(folder, alone, way):
    run_in_processes(2, "run_sharded", folder, way)
    model = LavitForCausalLM.from_pretrained(folder)
    found = [torch.load(folder / f"{way}.{rank}.pt") for rank in (0, 1)]
    layers = ["LlamaDecoderLayer"] * 2
    layers += ["CLIPEncoderLayer"] * 2 + ["LavitBlock"] * 4 if way == "all_layers" else []
    assert sorted(found[0]["calls"]) == sorted([*layers, "Embedding", "LlamaRMSNorm", "Linear", "LavitForCausalLM"])
    weights = list(model.parameters())
    assert [each["num_sharded"] for each in found] == [len(weights)] * 2
    whole = sum(weight.numel() for weight in weights)
    assert sum(each["share"] for each in found) == whole
    assert all(each["share"] < 0.51 * whole for each in found)
    for expected, each in zip(alone["generated"], found, strict=True):
        for name, ids in expected.items():
            assert torch.equal(each["generated"][name], ids), name
        assert each["losses"] == pytest.approx(alone["losses"], abs=1e-3)
    trained = LavitForCausalLM.from_pretrained(folder / way)
    assert not torch.equal(trained.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_is_one_process(folder, alone, monkeypatch, stage):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    run_in_processes(2, "run_sharded", folder, f"zero{stage}")
    found = [torch.load(folder / f"zero{stage}.{rank}.pt") for rank in (0, 1)]
    trained = LavitForCausalLM.from_pretrained(folder / f"zero{stage}")
    stored = [weight for weight in trained.parameters() if stage == 3 or weight.requires_grad]
    assert all(each["share"] < 0.51 * sum(weight.numel() for weight in stored) for each in found)
    for rank, each in enumerate(found):
        assert each["losses"] == pytest.approx(alone["losses"], abs=1e-3)
        for name, ids in generate(trained, rank).items():
            assert torch.equal(each["generated"][name], ids), name


@pytest.fixture
def one_process(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("make", "trainer", "words"),
    [
        (make_stage_one, LavitVisualTokenizerTrainer, "visual tokenizer does not train with FSDP"),
        (make_decoder, LavitImageDecoderTrainer, "averaged weights do not work with FSDP"),
    ],
)
def test_other_stages_refuse_shards(tmp_path, make, trainer, words, monkeypatch):
    args = TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    trainer(make(), args)
    with pytest.raises(ValueError, match=words):
        trainer(fully_shard(make(), mesh=init_device_mesh("cpu", (1,))), args)
    monkeypatch.setattr("lavit_hf.training.trainer.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match=f"{words} and DeepSpeed ZeRO 3"):
        trainer(make(), args)
