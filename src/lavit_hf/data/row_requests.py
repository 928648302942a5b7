# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The rows whose codes are to be computed, in batches, whose images workers read and prepare."""

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
import torch
from PIL import Image
from transformers import BaseImageProcessor

from ..processing.image_reading_lavit import read_content, read_image
from .row_hashes import FinishedShards, hash_rows


MAX_PATH = 4096  # characters, as on Linux


def split_shard(shard: int, num_rows: int, rows_per_shard: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """
    Yields the batches of a shard: the number of the first row, and that of the row after the last one.

    Args:
        shard (`int`): The number of the shard.
        num_rows (`int`), rows_per_shard (`int`), batch_size (`int`): The rows in all, in a shard, in a batch.
    """
    end = min((shard + 1) * rows_per_shard, num_rows)
    for start in range(shard * rows_per_shard, end, batch_size):
        yield start, min(start + batch_size, end)


class StreamRequests:
    """
    The batches of the wanted shards of a stream: the shard, the number of the first row, and the rows. The rows of
    `finished` shards are compared with those that the shards were computed from. After the iteration, `num_rows` is
    the number of all rows, so that a shard that was complete for a shorter stream is noticed.

    Args:
        rows (`datasets.IterableDataset`): The stream.
        rows_per_shard (`int`), batch_size (`int`): The number of rows in a shard and in a batch.
        is_wanted (`Callable[[int], bool]`): Whether the shard of a number is to be computed.
        finished ([`FinishedShards`]): The shards that are complete.
    """

    def __init__(
        self, rows: datasets.IterableDataset, rows_per_shard: int, batch_size: int, is_wanted, finished: FinishedShards
    ):
        self.rows, self.rows_per_shard, self.batch_size, self.is_wanted = rows, rows_per_shard, batch_size, is_wanted
        self.finished, self.num_rows = finished, 0

    def __iter__(self) -> Iterator[tuple[int, int, pa.Table]]:
        self.num_rows = 0
        for table in _read_tables(self.rows, self.batch_size):
            while len(table) > 0:
                shard, place = divmod(self.num_rows, self.rows_per_shard)
                part = table.slice(0, self.rows_per_shard - place)
                if self.is_wanted(shard):
                    yield shard, self.num_rows, part
                else:
                    self.finished.compare(shard, part)
                self.num_rows, table = self.num_rows + len(part), table.slice(len(part))


def _read_tables(rows: datasets.IterableDataset, batch_size: int) -> Iterator[pa.Table]:
    """
    Yields the rows of a stream in tables of one schema. `datasets` (5.2) joins rows to tables before it casts them to
    the features of the stream, which fails where files have their columns in another order or lack a value.
    """
    features = rows.features
    stream = iter(rows.with_format(None))
    while batch := list(itertools.islice(stream, batch_size)):
        complete = [{name: row.get(name) for name in features} for row in batch]
        yield datasets.Dataset.from_list(complete, features=features).with_format("arrow")[:]


@dataclass
class Batch:
    """
    Rows of one shard, ready for the model.

    Args:
        shard (`int`): The number of the shard.
        row_hashes (`list[str]`): A hash of each row of the dataset that was read.
        table (`pa.Table`): The rows whose images can be read, without the columns of images.
        files (`dict[str, list[dict]]`): The image files of each column, as they are written, if they are.
        pixel_values (`torch.FloatTensor` of shape `(N, 3, H, W)`, *optional*): The images, column by column.
        broken (`list[dict]`): The row, file and error of each broken image.
    """

    shard: int
    row_hashes: list[str]
    table: pa.Table
    files: dict[str, list[dict]]
    pixel_values: torch.FloatTensor | None
    broken: list[dict]


class ImagePreparation(torch.utils.data.Dataset):
    """
    Reads images in the workers of a DataLoader. The "index" of an item is a request that the sampler yields: the
    shard, the number of the first row, and the rows, as a range of a map-style dataset or as a table of a stream.

    Args:
        rows (`datasets.Dataset` or `datasets.IterableDataset`): The rows.
        image_processor (`BaseImageProcessor`): Makes the pixels.
        image_columns (`Sequence[str]`): The columns of images.
        keep_images (`bool`): Whether image files are returned.
    """

    def __init__(self, rows, image_processor: BaseImageProcessor, image_columns: Sequence[str], keep_images: bool):
        # Workers read a map-style dataset by themselves, since a pickled slice contains all rows of its record batch.
        self.rows: Any = rows if isinstance(rows, datasets.Dataset) else None
        self.image_processor, self.image_columns, self.keep_images = image_processor, image_columns, keep_images

    def __getitem__(self, request: tuple[int, int, range | pa.Table]) -> Batch:
        shard, start, asked = request
        table = self.rows[asked.start : asked.stop] if isinstance(asked, range) else asked
        read: dict[tuple[str, int], tuple[dict, Image.Image]] = {}
        broken: list[dict[str, Any]] = []
        for column in self.image_columns:
            for row, value in enumerate(table[column].to_pylist(), start):
                try:
                    read[column, row] = _read(value, f"row {row}, column {column!r}")
                except ValueError as error:
                    broken.append({"row": row, "file": _path(value), "error": str(error)})
        broken.sort(key=lambda entry: entry["row"])
        left_out = {entry["row"] for entry in broken}
        readable = [row for row in range(start, start + len(table)) if row not in left_out]
        written = self.image_columns if self.keep_images else ()
        files = {column: [read[column, row][0] for row in readable] for column in written}
        images = [read[column, row][1] for column in self.image_columns for row in readable]
        pixel_values = self.image_processor(images, return_tensors="pt")["pixel_values"] if images else None
        kept = table.filter([row not in left_out for row in range(start, start + len(table))])
        kept = kept.drop_columns(list(self.image_columns))
        return Batch(shard, hash_rows(table), kept, files, pixel_values, broken)


def leave_interrupts(worker: int) -> None:
    """
    Leaves Ctrl-C, which the terminal sends to all processes, to the main process, which ends its workers. A worker
    that ends on its own waits for the main process to take its last batch, and the main process for the worker.

    Args:
        worker (`int`): The number of the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(value, name: str) -> tuple[dict, Image.Image]:
    """Reads an image and its file."""
    path = _path(value)
    content = read_content(value, name)
    image = read_image({"bytes": content, "path": path}, name)
    return {"bytes": content, "path": path and os.path.basename(path)}, image


def _path(value) -> str | None:
    """Returns the path in a value of an image column. A text that holds an image instead of naming one has no path."""
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str) or len(path) > MAX_PATH or path[:5].lower() == "data:":
        return None
    return path
