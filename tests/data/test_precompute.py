# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Precomputed codes are those of the visual tokenizer, and are known wherever they are read."""

import json
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lavit_hf import LavitVisualTokenizer
from lavit_hf.data import code_files
from lavit_hf.data.loading import load_rows
from lavit_hf.data.rows import ImageReader, RowDataset, RowStream, check_codebook
from lavit_hf.training import SequenceArguments, SequenceReader

from .conftest import COLUMNS, NUM_ROWS, file_times, shard_names


def test_rows_come_back_with_their_codes(compute, shapes, expected, read, tmp_path):
    summary = compute(shapes, tmp_path / "out", num_workers=1)
    assert shard_names(tmp_path / "out") == ["000000.parquet", "000001.parquet", "000002.parquet"]
    assert read(tmp_path / "out") == expected
    assert read(tmp_path / "out", streaming=True) == expected
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.features["image"] == rows.features["edited_image"] == datasets.Image()
    assert rows.features["image_codes"] == datasets.List(datasets.Value("int32"))
    assert rows[3]["image"].size == (64, 64)
    codes = [row[f"{column}_codes"] for row in expected for column in COLUMNS]
    assert len({len(row) for row in codes}) > 2
    assert (summary.rows, summary.images, summary.skipped_rows) == (NUM_ROWS, 2 * NUM_ROWS, 0)
    assert summary.codes == sum(map(len, codes))
    assert summary.mean_codes == summary.codes / summary.images
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| {NUM_ROWS} | 0 | {2 * NUM_ROWS} | {summary.codes} |" in card
    before = file_times(tmp_path / "out")
    assert compute(shapes, tmp_path / "out") == summary
    assert file_times(tmp_path / "out") == before


