# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""One front door to datasets with pictures, and pictures read so that a broken one is named instead of fatal."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from ..processing.image_reading_lavit import image_label, load_file, read_content, read_image
from .shapes import load_shapes


try:
    import datasets
except ImportError as error:
    raise ImportError("Reading datasets needs the library datasets: pip install 'lavit-hf[train]'.") from error


logger = logging.get_logger(__name__)

# Formats of `datasets`, by the ending of a single file.
FILE_FORMATS = {
    ".arrow": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".tar": "webdataset",
}
BROKEN_PICTURES = ("raise", "skip")
MAX_PATH = 4096  # characters, as on Linux
# In the folder of each split of a tokenized dataset; has "counts" once the split is complete.
TOKENIZATION_FILE = "tokenization.json"


class BrokenPictureError(ValueError):
    """A picture that cannot be read. The message names it and says why."""


def load_rows(
    dataset_name: str | os.PathLike,
    split: str = "train",
    *,
    config_name: str | None = None,
    data_dir: str | os.PathLike | None = None,
    streaming: bool = False,
    num_rows: int | None = None,
    seed: int = 0,
    cache_dir: str | None = None,
) -> "datasets.Dataset | datasets.IterableDataset":
    """
    Rows of any dataset, pictures undecoded, so that one broken file cannot end an epoch inside `datasets`.

    Args:
        dataset_name (`str`): `"shapes"`, the embedded one; a folder that `save_to_disk` wrote; a folder or file of
            parquet, JSON, CSV or pictures, a tokenized dataset among them; a format such as `"imagefolder"` with
            `data_dir`; or a repository of the Hub.
        split (`str`): One split, or without streaming a slice of one, such as `"train[:10%]"`.
        config_name (`str`, *optional*): The dataset's configuration.
        data_dir (`str`, *optional*): Folder of a format's files, or a folder within the dataset.
        streaming (`bool`): Read rows as they are iterated over, in constant memory and without a cache.
        num_rows (`int`, *optional*): Only the first so many; all by default, of `"shapes"` its default number.
        seed (`int`): Of `"shapes"`; other datasets have their own order.
        cache_dir (`str`, *optional*): Where `datasets` keeps what it prepares.

    Returns:
        A `datasets.Dataset`, with `streaming` a `datasets.IterableDataset`. Columns of type `datasets.Image` hold
        `{"bytes": ..., "path": ...}`, which [`read_picture`] reads.

    Raises:
        ValueError: there is no such dataset or split, it cannot be read, or arguments do not fit it.
    """
    name = str(dataset_name)
    if num_rows is not None and num_rows < 1:
        raise ValueError(f"num_rows must be at least 1, got {num_rows}.")
    saved = is_saved_to_disk(name)
    if (name == "shapes" or saved or Path(name).is_file()) and (config_name or data_dir):
        raise ValueError(f"{name!r} takes neither config_name nor data_dir, got {config_name!r} and {data_dir!r}.")
    if name == "shapes":
        rows = {} if num_rows is None else {"num_rows": num_rows}
        dataset = load_shapes(split, seed=seed, streaming=streaming, cache_dir=cache_dir, **rows)
    elif saved:
        dataset = _load_saved(name, split, streaming)
    else:
        dataset = _load_dataset(name, split, config_name, data_dir, streaming, cache_dir)
    if num_rows is not None:
        dataset = dataset.take(num_rows) if streaming else dataset.select(range(min(num_rows, len(dataset))))
    return leave_undecoded(dataset)


