# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The settings of a dataset for its images and values hold, or they are refused."""

import datasets
import numpy as np
import PIL.Image
import pytest

from lavit_hf.data.rows import ImageReader, RowDataset, RowStream
from lavit_hf.data.texts import read_questions, read_texts
from lavit_hf.training import MixtureRows, SequenceArguments, SequenceReader

from ..training.small import make_dataset


def test_a_transform_gets_images():
    """It gets them as `datasets` decodes them, and not as bytes."""
    dataset = make_dataset(4)
    turned = dataset.with_transform(lambda rows: rows | {"image": [image.rotate(180) for image in rows["image"]]})
    for plain, found in zip(*(RowDataset(rows, ImageReader()) for rows in (dataset, turned)), strict=True):
        assert plain["image"].rotate(180).tobytes() == found["image"].tobytes()
    items = list(MixtureRows(turned, SequenceArguments(["caption=1"])))
    assert all(isinstance(item[0].image, PIL.Image.Image) for item in items)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_another_mode_are_refused(mode):
    """They would be read as RGB."""
    dataset = make_dataset(4).cast_column("image", datasets.Image(mode=mode))
    readers = (ImageReader(), SequenceReader(SequenceArguments(["draw=1"])))
    for reader, kind in [(reader, kind) for reader in readers for kind in (RowDataset, RowStream)]:
        rows = dataset if kind is RowDataset else dataset.to_iterable_dataset()
        if mode == "RGB":
            assert len(list(kind(rows, reader))) == 4
            continue
        with pytest.raises(ValueError, match=r"read as RGB, but column 'image' has .*Image\(mode='L'\): convert"):
            kind(rows, reader)


def test_numbers_of_classes_are_refused():
    """They would be texts such as "1"."""
    classes = datasets.ClassLabel(names=["a", "b"])
    named = make_dataset(4).add_column("label", [0, 1, 0, 1]).cast_column("label", classes)
    named = named.add_column("labels", [[0], [1], [0], [1]]).cast_column("labels", datasets.List(classes))
    for column in ("label", "labels"):
        with pytest.raises(ValueError, match=f"'{column}' has numbers of the classes a, b, .*cast it to texts"):
            MixtureRows(named, SequenceArguments(["caption=1"], caption_column=column))
    assert len(MixtureRows(named, SequenceArguments(["caption=1"]))) == 4
    turned = named.with_transform(lambda rows: rows | {"label": [classes.int2str(label) for label in rows["label"]]})
    items = list(MixtureRows(turned, SequenceArguments(["text=1"], text_column="label")))
    assert [item[0].text for item in items] == ["a", "b", "a", "b"]


@pytest.mark.parametrize("values", [[3, 4, 5, 6], [0.5, 1.0, 1.5, 2.0], ["3", "4", "5", "6"]])
def test_numbers_are_texts(values):
    named = make_dataset(4).add_column("number", values)
    arguments = SequenceArguments(["caption=1", "text=1"], caption_column="number", text_column="number")
    texts = [part.text for item in MixtureRows(named, arguments) for part in item if hasattr(part, "text")]
    assert texts == [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    asked = SequenceArguments(["question=1"], question_column="caption", answer_column="number")
    assert [item[-1].text.strip() for item in MixtureRows(named, asked)] == texts


def test_a_value_of_another_type_is_named():
    named = make_dataset(4).add_column("flag", [True, False, True, False])
    with pytest.raises(ValueError, match="row 0: column 'flag' must hold texts, numbers .* got True of type bool"):
        MixtureRows(named, SequenceArguments(["caption=1"], caption_column="flag"))[0]


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_texts_may_be_in_lists_tuples_and_arrays(kind):
    assert read_texts(kind(["a star", "a ring"]), "caption") == ["a star", "a ring"]
    row = {"questions": kind(["what?"]), "answers": kind(["a star"])}
    assert read_questions(row, "questions", "answers") == [("what?", ["a star"])]
