# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures alone, as the vision tower and stage 1 train on them."""

import torch
from PIL import Image
from transformers import BaseImageProcessor

from ..data.loading import PictureRows, PictureStream, load_rows
from .recipe import DataArguments


def load_training_rows(data: DataArguments, image_columns: list[str] | None = None) -> PictureRows | PictureStream:
    """The rows of `data` to train on, with the pictures of `image_columns` (default: `data.image_column`) decoded."""
    rows = load_rows(
        data.dataset_name,
        data.train_split,
        config_name=data.dataset_config_name,
        data_dir=data.data_dir,
        streaming=data.streaming,
        num_rows=data.num_train_rows,
    )
    wrapper = PictureStream if data.streaming else PictureRows
    return wrapper(rows, image_columns or [data.image_column], data.broken_pictures)


def load_eval_rows(data: DataArguments, image_columns: list[str] | None = None) -> PictureRows | None:
    """The rows to evaluate on, arguments as of [`load_training_rows`]; None without `data.eval_split`."""
    if data.eval_split is None:
        return None
    rows = load_rows(
        data.dataset_name,
        data.eval_split,
        config_name=data.dataset_config_name,
        data_dir=data.data_dir,
        num_rows=data.num_eval_rows,
    )
    return PictureRows(rows, image_columns or [data.image_column], data.broken_pictures)


class PictureCollator:
    """
    Rows with a picture -> `{"pixel_values": (B, 3, image_size, image_size)}`, float32.

    Args:
        image_processor (`BaseImageProcessor`): Makes the tensor.
        image_column (`str`): Where a row has its `PIL.Image.Image`.
    """

    def __init__(self, image_processor: BaseImageProcessor, image_column: str = "image"):
        self.image_processor = image_processor
        self.image_column = image_column

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        pictures: list[Image.Image] = [row[self.image_column] for row in rows]
        return {"pixel_values": self.image_processor(pictures, return_tensors="pt")["pixel_values"]}


__all__ = ["PictureCollator", "load_eval_rows", "load_training_rows"]
