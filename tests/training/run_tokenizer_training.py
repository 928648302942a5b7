# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Twenty steps of stage 1 in however many processes torchrun starts; each leaves its losses and its codebook."""

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from lavit_hf.training import TokenizerSchedule
from tests.training.test_tokenizer_training import losses, make_model, train


if __name__ == "__main__":
    folder, batch_size = Path(sys.argv[1]), int(sys.argv[2])
    model = make_model()
    schedule = TokenizerSchedule(quantize_from=5, codebook_start_vectors=4)
    trainer = train(model, folder, schedule, steps=20, batch_size=batch_size, rows=160)
    state = {"losses": losses(trainer), "codebook": model.visual_tokenizer.quantizer.codebook}
    torch.save(state, folder / f"rank{os.environ['RANK']}.pt")
    state = PartialState()
    state.wait_for_everyone()  # a rank that ends first may take the others down with it
    state.destroy_process_group()
