# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the settings of a dataset say about its images holds, or is refused."""

import datasets
import PIL.Image
import pytest

from lavit_hf.data.rows import ImageReader, RowDataset, RowStream
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
