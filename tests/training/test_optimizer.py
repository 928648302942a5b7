# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The optimizers of `examples/optimizers.py`: learning rates of parts, and Muon with AdamW, through Trainer."""

import copy
import inspect
import logging

import optimizers
import pytest
import torch
from optimizers import Float32Muon, MuonWithAdamW, OptimizerFactory, hidden_matrices, orthogonalize
from torch import nn
from torch.optim import AdamW, Muon
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from lavit_hf.training.trainer import LavitTrainer

from ..tiny import tiny_lavit


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 8)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.head(self.second(self.first(inputs).relu()).relu())
        return {"loss": (outputs - inputs.flip(-1)).square().mean()}


@pytest.fixture
def args(tmp_path) -> TrainingArguments:
    return make_args(tmp_path)


def make_args(folder, **settings) -> TrainingArguments:
    defaults = {"learning_rate": 1e-2, "weight_decay": 0.1, "use_cpu": True, "report_to": "none"}
    return TrainingArguments(str(folder), **(defaults | settings))


def make(args, seed: int = 0, **settings) -> tuple[Network, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Network()
    return model, OptimizerFactory()(model, args, **({"use_muon": True} | settings))


def make_inputs() -> torch.Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def train(model, optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(make_inputs())["loss"]
        loss.backward()
        optimizer.step()
    return loss.item()


def test_each_part_is_moved_by_its_own(args, monkeypatch):
    """One step is one of `torch.optim.Muon` on hidden matrices, and one of AdamW on everything else."""
    monkeypatch.setattr(optimizers, "prefers_bfloat16", lambda device: True)
    model, optimizer = make(args, learning_rates={"first.bias": 2e-2})
    expected, _ = make(args)
    train(model, optimizer, 1)
    matrices = [expected.first.weight, expected.second.weight]
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    alone = [
        Muon(matrices, momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings),
        AdamW([expected.head.weight], **settings),
        AdamW([expected.second.bias, expected.head.bias], lr=1e-2, weight_decay=0.0),
        AdamW([expected.first.bias], lr=2e-2, weight_decay=0.0),
    ]
    expected(make_inputs())["loss"].backward()
    for one in alone:
        one.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)


def test_muon_in_float32_is_muon(args, monkeypatch):
    """Processors that are slower in bfloat16 take the same steps up to its rounding."""
    moved = []
    for is_faster, kind in ((True, Muon), (False, Float32Muon)):
        monkeypatch.setattr(optimizers, "prefers_bfloat16", lambda device, is_faster=is_faster: is_faster)
        model, optimizer = make(args)
        assert type(optimizer.optimizers[1]) is kind
        start = {name: value.clone() for name, value in model.state_dict().items()}
        train(model, optimizer, 3)
        moved.append({name: value - start[name] for name, value in model.state_dict().items()})
    for name, expected in moved[0].items():
        error = (moved[1][name] - expected).norm() / expected.norm()
        assert error < (0.03 if name in ("first.weight", "second.weight") else 0.01), name


def test_orthogonalization():
    tall = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    coefficients = inspect.signature(Muon).parameters["ns_coefficients"].default
    for matrix in (tall, tall.T):
        values = torch.linalg.svdvals(orthogonalize(matrix, coefficients, 5, 1e-7))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_the_longest_prefix_decides_a_learning_rate(args):
    rates = {"first": 1e-3, "first.bias": 1e-4}
    model, optimizer = make(args, use_muon=False, learning_rates=rates)
    assert type(optimizer) is AdamW
    found = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == {
        "first.weight": 1e-3,
        "first.bias": 1e-4,
        **dict.fromkeys(("second.weight", "second.bias", "head.weight", "head.bias"), 1e-2),
    }
    with pytest.raises(ValueError, match="No parameter's name starts with 'third'"):
        make(args, learning_rates={"third": 1.0})


def test_it_goes_on_from_its_state(args):
    model, optimizer = make(args)
    before, after = train(model, optimizer, 5), train(model, optimizer, 100)
    assert after < before / 2
    resumed, fresh = make(args, seed=1)
    resumed.load_state_dict(model.state_dict())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(resumed, fresh, 20) == pytest.approx(train(model, optimizer, 20), abs=1e-7)


def test_schedulers_reach_both(args):
    _, optimizer = make(args, learning_rates={"head": 2e-2})
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    groups = [group for one in optimizer.optimizers for group in one.param_groups]
    assert sorted({group["lr"] for group in groups}) == [5e-3, 1e-2]


def test_trainer_makes_saves_and_resumes_it(tmp_path):
    def run(folder, resume=None) -> Trainer:
        torch.manual_seed(0)
        args = make_args(folder, max_steps=6, save_steps=3, logging_steps=1, remove_unused_columns=False)
        factory = (OptimizerFactory, {"args": args, "use_muon": True})
        rows = [{"inputs": row} for row in make_inputs()]
        trainer = Trainer(Network(), args, train_dataset=rows, optimizer_cls_and_kwargs=factory)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    assert isinstance(whole.optimizer.optimizer, MuonWithAdamW)
    resumed = run(tmp_path / "whole", resume=str(tmp_path / "whole" / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0)


def test_what_is_hidden_in_a_lavit():
    model = tiny_lavit()
    model.model.visual_tokenizer.requires_grad_(False)
    hidden = hidden_matrices(model)
    names = {name for name, parameter in model.named_parameters() if parameter in hidden}
    assert "model.language_model.layers.0.mlp.up_proj.weight" in names
    assert "model.visual_adapter.projection.weight" in names
    assert not [name for name in names if "embed" in name or "lm_head" in name or "visual_tokenizer" in name]


def test_muon_needs_hidden_matrices(args):
    # The layers of GPT-2 are not instances of torch.nn.Linear.
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=16))
    for bare in (nn.Embedding(4, 4), gpt2, Network().requires_grad_(False)):
        with pytest.raises(ValueError, match="use_muon must be False, got True"):
            OptimizerFactory()(bare, args, use_muon=True)


def test_muon_may_move_everything_that_is_trained(args):
    torch.manual_seed(0)
    layer = nn.Linear(8, 8, bias=False)
    optimizer = OptimizerFactory()(layer, args, use_muon=True)
    before = layer.weight.detach().clone()
    layer(torch.ones(2, 8)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(("steps", "jumps"), [(10, True), (30, False)])
def test_a_schedule_that_jumps_is_told(steps, jumps, tmp_path, monkeypatch, caplog):
    """A recipe with warmup and decay, of which only the number of steps was made smaller."""
    schedule = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 20}}
    trainer = LavitTrainer(Network(), make_args(tmp_path, max_steps=steps, warmup_steps=10, **schedule))
    trainer.create_optimizer()
    monkeypatch.setattr(logging.getLogger("lavit_hf"), "propagate", True)
    trainer.create_scheduler(steps)
    told = "warmup_steps (10) and num_decay_steps (20) are more than the 10 steps of the training"
    assert (told in caplog.text) == jumps
