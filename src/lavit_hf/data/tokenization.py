# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A dataset's pictures as codes, written once, so that training need not compute them again."""

import hashlib
import itertools
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage
from tqdm import tqdm
from transformers import AutoImageProcessor

from ..modeling import LavitVisualTokenizer
from .loading import (
    BROKEN_PICTURES,
    BrokenPictureError,
    check_columns,
    leave_undecoded,
    load_rows,
    picture_path,
    read_picture_file,
)
from .tokenized_dataset import (
    ShardRecord,
    ShardWriter,
    TokenizationSummary,
    codebook_fingerprint,
    complete_split,
    count_split,
    finished_shards,
    open_split,
    shard_path,
)


# Sampling would give the same row other codes in every run.
SELECTIONS = ("topk", "argmax")
PATIENCE = timedelta(days=7)
NUM_SAMPLED_ROWS = 16  # by which a dataset without a name is known again
PICTURE_TYPES = ("string", "large_string", "binary", "large_binary")


def tokenize_dataset(
    dataset: str | os.PathLike | datasets.Dataset | datasets.IterableDataset,
    output: str | os.PathLike,
    model: str | os.PathLike,
    *,
    split: str = "train",
    image_columns: Sequence[str] = ("image",),
    batch_size: int = 32,
    rows_per_shard: int = 10_000,
    selection: str | None = None,
    broken_pictures: str = "raise",
    keep_images: bool = True,
    num_workers: int = 2,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    **loading,
) -> TokenizationSummary:
    """
    Adds to each row of a dataset the codes of its pictures, and writes parquet shards to the folder `output/split`.

    A shard is a fixed range of row numbers. It is written under a hidden name and renamed once it is whole, with the
    record of its broken pictures inside: run again after any end, with another number of processes too, this loses no
    row and doubles none. Launched with `accelerate launch` or `torchrun`, process r of n writes the shards r, r + n,
    and so on. What is written depends neither on their number nor on `batch_size`, but for ties in the last bits of
    the weights' precision. `load_rows(output)` and `datasets.load_dataset(output)` read it.

    Args:
        dataset: A name for [`load_rows`], or a dataset.
        output (`str`): Folder to write, new or begun by the same call. It may hold several splits.
        model (`str`): Folder or repository of a LaVIT; its tokenizer and image processor are used.
        split (`str`): Split to read, and to write.
        image_columns (`Sequence[str]`):
            Columns with one picture per row. The codes of a column `image`, 0..codebook_size-1, become the column
            `image_codes`, a list of int32.
        batch_size (`int`): Rows that are computed at once.
        rows_per_shard (`int`): Rows of the input that make a file.
        selection (`str`, *optional*): `"topk"` or `"argmax"`; by default the model's.
        broken_pictures (`str`):
            `"raise"` stops at a row with a picture that cannot be read and names it; `"skip"` leaves the row out and
            records it in `broken.jsonl`.
        keep_images (`bool`): Keep the pictures, their files embedded; else all columns of pictures are left out.
        num_workers (`int`): Processes that read and prepare pictures while the model computes.
        device (`str`, *optional*): The fastest there is by default.
        dtype (`str` or `torch.dtype`): Of the weights; `"auto"` is as they were saved.
        loading: `config_name`, `data_dir`, `streaming`, `num_rows`, `seed`, `cache_dir` of [`load_rows`].

    Returns:
        [`TokenizationSummary`] over all processes, on each of them.

    Raises:
        ValueError: an unknown column or setting; a folder that holds something else, or that was begun with other
            settings, which are named.
        BrokenPictureError: a picture cannot be read, with `broken_pictures="raise"`.
    """
    if batch_size < 1 or rows_per_shard < 1:
        raise ValueError(f"batch_size and rows_per_shard must be at least 1, got {batch_size} and {rows_per_shard}.")
    if broken_pictures not in BROKEN_PICTURES:
        raise ValueError(f"broken_pictures must be one of {', '.join(BROKEN_PICTURES)}, got {broken_pictures!r}.")
    tokenizer = LavitVisualTokenizer.from_pretrained(model, dtype=dtype).eval()
    image_processor = AutoImageProcessor.from_pretrained(model)
    selection = selection or tokenizer.config.selection
    if selection not in SELECTIONS:
        raise ValueError(f"A dataset is tokenized with selection {' or '.join(SELECTIONS)}, got {selection!r}.")
    # A process that is done waits for the slowest one, which may be longer than a process group's usual patience.
    # Where there is nothing else accelerate has to be told: it would take each process for the only one.
    on_cpu = str(device) == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    rows, origin = _open_rows(dataset, split, loading, state)
    _check_image_columns(rows, image_columns)
    settings = {
        "dataset": origin,
        "input_rows": len(rows) if isinstance(rows, datasets.Dataset) else None,
        "image_columns": list(image_columns),
        "model": _fingerprint(tokenizer, image_processor),
        "codebook": codebook_fingerprint(tokenizer.quantizer.codebook),
        "selection": selection,
        "dtype": str(tokenizer.dtype).removeprefix("torch."),
        "rows_per_shard": rows_per_shard,
        "keep_images": keep_images,
    }
    with state.main_process_first():
        folder = open_split(Path(output), split, settings, state.is_main_process)
    finished = finished_shards(folder)
    state.wait_for_everyone()  # a process must not take for finished what another finishes from here on

    started = time.perf_counter()
    share = _Share(state.process_index, state.num_processes, rows_per_shard, finished)
    encoder = _Encoder(tokenizer.to(_pick_device(device, state)), selection, image_columns, keep_images)
    batches = _prepare(_read(rows, batch_size, share), image_columns, image_processor, num_workers)
    with tqdm(total=share.count_rows(rows), unit="row", disable=not state.is_main_process) as progress:
        progress.set_description(f"Process 1 of {state.num_processes}" if state.num_processes > 1 else "Tokenizing")
        written = _write_shards(batches, encoder, folder, broken_pictures == "raise", progress)
    state.wait_for_everyone()
    seconds = time.perf_counter() - started
    counts, broken = count_split(folder, settings["input_rows"])
    if state.is_main_process:
        complete_split(folder, counts, broken)
    state.wait_for_everyone()
    written = gather_object(written)
    return TokenizationSummary(
        **counts,
        new_pictures=sum(record.pictures for record in written),
        new_codes=sum(record.codes for record in written),
        seconds=seconds,
    )


