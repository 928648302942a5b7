# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks read of a process's memory. On Linux."""

from pathlib import Path


def read_memory() -> dict[str, int]:
    """Of this process, in bytes: VmRSS, its peak VmHWM, and RssAnon, which is private and cannot be dropped."""
    # Not `ru_maxrss`, which a process inherits from the one that started it where that was larger.
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: 1024 * int(line[1]) for line in lines if line[0] in ("VmRSS:", "VmHWM:", "RssAnon:")}


def forget_peak_memory() -> None:
    """VmHWM starts again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
