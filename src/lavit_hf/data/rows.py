# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of a dataset as torch datasets, with their images read and broken images skipped or reported."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import datasets
import torch
from datasets.distributed import split_dataset_by_node
from transformers.utils import logging

from ..processing import read_image
from .code_files import CODEBOOK_COLUMN, codebook_fingerprint, has_codes
from .loading import check_columns, has_transform, leave_feature_undecoded, leave_undecoded


logger = logging.get_logger(__name__)

BROKEN_IMAGES = ("raise", "skip")
OTHER_CODES = (
    "The codes of {} were computed by another visual tokenizer than this model's: precompute them with this model, or "
    "train with the visual tokenizer that computed them."
)


def check_broken_images(broken_images: str) -> None:
    """Raises a `ValueError` unless `broken_images` is one of `BROKEN_IMAGES`."""
    if broken_images not in BROKEN_IMAGES:
        raise ValueError(f"broken_images must be one of {', '.join(BROKEN_IMAGES)}, got {broken_images!r}.")


class ImageReader:
    """
    Reads the images of a row and leaves its other columns as they are.

    Args:
        image_columns (`Sequence[str]`, *optional*, defaults to `("image",)`):
            Columns with one image per row, which becomes an RGB `PIL.Image.Image`.

    Raises:
        ValueError: If `image_columns` is a string.
    """

    def __init__(self, image_columns: Sequence[str] = ("image",)):
        if isinstance(image_columns, str):
            raise ValueError(f"image_columns must be a list of names, got the string {image_columns!r}.")
        self.image_columns = tuple(image_columns)

    def select(self, dataset) -> Any:
        """Returns `dataset`, or raises a `ValueError` if it lacks a column of images, or their mode is not RGB."""
        check_columns(dataset, self.image_columns, "image_column")
        return dataset

    def compose(self, row: dict, name: str, rng: Random) -> dict:
        """Returns `row` as it is. Other readers make an item from it, by `rng`, and give its `name` in errors."""
        return row

    def read(self, item: dict, name: str) -> dict:
        """Reads the images of `item`, or raises a `ValueError` with the `name` of its row if one is broken."""
        images = {column: read_image(item[column], f"{name}, column {column!r}") for column in self.image_columns}
        return item | images


class _RowSource:
    """The common part of map-style rows and streams."""

    def __init__(self, dataset, reader, broken_images: str = "raise", seed: int = 0):
        check_broken_images(broken_images)
        self.dataset, self.reader = reader.select(leave_undecoded(dataset)), reader
        self.skip, self.seed = broken_images == "skip", seed
        # Shared memory, so that DataLoader workers that outlive an epoch learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, on which random choices depend."""
        self._epoch.fill_(epoch)

    def compose(self, row: dict, *key: int) -> Any:
        """
        Returns the item that is made from a row, with its images unread, or None if the row lacks a value and is
        skipped. Random choices depend on the seed, the epoch and `key`, the number of the row.
        """
        rng = Random(f"{self.seed} {int(self._epoch)} {key}")
        return self._try(self.reader.compose, row, _name(key), rng)

    def make(self, row: dict, *key: int) -> Any | None:
        """Returns the item that is made from a row, or None if the row lacks a value or has a broken image."""
        item = self.compose(row, *key)
        return None if item is None else self._try(self.reader.read, item, _name(key))

    def _try(self, function: Callable, *args) -> Any | None:
        """Calls a function of the reader. Returns None if it fails and such rows are skipped."""
        try:
            return function(*args)
        except ValueError as error:
            if not self.skip:
                raise
            logger.warning_once(f"Skipped: {error}")
            return None


def _name(key: tuple[int, ...]) -> str:
    return " of worker ".join(["row " + str(key[0]), *map(str, key[1:])])


class RowDataset(_RowSource, torch.utils.data.Dataset):
    """
    Items made from the rows of a map-style dataset. An item depends on the seed, the epoch and its index alone,
    however many processes and workers read it and wherever a run is resumed.

    Args:
        dataset (`datasets.Dataset`): The rows, from [`load_rows`] for instance.
        reader ([`ImageReader`] or [`SequenceReader`]):
            Its `select(dataset)` keeps the columns that it needs, `compose(row, name, rng)` makes an item from a row,
            and `read(item, name)` reads the images of the item.
        broken_images (`str`, *optional*, defaults to `"raise"`):
            `"raise"` stops at a row with an image that cannot be read, or without a value that its item needs, such as
            a caption. `"skip"` logs it, once in each process, and uses the next row instead.
        seed (`int`, *optional*, defaults to 0): The seed of the reader's random choices.

    Raises:
        ValueError: If a column is missing or `broken_images` is something else. On reading, if an image is broken or
            a value is missing; with `"skip"` only if no row can be used.
    """

    def __init__(self, dataset, reader, broken_images: str = "raise", seed: int = 0):
        super().__init__(dataset, reader, broken_images, seed)
        # Images within lists are decoded by `datasets` as soon as a row is read, and formats would make tensors of
        # texts. Values that a transform of the user makes are taken as they are.
        self._has_transform = has_transform(self.dataset)
        self._table = self.dataset if self._has_transform else self.dataset.with_format("arrow")
        self._features = leave_feature_undecoded(self.dataset.features)

    def __len__(self) -> int:
        return len(self.dataset)

    def read_row(self, place: int) -> dict:
        """Returns the row at `place` with its images undecoded."""
        row = self._table[place]
        return row if self._has_transform else self._features.decode_example(row.to_pylist()[0])

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):  # this also ends a `for` loop over the rows
            raise IndexError(f"There is no row {index}; the dataset has {len(self)}.")
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            item = self.make(self.read_row(place), place)
            if item is not None:
                return item
        raise ValueError(f"None of the {len(self)} rows has images that can be read and the values that are needed.")

    def check_codebook(self, codebook: str) -> None:
        """Raises a `ValueError` if rows have codes of another codebook than that of the fingerprint `codebook`."""
        if CODEBOOK_COLUMN in self.dataset.column_names and has_codes(self.dataset.features):
            found = self.dataset.with_format("arrow").select_columns([CODEBOOK_COLUMN]).unique(CODEBOOK_COLUMN)
            if {*found} - {None, codebook}:
                raise ValueError(OTHER_CODES.format("the dataset"))


