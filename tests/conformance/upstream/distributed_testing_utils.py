# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs a function in several processes that talk to each other over gloo."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

from lavit_hf import LavitModel


def run_distributed(world_size: int) -> Callable[[Callable], Callable]:
    """Decorates `function(rank, *args)`: a call of it, without the rank, runs it in `world_size` processes."""

    def decorate(function: Callable) -> Callable:
        def run(*args) -> None:
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / "store"
                multiprocessing.spawn(_run_rank, (world_size, store, function, args), nprocs=world_size)

        return run

    return decorate


def _run_rank(rank: int, world_size: int, store: Path, function: Callable, args: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


# The suite of FSDP asks for these names.


def _start_rank_processes(function: Callable, args: tuple, nprocs: int) -> None:
    multiprocessing.spawn(_run_on_text, (function, args), nprocs=nprocs)


def _run_on_text(rank: int, function: Callable, args: tuple) -> None:
    # The suite trains on text alone, and its saved optimizer must have a state of every parameter that is trained.
    LavitModel._frozen_parts = ("visual_tokenizer", "visual_adapter")
    function(rank, *args)


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    pass
