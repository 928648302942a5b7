# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The memory of a process, as the benchmarks measure it on Linux."""

from pathlib import Path


def read_memory() -> dict[str, int]:
    """Returns VmRSS, its peak VmHWM, and RssAnon, which is private and cannot be dropped, in bytes."""
    # A process inherits a larger `ru_maxrss` from the process that started it, which makes it useless here.
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: 1024 * int(line[1]) for line in lines if line[0] in ("VmRSS:", "VmHWM:", "RssAnon:")}


def forget_peak_memory() -> None:
    """Resets VmHWM to the current resident set."""
    Path("/proc/self/clear_refs").write_text("5")