def is_saved_to_disk(folder: str | os.PathLike) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return any((Path(folder) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load_saved(folder: str, split: str, streaming: bool):
    dataset = datasets.load_from_disk(folder)
    # A dataset that was saved alone may not know its split, and is then taken for the usual one.
    splits = dataset if isinstance(dataset, datasets.DatasetDict) else {str(dataset.split or "train"): dataset}
    if split not in splits:
        raise ValueError(f"There is no split {split!r} in {folder}; it has {', '.join(splits)}.")
    return splits[split].to_iterable_dataset() if streaming else splits[split]


def _load_dataset(name: str, split: str, config_name, data_dir, streaming: bool, cache_dir):
    path, source = Path(name).expanduser(), {"path": name, "data_dir": data_dir and str(data_dir)}
    if path.is_file():
        if path.suffix not in FILE_FORMATS:
            raise ValueError(f"{name} is a file, but ends in none of {', '.join(FILE_FORMATS)}.")
        source = {"path": FILE_FORMATS[path.suffix], "data_files": str(path)}
    elif path.is_dir():
        check_tokenization_complete(path, split)
        source["path"] = str(path)
    elif name in {"imagefolder", "text", *FILE_FORMATS.values()}:
        if data_dir is None:  # `datasets` would read whatever lies in the current folder
            raise ValueError(f"{name!r} is a format, and needs data_dir, the folder with its files.")
        source["data_dir"] = str(Path(data_dir).expanduser())
    elif "://" not in name and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"There is no folder or file {name}.")
    try:
        return datasets.load_dataset(**source, name=config_name, split=split, streaming=streaming, cache_dir=cache_dir)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        place = name if data_dir is None else f"{name} in {data_dir}"
        raise ValueError(f"Cannot load split {split!r} of {place}: {error.__cause__ or error}") from error


def check_tokenization_complete(folder: Path, split: str) -> None:
    """Raises a ValueError if `folder` is a tokenized dataset whose split is still being written."""
    manifest = folder / split.partition("[")[0] / TOKENIZATION_FILE
    if manifest.is_file() and "counts" not in json.loads(manifest.read_text(encoding="utf-8")):
        raise ValueError(
            f"Split {split!r} of {folder} is not complete: run the same `tokenize` again to go on with it."
        )


def leave_undecoded(dataset):
    """The dataset with its pictures as `{"bytes": ..., "path": ...}`, for [`read_picture`] to decode."""
    if isinstance(dataset, datasets.IterableDataset):
        return dataset.decode(False) if dataset.features else dataset
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image) and feature.decode:
            dataset = dataset.cast_column(column, datasets.Image(mode=feature.mode, decode=False))
    return dataset


def check_columns(dataset, columns: Sequence[str]) -> None:
    """Raises a ValueError that names a column of `columns` which the dataset lacks, and those that it has."""
    names = dataset.column_names or list(next(iter(dataset), {}))  # a stream may not know them before its first row
    for column in columns:
        if column not in names:
            raise ValueError(f"There is no column {column!r}; the dataset has {', '.join(names)}.")


def read_picture(value, name: str = "The image") -> Image.Image:
    """
    Reads one image of any mode as RGB, upright, with transparency over white.

    Args:
        value: `{"bytes": ..., "path": ...}` as in undecoded rows, or what else
            [`~lavit_hf.processing.load_pictures`] takes: a path or URL, bytes, a PIL image.
        name (`str`, *optional*): What errors call the image beside its path, such as `"row 7, column 'image'"`.

    Raises:
        BrokenPictureError: If it is missing, cannot be read, or has several frames.
    """
    return read_picture_file(value, name)[0]


def read_picture_file(value, name: str = "The image") -> tuple[Image.Image, dict]:
    """
    Reads as [`read_picture`] does, with the image's file as `{"bytes": ..., "path": ...}`. A PIL image or an array has
    none: `{}`.
    """
    try:
        if isinstance(value, Image.Image | np.ndarray | torch.Tensor):
            return read_image(value, name), {}
        file = {"bytes": read_content(value, name), "path": picture_path(value)}
        return read_image(file, name), file
    except ValueError as error:
        raise BrokenPictureError(str(error)) from error


