# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Trains ten steps of stage 1 in the processes that torchrun starts. Each saves its losses and its codebook."""

import os
import sys
from pathlib import Path

import torch

from lavit_hf.training import TokenizerSchedule, run_script
from tests.training.test_tokenizer_training import losses, make_model, train


def run(folder: Path, batch_size: int) -> dict:
    model = make_model()
    schedule = TokenizerSchedule(quantize_from=4, codebook_start_vectors=4)
    trainer = train(model, folder, schedule, steps=10, batch_size=batch_size, rows=160)
    return {"losses": losses(trainer), "codebook": model.visual_tokenizer.quantizer.codebook}


def main():
    folder, batch_size = Path(sys.argv[1]), int(sys.argv[2])
    torch.save(run(folder, batch_size), folder / f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    run_script(main)
