# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads the models of some folders, with weights shared by all processes. Each process saves its outputs."""

import os
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

from lavit_hf import LavitForCausalLM
from lavit_hf.training import run_script
from tests.modeling.test_tensor_parallel import compute


def main():
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for folder in map(Path, sys.argv[1:]):
        shared = DistributedConfig(tp_size=count)
        model = LavitForCausalLM.from_pretrained(folder, distributed_config=shared).eval()
        shares = [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]
        torch.save(compute(model) | {"shares": shares}, folder / f"{rank}.pt")
        model.save_pretrained(folder / "saved")


if __name__ == "__main__":
    run_script(main)
