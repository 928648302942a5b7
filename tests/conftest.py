# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoProcessor

from lavit_hf import LavitImageDecoderPipeline, cli, demo_checkpoint
from lavit_hf.conversion import convert_official_checkpoint


# Each worker of pytest-xdist, and each process that it starts, gets its share of the cores.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ and "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The results of the authors' code, and the checkpoint they were computed with."""
    return GOLDENS


@pytest.fixture(scope="session")
def goldens() -> dict[str, torch.Tensor]:
    """The results of the authors' code, see `goldens/README.md`."""
    return load_file(GOLDENS / "goldens.safetensors")


@pytest.fixture(scope="session")
def golden_json() -> dict:
    return json.loads((GOLDENS / "goldens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    """The goldens' checkpoint as ours, float32. Read only."""
    return convert_official_checkpoint(
        GOLDENS / "checkpoint",
        tmp_path_factory.mktemp("converted") / "lavit",
        dtype="float32",
        num_attention_heads=4,
    )


@pytest.fixture(scope="session")
def demo():
    """The model that ships, its processor and its pixel decoder."""
    path = demo_checkpoint()
    parts = (AutoModelForCausalLM, AutoProcessor, LavitImageDecoderPipeline)
    return tuple(part.from_pretrained(path) for part in parts)


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs `lavit-hf` with arguments in this process; its exit code, and what it wrote to stdout and stderr."""

    def run(*args) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lavit-hf", *map(str, args)])
        monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)  # `main` sets it for its process
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run
