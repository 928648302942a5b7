# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The images that can be precomputed, and the inputs and settings that are refused."""

import base64
import json
import os
import shutil
from pathlib import Path
from urllib.parse import quote

import datasets
import pytest

from lavit_hf.data import precompute
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes

from ..tiny import tiny_lavit
from .conftest import COLUMNS, NUM_ROWS, file_times, load_model, shard_names


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_whose_rows_differ(compute, photos, read, tmp_path, batch_size):
    """Rows have their columns in another order, as those of archives, or lack a value."""
    content = (photos / "0.png").read_bytes()

    def make_rows():
        for index in range(5):
            row = {"image": {"bytes": content, "path": None}, "caption": None if index == 2 else f"number {index}"}
            yield dict(reversed(row.items())) if index % 2 else row

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = datasets.IterableDataset.from_generator(make_rows, features=features)
    compute(rows, tmp_path / "codes", image_columns=["image"], batch_size=batch_size)
    captions = [row["caption"] for row in read(tmp_path / "codes")]
    assert captions == ["number 0", "number 1", None, "number 3", "number 4"]


@pytest.mark.parametrize("rows_per_shard", [1, 2, 100])
def test_broken_images_are_left_out_and_recorded(compute, photos, read, tmp_path, rows_per_shard):
    rows = load_rows("imagefolder", data_dir=photos, cache_dir=str(tmp_path / "cache"))
    settings = {"image_columns": ["image"], "rows_per_shard": rows_per_shard}
    with pytest.raises(ValueError, match=r"^row 2, column 'image' \(.*2\.png\) cannot be read.*8 bytes"):
        compute(rows, tmp_path / "out", **settings)
    # Finished shards stay, also when broken images are then skipped.
    before = file_times(tmp_path / "out")
    summary = compute(rows, tmp_path / "out", broken_images="skip", **settings)
    assert before.items() <= file_times(tmp_path / "out").items()
    rows = read(tmp_path / "out")
    assert [row["caption"] for row in rows] == [f"number {index}" for index in (0, 1, 3, 4, 5)]
    assert [row["image"]["path"] for row in rows] == ["0.png", "1.png", "3.png", "4.png", "5.jpg"]
    assert rows[1]["image"]["bytes"] == (photos / "1.png").read_bytes()
    assert (summary.rows, summary.skipped_rows, summary.images) == (5, 2, 5)
    broken = [json.loads(line) for line in (tmp_path / "out" / "train" / "broken.jsonl").read_text().splitlines()]
    assert [(entry["row"], Path(entry["file"]).name) for entry in broken] == [(2, "2.png"), (6, "6.png")]
    assert "no known image format" in broken[0]["error"]


def test_rows_that_are_all_broken_stop_a_run(compute, read, tmp_path, monkeypatch):
    rows = datasets.Dataset.from_list([{"image": f"{tmp_path}/missing-{index}.png"} for index in range(9)])
    settings = {"image_columns": ["image"], "broken_images": "skip"}
    with pytest.raises(ValueError, match="None of the 9 rows has images that can be read: row 0, column 'image'"):
        compute(rows, tmp_path / "few", **settings)
    monkeypatch.setattr(precompute, "MOST_BROKEN_ROWS", 4)
    with pytest.raises(ValueError, match="None of the first 4 rows of a shard has images that can be read: row 2"):
        compute(rows, tmp_path / "many", rows_per_shard=100, **settings)
    assert not shard_names(tmp_path / "many")


def test_paths_in_text_columns_become_images(compute, photos, read, tmp_path):
    rows = [{"photo": str(photos / name)} for name in ("0.png", "1.png")]
    compute(datasets.Dataset.from_list(rows), tmp_path / "out", image_columns=["photo"])
    assert read(tmp_path / "out")[1]["photo"] == {"bytes": (photos / "1.png").read_bytes(), "path": "1.png"}


