# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The memory of a process, as the benchmarks measure it on Linux."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def read_memory() -> dict[str, int]:
    """Returns VmRSS, its peak VmHWM, and RssAnon, which is private and cannot be dropped, in bytes."""
    # A process inherits a larger `ru_maxrss` from the process that started it, which makes it useless here.
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: 1024 * int(line[1]) for line in lines if line[0] in ("VmRSS:", "VmHWM:", "RssAnon:")}


def forget_peak_memory() -> None:
    """Resets VmHWM to the current resident set."""
    Path("/proc/self/clear_refs").write_text("5")


def in_new_process(function: Callable, *args: Any) -> Any:
    """
    Returns what a function of a module returns in a process of its own, where the memory of nothing else counts. The
    process comes from a server that has imported the library and has done nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lavit_hf", "diffusers"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return pool.submit(function, *args).result()
