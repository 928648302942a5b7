# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Stage 1: trains LaVIT's visual tokenizer on images alone, around any vision tower, which stays frozen.

    python examples/train_visual_tokenizer.py examples/recipes/shapes/visual_tokenizer.yaml
    python examples/train_visual_tokenizer.py --vision_tower openai/clip-vit-base-patch16 \\
        --dataset_name imagefolder --data_dir images --output_dir my-tokenizer --max_steps 50000

The loss is in the model, `LavitVisualTokenizerForPreTraining`, and the schedule in its trainer,
`lavit_hf/training/tokenizer_trainer.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from transformers import TrainingArguments, set_seed
from transformers.utils import logging

from lavit_hf import LavitVisualTokenizerForPreTraining
from lavit_hf.modeling import LavitVisualTokenizerForPreTrainingOutput
from lavit_hf.modeling.freezing_lavit import evaluation_mode
from lavit_hf.processing import new_image_processor
from lavit_hf.training import (
    DataArguments,
    ImageCollator,
    LavitVisualTokenizerTrainer,
    SamplesCallback,
    TokenizerSchedule,
    find_collapse,
    last_checkpoint,
    parse_recipe,
    read_fields,
    run_script,
    spread_rows,
    write_model_card,
)
from lavit_hf.visualization import Sample, draw_sheet, name_tokens, show_kept_patches


logger = logging.get_logger(__name__)


@dataclass
class ModelArguments:
    vision_tower: str = field(metadata={"help": "Folder or repository of a pretrained vision model."})
    config: str = field(
        default="{}", metadata={"help": "JSON with fields of LavitVisualTokenizerConfig, such as codebook_size."}
    )
    num_sample_images: int = field(
        default=256, metadata={"help": "The number of images that the linear maps of samples/ are fitted to."}
    )


class PixelProbe:
    """
    The linear map from the features of a patch to its pixels that is best by least squares. A low cosine loss can hide
    that colors or places are lost; the images that the probe makes of rebuilt features show it.

    Args:
        features (`torch.FloatTensor` of shape `(B, N, d)`): Features.
        pixel_values (`torch.FloatTensor` of shape `(B, 3, S, S)`): The images of the features, with N = (S / patch)^2.
    """

    def __init__(self, features: torch.Tensor, pixel_values: torch.Tensor):
        self.side = round(features.shape[1] ** 0.5)
        self.patch = pixel_values.shape[-1] // self.side
        patches = pixel_values.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        self.weight = torch.linalg.lstsq(self._with_one(features), patches.float()).solution

    @staticmethod
    def _with_one(features: torch.Tensor) -> torch.Tensor:
        features = features.flatten(0, 1).float()
        return torch.cat([features, torch.ones_like(features[:, :1])], dim=-1)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features (`torch.FloatTensor` of shape `(B, N, d)`): Features.

        Returns:
            `torch.FloatTensor` of shape `(B, 3, S, S)`: Pixels on the scale of `pixel_values`.
        """
        patches = self._with_one(features) @ self.weight
        grid = patches.view(len(features), self.side, self.side, 3, self.patch, self.patch)
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def show_tokenizer(
    outputs: LavitVisualTokenizerForPreTrainingOutput,
    images: list[Image.Image],
    pixel_values: torch.Tensor,
    num_shown: int = 8,
    size: int = 128,
) -> Image.Image:
    """
    Draws a sheet of `num_shown` images, each with its kept patches, what a linear map sees in the original features,
    and what another one sees in the features rebuilt from the codes.

    Args:
        outputs ([`LavitVisualTokenizerForPreTrainingOutput`]): The outputs for images, in evaluation mode.
        images (`list[Image.Image]`): Images.
        pixel_values (`torch.FloatTensor` of shape `(B, 3, S, S)`):
            The same images from the image processor. The linear maps are fitted to all of them.
        num_shown (`int`, *optional*, defaults to 8): The number of images on the sheet.
        size (`int`, *optional*, defaults to 128): The side of each image on the sheet, in pixels.
    """
    # Each has its own map, since the cosine loss leaves the length of rebuilt features free.
    seen = [
        PixelProbe(features, pixel_values)(features)
        for features in (outputs.tokenizer_output.vision_features.cpu(), outputs.rebuilt_features.cpu())
    ]
    low, high = pixel_values.min(), pixel_values.max()

    def to_images(pixels: torch.Tensor) -> list[Image.Image]:
        pixels = ((pixels[:num_shown] - low) / (high - low)).clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1)
        return [Image.fromarray(rows.numpy()) for rows in pixels.cpu()]

    keep_masks = outputs.tokenizer_output.keep_mask[:num_shown]
    samples = [
        Sample((image, show_kept_patches(image, mask, size), *linear), (name_tokens(int(mask.sum())),))
        for image, mask, *linear in zip(images[:num_shown], keep_masks, *map(to_images, seen), strict=True)
    ]
    return draw_sheet(samples, size, columns=2, titles=("image", "kept patches", "features", "rebuilt features"))


def train(
    model_args: ModelArguments,
    schedule: TokenizerSchedule,
    data: DataArguments,
    args: TrainingArguments,
    prepare: Callable[[LavitVisualTokenizerForPreTraining], None] | None = None,
) -> None:
    """Trains a visual tokenizer, which `prepare` may change before it is trained."""
    checkpoint = last_checkpoint(args, model_args, schedule, data)  # before time is spent
    set_seed(args.seed)
    model = LavitVisualTokenizerForPreTraining.from_vision_tower(
        model_args.vision_tower, **read_fields("config", model_args.config)
    )
    if prepare is not None:
        prepare(model)
    vision_config = model.config.vision_config
    processor = new_image_processor(model_args.vision_tower, image_size=vision_config.image_size)
    collator = ImageCollator({"pixel_values": processor}, data.image_column)
    train_rows, eval_rows = data.load_images(args.seed)

    samples = spread_rows(eval_rows or train_rows, model_args.num_sample_images)
    images, pixel_values = [row[data.image_column] for row in samples], collator(samples)["pixel_values"]
    trainer = LavitVisualTokenizerTrainer(
        model,
        args,
        schedule=schedule,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=collator,
        processing_class=processor,
    )

    @torch.no_grad()
    def run_on_samples() -> tuple[LavitVisualTokenizerForPreTrainingOutput, list[str]]:
        with evaluation_mode(model):
            outputs = model(pixel_values.to(model.device))
        return outputs, find_collapse(outputs, model.config, model.quantize)

    def draw_samples() -> Image.Image:
        outputs, warnings = run_on_samples()
        if trainer.state.global_step >= trainer.state.max_steps / 10:  # before, it may not have learned anything yet
            for warning in warnings:
                logger.warning(warning)
        return show_tokenizer(outputs, images, pixel_values)

    untrained = []
    if 0 < args.max_steps <= schedule.quantize_from:
        untrained = [f"No codes are trained: quantize_from is {schedule.quantize_from}, of {args.max_steps} steps."]
        logger.warning(untrained[0])
    trainer.add_callback(SamplesCallback(draw_samples))
    trainer.train(resume_from_checkpoint=checkpoint)
    if eval_rows is not None:
        trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_model_card(
            args.output_dir,
            title="LaVIT visual tokenizer",
            description=f"Encodes an image as a varying number of {model.config.codebook_size} codes: stage 1 of "
            "LaVIT (arXiv 2309.04669).",
            base_models={"vision tower": model_args.vision_tower},
            dataset=data,
            trainer=trainer,
            warnings=untrained + run_on_samples()[1],
        )


def main():
    train(*parse_recipe(ModelArguments, TokenizerSchedule, DataArguments, TrainingArguments))


if __name__ == "__main__":
    run_script(main)
