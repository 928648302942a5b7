# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The rows of a dataset as a mixture of sequences."""

from transformers import TrainingArguments

from ..data.rows import RowDataset, RowStream
from .scripts import DataArguments
from .sequences import SequenceArguments, SequenceReader


class MixtureRows(RowDataset):
    """
    The rows of a map-style dataset, each as one sequence of a kind that is drawn by weight, again in each epoch.

    Args:
        dataset (`datasets.Dataset`): The rows, from [`load_rows`] for instance.
        arguments ([`SequenceArguments`]): The kinds of sequences.
        image_column (`str`, *optional*, defaults to `"image"`): The column with the images.
        kwargs: `broken_images` and `seed`, as in [`RowDataset`].

    Raises:
        ValueError: As in [`RowDataset`]. On reading, also if no kind fits a row.
    """

    def __init__(self, dataset, arguments: SequenceArguments, image_column: str = "image", **kwargs):
        super().__init__(dataset, SequenceReader(arguments, image_column), **kwargs)


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
    rows, eval_rows = data.load(args.seed)
    column, options = data.image_column, {"broken_images": data.broken_images}
    if eval_rows is not None:
        eval_rows = {
            kind: MixtureRows(eval_rows, sequences.only(kind), column, **options) for kind in sequences.weights
        }
    options["seed"] = args.seed
    if data.streaming:
        return RowStream(rows, SequenceReader(sequences, column), **options), eval_rows
    return MixtureRows(rows, sequences, column, **options), eval_rows