def read_annotation(value) -> Image.Image:
    """
    Reads one map of labels, an image in mode "L", "P" or "I;16" whose values are the labels of its pixels.

    Args:
        value: As in [`read_picture`].

    Raises:
        BrokenPictureError: If it is missing, cannot be read, or has several channels.
    """
    name = "The map of labels"
    try:
        image = load_file(value, name)
        if len(image.getbands()) > 1:
            raise ValueError(f"{image_label(name, value)} has mode {image.mode}, expected one channel of labels.")
    except ValueError as error:
        raise BrokenPictureError(str(error)) from error
    return image


def picture_path(value) -> str | None:
    """The path that a value of an image column has; a text that holds an image rather than names one is none."""
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str | os.PathLike) or len(str(path)) > MAX_PATH or str(path)[:5].lower() == "data:":
        return None
    return str(path)


class _Decoder:
    """Decodes the pictures of rows, and says what to do about a broken one."""

    def __init__(self, dataset, image_columns: Sequence[str], broken_pictures: str):
        if broken_pictures not in BROKEN_PICTURES:
            raise ValueError(f"broken_pictures must be one of {', '.join(BROKEN_PICTURES)}, got {broken_pictures!r}.")
        if isinstance(image_columns, str):
            raise ValueError(f"image_columns must be a list of names, got the string {image_columns!r}.")
        check_columns(dataset, image_columns)
        self.image_columns, self.skip = tuple(image_columns), broken_pictures == "skip"
        self._reported: set[int | None] = set()

    def __call__(self, row: dict, index: int | None = None) -> dict | None:
        """The row with its pictures decoded; None if one is broken and to be skipped, which is logged once."""
        name = "" if index is None else f"row {index}, "
        try:
            return row | {
                column: read_picture(row[column], f"{name}column {column!r}") for column in self.image_columns
            }
        except BrokenPictureError as error:
            if not self.skip:
                raise
            if str(error) not in self._reported:
                self._reported.add(str(error))
                logger.warning(f"Skipped: {error}")
            return None


class PictureRows(torch.utils.data.Dataset):
    """
    Rows of a map-style dataset with their pictures decoded to RGB `PIL.Image.Image`s, for a DataLoader.

    With `broken_pictures="skip"` the next readable row stands in for a row with a broken picture, so that length and
    order stay the same; its name is logged, once by each process.

    Args:
        dataset (`datasets.Dataset`): From [`load_rows`], or any sequence of dicts with `column_names`.
        image_columns (`Sequence[str]`): Columns to decode; one picture each.
        broken_pictures (`str`): `"raise"` or `"skip"`.

    Raises:
        ValueError: a column that the dataset lacks, or another value of `broken_pictures`.
        BrokenPictureError: on reading a row, with `"raise"`; with `"skip"` only if no row at all can be read.
    """

    def __init__(self, dataset, image_columns: Sequence[str] = ("image",), broken_pictures: str = "raise"):
        self.dataset = leave_undecoded(dataset)
        self.decode = _Decoder(self.dataset, image_columns, broken_pictures)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):  # also what ends a `for` over the rows
            raise IndexError(f"There is no row {index}; the dataset has {len(self)}.")
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            row = self.decode(self.dataset[place], place)
            if row is not None:
                return row
        raise BrokenPictureError(f"None of the {len(self)} rows has a picture that can be read.")


class PictureStream(torch.utils.data.IterableDataset):
    """
    [`PictureRows`] of a stream: a `datasets.IterableDataset`, which deals its shards out to the DataLoader's workers.
    With `broken_pictures="skip"` rows with a broken picture are left out.
    """

    def __init__(self, dataset, image_columns: Sequence[str] = ("image",), broken_pictures: str = "raise"):
        self.dataset = leave_undecoded(dataset)
        self.decode = _Decoder(self.dataset, image_columns, broken_pictures)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict]:
        return (row for row in map(self.decode, self.dataset) if row is not None)


__all__ = ["BrokenPictureError", "PictureRows", "PictureStream", "load_rows", "read_picture"]
