# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 3's batches, its trainer with averaged weights, and the sheet of pictures that is looked at."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from diffusers.utils import make_image_grid
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BaseImageProcessor, TrainerCallback, TrainingArguments

from ..processing import new_image_processor
from .image_decoder import LavitImageDecoderForTraining
from .trainer import LavitTrainer


AVERAGED_WEIGHTS_NAME = "averaged_weights.pt"


class ImageDecoderCollator:
    """
    Rows -> `images`, the pictures squashed to the decoder's size, in [-1, 1]; and either `pixel_values`, as the
    tokenizer takes them, or with a `codes_column` `codes` (B, L) and `attention_mask`, padded on the right.

    Args:
        height (`int`), width (`int`): What the decoder draws, in pixels.
        image_processor (`BaseImageProcessor`, *optional*): The tokenizer's; not needed with codes.
        image_column (`str`): Where a row has its `PIL.Image.Image`.
        codes_column (`str`, *optional*): Where a row has its codes.

    Raises:
        ValueError: neither an image processor nor a column of codes; a row without codes.
    """

    def __init__(
        self,
        height: int,
        width: int,
        image_processor: BaseImageProcessor | None = None,
        image_column: str = "image",
        codes_column: str | None = None,
    ):
        if image_processor is None and codes_column is None:
            raise ValueError("Give an image_processor or a codes_column, got neither.")
        self.image_processor = image_processor
        self.target_processor = new_image_processor(
            image_size={"height": height, "width": width}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        self.image_column, self.codes_column = image_column, codes_column

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        pictures = [row[self.image_column] for row in rows]
        batch = {"images": self.target_processor(pictures, return_tensors="pt")["pixel_values"]}
        if self.codes_column is None:
            batch["pixel_values"] = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
            return batch
        codes = [torch.as_tensor(row[self.codes_column], dtype=torch.long) for row in rows]
        lengths = torch.tensor([len(picture) for picture in codes])
        if not lengths.all():
            raise ValueError(f"Column {self.codes_column!r} must have at least one code in each row, got none.")
        batch["codes"] = pad_sequence(codes, batch_first=True)
        batch["attention_mask"] = torch.arange(batch["codes"].shape[1]) < lengths[:, None]
        return batch


class _AverageCallback(TrainerCallback):
    def __init__(self, trainer: "LavitImageDecoderTrainer"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.average.step(self.trainer.decoder.trained_parameters().values())


class LavitImageDecoderTrainer(LavitTrainer):
    """
    Trains a [`LavitImageDecoderForTraining`] and keeps a moving average of its weights, which is what is evaluated and
    what `save_model` saves: a folder for [`LavitImageDecoderPipeline.from_pretrained`]. Checkpoints have both, the
    weights to go on from and the average.

    Args:
        model ([`LavitImageDecoderForTraining`]), args (`TrainingArguments`): What is trained, and how.
        ema_decay (`float`): Of the average, once it has warmed up; 0 for the weights as they are.
        kwargs: As of [`LavitTrainer`].

    Raises:
        ValueError: a decay that is not in [0, 1); FSDP, whose sharded parameters the average could not follow.
    """

    def __init__(
        self, model: LavitImageDecoderForTraining, args: TrainingArguments, ema_decay: float = 0.999, **kwargs
    ):
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}.")
        super().__init__(model, args, **kwargs)
        if self.is_fsdp_enabled:
            raise ValueError(
                "The pixel decoder's averaged weights do not work with FSDP; use DDP or DeepSpeed ZeRO 2."
            )
        self.decoder = model
        self.average = EMAModel(model.trained_parameters().values(), decay=ema_decay)
        self.add_callback(_AverageCallback(self))

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """In this context the model has the averaged weights."""
        parameters = list(self.decoder.trained_parameters().values())
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if _internal_call and output_dir is not None:
            super().save_model(output_dir, _internal_call=True)  # of a checkpoint
            return
        if self.args.should_save:
            with self.averaged_weights():
                self.decoder.pipeline.save_pretrained(output_dir or self.args.output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    # The average goes wherever the optimizer's state goes: into a checkpoint before what says that it is complete.

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            torch.save(self.average.state_dict(), os.path.join(output_dir, AVERAGED_WEIGHTS_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_average(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_average(self.state.best_model_checkpoint)

    def _load_average(self, checkpoint: str) -> None:
        path = os.path.join(checkpoint, AVERAGED_WEIGHTS_NAME)
        self.average.load_state_dict(torch.load(path, map_location=self.args.device, weights_only=True))


@torch.no_grad()
def show_image_decoder(
    decoder: LavitImageDecoderForTraining,
    images: torch.Tensor,
    codes: Sequence[torch.LongTensor],
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
) -> Image.Image:
    """
    A sheet of pictures, and below each what the decoder makes of its codes, from the same noise every time.

    Args:
        decoder ([`LavitImageDecoderForTraining`]): In evaluation mode.
        images (`torch.FloatTensor` of shape `(B, 3, H, W)`): Pictures in [-1, 1], of the size to draw.
        codes (`Sequence[torch.LongTensor]`): Of each picture.
        num_inference_steps (`int`, *optional*), guidance_scale (`float`, *optional*):
            As of [`LavitImageDecoderPipeline`].

    Returns:
        `PIL.Image.Image`: RGB, two rows of B pictures.
    """
    pipe = decoder.pipeline
    height, width = images.shape[-2:]
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        list(codes),
        height=height,
        width=width,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(0),
    ).images
    originals = pipe.image_processor.postprocess(images, output_type="pil")
    return make_image_grid(originals + drawn, rows=2, cols=len(drawn))


__all__ = ["ImageDecoderCollator", "LavitImageDecoderTrainer", "show_image_decoder"]
