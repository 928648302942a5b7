# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A stream that is shorter than the training is gone through again, without a trace of where it ends."""

import copy
import itertools

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from lavit_hf.data.rows import RepeatedStream, RowStream
from lavit_hf.training import SequenceArguments, SequenceReader

from .small import make_dataset, make_model, make_processor
from .small_pretrain import losses, make_trainer


NUM_ROWS, BATCH_SIZE = 20, 4


def make_stream(shuffle: bool = False) -> RowStream:
    rows = make_dataset(NUM_ROWS).to_iterable_dataset()
    rows = rows.shuffle(seed=0, buffer_size=NUM_ROWS) if shuffle else rows
    return RowStream(rows, SequenceReader(SequenceArguments(["draw=1", "caption=1"], prompt_dropout=0.5)))


class Gradients(TrainerCallback):
    """Keeps the gradient of each step."""

    def __init__(self):
        self.found: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found.append(flatten(model))


def flatten(model) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4])
def test_every_label_has_the_same_weight(tmp_path, accumulation):
    """Five batches are no multiple of two, three or four, so that steps have batches of two passes."""
    gradients = Gradients()
    trainer = make_trainer(
        tmp_path,
        rows=make_stream(),
        max_steps=5,
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=0.0,
        max_grad_norm=0.0,
    )
    trainer.add_callback(gradients)
    trainer.train()
    items = iter(RepeatedStream(make_stream()))
    assert len(losses(trainer)) == len(gradients.found) == 5
    for loss, gradient in zip(losses(trainer), gradients.found, strict=True):
        whole = trainer.data_collator(list(itertools.islice(items, BATCH_SIZE * accumulation)))
        trainer.model.zero_grad()
        expected = trainer.model.train()(**whole, supervise_images=True, skip_logits=True).loss
        expected.backward()
        assert loss == pytest.approx(expected.item(), abs=2e-3)
        torch.testing.assert_close(gradient, flatten(trainer.model), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_training_is_the_undisturbed_one(tmp_path, accumulation, shuffle):
    """Also in its later passes."""
    settings = {
        "max_steps": 7,
        "per_device_train_batch_size": BATCH_SIZE,
        "gradient_accumulation_steps": accumulation,
        "save_strategy": "steps",
        "save_steps": 1,
    }

    def make(name: str):
        rows = make_stream(shuffle)
        return make_trainer(tmp_path / name, rows=rows, model=make_model(make_processor()), **settings)

    whole = make("whole")
    whole.train()
    for step in (2, 4, 6):
        resumed = make("resumed")
        resumed.train(str(tmp_path / "whole" / f"checkpoint-{step}"))
        for (name, weight), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(weight, other), (step, name)


@pytest.mark.parametrize("num_shards", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_process_reads_its_own_rows_alone(num_shards, num_workers):
    """Also where the shards of a stream cannot be shared evenly. Random choices differ between readers."""
    stream = RowStream(Dataset.from_dict({"index": range(12)}).to_iterable_dataset(num_shards), NumberReader())
    shares = [
        list(torch.utils.data.DataLoader(stream.split(2, index), batch_size=None, num_workers=num_workers))
        for index in range(2)
    ]
    numbers = [[number for number, _ in share] for share in shares]
    assert sorted(numbers[0] + numbers[1]) == list(range(12))
    assert abs(len(numbers[0]) - len(numbers[1])) <= 1
    draws = [draw for share in shares for _, draw in share]
    assert len(set(draws)) == 12
    if num_shards == 1 and num_workers == 0:  # a step has the same rows in any number of processes
        assert numbers == [list(range(index, 12, 2)) for index in range(2)]
    share = [number for number, _ in stream.split(2, 1)]
    repeated = itertools.islice(RepeatedStream(stream).split(2, 1), 2 * len(share))
    assert [number for number, _ in repeated] == 2 * share


class NumberReader:
    """Reads the number of a row, and a random number."""

    def select(self, dataset):
        return dataset

    def compose(self, row, name, rng):
        return row["index"], rng.random()

    def read(self, item, name):
        return item


def test_workers_go_through_epochs_on_their_own(monkeypatch):
    """`datasets` keeps the epoch of a stream in shared memory."""
    stream = make_stream()
    copies = [copy.copy(stream) for _ in range(2)]  # as two workers have them
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    first, second = copies
    first.set_epoch(1)
    second.set_epoch(4)
    assert [int(worker.dataset.epoch) for worker in copies] == [1, 4]
    first.set_epoch(2)
    assert [int(worker.dataset.epoch) for worker in copies] == [2, 4]


def test_passes_are_epochs():
    """Random choices are others in each pass, and an empty stream ends."""
    stream = make_stream()
    items = iter(RepeatedStream(stream))
    passes = [list(itertools.islice(items, NUM_ROWS)) for _ in range(2)]
    for epoch, found in enumerate(passes):
        stream.set_epoch(epoch)
        assert found == list(stream)
    assert passes[0] != passes[1]
    empty = RowStream(make_dataset(1).to_iterable_dataset().take(0), SequenceReader(SequenceArguments(["draw=1"])))
    assert list(RepeatedStream(empty)) == []
