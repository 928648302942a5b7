# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains stage 1 on a stream and on a dataset in the processes that torchrun starts. Each one saves the numbers of the
rows that it read of the stream, and the random choices that it made for rows of the dataset.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from transformers import TrainingArguments

from lavit_hf.data.rows import ImageReader, RowDataset, RowStream
from lavit_hf.training import ImageCollator, LavitVisualTokenizerTrainer, run_script
from tests.training.small import image_processor, make_dataset, make_stage_one


NUM_ROWS = 12
NUM_EPOCHS = 3


class CountingReader(ImageReader):
    """Keeps the numbers of the rows whose images it reads."""

    def __init__(self):
        super().__init__()
        self.found: list[int] = []
        self.drawn: list[tuple[int, float]] = []

    def compose(self, row, name, rng):
        self.drawn.append((row["number"], rng.random()))
        return super().compose(row, name, rng)

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
    index = PartialState().process_index
    (folder / f"rows-{index}.json").write_text(json.dumps(reader.found))
    reader = CountingReader()
    trainer = LavitVisualTokenizerTrainer(
        make_stage_one(),
        replace(args, max_steps=NUM_EPOCHS * NUM_ROWS // 4),
        train_dataset=RowDataset(rows, reader),
        data_collator=ImageCollator({"pixel_values": image_processor()}),
    )
    reader.drawn.clear()  # of the start of the codebook
    trainer.train()
    (folder / f"draws-{index}.json").write_text(json.dumps(reader.drawn))


if __name__ == "__main__":
    run_script(main)
