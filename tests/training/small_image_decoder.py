# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A tiny pixel decoder in training, and its images."""

import numpy as np
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import TrainingArguments

from lavit_hf.processing import new_image_processor
from lavit_hf.training import (
    ImageCollator,
    LavitImageDecoderForTraining,
    LavitImageDecoderTrainer,
    new_image_decoder,
)

from .small import SIZE, UNET, VAE, WIDTH, image_processor, make_stage_one


MAP = {"in_channels": 4 + WIDTH}


def make_decoder(unet=None, scheduler=None, **kwargs) -> LavitImageDecoderForTraining:
    stage_one = make_stage_one()
    pipe = new_image_decoder(
        stage_one,
        UNet2DConditionModel(**(UNET | (unet or {}))),
        AutoencoderKL(**VAE).eval(),
        DDIMScheduler(**(scheduler or {})),
    )
    return LavitImageDecoderForTraining(pipe, stage_one.visual_tokenizer, **kwargs)


def make_images(count: int) -> list[Image.Image]:
    """Makes images of different sizes with patches of colors, so that there is something to learn."""
    rng = np.random.default_rng(0)
    sizes = [(20, 30), (40, 24), (16, 16)]
    colours = rng.integers(0, 255, (count, 2, 2, 3), dtype=np.uint8)
    return [Image.fromarray(colour).resize(sizes[i % 3]) for i, colour in enumerate(colours)]


def make_collator(codes_column: str | None = None) -> ImageCollator:
    processors = {"images": new_image_processor(image_size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3)}
    if codes_column is None:
        processors["pixel_values"] = image_processor()
    return ImageCollator(processors, codes_column=codes_column)


def make_rows(count: int = 8) -> list[dict]:
    return [{"image": image} for image in make_images(count)]


def train(
    decoder, folder, steps=4, resume=None, rows=None, ema_decay=0.9, model_init=None, **kwargs
) -> LavitImageDecoderTrainer:
    settings = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    }
    trainer = LavitImageDecoderTrainer(
        decoder,
        TrainingArguments(str(folder), **(settings | kwargs)),
        ema_decay=ema_decay,
        train_dataset=rows or make_rows(),
        eval_dataset=make_rows(4),
        data_collator=make_collator(),
        model_init=model_init,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
