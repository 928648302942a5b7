# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets are loaded by one function, images are read, and broken ones are named."""

import io
import json
import logging
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from train_vision_tower import read_annotation

from lavit_hf.data.loading import load_rows
from lavit_hf.data.rows import ImageReader, RowDataset, RowStream
from lavit_hf.processing import read_image
from lavit_hf.training import DataArguments, spread_rows


BROKEN = 2


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of five images with captions, one of which is truncated."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (12, 8), (50 * index, 0, 0)).save(folder / f"{index}.png")
    Image.effect_noise((40, 40), 90).save(folder / f"{BROKEN}.png")
    (folder / f"{BROKEN}.png").write_bytes((folder / f"{BROKEN}.png").read_bytes()[:600])
    lines = [f"{index}.png,number {index}" for index in range(5)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]))
    return folder


@pytest.fixture
def load(tmp_path):
    def load(name, split="train", **kwargs):
        return load_rows(name, split, cache_dir=str(tmp_path / "cache"), **kwargs)

    return load


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_annotations_keep_their_labels(tmp_path, mode):
    labels = np.arange(48, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(6, 8)
    image = Image.fromarray(labels)
    if mode == "P":
        image = Image.frombytes("P", image.size, labels.tobytes())
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(tmp_path / "labels.png")
    assert (np.asarray(read_annotation(tmp_path / "labels.png")) == labels).all()


def test_label_maps_that_cannot_be_read(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    with pytest.raises(ValueError, match=r"colours.png.*RGB, expected one channel"):
        read_annotation(tmp_path / "colours.png")
    with pytest.raises(ValueError, match="label map is missing"):
        read_annotation(None)


def stores(photos: Path, tmp_path: Path) -> dict[str, dict]:
    """Stores the same five rows in every way that `load_rows` reads."""
    rows = [{"image": str(photos / f"{index}.png"), "caption": f"number {index}"} for index in range(5)]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    dataset = datasets.Dataset.from_list(rows, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "saved splits")
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train.parquet")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "folder": {"name": photos},
        "imagefolder": {"name": "imagefolder", "data_dir": photos},
        "saved": {"name": tmp_path / "saved"},
        "saved splits": {"name": str(tmp_path / "saved splits")},
        "parquet": {"name": tmp_path / "parquet"},
        "parquet file": {"name": tmp_path / "parquet" / "train.parquet"},
        "json file": {"name": tmp_path / "rows.jsonl"},
    }


def test_rows_are_the_same_however_they_are_stored(photos, tmp_path, load):
    for name, arguments in stores(photos, tmp_path).items():
        for streaming in (False, True):
            rows = load(**arguments, streaming=streaming)
            assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
            rows = list(rows)
            assert [row["caption"] for row in rows] == [f"number {index}" for index in range(5)], name
            assert read_image(rows[4]["image"]).getpixel((0, 0)) == (200, 0, 0), name
            with pytest.raises(ValueError, match="cannot be read"):
                read_image(rows[BROKEN]["image"])
            assert len(list(load(**arguments, streaming=streaming, num_rows=3))) == 3
    assert len(load(tmp_path / "saved splits", "test")) == 1
    assert len(load(photos, "train[:40%]")) == 2
    for saved in ("saved", "saved splits"):
        assert [row["caption"] for row in load(tmp_path / saved, "train[60%:]")] == ["number 3", "number 4"]
        assert len(load(tmp_path / saved, "train[1:2]")) == 1
        with pytest.raises(ValueError, match=r"'train\[7:9:2\]' is no slice"):
            load(tmp_path / saved, "train[7:9:2]")
        with pytest.raises(ValueError, match=r"no split 'validation'"):
            load(tmp_path / saved, "validation[:1]")


def test_shapes(load):
    rows = load("shapes", num_rows=3, seed=5)
    stream = load("shapes", num_rows=3, seed=5, streaming=True)
    assert list(rows) == list(stream)
    assert [read_image(row["edited_image"]).size for row in rows] == [(64, 64)] * 3
    assert load("shapes", num_rows=1, seed=6)[0]["caption"] != rows[0]["caption"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagefolder"}, "needs data_dir"),
        ({"name": "./nowhere"}, "no folder or file ./nowhere"),
        ({"name": "imagefolder", "data_dir": "/no/where"}, "split 'train' of imagefolder in /no/where"),
        ({"name": "shapes", "split": "dev"}, "'dev'.*train, validation, test"),
        ({"name": "shapes", "config_name": "large"}, "'large'"),
        ({"name": "shapes", "num_rows": 0}, "num_rows must be an integer of at least 1, got 0"),
    ],
)
def test_what_is_not_there_is_named(arguments, message, load):
    with pytest.raises(ValueError, match=message):
        load(**arguments)


