# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluates stages 1 and 2 on a few rows in the processes that torchrun starts. The first one saves the losses."""

import json
import sys
from pathlib import Path

from transformers import TrainingArguments

from lavit_hf.data.rows import ImageReader, RowDataset
from lavit_hf.training import ImageCollator, LavitVisualTokenizerTrainer, MixtureRows, SequenceArguments, run_script
from tests.training.small import image_processor, make_dataset, make_stage_one
from tests.training.small_pretrain import make_trainer


def main():
    folder, num_rows = Path(sys.argv[1]), int(sys.argv[2])
    settings = {"per_device_eval_batch_size": 2, "max_steps": 1}
    # Texts of very different lengths.
    rows = make_dataset(num_rows).remove_columns("caption")
    rows = rows.add_column("caption", ["red above blue " * max(1, 12 - 4 * index) for index in range(num_rows)])
    mixture = MixtureRows(rows, SequenceArguments(["caption=1"], prompt_dropout=0.0))
    metrics = make_trainer(folder, rows=mixture, eval_dataset=mixture, **settings).evaluate()
    args = TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    images = RowDataset(make_dataset(num_rows), ImageReader())
    trainer = LavitVisualTokenizerTrainer(
        make_stage_one(),
        args,
        train_dataset=images,
        eval_dataset=images,
        data_collator=ImageCollator({"pixel_values": image_processor()}),
    )
    found = {"stage 2": metrics, "stage 1": trainer.evaluate()}
    if trainer.is_world_process_zero():
        losses = {
            f"{stage} {name}": value
            for stage, values in found.items()
            for name, value in values.items()
            if not name.endswith(("runtime", "per_second", "time"))
        }
        (folder / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    run_script(main)
