# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The timing of the functions that a benchmark compares."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def time_in_turns(functions: dict[str, Callable], runs: int, device: str) -> dict[str, list[float]]:
    """Returns the seconds of each function in each of `runs`. They take turns, after a warm-up of each."""
    seconds = {name: [] for name in functions}
    for run in range(runs + 1):
        for name, function in functions.items():
            synchronize(device)
            started = time.perf_counter()
            function()
            synchronize(device)
            if run:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def speedup(baseline: Sequence[float], seconds: Sequence[float]) -> float:
    """
    Returns how many times faster a function is than a baseline. Runs of the same turn are compared, so that a drift of
    the machine's speed does not change the ratio, which is their median.
    """
    return statistics.median(slow / fast for slow, fast in zip(baseline, seconds, strict=True))
