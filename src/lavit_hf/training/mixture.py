# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A dataset's rows as a mixture of sequences, each item the same wherever and whenever it is read."""

from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import torch
from transformers.utils import logging

from ..data.loading import BROKEN_PICTURES, BrokenPictureError, leave_undecoded, load_rows
from .recipe import DataArguments
from .rows import Part, RowReader, SequenceArguments


logger = logging.get_logger(__name__)


class _Mixture:
    """What a dataset and a stream of sequences have in common."""

    def __init__(
        self,
        dataset,
        arguments: SequenceArguments,
        image_column: str = "image",
        broken_pictures: str = "raise",
        seed: int = 0,
    ):
        if broken_pictures not in BROKEN_PICTURES:
            raise ValueError(f"broken_pictures must be one of {', '.join(BROKEN_PICTURES)}, got {broken_pictures!r}.")
        # A stream may not know its columns before its first row.
        column_names = dataset.column_names or list(next(iter(dataset), {}))
        self.reader = RowReader(arguments, column_names, image_column)
        self.dataset = leave_undecoded(dataset).select_columns(sorted(self.reader.columns))
        self.skip, self.seed = broken_pictures == "skip", seed
        # Shared, so that workers of a DataLoader that outlive an epoch learn of the next.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._reported: set[int | None] = set()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def _make(self, row: dict, name: str, *item: int, decode: bool = True) -> list[Part] | None:
        """The sequence of a row; None if its picture is broken and to be skipped, which is logged once."""
        try:
            return self.reader.make(row, name, Random(f"{self.seed} {int(self._epoch)} {item}"), decode)
        except BrokenPictureError as error:
            if not self.skip:
                raise
            if str(error) not in self._reported:
                self._reported.add(str(error))
                logger.warning(f"Skipped: {error}")
            return None


class MixtureRows(_Mixture, torch.utils.data.Dataset):
    """
    A map-style dataset's rows in random order, each as one sequence of a kind that is drawn by weight.

    An epoch has each row once; others have other orders and draws. What an item is depends on seed, epoch and its
    index alone, however many processes and workers there are, and wherever a run goes on. It is to be read in order.

    Args:
        dataset (`datasets.Dataset`): From `load_rows`.
        arguments ([`SequenceArguments`]): What is made of rows.
        image_column (`str`): The pictures. See [`RowReader`] for their codes.
        broken_pictures (`str`): `"raise"` names a picture that cannot be read, `"skip"` logs it, once by each process,
            and takes the next row instead.
        seed (`int`): Of order and draws.

    Raises:
        ValueError: a column that the mixture needs and the dataset lacks; on reading, a row that fits no kind.
        BrokenPictureError: on reading; with `"skip"` only if no row at all can be read.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._order = (-1, None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> list[Part]:
        for offset in range(len(self)):
            place = self._place(index + offset)
            parts = self._make(self.dataset[place], f"Row {place}", index)
            if parts is not None:
                return parts
        raise BrokenPictureError(f"None of the {len(self)} rows has a picture that can be read.")

    def sketch(self, index: int) -> list[Part]:
        """The sequence of an item with its pictures as they are stored, for a look at its length."""
        place = self._place(index)
        return self._make(self.dataset[place], f"Row {place}", index, decode=False)

    def _place(self, index: int) -> int:
        """The row that stands at an index in this epoch."""
        epoch = int(self._epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self)))
        return int(self._order[1][index % len(self)])


class LengthGroupedSampler(torch.utils.data.Sampler):
    """
    The items of [`MixtureRows`] so that those of one batch are alike in length: a few batches are sorted together, and
    come in random order. It depends on what the items are alone, as these do on seed and epoch.

    Args:
        rows ([`MixtureRows`]): The items.
        batch_size (`int`): Items of a batch of all processes.
        estimate_length (`Callable[[list], float]`): Of a sequence.
    """

    NUM_BATCHES = 8  # more would save little, and part the kinds of sequences more

    def __init__(self, rows: MixtureRows, batch_size: int, estimate_length: Callable[[list[Part]], float]):
        self.rows, self.batch_size, self.estimate_length = rows, batch_size, estimate_length

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), window := self.NUM_BATCHES * self.batch_size):
            indices = range(start, min(start + window, len(self)))
            indices = sorted(indices, key=lambda index: self.estimate_length(self.rows.sketch(index)))
            batches = [indices[place : place + self.batch_size] for place in range(0, len(indices), self.batch_size)]
            # A last batch that is not full stays the last.
            full = len(indices) // self.batch_size
            for place in Random(f"{indices}").sample(range(full), full):
                yield from batches[place]
            yield from (index for batch in batches[full:] for index in batch)


class MixtureStream(_Mixture, torch.utils.data.IterableDataset):
    """
    [`MixtureRows`] of a stream, a `datasets.IterableDataset`, in the stream's order. It deals its shards out to the
    DataLoader's workers, whose number the draws depend on. Rows with a broken picture may be left out.
    """

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Part]]:
        worker = torch.utils.data.get_worker_info()
        number = 0 if worker is None else worker.id
        for index, row in enumerate(self.dataset):
            parts = self._make(row, f"Row {index} of worker {number}", number, index)
            if parts is not None:
                yield parts


def load_training_mixture(
    data: DataArguments, arguments: SequenceArguments, seed: int = 0
) -> MixtureRows | MixtureStream:
    """The sequences to train on, see [`MixtureRows`]."""
    rows = load_rows(
        data.dataset_name,
        data.train_split,
        config_name=data.dataset_config_name,
        data_dir=data.data_dir,
        streaming=data.streaming,
        num_rows=data.num_train_rows,
    )
    mixture = MixtureStream if data.streaming else MixtureRows
    return mixture(rows, arguments, data.image_column, data.broken_pictures, seed)


def load_eval_mixtures(data: DataArguments, arguments: SequenceArguments) -> dict[str, MixtureRows] | None:
    """The rows to evaluate on, once as each kind of the mixture; None without `data.eval_split`."""
    if data.eval_split is None:
        return None
    rows = load_rows(
        data.dataset_name,
        data.eval_split,
        config_name=data.dataset_config_name,
        data_dir=data.data_dir,
        num_rows=data.num_eval_rows,
    )
    return {
        kind: MixtureRows(rows, arguments.only(kind), data.image_column, data.broken_pictures)
        for kind in arguments.weights
    }


__all__ = ["LengthGroupedSampler", "MixtureRows", "MixtureStream", "load_eval_mixtures", "load_training_mixture"]
