# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A run that goes on takes up the same rows and the same model, or is refused, and incomplete splits are not read."""

import io
import shutil
from pathlib import Path

import datasets
import pytest
from PIL import Image

from lavit_hf.data.code_files import MANIFEST_FILE
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes

from .conftest import load_model


NUM_ROWS, ROWS_PER_SHARD = 12, 4
FEATURES = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})


def make_row(number: int, shade: int = 0) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (8, 8 + number), (20 * number, shade, 255 - shade)).save(file, "PNG")
    return {"image": {"bytes": file.getvalue(), "path": f"{number}.png"}, "caption": f"number {number}"}


def in_memory(rows: list[dict], folder: Path):
    return datasets.Dataset.from_list(rows, features=FEATURES)


def streamed(rows: list[dict], folder: Path):
    return datasets.IterableDataset.from_generator(lambda: iter(rows), features=FEATURES)


def in_files(rows: list[dict], folder: Path):
    folder.mkdir()
    lines = ["file_name,caption"]
    for row in rows:
        (folder / row["image"]["path"]).write_bytes(row["image"]["bytes"])
        lines.append(f"{row['image']['path']},{row['caption']}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return load_rows("imagefolder", "train", data_dir=folder, cache_dir=str(folder.with_name(f"{folder.name} cache")))


KINDS = {"memory": in_memory, "stream": streamed, "files": in_files}
ROWS = [make_row(number) for number in range(NUM_ROWS)]
# The rows of a run that goes on may differ in these ways. Names and sizes of files stay where shades change.
CHANGES = {
    "an image of a finished shard": [
        make_row(2, shade=200) if number == 2 else row for number, row in enumerate(ROWS)
    ],
    "a caption of a finished shard": [row | {"caption": "other"} if row is ROWS[1] else row for row in ROWS],
    "rows that were inserted": [ROWS[0], make_row(11), *ROWS[1:]],
    "other rows behind the first": [ROWS[0], *(make_row(number, shade=99) for number in range(1, NUM_ROWS))],
    "fewer rows": ROWS[:2],
}


@pytest.fixture
def compute(model):  # noqa: F811
    def call(dataset, output, visual_tokenizer=None, **settings):
        known, image_processor = load_model(model)
        usual = {"rows_per_shard": ROWS_PER_SHARD, "num_workers": 0, "batch_size": 3}
        return precompute_codes(dataset, output, visual_tokenizer or known, image_processor, **usual | settings)

    return call


def read(folder: Path) -> list[str]:
    """Reads captions, without the cache of `datasets`, for which changed files are new ones anyway."""
    return [row["caption"] for row in load_rows(folder, "train", streaming=True)]


def stop_after_a_shard(compute, dataset, output: Path) -> None:
    """Computes all, and removes what a run that was stopped would not have."""
    compute(dataset, output)
    for name in ("000001", "000002"):
        (output / "train" / f"{name}.parquet").unlink()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_are_refused(compute, tmp_path, kind, change):
    stop_after_a_shard(compute, KINDS[kind](ROWS, tmp_path / "a"), tmp_path / "codes")
    with pytest.raises(ValueError, match=r"[Cc]hoose another output folder"):
        compute(KINDS[kind](CHANGES[change], tmp_path / "b"), tmp_path / "codes")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_go_on(compute, tmp_path, kind):
    """Their folder makes no difference."""
    stop_after_a_shard(compute, KINDS[kind](ROWS, tmp_path / "a"), tmp_path / "codes")
    with pytest.raises(ValueError, match="not complete"):
        read(tmp_path / "codes")
    assert compute(KINDS[kind](ROWS, tmp_path / "b"), tmp_path / "codes").rows == NUM_ROWS
    assert read(tmp_path / "codes") == [row["caption"] for row in ROWS]


def test_another_configuration_of_the_same_weights_is_refused(compute, model, tmp_path):  # noqa: F811
    stop_after_a_shard(compute, in_memory(ROWS, tmp_path), tmp_path / "codes")
    other, _ = load_model(model)
    other.config.vision_config.num_attention_heads //= 2
    with pytest.raises(ValueError, match="config was"):
        compute(in_memory(ROWS, tmp_path), tmp_path / "codes", other)


def test_a_dataset_with_a_transform_is_refused(compute, tmp_path):
    with pytest.raises(ValueError, match="has a transform"):
        compute(in_memory(ROWS, tmp_path).with_transform(lambda rows: rows), tmp_path / "codes")


def test_shards_without_their_manifest_are_refused(compute, tmp_path):
    compute(in_memory(ROWS, tmp_path), tmp_path / "codes", split="validation")
    compute(in_memory(ROWS, tmp_path), tmp_path / "codes")
    (tmp_path / "codes" / "train" / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match=f"train has shards without {MANIFEST_FILE}"):
        compute(in_memory(ROWS, tmp_path), tmp_path / "codes")


@pytest.mark.parametrize("lost", ["000000", "000001", "000002"])
def test_a_split_that_lost_a_shard_is_refused(compute, tmp_path, lost):
    compute(in_memory(ROWS, tmp_path), tmp_path / "codes")
    assert len(read(tmp_path / "codes")) == NUM_ROWS
    (tmp_path / "codes" / "train" / f"{lost}.parquet").unlink()
    for streaming in (False, True):
        with pytest.raises(ValueError, match="not complete"):
            load_rows(tmp_path / "codes", "train", streaming=streaming)


def test_a_longer_stream_that_was_stopped_is_refused(compute, tmp_path):
    """The counts of the shorter stream no longer hold."""
    compute(streamed(ROWS[:8], tmp_path), tmp_path / "codes")

    def stopped():
        yield from ROWS
        raise RuntimeError("stopped")

    with pytest.raises(Exception, match="stopped"):
        compute(datasets.IterableDataset.from_generator(stopped, features=FEATURES), tmp_path / "codes", batch_size=1)
    assert (tmp_path / "codes" / "train" / "000001.parquet").exists()
    if (tmp_path / "codes" / "train" / "000002.parquet").exists():
        with pytest.raises(ValueError, match="not complete"):
            read(tmp_path / "codes")


def test_a_part_that_has_only_begun_is_refused(compute, tmp_path):
    for part in ("0", "1"):
        compute(in_memory(ROWS, tmp_path), tmp_path / "codes" / part)
    assert len(read(tmp_path / "codes")) == 2 * NUM_ROWS
    manifest = tmp_path / "codes" / "1" / "train" / "codes.json"
    begun = manifest.read_text().replace('"counts"', '"other"')
    shutil.rmtree(manifest.parent)
    manifest.parent.mkdir()
    manifest.write_text(begun)
    with pytest.raises(ValueError, match="not complete"):
        read(tmp_path / "codes")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_split_names_the_folder(tmp_path, compute, streaming):
    """A saved dataset may not know its splits, and a stream of one does not."""
    saved = datasets.DatasetDict({name: in_memory(ROWS, tmp_path) for name in ("train", "validation")})
    saved.save_to_disk(tmp_path / "saved")
    rows = load_rows(tmp_path / "saved", "validation", streaming=streaming)
    compute(rows, tmp_path / "codes", split="validation")
    assert [path.name for path in (tmp_path / "codes").iterdir() if path.is_dir()] == ["validation"]


def test_an_unfinished_output_beside_a_file_is_resumed(compute, tmp_path):
    """The dataset is the file, whatever else is in its folder."""
    path = tmp_path / "rows.parquet"
    in_memory(ROWS, tmp_path).to_parquet(path)
    rows = load_rows(path, "train", cache_dir=str(tmp_path / "cache"))
    stop_after_a_shard(compute, rows, tmp_path / "codes")
    manifest = tmp_path / "codes" / "train" / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace('"counts"', '"other"'))
    compute(load_rows(path, "train", cache_dir=str(tmp_path / "cache")), tmp_path / "codes")
    assert len(read(tmp_path / "codes")) == NUM_ROWS