def _write_shards(
    batches: "Iterator[_Batch]", encoder: "_Encoder", folder: Path, raise_broken: bool, progress: tqdm
) -> list[ShardRecord]:
    """Encodes and writes batches that come shard by shard; returns what the shards' records say."""
    written = []
    for shard, shard_batches in itertools.groupby(batches, key=lambda batch: batch.shard):
        writer = ShardWriter(shard_path(folder, shard))
        for batch in shard_batches:
            if batch.broken and raise_broken:
                raise BrokenPictureError(batch.broken[0]["error"])
            codes = encoder.encode(batch.pixel_values)
            writer.write(
                encoder.add_codes(batch, codes),
                input_rows=len(batch.table),
                pictures=len(codes),
                codes=sum(map(len, codes)),
                broken=batch.broken,
            )
            progress.update(len(batch.table))
        written.append(writer.finish())
    return written


def _open_rows(dataset, split: str, loading: dict, state: PartialState):
    """The rows, undecoded, and what tells them from others."""
    if isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        if loading:
            raise ValueError(f"{', '.join(loading)} goes with the name of a dataset; this is one already.")
        rows = leave_undecoded(dataset)
        return rows, {"columns": dataset.column_names, "sampled_rows": _sample_fingerprint(rows)}
    with state.local_main_process_first():
        rows = load_rows(dataset, split, **loading)
    origin = {"name": str(dataset), "split": split, "seed": 0} | loading
    for name in ("streaming", "cache_dir"):  # the rows are the same
        origin.pop(name, None)
    return rows, {name: value if name == "num_rows" else str(value) for name, value in origin.items() if value}


