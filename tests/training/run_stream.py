# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Trains stage 1 on a stream in the processes that torchrun starts. Each one saves the numbers of the rows it read."""

import json
import sys
from pathlib import Path

from accelerate import PartialState
from transformers import TrainingArguments

from lavit_hf.data.rows import ImageReader, RowStream
from lavit_hf.training import ImageCollator, LavitVisualTokenizerTrainer, run_script
from tests.training.small import image_processor, make_dataset, make_stage_one


NUM_ROWS = 12


class CountingReader(ImageReader):
    """Keeps the numbers of the rows whose images it reads."""

    def __init__(self):
        super().__init__()
        self.found: list[int] = []

    def read(self, item, name):
        self.found.append(item["number"])
        return super().read(item, name)


def main():
    folder, num_shards = Path(sys.argv[1]), int(sys.argv[2])
    rows = make_dataset(NUM_ROWS).add_column("number", list(range(NUM_ROWS)))
    reader = CountingReader()
    args = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        max_steps=2,
        per_device_train_batch_size=2,
        save_strategy="no",
    )
    trainer = LavitVisualTokenizerTrainer(
        make_stage_one(),
        args,
        train_dataset=RowStream(rows.to_iterable_dataset(num_shards), reader),
        data_collator=ImageCollator({"pixel_values": image_processor()}),
    )
    trainer.train()
    (folder / f"rows-{PartialState().process_index}.json").write_text(json.dumps(reader.found))


if __name__ == "__main__":
    run_script(main)