def test_splits_and_files_that_are_not_there(photos, tmp_path, load, monkeypatch):
    stores(photos, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(load("rows.jsonl")) == 5
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"split 'dev' of .*photos: .*\['train'\]"):
            load(photos, "dev", streaming=streaming)
        with pytest.raises(ValueError, match="no split 'dev' in .*saved splits; it has train, test"):
            load(tmp_path / "saved splits", "dev", streaming=streaming)
    (tmp_path / "rows.odd").touch()
    with pytest.raises(ValueError, match=r"Cannot load split 'train' of .*rows.odd: .*\.parquet"):
        load(tmp_path / "rows.odd")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("has_card", [False, True])
def test_folders_of_one_name_and_changed_folders_have_their_own_rows(has_card, streaming, tmp_path):
    """`datasets` keeps what it has prepared, by a name that need not tell two folders apart."""

    def write(folder: Path, caption: str) -> None:
        (folder / "train").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict({"caption": [caption]}).to_parquet(folder / "train" / "000000.parquet")
        if has_card:
            configs = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train/*.parquet\n"
            (folder / "README.md").write_text(f"---\n{configs}---\n", encoding="utf-8")

    def read(folder: Path) -> list[str]:
        return [row["caption"] for row in load_rows(folder, streaming=streaming, cache_dir=str(tmp_path / "cache"))]

    first, second = tmp_path / "first" / "codes", tmp_path / "second" / "codes"
    write(first, "red")
    write(second, "blue")
    assert read(first) == ["red"]
    assert read(second) == ["blue"]
    write(first, "green")
    assert read(first) == ["green"]
    if not streaming:  # the cache may be in the folder, and changes nothing then
        inside = str(first / "cache")
        kept = [load_rows(first, cache_dir=inside).cache_files for _ in range(2)]
        assert kept[0] == kept[1] != []
    (second / "train").rename(second / "test")
    with pytest.raises(ValueError, match="Cannot load split 'train'"):
        read(second)


def test_a_card_may_list_files_elsewhere_and_links(tmp_path, load, monkeypatch):
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for place in (folder, elsewhere / "train"):
        place.mkdir(parents=True)
    (folder / "train").symlink_to(elsewhere / "train")
    monkeypatch.chdir(folder)
    for path, name in ((f"{elsewhere}/train/*.parquet", str(folder)), ("train/*.parquet", ".")):
        config = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path}\n"
        (folder / "README.md").write_text(f"---\n{config}---\n", encoding="utf-8")
        for caption in ("red", "green", "blue"):
            datasets.Dataset.from_dict({"caption": [caption]}).to_parquet(elsewhere / "train" / "0.parquet")
            assert load(name)["caption"] == [caption], path


def test_rows_of_a_single_split_are_held_out(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(
        ValueError, match=r"split 'validation' of .*'train\[:95%\]' with eval_split 'train\[95%:\]' holds"
    ):
        DataArguments(str(photos), eval_split="validation").load()
    rows, held_out = DataArguments(str(photos), train_split="train[:80%]", eval_split="train[80%:]").load()
    assert (len(rows), len(held_out)) == (4, 1)
    spread = spread_rows(RowDataset(load_rows(photos), ImageReader([]), broken_images="skip"), 3)
    assert [row["caption"] for row in spread] == [rows[index]["caption"] for index in (0, 1, 3)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_skip_broken_images(photos, load, caplog, num_workers):
    rows = RowDataset(load(photos), ImageReader(), broken_images="skip")
    loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            captions = [row["caption"] for row in loader]
            assert captions == ["number 0", "number 1", "number 3", "number 3", "number 4"]
    assert rows[BROKEN]["image"].getpixel((0, 0)) == (150, 0, 0)
    if num_workers == 0:
        assert caplog.text.count(f"{BROKEN}.png") == 1
    stream = RowStream(load(photos, streaming=True), ImageReader(), broken_images="skip")
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=num_workers)
    assert [row["caption"] for row in loader] == ["number 0", "number 1", "number 3", "number 4"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_rows_stop_at_a_broken_image(photos, load, num_workers):
    loader = torch.utils.data.DataLoader(
        RowDataset(load(photos), ImageReader()), batch_size=None, num_workers=num_workers
    )
    rows = iter(loader)
    next(rows), next(rows)
    with pytest.raises(ValueError, match=rf"row {BROKEN}, column 'image' \(.*{BROKEN}\.png\) cannot be read"):
        next(rows)
    with pytest.raises(ValueError, match=rf"{BROKEN}\.png"):
        list(RowStream(load(photos, streaming=True), ImageReader()))


def test_shards_whose_columns_come_in_another_order(photos, load, tmp_path):
    """As archives have them that were packed by other programs: the image first, or the caption."""
    kinds = {"png": lambda index: (photos / "0.png").read_bytes(), "txt": lambda index: f"number {index}".encode()}
    for shard, order in enumerate(("png txt", "txt png")):
        (tmp_path / "shards").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "shards" / f"train-{shard}.tar", "w") as archive:
            for index in (2 * shard, 2 * shard + 1):
                for kind in order.split():
                    data = kinds[kind](index)
                    member = tarfile.TarInfo(f"{index}.{kind}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    rows = RowStream(load("webdataset", data_dir=tmp_path / "shards", streaming=True), ImageReader(["png"]))
    assert [(row["txt"], row["png"].size) for row in rows] == [(f"number {index}", (12, 8)) for index in range(4)]


def test_rows_refuse_mistakes(photos, load):
    for dataset, kind in ((load(photos), RowDataset), (load(photos, streaming=True), RowStream)):
        with pytest.raises(
            ValueError, match=r"no column 'photo'; the dataset has image, caption\. Set image_column\."
        ):
            kind(dataset, ImageReader(["photo"]))
        with pytest.raises(ValueError, match="raise, skip, got 'ignore'"):
            kind(dataset, ImageReader(), broken_images="ignore")
    with pytest.raises(ValueError, match="list of names, got the string 'image'"):
        ImageReader("image")
    nothing = RowDataset(load(photos).select([BROKEN]), ImageReader(), broken_images="skip")
    with pytest.raises(ValueError, match="None of the 1 rows"):
        nothing[0]


@pytest.mark.parametrize("name", ["data [v2]", "what?", "all*"])
def test_paths_with_patterns_are_refused(tmp_path, name):
    """`datasets` would find no files, or others."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "rows.csv").write_text("caption\na star\n")
    for given in ((folder,), (folder / "rows.csv",), ("csv", {"data_dir": folder})):
        arguments = given[1] if isinstance(given[-1], dict) else {}
        with pytest.raises(ValueError, match="reads the characters .* in paths as patterns: rename"):
            load_rows(given[0], **arguments)
    (tmp_path / "rows[1].csv").write_text("caption\na star\n")
    with pytest.raises(ValueError, match="rename"):
        load_rows(tmp_path / "rows[1].csv")
