# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a VAE from pictures alone, in whose latents the pixel decoder draws. Only needed where no pretrained one fits:
those of Stable Diffusion do for photographs.

    python examples/train_vae.py examples/recipes/shapes/vae.yaml
"""

import json
from dataclasses import dataclass, field
from itertools import islice

from transformers import TrainingArguments, set_seed

from lavit_hf.processing import new_image_processor
from lavit_hf.training import (
    CurvesCallback,
    DataArguments,
    PictureCollator,
    SamplesCallback,
    last_checkpoint,
    load_eval_rows,
    load_training_rows,
    parse_recipe,
    run_script,
    write_model_card,
)
from lavit_hf.training.autoencoder import (
    AutoencoderForTraining,
    AutoencoderTrainer,
    new_autoencoder,
    set_scaling_factor,
    show_autoencoder,
)


@dataclass
class ModelArguments:
    config: str = field(
        default="{}", metadata={"help": "JSON with fields of AutoencoderKL; sample_size is the pictures' side."}
    )
    kl_weight: float = field(default=1e-6, metadata={"help": "Pull of the latents to a standard normal."})
    num_sample_pictures: int = field(default=8, metadata={"help": "Pictures in samples/."})


def main():
    model_args, data, args = parse_recipe(ModelArguments, DataArguments, TrainingArguments)
    set_seed(args.seed)
    vae = new_autoencoder(**json.loads(model_args.config))
    model = AutoencoderForTraining(vae, model_args.kl_weight)
    processor = new_image_processor(image_size=vae.config.sample_size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    collator = PictureCollator(processor, data.image_column)
    train_rows, eval_rows = load_training_rows(data), load_eval_rows(data)

    samples = collator(list(islice(iter(eval_rows or train_rows), model_args.num_sample_pictures)))
    trainer = AutoencoderTrainer(
        model,
        args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=collator,
        callbacks=[CurvesCallback(), SamplesCallback(lambda: show_autoencoder(model, samples["pixel_values"]))],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args))
    metrics = trainer.evaluate() if eval_rows is not None else {}
    batches = islice(trainer.get_train_dataloader(), -(-1024 // args.train_batch_size))
    metrics["scaling_factor"] = set_scaling_factor(vae, (batch["pixel_values"] for batch in batches))
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_model_card(
            args.output_dir,
            title="VAE",
            description="Pictures to latents and back, for a pixel decoder to draw in.",
            usage="from diffusers import AutoencoderKL\n\nvae = AutoencoderKL.from_pretrained(path)",
            library_name="diffusers",
            dataset=data.dataset_name,
            arguments=args,
            metrics=metrics,
        )


if __name__ == "__main__":
    run_script(main)
