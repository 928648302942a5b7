# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Stage 1: trains LaVIT's visual tokenizer on pictures alone, around any vision tower, which stays frozen.

    python examples/train_visual_tokenizer.py examples/recipes/shapes/visual_tokenizer.yaml
    python examples/train_visual_tokenizer.py --vision_tower openai/clip-vit-base-patch16 \\
        --dataset_name imagefolder --data_dir pictures --output_dir my-tokenizer --max_steps 50000
"""

import json
from dataclasses import dataclass, field
from itertools import islice

from transformers import TrainingArguments, set_seed

from lavit_hf import LavitVisualTokenizerForPreTraining
from lavit_hf.processing import new_image_processor
from lavit_hf.training import (
    CurvesCallback,
    DataArguments,
    LavitVisualTokenizerTrainer,
    PictureCollator,
    SamplesCallback,
    TokenizerSchedule,
    last_checkpoint,
    load_eval_rows,
    load_training_rows,
    parse_recipe,
    run_script,
    show_tokenizer,
    write_model_card,
)


@dataclass
class ModelArguments:
    vision_tower: str = field(metadata={"help": "Folder or repository of a pretrained vision model."})
    config: str = field(
        default="{}", metadata={"help": "JSON with fields of LavitVisualTokenizerConfig, such as codebook_size."}
    )
    num_sample_pictures: int = field(default=256, metadata={"help": "Pictures that fit the linear map of samples/."})


def main():
    model_args, schedule, data, args = parse_recipe(
        ModelArguments, TokenizerSchedule, DataArguments, TrainingArguments
    )
    set_seed(args.seed)
    model = LavitVisualTokenizerForPreTraining.from_vision_tower(
        model_args.vision_tower, **json.loads(model_args.config)
    )
    vision_config = model.config.vision_config
    processor = new_image_processor(model_args.vision_tower, image_size=vision_config.image_size)
    collator = PictureCollator(processor, data.image_column)
    train_rows, eval_rows = load_training_rows(data), load_eval_rows(data)

    samples = list(islice(iter(eval_rows or train_rows), model_args.num_sample_pictures))
    pictures, pixel_values = [row[data.image_column] for row in samples], collator(samples)["pixel_values"]
    trainer = LavitVisualTokenizerTrainer(
        model,
        args,
        schedule=schedule,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=collator,
        processing_class=processor,
        callbacks=[CurvesCallback(), SamplesCallback(lambda: show_tokenizer(model, pictures, pixel_values))],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args))
    metrics = trainer.evaluate() if eval_rows is not None else {}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_model_card(
            args.output_dir,
            title="LaVIT visual tokenizer",
            description=f"Pictures to a varying number of {model.config.codebook_size} codes, around "
            f"{model_args.vision_tower}: stage 1 of LaVIT (arXiv 2309.04669).",
            dataset=data.dataset_name,
            arguments=args,
            metrics=metrics,
        )


if __name__ == "__main__":
    run_script(main)
