# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `precompute-codes`."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from accelerate import PartialState
from transformers import AutoImageProcessor

from ..modeling import LavitVisualTokenizer
from . import options
from .loading import load_model


def precompute_codes(
    dataset: Annotated[str, typer.Argument(help=options.DatasetName, show_default=False)],
    output: Annotated[
        Path, typer.Argument(help="Folder to write, or to continue.", file_okay=False, show_default=False)
    ],
    model: options.RequiredModel,
    split: Annotated[str, typer.Option(help="Split to read and to write.")] = "train",
    config_name: Annotated[str | None, typer.Option(help="Configuration of the dataset.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder with the files of a format.")] = None,
    image_column: Annotated[
        list[str] | None, typer.Option(help="Column of images; repeatable. Default: image.")
    ] = None,
    num_rows: Annotated[int | None, typer.Option(min=1, help="Number of rows. Default: all.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Read rows without a copy in the cache.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one forward.")] = 32,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Rows of the dataset in one file.")] = 10_000,
    selection: Annotated[
        Literal["topk", "argmax"] | None, typer.Option(help="How patches are kept. Default: the model's.")
    ] = None,
    num_codes: options.NumCodes = None,
    max_codes: options.MaxCodes = None,
    keep_scale: options.KeepScale = None,
    broken_images: Annotated[
        Literal["raise", "skip"], typer.Option(help="Stop at an image that cannot be read, or skip its row.")
    ] = "raise",
    drop_images: Annotated[bool, typer.Option("--drop-images", help="Write codes without the images.")] = False,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 2,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """
    Write a dataset with the codes of its images. An interrupted run is continued by the same command.

    In several processes: `accelerate launch -m lavit_hf.cli precompute-codes DATASET OUTPUT --model MODEL`.
    """
    from ..data import precompute  # imports packages of the extra
    from ..data.code_files import check_output
    from ..data.loading import check_columns, load_rows

    loading: dict[str, Any] = {
        "config_name": config_name,
        "data_dir": data_dir,
        "streaming": streaming,
        "num_rows": num_rows,
    }
    settings = options.given(selection=selection) | options.choose_codes(num_codes, max_codes, keep_scale)
    options.check_folder(output)
    check_output(output)
    for source in (data_dir, dataset if dataset != "shapes" else None):
        if source and Path(source).is_dir() and output.absolute().is_relative_to(Path(source).absolute()):
            raise ValueError(f"{output} lies in {source}, whose files are read: choose a folder outside of it.")
    rows, columns = load_rows(dataset, split, **loading), image_column or ["image"]
    check_columns(rows, columns, "--image-column")
    if len({*columns}) < len(columns):
        raise ValueError(f"--image-column must be different ones, got {', '.join(columns)}.")
    if device != "cpu" and "LOCAL_RANK" in os.environ:  # otherwise all processes load the model onto the first device
        device = f"{torch.device(device).type}:{os.environ['LOCAL_RANK']}"
    visual_tokenizer, image_processor = load_model(
        model, device, dtype, LavitVisualTokenizer, AutoImageProcessor, **settings
    )
    summary = precompute.precompute_codes(
        rows,
        output,
        visual_tokenizer,
        image_processor,
        image_columns=columns,
        split=split,
        keep_images=not drop_images,
        broken_images=broken_images,
        rows_per_shard=rows_per_shard,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    state = PartialState()
    codes = f"{summary.codes} codes, {summary.mean_codes:.1f} per image"
    state.print(f"{output}: {summary.rows} rows, {summary.images} images, {codes}")
    if summary.skipped_rows:
        state.print(f"Skipped rows with images that cannot be read: {summary.skipped_rows}, see broken.jsonl")
    state.destroy_process_group()
