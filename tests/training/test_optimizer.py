# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Muon and AdamW as one optimizer."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from lavit_hf.training import LavitTrainer
from lavit_hf.training.optimizer import MuonWithAdamW, hidden_matrices

from ..tiny import tiny_lavit


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 8)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(inputs).relu()).relu())


def make(seed: int = 0) -> tuple[Network, MuonWithAdamW]:
    torch.manual_seed(seed)
    model = Network()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0, "lr": 2e-2}]
    return model, MuonWithAdamW(AdamW(groups, lr=1e-2), hidden_matrices(model))


def train(model, optimizer, steps: int) -> float:
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.flip(1)).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_each_part_is_moved_by_its_own():
    """One step is one of `torch.optim.Muon` on hidden matrices, and one of AdamW on everything else."""
    model, optimizer = make()
    expected, _ = make()
    train(model, optimizer, 1)
    matrices = [expected.first.weight, expected.second.weight]
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    alone = [
        Muon(matrices, momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings),
        AdamW([expected.head.weight], **settings),
        AdamW([p for p in expected.parameters() if p.ndim == 1], lr=2e-2, weight_decay=0.0),
    ]
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    (expected(inputs) - inputs.flip(1)).square().mean().backward()
    for one in alone:
        one.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)


def test_it_goes_on_from_its_state():
    model, optimizer = make()
    before, after = train(model, optimizer, 5), train(model, optimizer, 100)
    assert after < before / 2
    resumed, fresh = make(seed=1)
    resumed.load_state_dict(model.state_dict())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(resumed, fresh, 20) == pytest.approx(train(model, optimizer, 20), abs=1e-7)


def test_schedulers_reach_both():
    _, optimizer = make()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [5e-3, 1e-2]


def test_what_is_hidden_in_a_lavit():
    model = tiny_lavit()
    model.model.visual_tokenizer.requires_grad_(False)
    hidden = {id(weight) for weight in hidden_matrices(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    assert "model.language_model.layers.0.mlp.up_proj.weight" in names
    assert "model.visual_adapter.projection.weight" in names
    assert not [name for name in names if "embed" in name or "lm_head" in name or "visual_tokenizer" in name]


def test_muon_needs_hidden_matrices(tmp_path):
    model, optimizer = make()
    with pytest.raises(ValueError, match="hidden must hold matrices that the optimizer moves, got 0"):
        MuonWithAdamW(AdamW(model.parameters()), [])
    with pytest.raises(ValueError, match="got 1, none of which"):
        MuonWithAdamW(AdamW([model.head.weight]), [model.first.weight])
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    LavitTrainer(model, args, use_muon=True)
    # The layers of GPT-2 are none of torch.nn.Linear.
    text = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=16)
    for bare in (nn.Embedding(4, 4), GPT2LMHeadModel(text), model.requires_grad_(False)):
        with pytest.raises(ValueError, match="use_muon must be False, got True"):
            LavitTrainer(bare, args, use_muon=True)


def test_muon_may_move_everything_that_is_trained():
    torch.manual_seed(0)
    layer = nn.Linear(8, 8, bias=False)
    optimizer = MuonWithAdamW(AdamW(layer.parameters(), lr=1e-2), [layer.weight])
    before = layer.weight.detach().clone()
    layer(torch.ones(2, 8)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)
