# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Twenty steps of stage 2 in however many processes torchrun starts; the first leaves the losses."""

import json
import sys
from pathlib import Path

from accelerate import PartialState

from tests.training.test_pretrain import losses, train


if __name__ == "__main__":
    folder, batch_size = Path(sys.argv[1]), int(sys.argv[2])
    trainer = train(folder, max_steps=20, per_device_train_batch_size=batch_size)
    if trainer.is_world_process_zero():
        (folder / "losses.json").write_text(json.dumps(losses(trainer)))
    state = PartialState()
    state.wait_for_everyone()  # a rank that ends first may take the others down with it
    state.destroy_process_group()
