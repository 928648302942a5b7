# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A run that was killed or stopped is resumed, and several processes do as one."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import datasets
import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from lavit_hf.data import code_files, precompute

from .conftest import NUM_ROWS, shard_names


def in_fork(call, *args):
    """Starts a call in a forked process, which need not import everything again."""

    def run():
        torch.set_num_threads(1)  # a fork does not have the threads of this process
        AcceleratorState._reset_state(reset_partial_state=True)
        call(*args)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait(process) -> int:
    """Waits for a process and returns its exit code."""
    process.join(120)
    if process.is_alive():
        process.kill()
        pytest.fail("A process did not end.")
    return process.exitcode


def die_before(target, name: str, times: int):
    """Kills this process before its call number `times` of a function."""
    original, calls = getattr(target, name), []

    def call(*args, **kwargs):
        calls.append(None)
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(target, name, call)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_that_was_killed_is_resumed(compute, expected, read, tmp_path, streaming):
    settings, output = {"streaming": streaming}, tmp_path / "out"
    moments = [
        (precompute, "open_split", 1, 0),
        (os, "replace", 2, 0),  # the first one is of the manifest
        (code_files.ShardWriter, "write", 2, 0),
        (os, "replace", 2, 0),  # the first one is of the manifest
        (code_files.ShardWriter, "write", 3, 1),
        (code_files.ShardWriter, "finish", 1, 1),
        (precompute, "complete_split", 1, 3),
        (code_files, "_write_card", 1, 3),
    ]

    def killed(target, name, times):
        die_before(target, name, times)
        compute("shapes", output, **settings)

    for target, name, times, finished in moments:
        assert wait(in_fork(killed, target, name, times)) == -signal.SIGKILL
        assert len(shard_names(output)) == finished, name
        if finished < 3 and list(output.glob("*/codes.json")):
            with pytest.raises(ValueError, match="not complete: run the same `precompute-codes` again"):
                read(output)
    compute("shapes", output, **settings)
    assert read(output) == expected
    assert len([path for path in output.rglob("*") if path.is_file()]) == 5


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(num_processes: int, call) -> list[int]:
    """Runs the same call in several processes of one process group, as `torchrun` does."""
    port = free_port()

    def run(rank):
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(num_processes),
            LOCAL_WORLD_SIZE=str(num_processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        call()
        PartialState().destroy_process_group()

    processes = [in_fork(run, rank) for rank in range(num_processes)]
    return [wait(process) for process in processes]


@pytest.mark.parametrize("streaming", [False, True])
def test_several_processes_do_as_one(compute, tmp_path, streaming):
    settings = {"streaming": streaming}
    compute("shapes", tmp_path / "one", **settings)

    def call():
        summary = compute("shapes", tmp_path / "several", **settings)
        assert (summary.rows, summary.images) == (NUM_ROWS, 2 * NUM_ROWS)

    assert launch(2, call) == [0, 0]
    (tmp_path / "several" / "train" / "000001.parquet").unlink()
    assert launch(3, call) == [0, 0, 0]
    for path in (tmp_path / "one" / "train").iterdir():
        assert path.read_bytes() == (tmp_path / "several" / "train" / path.name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_at_once(model, tmp_path, number):
    """The workers are full of images when it comes. Complete shards stay."""
    words = [sys.executable, "-m", "lavit_hf.cli", "precompute-codes", "shapes", str(tmp_path / "out")]
    words += ["--model", str(model), "--batch-size", "1", "--rows-per-shard", "4", "--num-rows", "600"]
    # A shell that runs the tests in the background may have left Ctrl-C ignored.
    run = "import signal as s, os, sys; s.signal(s.SIGINT, s.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    started = [sys.executable, "-c", run, *words]
    process = subprocess.Popen(started, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while not shard_names(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.1)
    started = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # a terminal sends Ctrl-C to all
    assert process.wait(timeout=60) == 128 + number
    while True:  # the group ends with its last process
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() - started < 60
        time.sleep(0.1)


def test_a_run_without_a_shard_may_begin_anew(compute, shapes, read, tmp_path):
    broken = datasets.Dataset.from_list([{"image": f"{tmp_path}/missing.png"}])
    with pytest.raises(ValueError, match="cannot be read"):
        compute(broken, tmp_path / "out", image_columns=["image"])
    compute(shapes, tmp_path / "out")
    assert len(read(tmp_path / "out")) == NUM_ROWS


def test_a_longer_stream_is_not_taken_for_complete(compute, shapes, tmp_path):
    stream = shapes.to_iterable_dataset()
    compute(stream.take(6), tmp_path / "out")
    with pytest.raises(ValueError, match=r"000001\.parquet was computed from other rows"):
        compute(stream.take(7), tmp_path / "out")
