# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Computes the codes of a dataset's images once, so that training need not compute them again."""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from datasets.table import embed_table_storage
from tqdm import tqdm
from transformers import BaseImageProcessor

from ..modeling import LavitVisualTokenizer
from ..modeling.arguments_lavit import check_integer
from .code_files import (
    CODEBOOK_COLUMN,
    CodesSummary,
    codebook_fingerprint,
    codes_column,
    complete_split,
    find_shards,
    has_codes,
    open_split,
    reopen_split,
    shard_path,
    writing_shard,
)
from .loading import check_columns, has_transform, leave_undecoded
from .row_hashes import FinishedShards, hash_rows, join_hashes
from .row_requests import Batch, ImagePreparation, StreamRequests, leave_interrupts, split_shard
from .rows import check_broken_images


# With sampling, a row would have other codes in every run.
SELECTIONS = ("topk", "argmax")
# A process that has finished waits for the slowest one, which may take longer than the default of process groups.
TIMEOUT = timedelta(days=7)
IMAGE_DTYPES = ("string", "large_string", "binary", "large_binary")
NUM_SAMPLED_ROWS = 16
# If so many rows at the beginning of a shard are broken, the cause is not a single file, but a folder or the network.
MOST_BROKEN_ROWS = 100
# The keys of a configuration on which codes do not depend, or which the manifest has under names of their own.
IGNORED_KEYS = {"transformers_version", "dtype", "architectures", "selection", "num_codes", "max_codes", "keep_scale"}


