# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The rows of a dataset as a mixture of sequences, in an order of its own."""

import numpy as np
from transformers import TrainingArguments

from ..data.rows import RowDataset, RowStream
from .scripts import DataArguments
from .sequences import Part, SequenceArguments, SequenceReader, TextPart


TYPICAL_CODES = 64  # the estimate for an image whose codes are not known


class MixtureRows(RowDataset):
    """
    The rows of a map-style dataset in random order, each as one sequence of a kind that is drawn by weight.

    An epoch has each row once; other epochs have other orders and draws. An item depends on the seed, the epoch and
    its index alone. Indices are to be read in order, which [`LavitForCausalLMTrainer`] sees to.

    Args:
        dataset (`datasets.Dataset`): The rows, from [`load_rows`] for instance.
        arguments ([`SequenceArguments`]): The kinds of sequences.
        image_column (`str`, *optional*, defaults to `"image"`): The column with the images.
        batch_size (`int`, *optional*, defaults to 1):
            The number of sequences in a batch of all processes, if its sequences are to have similar lengths: the
            rows of a few batches are sorted by length, and these batches come in random order.
        kwargs: `broken_images` and `seed`, as in [`RowDataset`].

    Raises:
        ValueError: As in [`RowDataset`]. On reading, also if no kind fits a row.
    """

    NUM_BATCHES = 8  # sorted together; more would save little padding, and separate the kinds of sequences

    def __init__(
        self, dataset, arguments: SequenceArguments, image_column: str = "image", batch_size: int = 1, **kwargs
    ):
        super().__init__(dataset, SequenceReader(arguments, image_column), **kwargs)
        self.batch_size = batch_size
        # Lengths are estimated from Arrow tables, without the bytes of images. A transform needs whole rows.
        self._tables = self.dataset.with_format("arrow") if self.dataset.format["type"] is None else None
        self._order = (-1, np.empty(0))
        self._window = (-1, -1, np.empty(0))

    def locate(self, index: int) -> int:
        epoch, size = int(self._epoch), self.NUM_BATCHES * self.batch_size
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self)))
        if self.batch_size == 1:
            return int(self._order[1][index])
        window = index // size
        if self._window[:2] != (epoch, window):
            places = self._order[1][window * size : (window + 1) * size]
            self._window = (epoch, window, self._group(places, np.random.default_rng([self.seed, epoch, window])))
        return int(self._window[2][index % size])

    def _group(self, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sorts rows by length into batches, and shuffles the batches. A last batch that is not full stays last."""
        rows = ((self._outline(place), place) for place in places.tolist())
        lengths = [sum(map(_estimate_length, self.compose(row, place))) for row, place in rows]
        places, full = places[np.argsort(lengths, kind="stable")], len(places) // self.batch_size * self.batch_size
        batches = rng.permutation(places[:full].reshape(-1, self.batch_size))
        return np.concatenate([batches.flatten(), places[full:]])

    def _outline(self, place: int) -> dict:
        """Returns a row of the dataset in which True stands for each image."""
        if self._tables is None:
            return self.dataset[place]
        table = self._tables[place]
        return {
            name: (table[name].null_count == 0 or None)
            if name in self.reader.image_columns
            else table[name][0].as_py()
            for name in table.column_names
        }


def load_mixture(
    data: DataArguments, sequences: SequenceArguments, args: TrainingArguments
) -> tuple[MixtureRows | RowStream, dict[str, MixtureRows] | None]:
    """
    Loads the sequences to train on, and those to evaluate on: every row once as each kind of sequence.

    Args:
        data ([`DataArguments`]): The dataset.
        sequences ([`SequenceArguments`]): The kinds of sequences.
        args (`TrainingArguments`): The arguments of the training, for the seed and the size of a batch.

    Returns:
        The rows to train on, and the rows to evaluate on by the kind of their sequences, or None if there are none.
    """
    rows, eval_rows = data.load()
    column, options = data.image_column, {"broken_images": data.broken_images}
    if eval_rows is not None:
        eval_rows = {
            kind: MixtureRows(eval_rows, sequences.only(kind), column, **options) for kind in sequences.weights
        }
    options["seed"] = args.seed
    if data.streaming:
        return RowStream(rows, SequenceReader(sequences, column), **options), eval_rows
    batch_size = args.train_batch_size * args.world_size if sequences.group_by_length else 1
    return MixtureRows(rows, sequences, column, batch_size, **options), eval_rows


def _estimate_length(part: Part) -> float:
    """Estimates the number of tokens of a part."""
    return len(part.text) / 4 if isinstance(part, TextPart) else len(part.codes or ()) or TYPICAL_CODES
