# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Two processes that share the weights of one model compute what one process computes."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lavit_hf import LavitForCausalLM

from ..tiny import IMAGE_END, IMAGE_START, TEXT, pictures, tiny_lavit
from ..training.small import run_in_processes


@torch.no_grad()
def compute(model: LavitForCausalLM) -> dict[str, torch.Tensor]:
    """Computes what a model reads in an image with text, and what it draws with guidance."""
    ids = torch.tensor([[5, 6, IMAGE_START, model.config.image_token_id, IMAGE_END, 7]])
    settings = {"generation_mode": "image", "guidance_scale": 2.0, "max_new_tokens": 8, "min_new_tokens": 8}
    drawn = model.generate(torch.tensor([[5, 6, 7]]), **settings)
    return {"logits": model(ids, pictures(1)).logits, "drawn": drawn}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[bool, Path]:
    """Models with tied and with untied embeddings, and what two processes have left beside each."""
    found = {tie: tmp_path_factory.mktemp("tied" if tie else "untied") for tie in (True, False)}
    for tie, folder in found.items():
        tiny_lavit(text=LlamaConfig(**TEXT, tie_word_embeddings=tie)).save_pretrained(folder)
    run_in_processes(2, "run_tensor_parallel", *found.values())
    return found


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_two_processes_are_one(folders, tie):
    model = LavitForCausalLM.from_pretrained(folders[tie])
    expected = compute(model)
    for rank in (0, 1):
        results = torch.load(folders[tie] / f"{rank}.pt")
        torch.testing.assert_close(results["logits"], expected["logits"], rtol=0, atol=1e-5)
        assert torch.equal(results["drawn"], expected["drawn"])
        shares = {name.removesuffix(".weight").split(".")[-1] for name in results["shares"]}
        projections = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
        assert shares == projections | ({"embed_tokens"} if tie else {"embed_tokens", "lm_head"})
    saved = LavitForCausalLM.from_pretrained(folders[tie] / "saved").state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in model.state_dict().items())


def test_plans_are_those_of_the_language_model():
    """How layers are shared among processes, `tp_plan`, and which parts FSDP shards by themselves, `fsdp_plan`."""
    model = tiny_lavit()
    plain = LlamaForCausalLM(model.config.text_config)
    for name in ("tp_plan", "fsdp_plan"):
        plan = {key.replace("model.", "model.language_model.", 1): way for key, way in getattr(plain, name).items()}
        assert plan["lm_head"]
        assert plan.items() <= getattr(model, name).items(), name
