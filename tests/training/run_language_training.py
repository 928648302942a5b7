# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Trains twenty steps of stage 2 in the processes that torchrun starts. The first one saves the losses."""

import json
import sys
from pathlib import Path

from lavit_hf.training import run_script
from tests.training.small_pretrain import losses, train


def main():
    folder, batch_size = Path(sys.argv[1]), int(sys.argv[2])
    trainer = train(folder, max_steps=20, per_device_train_batch_size=batch_size)
    if trainer.is_world_process_zero():
        (folder / "losses.json").write_text(json.dumps(losses(trainer)))


if __name__ == "__main__":
    run_script(main)