def precompute_codes(
    dataset: datasets.Dataset | datasets.IterableDataset,
    output: str | os.PathLike,
    visual_tokenizer: LavitVisualTokenizer,
    image_processor: BaseImageProcessor,
    *,
    image_columns: Sequence[str] = ("image",),
    keep_images: bool = True,
    broken_images: str = "raise",
    rows_per_shard: int = 10_000,
    batch_size: int = 32,
    num_workers: int = 2,
    split: str | None = None,
) -> CodesSummary:
    """
    Writes the rows of a dataset with the codes of their images as parquet files to the folder `output/split`, which
    [`load_rows`] and `datasets.load_dataset` read.

    A shard holds a fixed range of rows and is renamed to its name once it is complete. A run that was stopped, even
    with another number of processes, is therefore resumed by the same call, without losing or repeating rows. In
    several processes, started by `accelerate launch` or `torchrun`, process r of n writes the shards r, r + n, and so
    on; the model is moved to the process's own device unless it is on the CPU. The result depends neither on the
    number of processes nor on `batch_size`, except for ties in the last bits of the weights' precision.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`):
            The rows, from [`load_rows`] for instance.
        output (`str` or `os.PathLike`): A new folder, or one that this function has written to. It may hold splits.
        visual_tokenizer ([`LavitVisualTokenizer`]):
            Computes the codes, on its device and with the selection of its configuration, `"topk"` or `"argmax"`.
        image_processor (`BaseImageProcessor`): The image processor of the visual tokenizer.
        image_columns (`Sequence[str]`, *optional*, defaults to `("image",)`):
            Columns with one image per row. The codes of a column `image`, from 0 to codebook size - 1, become the
            column `image_codes`, a list of int32. The column `codebook_fingerprint` tells whose codes they are.
        keep_images (`bool`, *optional*, defaults to `True`):
            Whether to write the images, with their files embedded. Otherwise all columns of images are left out.
        broken_images (`str`, *optional*, defaults to `"raise"`):
            `"raise"` stops at an image that cannot be read. `"skip"` leaves its row out and lists it in
            `broken.jsonl`. If the first hundred rows of a shard are all broken, it stops as well.
        rows_per_shard (`int`, *optional*, defaults to 10000): The number of rows of the dataset in a shard.
        batch_size (`int`, *optional*, defaults to 32): The number of rows in a forward.
        num_workers (`int`, *optional*, defaults to 2):
            The number of processes that read and prepare images while the model computes.
        split (`str`, *optional*):
            The split, which names the folder. By default, the one that the dataset knows itself by, or `"train"`.

    Returns:
        [`CodesSummary`]: The contents of the split, from all processes, in each of them.

    Raises:
        ValueError: If an argument is out of its range or a column does not hold images; if the folder holds something
            else, or was created with different settings or from other rows; if an image is broken, with
            `broken_images="raise"`; if no row can be read.
    """
    # 1. Check the arguments, and describe everything that shards depend on
    if isinstance(dataset, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise ValueError(f"dataset must be one split, got {', '.join(dataset)}: choose one, as dataset[name].")
    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise ValueError(f"dataset must be a Dataset or an IterableDataset, got {type(dataset).__name__}.")
    if not isinstance(visual_tokenizer, LavitVisualTokenizer):
        raise ValueError(f"visual_tokenizer must be a LavitVisualTokenizer, got {type(visual_tokenizer).__name__}.")
    if has_transform(dataset):
        raise ValueError("The dataset has a transform, which would not be applied: use `map` instead.")
    check_integer("batch_size", batch_size, 1)
    check_integer("rows_per_shard", rows_per_shard, 1)
    check_broken_images(broken_images)
    _check_image_columns(dataset, image_columns)
    rows = _without_codes(leave_undecoded(dataset), image_columns).with_format("arrow")
    num_rows = len(rows) if isinstance(rows, datasets.Dataset) else None
    settings = {
        "columns": rows.column_names,
        "first_row": join_hashes(hash_rows(next(iter(rows.iter(1)), None), read_files=True)),
        "sampled_rows": join_hashes(hash_rows(_sample_rows(rows), read_files=True)) if num_rows else None,
        "input_rows": num_rows,
        "image_columns": list(image_columns),
        **_describe_model(visual_tokenizer, image_processor),
        "rows_per_shard": rows_per_shard,
        "keep_images": keep_images,
    }

    # 2. Find the shards that this process is to write. Without a GPU, accelerate takes each process for the only one
    # unless it is told to use the CPU.
    state = PartialState(cpu=visual_tokenizer.device.type == "cpu", timeout=TIMEOUT)
    if state.num_processes > 1:
        visual_tokenizer.to(state.device)
    with state.main_process_first():
        folder = open_split(Path(output), split or str(rows.split or "train"), settings, state.is_main_process)
    finished = FinishedShards(folder, find_shards(folder))
    state.wait_for_everyone()  # shards that other processes finish from here on are not this process's

    def is_wanted(shard: int) -> bool:
        return shard % state.num_processes == state.process_index and shard not in finished.numbers

    # 3. Read their rows, prepare images in workers, compute codes, and write
    stream = StreamRequests(rows, rows_per_shard, batch_size, is_wanted, finished)
    requests: Iterable = stream
    total = None
    if num_rows is not None:
        shards = range(math.ceil(num_rows / rows_per_shard))
        for shard in (shard for shard in finished.numbers if shard % state.num_processes == state.process_index):
            for start, stop in split_shard(shard, num_rows, rows_per_shard, batch_size):
                finished.compare(shard, rows[start:stop])
        total = sum(min(rows_per_shard, num_rows - shard * rows_per_shard) for shard in filter(is_wanted, shards))
        requests = (
            (shard, start, range(start, stop))
            for shard in filter(is_wanted, shards)
            for start, stop in split_shard(shard, num_rows, rows_per_shard, batch_size)
        )
    preparation = ImagePreparation(rows, image_processor, image_columns, keep_images)
    batches = torch.utils.data.DataLoader(
        preparation, sampler=requests, batch_size=None, num_workers=num_workers, worker_init_fn=leave_interrupts
    )
    with tqdm(total=total, unit="row", disable=not state.is_main_process) as progress:
        for shard, shard_batches in itertools.groupby(batches, key=lambda batch: batch.shard):
            with writing_shard(shard_path(folder, shard)) as writer:
                for batch in shard_batches:
                    if batch.broken and broken_images == "raise":
                        raise ValueError(batch.broken[0]["error"])
                    codes = _encode(visual_tokenizer, batch.pixel_values)
                    table = _finish_table(
                        batch, rows.features, image_columns, codes, settings["codebook"], keep_images
                    )
                    writer.write(table, batch.row_hashes, codes, batch.broken)
                    progress.update(len(batch.row_hashes))
                    count = writer.record["input_rows"]
                    if writer.record["rows"] == 0 and count >= MOST_BROKEN_ROWS:
                        error = batch.broken[0]["error"]
                        raise ValueError(
                            f"None of the first {count} rows of a shard has images that can be read: {error}"
                        )
                reopen_split(folder)

    # 4. Complete the split once all processes have finished
    state.wait_for_everyone()
    num_rows = stream.num_rows if num_rows is None else num_rows
    summary = complete_split(folder, num_rows, state.is_main_process)
    state.wait_for_everyone()
    return summary


def _check_image_columns(rows, image_columns: Sequence[str]) -> None:
    check_columns(rows, image_columns, "image_columns")
    if len({*image_columns}) < len(image_columns):
        raise ValueError(f"image_columns must be different ones, got {', '.join(image_columns)}.")
    if rows.features is None:
        raise ValueError(
            "The stream does not know the types of its columns, as that of CSV files: read the dataset without "
            "streaming, or give the stream `features`."
        )
    for column in image_columns:
        feature = rows.features[column]
        is_image = isinstance(feature, datasets.Image | dict) or getattr(feature, "dtype", None) in IMAGE_DTYPES
        if not is_image:
            raise ValueError(f"Column {column!r} must hold one image, or its path, per row; it holds {feature}.")
        if codes_column(column) in rows.features and CODEBOOK_COLUMN not in rows.features:
            raise ValueError(f"The dataset has another column {codes_column(column)!r}: rename or remove it.")


def _without_codes(rows, image_columns: Sequence[str]):
    """Returns rows without the codes that were precomputed for columns before, since they are computed again."""
    old = {codes_column(column) for column in image_columns} & {*rows.column_names}
    if old and not has_codes({name: feature for name, feature in rows.features.items() if name not in old}):
        old.add(CODEBOOK_COLUMN)  # no other codes need it
    return rows.remove_columns(sorted(old)) if old else rows


def _sample_rows(rows: datasets.Dataset) -> pa.Table:
    """Returns rows from all over a dataset, which tell it from others."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, NUM_SAMPLED_ROWS, dtype=int)).tolist()]


def _without(values: Any, names: Collection[str]) -> Any:
    """Returns nested dictionaries without the keys `names`."""
    if not isinstance(values, dict):
        return values
    return {name: _without(value, names) for name, value in values.items() if name not in names}


def _describe_model(visual_tokenizer: LavitVisualTokenizer, image_processor: BaseImageProcessor) -> dict[str, str]:
    """Returns everything about the model that codes depend on. Where it was loaded from makes no difference."""
    config = visual_tokenizer.config
    if config.selection not in SELECTIONS:
        raise ValueError(
            f"visual_tokenizer.config.selection must be {' or '.join(SELECTIONS)}, got {config.selection!r}."
        )
    scale = None if config.keep_scale == 1 else config.keep_scale
    numbers = {"num_codes": config.num_codes, "max_codes": config.max_codes, "keep_scale": scale}
    changed = [f"{name}={value}" for name, value in numbers.items() if value is not None]
    described = json.dumps(_without(config.to_diff_dict(), IGNORED_KEYS), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{type(image_processor).__name__} {image_processor.to_json_string()}".encode())
    for name, tensor in sorted(visual_tokenizer.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return {
        "model": f"sha256:{digest.hexdigest()}",
        "config": f"sha256:{hashlib.sha256(described.encode()).hexdigest()}",
        "codebook": codebook_fingerprint(visual_tokenizer.quantizer.codebook),
        "selection": ", ".join([config.selection, *changed]),
        "dtype": str(visual_tokenizer.dtype).removeprefix("torch."),
    }


@torch.inference_mode()
def _encode(visual_tokenizer: LavitVisualTokenizer, pixel_values: torch.FloatTensor | None) -> list[np.ndarray]:
    """Returns the codes of each image, int32."""
    if pixel_values is None:
        return []
    outputs = visual_tokenizer.tokenize_images(pixel_values.to(visual_tokenizer.device))
    return [codes.numpy() for codes in outputs.codes.int().cpu().split(outputs.num_codes.tolist())]


def _has_images(feature: Any) -> bool:
    """Whether a column has images, alone, in lists or in structures."""
    if isinstance(feature, dict):
        return any(map(_has_images, feature.values()))
    return isinstance(feature, datasets.Image) or _has_images(getattr(feature, "feature", {}))


def _finish_table(
    batch: Batch,
    features: datasets.Features,
    image_columns: Sequence[str],
    codes: list[np.ndarray],
    codebook: str,
    keep_images: bool,
) -> pa.Table:
    """
    Returns the rows of a batch of a dataset with these `features`, with the `codes` of their images, column by column,
    and the fingerprint of the codebook. The files of all images are embedded or left out.
    """
    features, num_rows = datasets.Features(features), len(codes) // len(image_columns)
    columns: dict[str, Any] = {name: batch.table[name] for name in batch.table.column_names} | batch.files
    for name, feature in features.items():
        if isinstance(feature, datasets.Image) or name in image_columns:
            features[name] = datasets.Image(mode=getattr(feature, "mode", None))
    for place, name in enumerate(image_columns):
        codes_of_column = codes[place * num_rows : (place + 1) * num_rows]
        columns[codes_column(name)] = pa.array(codes_of_column, pa.list_(pa.int32()))
        features[codes_column(name)] = datasets.List(datasets.Value("int32"))
    others = {*columns[CODEBOOK_COLUMN].to_pylist()} - {codebook} if CODEBOOK_COLUMN in columns else ()
    if others:
        raise ValueError(f"The dataset has codes of another codebook, {others.pop()!r}, not {codebook!r}.")
    columns[CODEBOOK_COLUMN] = [codebook] * num_rows
    features[CODEBOOK_COLUMN] = datasets.Value("string")
    if not keep_images:
        features = datasets.Features({name: feature for name, feature in features.items() if not _has_images(feature)})
    arrays = [
        pa.array(column, datasets.Image.pa_type if isinstance(features[name], datasets.Image) else None)
        if isinstance(column := columns[name], list)
        else column
        for name in features
    ]
    return embed_table_storage(pa.table(arrays, schema=features.arrow_schema))
