# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a small vision tower with the classes of transformers, as a masked autoencoder (He et al., arXiv 2111.06377)
that also predicts the labels of its patches if the dataset has label maps. It is only needed where no pretrained
vision model fits: LaVIT takes any.

    python examples/train_vision_tower.py examples/recipes/shapes/vision_tower.yaml
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import TrainingArguments, ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel, set_seed

from lavit_hf import LavitImageProcessorPil
from lavit_hf.data.loading import column_names
from lavit_hf.processing.image_reading_lavit import image_label, load_file
from lavit_hf.training import (
    DataArguments,
    ImageCollator,
    LavitTrainer,
    batch_mean,
    last_checkpoint,
    parse_recipe,
    read_fields,
    run_script,
    share_of_batch,
    write_model_card,
)


# The number of labels along each side of a patch. The outline of a shape tells which shape it is.
CELLS_PER_SIDE = 4


@dataclass
class ModelArguments:
    config: str = field(default="{}", metadata={"help": "JSON with the fields of the ViTMAEConfig."})
    annotation_column: str | None = field(
        default=None,
        metadata={"help": "Column with the label of each pixel of an image, as for semantic segmentation."},
    )
    num_annotation_labels: int = field(default=256, metadata={"help": "The number of labels, which begin at 0."})
    label_loss_weight: float = field(
        default=1.0, metadata={"help": "The weight of the loss of labels beside that of pixels."}
    )


class LabelledMAE(ViTMAEForPreTraining):
    """
    A masked autoencoder whose encoder also predicts the labels of the patches that it sees, in several cells of each.

    Args:
        config (`ViTMAEConfig`): The configuration, with the fields `num_annotation_labels` and `label_loss_weight`.
    """

    def __init__(self, config: ViTMAEConfig):
        super().__init__(config)
        self.labeler = nn.Linear(config.hidden_size, CELLS_PER_SIDE**2 * config.num_annotation_labels)

    def forward(self, pixel_values: torch.Tensor, annotations: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        rows, total = slice(None), len(pixel_values)
        if self.training:
            rows, total = share_of_batch(total, pixel_values.device)
        num_patches = (self.config.image_size // self.config.patch_size) ** 2
        seen = self.vit(pixel_values, noise=torch.rand(total, num_patches, device=pixel_values.device)[rows])
        rebuilt = self.decoder(seen.last_hidden_state, seen.ids_restore).logits
        error = (rebuilt - self.patchify(pixel_values)).square().mean(dim=-1)
        losses = {"pixel_loss": batch_mean(error, seen.mask, over_processes=self.training)}
        if annotations is not None:
            features = seen.last_hidden_state[:, 1:]
            which = seen.ids_restore.argsort(dim=1)[:, : features.shape[1]]
            labels = annotations.gather(1, which[..., None].expand(-1, -1, annotations.shape[-1]))
            logits = self.labeler(features).view(-1, self.config.num_annotation_labels)
            label_losses = nn.functional.cross_entropy(logits, labels.flatten(), reduction="none")
            losses["label_loss"] = batch_mean(label_losses, over_processes=self.training)
        return {"loss": losses["pixel_loss"] + self.config.label_loss_weight * losses.get("label_loss", 0.0)} | losses


def read_annotation(value) -> Image.Image:
    """
    Reads a label map: an image in mode "L", "P" or "I;16" whose values are the labels of its pixels.

    Args:
        value: An image as [`~lavit_hf.processing.read_image`] takes it.

    Raises:
        ValueError: If the image is missing, cannot be read, or has several channels.
    """
    name = "The label map"
    image = load_file(value, name)
    if len(image.getbands()) > 1:
        raise ValueError(f"{image_label(name, value)} has mode {image.mode}, expected one channel of labels.")
    return image


class TowerCollator(ImageCollator):
    """An [`ImageCollator`] that adds `annotations`, the labels (B, N, CELLS_PER_SIDE^2) of the cells of each patch."""

    def __init__(self, processor, data: DataArguments, model_args: ModelArguments, config: ViTMAEConfig):
        super().__init__({"pixel_values": processor}, data.image_column)
        self.column = model_args.annotation_column
        self.cells = config.image_size // config.patch_size * CELLS_PER_SIDE

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        if self.column is None:
            return batch
        maps = [read_annotation(row[self.column]) for row in rows]
        maps = [labels.resize((self.cells, self.cells), Image.Resampling.NEAREST) for labels in maps]
        labels = torch.from_numpy(np.stack(maps)).long()
        patches = labels.unfold(1, CELLS_PER_SIDE, CELLS_PER_SIDE).unfold(2, CELLS_PER_SIDE, CELLS_PER_SIDE)
        return batch | {"annotations": patches.flatten(3).flatten(1, 2)}


class TowerTrainer(LavitTrainer):
    """Logs the losses of pixels and labels."""

    def measure(self, outputs) -> dict[str, torch.Tensor]:
        return {name: outputs[name] for name in ("pixel_loss", "label_loss") if name in outputs}


def main():
    model_args, data, args = parse_recipe(ModelArguments, DataArguments, TrainingArguments)
    checkpoint = last_checkpoint(args, model_args, data)  # before time is spent
    set_seed(args.seed)
    config = ViTMAEConfig(
        **read_fields("config", model_args.config, ViTMAEConfig),
        num_annotation_labels=model_args.num_annotation_labels,
        label_loss_weight=model_args.label_loss_weight,
    )
    processor = LavitImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    train_rows, eval_rows = data.load_images(args.seed)
    column, names = model_args.annotation_column, column_names(train_rows.dataset)
    if column is not None and column not in names:
        raise ValueError(f"There is no annotation_column {column!r}; the dataset has {', '.join(names)}.")
    trainer = TowerTrainer(
        LabelledMAE(config),
        args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=TowerCollator(processor, data, model_args, config),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if eval_rows is not None:
        trainer.evaluate()
    trainer.save_state()

    # The encoder is a plain ViT. The parts for masking, rebuilding and labels are not saved.
    names = set(ViTConfig().to_dict()) - {"model_type", "architectures", "transformers_version"}
    tower = ViTModel(
        ViTConfig(**{name: value for name, value in config.to_dict().items() if name in names}),
        add_pooling_layer=False,
    )
    tower.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).vit.state_dict())
    if trainer.is_world_process_zero():
        tower.save_pretrained(args.output_dir)
        processor.save_pretrained(args.output_dir)
        write_model_card(
            args.output_dir,
            title="Vision tower",
            description="A plain ViT, for a visual tokenizer to be trained around.",
            usage="from transformers import AutoModel\n\ntower = AutoModel.from_pretrained(path)",
            dataset=data,
            trainer=trainer,
        )


if __name__ == "__main__":
    run_script(main)