class RowStream(_RowSource, torch.utils.data.IterableDataset):
    """
    Items made from the rows of a `datasets.IterableDataset` as by [`RowDataset`], in the order of the stream, without
    those that have broken images. The workers of a DataLoader share the shards of the stream, and random choices
    depend on the number of processes and workers.

    Args:
        dataset, reader, broken_images, seed: Same as in [`RowDataset`], with a `datasets.IterableDataset`.
    """

    codebook: str | None = None  # the fingerprint that rows with codes must have
    process_index = 0

    def split(self, num_processes: int, process_index: int) -> "RowStream":
        """
        Returns the share of a process: some of the shards of the stream if `num_processes` divides their number, and
        otherwise each row whose number is `process_index` modulo `num_processes`. Images of others are not read.
        """
        share = copy.copy(self)
        share.dataset = split_dataset_by_node(self.dataset, rank=process_index, world_size=num_processes)
        share.process_index = process_index
        return share

    def check_codebook(self, codebook: str) -> None:
        """Refuses rows with codes of another codebook than that of the fingerprint `codebook` when they are read."""
        features = self.dataset.features  # a stream may not know them
        self.codebook = codebook if features is None or has_codes(features) else None

    def set_epoch(self, epoch: int) -> None:
        if torch.utils.data.get_worker_info() is None:
            super().set_epoch(epoch)
        else:  # workers go through a stream at a pace of their own, and `datasets` shares the epoch among them
            if self._epoch.is_shared():
                self.dataset = copy.deepcopy(self.dataset)
            self._epoch = torch.tensor(epoch)
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        number = self.process_index if worker is None else self.process_index * worker.num_workers + worker.id
        for index, row in enumerate(self.dataset):
            if self.codebook is not None and row.get(CODEBOOK_COLUMN) not in (None, self.codebook):
                raise ValueError(OTHER_CODES.format(f"row {index}"))
            item = self.make(row, index, number)
            if item is not None:
                yield item


class RepeatedStream(torch.utils.data.IterableDataset):
    """
    The items of a stream again and again, each time as those of the next epoch. `Trainer` begins a stream again on its
    own, but leaves the gradients of an incomplete step to the next epoch and resumes in the first epoch only.

    Args:
        stream (`torch.utils.data.IterableDataset`): A stream that ends, such as a [`RowStream`].
    """

    def __init__(self, stream: torch.utils.data.IterableDataset):
        self.stream = stream

    def split(self, num_processes: int, process_index: int) -> "RepeatedStream | None":
        """
        Returns the share of a process, or None if the stream cannot be split.

        Args:
            num_processes (`int`), process_index (`int`): Same as in [`RowStream.split`].
        """
        if isinstance(self.stream, RowStream):
            return RepeatedStream(self.stream.split(num_processes, process_index))
        if isinstance(self.stream, datasets.IterableDataset):
            return RepeatedStream(split_dataset_by_node(self.stream, rank=process_index, world_size=num_processes))
        return None

    def __iter__(self) -> Iterator[Any]:
        for epoch in itertools.count():
            set_epoch(epoch, self.stream)
            is_empty = True
            for item in self.stream:
                is_empty = False
                yield item
            if is_empty:
                return


def iter_sources(*rows) -> Iterator[Any]:
    """
    Yields the datasets from which rows are made.

    Args:
        rows (*optional*):
            Datasets, also in dictionaries, in `Subset` and `ConcatDataset` of torch, and in [`RepeatedStream`].
    """
    for given in rows:
        if isinstance(given, Mapping):
            yield from iter_sources(*given.values())
        elif isinstance(given, torch.utils.data.Subset):
            yield from iter_sources(given.dataset)
        elif isinstance(given, torch.utils.data.ConcatDataset | torch.utils.data.ChainDataset):
            yield from iter_sources(*given.datasets)
        elif isinstance(given, RepeatedStream):
            yield from iter_sources(given.stream)
        else:
            yield given


def set_epoch(epoch: int, *rows) -> None:
    """Sets `epoch` in `rows`, as [`iter_sources`] takes them. Datasets without epochs stay as they are."""
    for source in iter_sources(*rows):
        if hasattr(source, "set_epoch"):
            source.set_epoch(epoch)


def check_codebook(codebook: torch.Tensor, *rows) -> None:
    """
    Checks that precomputed codes belong to a codebook. Those of a stream are checked when they are read.

    Args:
        codebook (`torch.Tensor` of shape `(codebook_size, code_dim)`): The codebook of a model.
        rows (*optional*):
            The rows to train or to evaluate on, as [`iter_sources`] takes them. Rows without codes and datasets of
            other classes than [`RowDataset`] and [`RowStream`] pass.

    Raises:
        ValueError: If rows have codes of another codebook.
    """
    for source in iter_sources(*rows):
        if isinstance(source, RowDataset | RowStream):
            source.check_codebook(codebook_fingerprint(codebook))
