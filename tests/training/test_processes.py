# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Several processes, also with unequal shares of a batch, compute the gradients of one with the whole batch."""

import json
from pathlib import Path
from random import Random

import pytest
import torch

from lavit_hf.training import batch_mean, share_of_batch

from .run_gradients import CASES, NUM_ROWS, compute_gradients
from .run_stream import NUM_EPOCHS
from .run_stream import NUM_ROWS as NUM_READ_ROWS
from .small import run_in_processes


TOLERANCE = 1e-6  # of the norm of all gradients


@pytest.fixture(scope="module", params=["4,2", "1,3,2"])
def shared(request, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    run_in_processes(len(request.param.split(",")), "run_gradients", folder, request.param)
    return torch.load(folder / "gradients.pt")


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(shared, tmp_path, case):
    alone, together = compute_gradients(case, tmp_path, [NUM_ROWS]), shared[case]
    assert alone.keys() == together.keys()
    torch.testing.assert_close(together.pop("loss"), alone.pop("loss"), rtol=1e-6, atol=1e-7)
    given = {name for name, gradient in alone.items() if gradient is not None}
    assert len(given) > len(alone) / 2
    assert given == {name for name, gradient in together.items() if gradient is not None}
    norm = torch.stack([alone[name].norm() for name in given]).norm()
    differences = {name: (together[name] - alone[name]).norm() / norm for name in given}
    worst = max(differences, key=lambda name: differences[name])
    assert norm > 1e-3
    assert differences[worst] < TOLERANCE, worst


def test_means_of_one_process():
    values, weights = torch.randn(3, 4), torch.rand(3, 4)
    torch.testing.assert_close(batch_mean(values), values.mean())
    torch.testing.assert_close(
        batch_mean(values, weights, over_processes=True), (values * weights / weights.sum()).sum()
    )
    assert batch_mean(torch.tensor([True, False, True, True])) == 0.75
    assert share_of_batch(5) == (slice(0, 5), 5)


@pytest.mark.parametrize("num_rows", [3, 5])
def test_an_evaluation_counts_each_row_once(tmp_path, num_rows):
    """Rows that accelerate repeats, so that both processes have as many, count for nothing."""
    found = []
    for count in (1, 2):
        run_in_processes(count, "run_evaluation", tmp_path, num_rows)
        found.append(json.loads((tmp_path / "losses.json").read_text()))
    assert {"stage 1 eval_loss", "stage 1 eval_kept_fraction", "stage 2 eval_loss"} <= found[0].keys()
    assert found[1] == pytest.approx(found[0], abs=1e-4)


@pytest.mark.parametrize("num_shards", [1, 2])
def test_a_process_reads_its_own_rows_of_a_stream(tmp_path, num_shards):
    run_in_processes(2, "run_stream", tmp_path, num_shards)
    first, second = (json.loads((tmp_path / f"rows-{index}.json").read_text()) for index in range(2))
    # Before the first step, the stream is read from its beginning several times. A share has six rows.
    for start in range(4, min(len(first), len(second)) - 6, 6):
        assert len({*first[start : start + 6], *second[start : start + 6]}) == 12
    # Choices depend on the epoch and the row, as in one process.
    draws = [json.loads((tmp_path / f"draws-{index}.json").read_text()) for index in range(2)]
    assert {tuple(draw) for share in draws for draw in share} >= {
        (number, Random(f"0 {epoch} {(number,)}").random())
        for number in range(NUM_READ_ROWS)
        for epoch in range(NUM_EPOCHS)
    }
