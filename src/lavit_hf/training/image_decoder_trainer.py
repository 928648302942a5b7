# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 3, the trainer of the pixel decoder with averaged weights, and the sheet of images that shows its progress."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from transformers import TrainerCallback, TrainingArguments

from ..visualization import Sample, draw_sheet
from .image_decoder import LavitImageDecoderForTraining
from .trainer import LavitTrainer


AVERAGED_WEIGHTS_NAME = "averaged_weights.pt"


class _AverageCallback(TrainerCallback):
    def __init__(self, trainer: "LavitImageDecoderTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.model_init is not None:  # each training has a new model
            self.trainer.start_average()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.average.step(self.trainer.decoder.trained_parameters().values())


class LavitImageDecoderTrainer(LavitTrainer):
    """
    Trains a [`LavitImageDecoderForTraining`] and keeps a moving average of its weights. The average is evaluated, and
    `save_model` saves it, to a folder for [`LavitImageDecoderPipeline.from_pretrained`]. Checkpoints have both the
    weights and the average.

    Args:
        model ([`LavitImageDecoderForTraining`]): The model to train.
        args (`TrainingArguments`): The arguments of the training.
        ema_decay (`float`, *optional*, defaults to 0.999):
            The decay of the average after its warm-up, in [0, 1). With 0, the average is the weights.
        kwargs: Same arguments as [`LavitTrainer`].

    Raises:
        ValueError: If `ema_decay` is out of its range; if rows have precomputed codes of another visual tokenizer; or
            with FSDP, whose sharded parameters cannot be averaged.
    """

    def __init__(
        self, model: LavitImageDecoderForTraining | None, args: TrainingArguments, ema_decay: float = 0.999, **kwargs
    ):
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}.")
        super().__init__(model, args, **kwargs)
        if self.is_sharded:
            raise ValueError(
                "The pixel decoder's averaged weights do not work with FSDP and DeepSpeed ZeRO 3: use DDP or ZeRO 2."
            )
        self.ema_decay = ema_decay
        self.start_average()
        self.add_callback(_AverageCallback(self))

    @property
    def decoder(self) -> LavitImageDecoderForTraining:
        """The model in training, which may be one that `model_init` has made."""
        return self.accelerator.unwrap_model(self.model)

    def start_average(self) -> None:
        """Begins the average at the present weights."""
        self.average = EMAModel(self.decoder.trained_parameters().values(), decay=self.ema_decay)

    @property
    def codebook(self) -> torch.Tensor:
        return self.decoder.feature_decoder.codebook

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """A context in which the model has the averaged weights."""
        parameters = list(self.decoder.trained_parameters().values())
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def evaluation_loop(self, *args, **kwargs):
        """Same arguments as `Trainer.evaluation_loop`. Evaluates, and predicts with, the averaged weights."""
        with self.averaged_weights():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Same arguments as `Trainer.save_model`. Saves the pipeline with the averaged weights, or a checkpoint."""
        # `Trainer` calls itself so, with a folder for its checkpoints, and without one before it uploads the model.
        is_checkpoint = _internal_call and output_dir is not None
        output_dir = output_dir or self.args.output_dir
        if is_checkpoint:
            super().save_model(output_dir, _internal_call=True)
            # Before the file that says that the checkpoint is complete.
            if self.args.should_save:
                torch.save(self.average.state_dict(), os.path.join(output_dir, AVERAGED_WEIGHTS_NAME))
            return
        if self.args.should_save:
            with self.averaged_weights():
                self.decoder.pipeline.save_pretrained(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def load_checkpoint(self, folder: str | os.PathLike) -> None:
        super().load_checkpoint(folder)
        path = os.path.join(folder, AVERAGED_WEIGHTS_NAME)
        self.average.load_state_dict(torch.load(path, map_location=self.args.device, weights_only=True))


@torch.no_grad()
def show_image_decoder(
    decoder: LavitImageDecoderForTraining, images: torch.Tensor, codes: Sequence[torch.LongTensor], **options
) -> Image.Image:
    """
    Draws a sheet of images, and beside each of them what the decoder makes of its codes, always from the same noise.

    Args:
        decoder ([`LavitImageDecoderForTraining`]): The model, in evaluation mode.
        images (`torch.FloatTensor` of shape `(B, 3, H, W)`): Images in [-1, 1], of the size to draw.
        codes (`Sequence[torch.LongTensor]`): The codes of each image.
        options: Same arguments as [`LavitImageDecoderPipeline.__call__`], such as `num_inference_steps`.

    Returns:
        `PIL.Image.Image`: An RGB image.
    """
    pipe = decoder.pipeline
    height, width = images.shape[-2:]
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    drawn = pipe(list(codes), height=height, width=width, generator=noise, **options).images
    originals = pipe.image_processor.postprocess(images, output_type="pil")
    samples = [Sample(pair, ()) for pair in zip(originals, drawn, strict=True)]
    return draw_sheet(samples, width, titles=("image", "drawn"))