def _sample_fingerprint(rows) -> str:
    """A digest of some rows from all over a dataset, or of the first row of a stream, wherever their files lie."""
    if isinstance(rows, datasets.Dataset):
        count = min(len(rows), NUM_SAMPLED_ROWS)
        sample = rows.select([index * len(rows) // count for index in range(count)]).with_format(None)
    else:
        sample = rows.take(1)
    digest = hashlib.sha256()
    for row in sample:
        for name, value in row.items():
            if isinstance(value, dict) and isinstance(value.get("path"), str):
                value = value | {"path": Path(value["path"]).name}
            digest.update(f"{name}: {value!r}\n".encode(errors="surrogatepass"))
    return f"sha256:{digest.hexdigest()}"


def _check_image_columns(rows, image_columns: Sequence[str]) -> None:
    check_columns(rows, image_columns)
    if rows.features is None:
        raise ValueError("The stream does not know the types of its columns: give it `features`.")
    for column in image_columns:
        feature = rows.features[column]
        single = isinstance(feature, datasets.Image | dict) or getattr(feature, "dtype", None) in PICTURE_TYPES
        if not single:
            raise ValueError(f"Column {column!r} must hold one picture, or its path, per row; it holds {feature}.")
        if codes_column(column) in rows.features:
            raise ValueError(f"The dataset has a column {codes_column(column)!r} already.")


def codes_column(image_column: str) -> str:
    """Name of the column with the codes of `image_column`'s pictures."""
    return f"{image_column}_codes"


def _fingerprint(tokenizer: LavitVisualTokenizer, image_processor) -> str:
    """Of all that codes depend on beside the settings: weights and preprocessing, wherever they were loaded from."""
    digest = hashlib.sha256(f"{type(image_processor).__name__} {image_processor.to_json_string()}".encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


def _pick_device(device, state: PartialState) -> torch.device:
    if device is None or (state.num_processes > 1 and torch.device(device).type == state.device.type):
        return state.device
    return torch.device(device)


@dataclass
class _Share:
    """Which shards this process writes."""

    process: int
    num_processes: int
    rows_per_shard: int
    finished: set[int]

    def __contains__(self, shard: int) -> bool:
        return shard % self.num_processes == self.process and shard not in self.finished

    def ranges(self, num_rows: int) -> Iterator[tuple[int, int, int]]:
        """Each of its shards of `num_rows` rows, with its first row and that after its last."""
        for shard, start in enumerate(range(0, num_rows, self.rows_per_shard)):
            if shard in self:
                yield shard, start, min(start + self.rows_per_shard, num_rows)

    def count_rows(self, rows) -> int | None:
        """How many rows of a dataset they have; unknown for a stream."""
        if isinstance(rows, datasets.IterableDataset):
            return None
        return sum(stop - start for _, start, stop in self.ranges(len(rows)))


@dataclass
class _Batch:
    """
    Some rows of one shard, the first of them number `start` of the dataset; once prepared, `pixel_values` (P, 3, H, W)
    of the readable rows, row by row and within each by column, `pictures` with the embedded files in the same nesting,
    and `broken` with what is wrong with the other rows.
    """

    shard: int
    start: int
    table: pa.Table
    pixel_values: torch.Tensor | None = None
    pictures: list[list[dict]] | None = None
    broken: list[dict] | None = None


def _read(rows, batch_size: int, share: _Share) -> Iterator[_Batch]:
    """The rows of a process's shards as arrow tables, in order. A stream is read from its beginning in any case."""
    rows = rows.with_format("arrow")
    if isinstance(rows, datasets.Dataset):
        for shard, start, stop in share.ranges(len(rows)):
            for first in range(start, stop, batch_size):
                yield _Batch(shard, first, rows[first : min(first + batch_size, stop)])
        return
    start = 0
    for table in rows.iter(batch_size):
        while len(table) > 0:
            shard, place = divmod(start, share.rows_per_shard)
            part = table.slice(0, share.rows_per_shard - place)
            if shard in share:
                yield _Batch(shard, start, part)
            start, table = start + len(part), table.slice(len(part))


class _Preparation(torch.utils.data.Dataset):
    """What the workers do: picture files to pixels. The "index" of an item is the first row's number and the files."""

    def __init__(self, image_processor):
        self.image_processor = image_processor

    def __getitem__(self, request: tuple[int, dict[str, list]]) -> dict:
        start, columns = request
        decoded, pictures, broken = [], [], []
        for row, values in enumerate(zip(*columns.values(), strict=True), start):
            read, row_broken = [], []
            for column, value in zip(columns, values, strict=True):
                try:
                    read.append(read_picture_file(value, f"row {row}, column {column!r}"))
                except BrokenPictureError as error:
                    row_broken.append({"row": row, "file": picture_path(value), "error": str(error)})
            if not row_broken:
                decoded += [picture for picture, _ in read]
                pictures.append([file | {"path": file["path"] and os.path.basename(file["path"])} for _, file in read])
            broken += row_broken
        pixel_values = self.image_processor(decoded, return_tensors="pt")["pixel_values"] if decoded else None
        return {"pixel_values": pixel_values, "pictures": pictures, "broken": broken}


def _prepare(batches: Iterator[_Batch], image_columns, image_processor, num_workers: int) -> Iterator[_Batch]:
    """Has workers prepare batches ahead of their use, in order."""
    waiting: deque[_Batch] = deque()

    def requests():
        for batch in batches:
            waiting.append(batch)
            yield batch.start, {column: batch.table[column].to_pylist() for column in image_columns}

    loader = torch.utils.data.DataLoader(
        _Preparation(image_processor), sampler=requests(), batch_size=None, num_workers=num_workers
    )
    for prepared in loader:
        yield replace(waiting.popleft(), **prepared)


class _Encoder:
    """Turns prepared batches into rows to write."""

    def __init__(self, tokenizer: LavitVisualTokenizer, selection: str, image_columns, keep_images: bool):
        self.tokenizer, self.selection = tokenizer, selection
        self.image_columns, self.keep_images = image_columns, keep_images

    @torch.inference_mode()
    def encode(self, pixel_values: torch.Tensor | None) -> list[np.ndarray]:
        """The codes of each picture, int32."""
        if pixel_values is None:
            return []
        outputs = self.tokenizer(pixel_values.to(self.tokenizer.device), selection=self.selection)
        return [codes.numpy() for codes in outputs.codes.int().cpu().split(outputs.num_codes.tolist())]

    def add_codes(self, batch: _Batch, codes: list[np.ndarray]) -> pa.Table:
        """The batch's readable rows with their codes, and with pictures embedded or left out."""
        broken = {entry["row"] for entry in batch.broken}
        table = batch.table.filter([row not in broken for row in range(batch.start, batch.start + len(batch.table))])
        features = datasets.Features.from_arrow_schema(table.schema)
        columns = {name: table[name] for name in features}
        for place, name in enumerate(self.image_columns):
            files = [row[place] for row in batch.pictures]
            columns[name] = pa.array(files, datasets.Image.pa_type)
            features[name] = features[name] if isinstance(features[name], datasets.Image) else datasets.Image()
            name = codes_column(name)
            columns[name] = pa.array(codes[place :: len(self.image_columns)], pa.list_(pa.int32()))
            features[name] = datasets.List(datasets.Value("int32"))
        for name, feature in list(features.items()):
            if isinstance(feature, datasets.Image):
                features[name] = datasets.Image(mode=feature.mode)
                if not self.keep_images:
                    del features[name]
        table = pa.table([columns[name] for name in features], schema=features.arrow_schema)
        others = [feature for name, feature in features.items() if name not in self.image_columns]
        return embed_table_storage(table) if any(map(require_storage_embed, others)) else table


__all__ = ["codes_column", "tokenize_dataset"]