# Names of a dataset whose rows all lie in {out}/train, and of its split.
NAMES = {
    "folder": ({"dataset_name": "{out}"}, "train"),
    "slice": ({"dataset_name": "{out}"}, "train[:10%]"),
    "sum": ({"dataset_name": "{out}"}, "test+train[5:]"),
    "home": ({"dataset_name": "~/codes"}, "train"),
    "folders of several runs": ({"dataset_name": "{out}/.."}, "train"),
    "deeper folders": ({"dataset_name": "{out}/../.."}, "train"),
    "folder of a split": ({"dataset_name": "{out}/train"}, "train"),
    "shard": ({"dataset_name": "{out}/train/000001.parquet"}, "train"),
    "data_dir": ({"dataset_name": "{out}", "data_dir": "train"}, "train"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_split_that_is_not_complete_is_refused_whatever_it_is_called(compute, shapes, tmp_path, monkeypatch, name):
    out = tmp_path / "data" / "home" / "codes"
    monkeypatch.setenv("HOME", str(out.parent))
    compute(shapes, out)
    if name == "sum":
        compute("shapes", out, split="test")
    arguments, split = NAMES[name]
    arguments = {key: value.format(out=out) for key, value in arguments.items()}
    loading = {"cache_dir": str(tmp_path / "cache"), **arguments}
    assert "image_codes" in load_rows(split=split, **loading).column_names
    (out / "train" / "codes.json").write_text(json.dumps({"settings": {}}))
    for streaming in (False, True):
        with pytest.raises(ValueError, match="train is not complete"):
            load_rows(split=split, streaming=streaming, **loading)


def save_with_datasets(out: Path, place: Path):
    datasets.load_dataset(str(out), split="train").save_to_disk(place)
    return load_rows(place)


def link_shards(out: Path, place: Path):
    place.mkdir()
    for path in (out / "train").glob("*.parquet"):
        (place / path.name).symlink_to(path)
    return load_rows(place)


COPIES = {
    "folder": lambda out, place: load_rows(out),
    "stream": lambda out, place: load_rows(out, streaming=True),
    "shard": lambda out, place: load_rows(out / "train" / "000001.parquet"),
    "some rows": lambda out, place: load_rows(out).filter(lambda row: row["captions"] != []).select([7, 2]),
    "saved by datasets": save_with_datasets,
    "links": link_shards,
    "other columns": lambda out, place: load_rows(out).rename_column("caption", "text"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_codes_are_known_wherever_they_were_copied(compute, shapes, model, tmp_path, monkeypatch, copy):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    compute(shapes, tmp_path / "out")
    rows = COPIES[copy](tmp_path / "out", tmp_path / "copy")
    reader = SequenceReader(SequenceArguments(["draw=1"], prompt_column="prompts"))
    rows = (RowStream if isinstance(rows, datasets.IterableDataset) else RowDataset)(rows, reader)
    codebook = LavitVisualTokenizer.from_pretrained(model, dtype="bfloat16").quantizer.codebook
    check_codebook(codebook, None, rows)
    assert len(list(rows)) > 0
    holders = [rows, {"draw": rows}]
    if isinstance(rows, RowDataset):
        holders += [torch.utils.data.Subset(rows, [0]), torch.utils.data.ConcatDataset([[1], rows])]

    def read_with_another(given):
        check_codebook(codebook + 0.1, given)
        next(iter(rows))  # rows of a stream are checked when they are read

    for given in holders:
        with pytest.raises(ValueError, match="were computed by another visual tokenizer than this model's"):
            read_with_another(given)


def test_codes_count_where_they_are_read(compute, shapes, model, tmp_path):
    """Rows without codes may stand beside others, and codes that are not read may be of any visual tokenizer."""
    compute(shapes, tmp_path / "codes")
    coded = load_rows(tmp_path / "codes", cache_dir=str(tmp_path / "cache"))
    codebook = LavitVisualTokenizer.from_pretrained(model).quantizer.codebook
    draw, text = SequenceArguments(["draw=1"], prompt_column="prompts"), SequenceArguments(["text=1"])
    alone = shapes.select_columns(coded.column_names[: len(shapes.column_names)])
    for parts in ([coded, alone], [alone, coded]):
        rows = RowDataset(datasets.concatenate_datasets(parts), SequenceReader(draw))
        check_codebook(codebook, rows)
        assert len(list(rows)) == 2 * NUM_ROWS
        with pytest.raises(ValueError, match="another visual tokenizer"):
            check_codebook(codebook + 0.1, rows)
    stripped = coded.remove_columns(["image_codes", "edited_image_codes"])
    text.text_column = "captions"
    for rows in (RowDataset(coded, SequenceReader(text)), RowDataset(stripped, SequenceReader(draw))):
        check_codebook(codebook + 0.1, rows)
    check_codebook(codebook, RowDataset(coded.with_transform(lambda row: row), ImageReader()))


def test_codes_of_another_column_are_added(compute, shapes, expected, read, tmp_path):
    compute(shapes, tmp_path / "one", image_columns=["image"])
    rows = load_rows(tmp_path / "one", cache_dir=str(tmp_path / "cache"))
    compute(rows, tmp_path / "both", image_columns=["edited_image"])
    assert read(tmp_path / "both") == expected
    others = rows.remove_columns("codebook_fingerprint").add_column("codebook_fingerprint", ["another"] * NUM_ROWS)
    with pytest.raises(ValueError, match="has codes of another codebook, 'another', not"):
        compute(others, tmp_path / "others", image_columns=["edited_image"])


def test_columns_that_are_called_like_codes(compute, shapes, tmp_path):
    """Only lists of integers are codes. Others do not keep the fingerprint of codes that are computed again."""
    rows = shapes.add_column("zip_codes", ["12345"] * NUM_ROWS).remove_columns("edited_image")
    assert not code_files.has_codes(rows.features)
    compute(rows, tmp_path / "one", image_columns=["image"])
    again = load_rows(tmp_path / "one", cache_dir=str(tmp_path / "cache"))
    assert code_files.has_codes(again.features)
    other = again.remove_columns("codebook_fingerprint").add_column("codebook_fingerprint", ["other"] * NUM_ROWS)
    assert compute(other, tmp_path / "again", image_columns=["image"]).rows == NUM_ROWS


def test_codes_in_segments_count(model):
    """Their column has another name, and the fingerprint of their codebook stands beside it."""
    segments = [{"type": "text", "text": "a"}, {"type": "image", "codes": [1, 2]}]
    rows = datasets.Dataset.from_list([{"segments": segments, "codebook_fingerprint": "other"}] * 3)
    reader = SequenceReader(SequenceArguments(["interleaved=1"], segments_column="segments"))
    codebook = LavitVisualTokenizer.from_pretrained(model).quantizer.codebook
    for given in (RowDataset(rows, reader), RowStream(rows.to_iterable_dataset(), reader)):
        with pytest.raises(ValueError, match="another visual tokenizer"):  # noqa: PT012
            check_codebook(codebook, given)
            next(iter(given))  # rows of a stream are checked when they are read


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": 2}\n', '[{"a": 1}]', '{"a": 1}', "no JSON"])
def test_a_file_of_the_same_name_is_no_manifest(shapes, tmp_path, text):
    shapes.to_parquet(tmp_path / "rows" / "rows.parquet")
    (tmp_path / "rows" / "codes.json").write_text(text)
    assert len(load_rows(tmp_path / "rows" / "rows.parquet", cache_dir=str(tmp_path / "cache"))) == NUM_ROWS
    code_files.check_output(tmp_path / "new")


def test_an_output_beside_a_dataset_is_taken(compute, shapes, tmp_path, monkeypatch):
    compute(shapes, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    code_files.check_output(Path("..", "new"))
    strange = tmp_path / "a::b#c" / "train"
    strange.mkdir(parents=True)
    (strange / "codes.json").write_text((tmp_path / "out" / "train" / "codes.json").read_text())
    assert code_files.read_manifest(strange)


def test_datasets_without_codes_pass(shapes):
    check_codebook(torch.zeros(4, 2), RowDataset(shapes, ImageReader()), None, [{"image_codes": [1]}])


def test_folders_of_several_runs_are_one_dataset(compute, shapes, expected, read, tmp_path):
    parts = {"a": range(4), "b": range(4, NUM_ROWS)}
    for name, rows in parts.items():
        compute(shapes.select(rows), tmp_path / "codes" / name)
    for streaming in (False, True):
        assert read(tmp_path / "codes", streaming=streaming) == expected


@pytest.mark.parametrize("folder", ["b", "train", "b/c"])
def test_a_dataset_within_another_is_refused(compute, shapes, tmp_path, folder):
    """The card of the outer dataset lists its own files alone, so that the inner rows would be left out."""
    compute(shapes, tmp_path / "out")
    with pytest.raises(ValueError, match=f"{folder} lies in the dataset .*out"):
        compute(shapes, tmp_path / "out" / folder)


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 16}, {"num_workers": 2, "batch_size": 3}])
def test_settings_of_speed_change_nothing(compute, shapes, expected, read, tmp_path, settings):
    compute(shapes, tmp_path / "out", **settings)
    assert read(tmp_path / "out") == expected


@pytest.mark.parametrize("rows_per_shard", [4, 20])
def test_a_stream_gives_the_same(compute, expected, read, tmp_path, rows_per_shard):
    settings = {"rows_per_shard": rows_per_shard}
    compute("shapes", tmp_path / "stream", streaming=True, batch_size=3, **settings)
    compute("shapes", tmp_path / "map", **settings)
    assert read(tmp_path / "stream") == read(tmp_path / "map") == expected
    assert shard_names(tmp_path / "stream") == shard_names(tmp_path / "map")
    before = file_times(tmp_path / "stream")
    compute("shapes", tmp_path / "stream", **settings)
    assert file_times(tmp_path / "stream") == before


def test_without_images_and_with_two_splits(compute, expected, read, tmp_path):
    cache = str(tmp_path / "cache")
    for split in ("train", "test"):
        compute("shapes", tmp_path / "out", split=split, keep_images=False)
    rows = read(tmp_path / "out")
    images = (*COLUMNS, "annotation")
    assert rows == [{name: row[name] for name in row if name not in images} for row in expected]
    assert len(read(tmp_path / "out", "test")) == NUM_ROWS
    assert read(tmp_path / "out", "test") != rows
    both = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)
    assert both.num_rows == {"train": NUM_ROWS, "test": NUM_ROWS}


@pytest.mark.parametrize("num_rows", [0, 30, 31])
def test_a_shard_has_its_record_inside(tmp_path, num_rows):
    path, codes = tmp_path / "000000.parquet", [np.zeros(7, dtype=np.int32)]
    with code_files.writing_shard(path) as writer:
        for start in range(0, num_rows, 5):
            rows = pa.table({"x": list(range(start, min(start + 5, num_rows)))})
            writer.write(rows, ["hash"] * (len(rows) + 1), codes, [])
        writer.write(pa.table({"x": pa.array([], pa.int64())}), ["hash"], codes, [])
        assert not path.exists()
    assert pq.read_table(path)["x"].to_pylist() == list(range(num_rows))
    assert pq.read_metadata(path).num_row_groups == -(-num_rows // 5)  # none of them empty
    record = code_files.read_record(path)
    assert (record["rows"], record["codes"]) == (num_rows, 7 * record["images"])


def test_a_shard_with_an_error_leaves_no_file(tmp_path):
    def fail():
        with code_files.writing_shard(tmp_path / "000000.parquet") as writer:
            writer.write(pa.table({"x": [1]}), ["hash"], [], [])
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert not list(tmp_path.iterdir())


def test_codes_are_computed_again(compute, shapes, expected, read, tmp_path):
    """Codes of another model, which are refused in training, are replaced."""
    coded = shapes.add_column("image_codes", [[1]] * NUM_ROWS).add_column("codebook_fingerprint", ["other"] * NUM_ROWS)
    compute(coded, tmp_path / "again")
    assert read(tmp_path / "again") == expected
    with pytest.raises(ValueError, match="another column 'image_codes': rename or remove it"):
        compute(coded.remove_columns("codebook_fingerprint"), tmp_path / "others")


def test_command(model, command_line, tmp_path, photos, read):
    run = partial(command_line, "precompute-codes")
    common = ("--model", model, "--device", "cpu", "--num-workers", 0)
    code, out, _ = run(photos, tmp_path / "out", *common, "--broken-images", "skip", "--drop-images")
    assert code == 0
    assert "5 rows, 5 images" in out
    assert "cannot be read: 2, see broken.jsonl" in out
    assert set(read(tmp_path / "out")[0]) == {"caption", "image_codes", "codebook_fingerprint"}
    expected = "must be a folder, or a repository of the Hub as owner/name"
    code, _, error = run(photos, tmp_path / "other", "--model", tmp_path / "nowhere")
    assert code == 1
    assert error.endswith(f"The model {expected}: there is no {tmp_path}/nowhere.\n")
    code, _, error = run(photos, tmp_path / "raise", *common)
    assert code == 1
    assert "row 2, column 'image'" in error
    assert "Traceback" not in error
