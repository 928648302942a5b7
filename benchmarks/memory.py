# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The memory of a process, as the benchmarks measure it on Linux."""

import ctypes
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def read_memory() -> dict[str, int]:
    """
    Returns VmRSS, its peak VmHWM, RssAnon, which is private and cannot be dropped, and RssFile, which is mapped, in
    bytes.
    """
    # A process inherits a larger `ru_maxrss` from the process that started it, which makes it useless here.
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    names = ("VmRSS:", "VmHWM:", "RssAnon:", "RssFile:")
    return {line[0][:-1]: 1024 * int(line[1]) for line in lines if line[0] in names}


def return_freed_memory() -> None:
    """Returns freed memory to the system, which would otherwise serve later allocations that then do not count."""
    ctypes.CDLL(None).malloc_trim(0)


def stored_tensors(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yields what a weight has in memory. A quantized weight has values and scales, one on a disk has nothing."""
    if hasattr(weight, "__tensor_flatten__"):
        names, _ = weight.__tensor_flatten__()
        for name in names:
            yield from stored_tensors(getattr(weight, name))
    elif not weight.is_meta:
        yield weight


def count_bytes(weight: torch.Tensor) -> int:
    """Returns the bytes of a weight in memory."""
    return sum(tensor.nbytes for tensor in stored_tensors(weight))


@contextmanager
def watch_private_memory(every: float = 0.005) -> Iterator[list[int]]:
    """
    Samples the private memory of this process. The list has one number, the largest number of bytes so far beyond
    those at the start.
    """
    done, before, peak = threading.Event(), read_memory()["RssAnon"], [0]

    def watch() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], read_memory()["RssAnon"] - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def measure_peak(function: Callable[[], object], device: str) -> float:
    """
    Returns the MB by which the peak of the memory exceeds the memory before the call. On a CPU, the code of libraries
    that the call is the first to touch does not count.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    return_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = read_memory()
    function()
    after = read_memory()
    return (after["VmHWM"] - before["VmRSS"] - after["RssFile"] + before["RssFile"]) / 1e6


def in_new_process(function: Callable, *args: Any) -> Any:
    """
    Returns what a function of a module returns in a process of its own, where the memory of nothing else counts. The
    process comes from a server that has imported the library and has done nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lavit_hf", "diffusers"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return pool.submit(function, *args).result()