def test_any_text_or_bytes_that_hold_an_image_are_embedded(compute, photos, read, tmp_path):
    content = (photos / "0.png").read_bytes()
    for index, value in enumerate((content, f"data:,{quote(content)}", base64.b64encode(content).decode())):
        rows = datasets.Dataset.from_list([{"image": value}])
        compute(rows, tmp_path / f"{index}", image_columns=["image"])
        path = value if index == 2 else None  # base64 cannot be told from a path
        assert read(tmp_path / f"{index}")[0]["image"] == {"bytes": content, "path": path and os.path.basename(path)}


def test_other_settings_are_refused_by_name(compute, shapes, model, tmp_path):
    output = tmp_path / "out"
    compute(shapes, output)
    files = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    other_model = tmp_path / "model"
    shutil.copytree(model, other_model)
    tiny_lavit(seed=1).save_pretrained(other_model)
    for changed, message in [
        ({"rows_per_shard": 5}, "rows_per_shard was 4, now it is 5"),
        ({"keep_images": False}, "keep_images was True, now it is False"),
        ({"image_columns": ["image"]}, "image_columns was"),
        ({"selection": "argmax"}, "selection was 'topk', now it is 'argmax'"),
        ({"max_codes": 3}, "selection was 'topk', now it is 'topk, max_codes=3'"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', now it is 'bfloat16'"),
        ({"dataset": shapes.select(range(5))}, "input_rows was 11, now it is 5"),
        ({"dataset": shapes.select(range(NUM_ROWS)[::-1])}, "first_row was 'sha256:"),
        ({"dataset": shapes.select([0, *range(1, NUM_ROWS)[::-1]])}, "different settings: sampled_rows was 'sha256:"),
    ]:
        with pytest.raises(ValueError, match=message):
            compute(**({"dataset": shapes, "output": output} | changed))
    with pytest.raises(ValueError, match="model was 'sha256:"):
        precompute_codes(shapes, output, *load_model(other_model), image_columns=COLUMNS, rows_per_shard=4)
    # The place of the model makes no difference, nor do settings of speed.
    shutil.copytree(model, other_model, dirs_exist_ok=True)
    settings = {"rows_per_shard": 4, "batch_size": 7, "num_workers": 1}
    precompute_codes(shapes, output, *load_model(other_model), image_columns=COLUMNS, **settings)
    assert files == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_the_splits_of_a_dataset_are_alike(compute, shapes, read, tmp_path):
    output = tmp_path / "out"
    compute(shapes, output)
    compute(shapes.select(range(3)), output, split="few")
    with pytest.raises(ValueError, match=r"out/few was created with different settings: columns was .*, now it is"):
        compute(shapes.remove_columns("caption"), output, split="other")
    with pytest.raises(ValueError, match="keep_images was True, now it is False"):
        compute(shapes, output, split="other", keep_images=False)
    assert len(read(output, "few")) == 3


def test_other_objects_are_refused(compute, shapes, model, tmp_path):
    for dataset, message in (
        (datasets.DatasetDict(train=shapes), r"must be one split, got train"),
        ([{"image": "a.png"}], "must be a Dataset or an IterableDataset, got list"),
    ):
        with pytest.raises(ValueError, match=message):
            compute(dataset, tmp_path / "out")
    with pytest.raises(ValueError, match="must be a LavitVisualTokenizer, got LavitImageProcessor"):
        precompute_codes(shapes, tmp_path / "out", *reversed(load_model(model)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_columns": ["photo"]}, "no column 'photo'; the dataset has index, image"),
        ({"image_columns": ["questions"]}, "'questions' must hold one image"),
        ({"selection": "sample"}, "topk or argmax, got 'sample'"),
        ({"broken_images": "ignore"}, "raise, skip, got 'ignore'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"rows_per_shard": 2.5}, "rows_per_shard must be an integer of at least 1, got 2.5"),
    ],
)
def test_mistakes_leave_nothing_behind(compute, shapes, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        compute(shapes, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_other_folders_and_columns_are_left_alone(compute, shapes, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="other files than a dataset with precomputed codes"):
        compute(shapes, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(ValueError, match="another column 'image_codes'"):
        compute(shapes.add_column("image_codes", [[0]] * NUM_ROWS), tmp_path / "out")
