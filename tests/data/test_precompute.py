# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Precomputed codes are those of the visual tokenizer, in complete shards, however a run ends."""

import base64
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import AutoImageProcessor

from lavit_hf import LavitProcessor, LavitVisualTokenizer
from lavit_hf.data import code_files, precompute
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.data.rows import ImageReader, RowDataset, RowStream, check_codebook
from lavit_hf.processing import read_image
from lavit_hf.training import SequenceArguments, SequenceReader

from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, text_tokenizer, tiny_lavit


NUM_ROWS = 11
COLUMNS = ("image", "edited_image")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder with a whole LaVIT and its processor."""
    folder = tmp_path_factory.mktemp("model")
    tiny_lavit().save_pretrained(folder)
    LavitProcessor.from_backbones(
        text=text_tokenizer(), codebook_size=CODEBOOK_SIZE, image_size=IMAGE_SIZE
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> datasets.Dataset:
    return load_rows("shapes", num_rows=NUM_ROWS, cache_dir=str(tmp_path_factory.mktemp("cache")))


def load_model(folder) -> tuple:
    return LavitVisualTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)


@pytest.fixture
def compute(model, tmp_path):
    """Precomputes the codes of a dataset, or of the scenes where its name is given."""

    def call(
        dataset, output, split="train", streaming=False, selection="topk", max_codes=None, dtype="auto", **settings
    ):
        if isinstance(dataset, str):
            cache = str(tmp_path / "cache")
            dataset = load_rows(dataset, split, num_rows=NUM_ROWS, streaming=streaming, cache_dir=cache)
        visual_tokenizer, image_processor = load_model(model)
        visual_tokenizer.config.selection, visual_tokenizer.config.max_codes = selection, max_codes
        if dtype != "auto":
            visual_tokenizer.to(getattr(torch, dtype))
        usual = {"image_columns": COLUMNS, "batch_size": 2, "rows_per_shard": 4, "num_workers": 0}
        return precompute_codes(dataset, output, visual_tokenizer, image_processor, split=split, **usual | settings)

    return call


@pytest.fixture
def read(tmp_path):
    def read(output, split="train", **kwargs):
        return list(load_rows(output, split, cache_dir=str(tmp_path / "cache"), **kwargs))

    return read


@pytest.fixture(scope="module")
def expected(model, shapes) -> list[dict]:
    """Each row with the codes of its images, computed one by one."""
    tokenizer = LavitVisualTokenizer.from_pretrained(model).eval()
    image_processor = AutoImageProcessor.from_pretrained(model)

    @torch.no_grad()
    def codes(value) -> list[int]:
        return tokenizer(**image_processor(read_image(value), return_tensors="pt")).codes.tolist()

    fingerprint = {"codebook_fingerprint": code_files.codebook_fingerprint(tokenizer.quantizer.codebook)}
    return [row | {f"{column}_codes": codes(row[column]) for column in COLUMNS} | fingerprint for row in shapes]


def file_times(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in output.glob("train/*.parquet")}


def shard_names(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("train/*.parquet"))


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
    writer = code_files.ShardWriter(tmp_path / "000000.parquet")
    codes = [np.zeros(7, dtype=np.int32)]
    for start in range(0, num_rows, 5):
        rows = pa.table({"x": list(range(start, min(start + 5, num_rows)))})
        writer.write(rows, ["hash"] * (len(rows) + 1), codes, [])
    writer.write(pa.table({"x": pa.array([], pa.int64())}), ["hash"], codes, [])
    assert not writer.path.exists()
    writer.finish()
    assert pq.read_table(writer.path)["x"].to_pylist() == list(range(num_rows))
    assert pq.read_metadata(writer.path).num_row_groups == -(-num_rows // 5)  # none of them empty
    record = code_files.read_record(writer.path)
    assert (record["rows"], record["codes"]) == (num_rows, 7 * record["images"])


def in_fork(call, *args):
    """Starts a call in a forked process, which need not import everything again."""

    def run():
        torch.set_num_threads(1)  # a fork does not have the threads of this process
        AcceleratorState._reset_state(reset_partial_state=True)
        call(*args)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait(process) -> int:
    """Waits for a process and returns its exit code."""
    process.join(120)
    if process.is_alive():
        process.kill()
        pytest.fail("A process did not end.")
    return process.exitcode


def die_before(target, name: str, times: int):
    """Kills this process before its call number `times` of a function."""
    original, calls = getattr(target, name), []

    def call(*args, **kwargs):
        calls.append(None)
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(target, name, call)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_that_was_killed_is_resumed(compute, expected, read, tmp_path, streaming):
    settings, output = {"streaming": streaming}, tmp_path / "out"
    moments = [
        (precompute, "open_split", 1, 0),
        (Path, "replace", 1, 0),
        (code_files.ShardWriter, "write", 2, 0),
        (Path, "replace", 1, 0),
        (code_files.ShardWriter, "write", 3, 1),
        (code_files.ShardWriter, "finish", 1, 1),
        (precompute, "complete_split", 1, 3),
        (code_files, "_write_card", 1, 3),
    ]

    def killed(target, name, times):
        die_before(target, name, times)
        compute("shapes", output, **settings)

    for target, name, times, finished in moments:
        assert wait(in_fork(killed, target, name, times)) == -signal.SIGKILL
        assert len(shard_names(output)) == finished, name
        if finished < 3 and list(output.glob("*/codes.json")):
            with pytest.raises(ValueError, match="not complete: run the same `precompute-codes` again"):
                read(output)
    compute("shapes", output, **settings)
    assert read(output) == expected
    assert len([path for path in output.rglob("*") if path.is_file()]) == 5


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(num_processes: int, call) -> list[int]:
    """Runs the same call in several processes of one process group, as `torchrun` does."""
    port = free_port()

    def run(rank):
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(num_processes),
            LOCAL_WORLD_SIZE=str(num_processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        call()
        PartialState().destroy_process_group()

    processes = [in_fork(run, rank) for rank in range(num_processes)]
    return [wait(process) for process in processes]


@pytest.mark.parametrize("streaming", [False, True])
def test_several_processes_do_as_one(compute, tmp_path, streaming):
    settings = {"streaming": streaming}
    compute("shapes", tmp_path / "one", **settings)

    def call():
        summary = compute("shapes", tmp_path / "several", **settings)
        assert (summary.rows, summary.images) == (NUM_ROWS, 2 * NUM_ROWS)

    assert launch(2, call) == [0, 0]
    (tmp_path / "several" / "train" / "000001.parquet").unlink()
    assert launch(3, call) == [0, 0, 0]
    for path in (tmp_path / "one" / "train").iterdir():
        assert path.read_bytes() == (tmp_path / "several" / "train" / path.name).read_bytes()


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with images of several modes and captions. The third image and the last one are broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, mode in enumerate(("RGB", "L", "RGB", "RGBA", "P", "CMYK", "LA")):
        name = f"{index}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new("RGB", (30 + index, 20), (30 * index, 90, 0)).convert(mode).save(folder / name)
    for name in ("2.png", "6.png"):
        (folder / name).write_bytes(b"no image")
    lines = [f"{path.name},number {path.stem}" for path in sorted(folder.iterdir())]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]))
    return folder


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


def test_codes_are_computed_again(compute, shapes, expected, read, tmp_path):
    """Codes of another model, which are refused in training, are replaced."""
    coded = shapes.add_column("image_codes", [[1]] * NUM_ROWS).add_column("codebook_fingerprint", ["other"] * NUM_ROWS)
    compute(coded, tmp_path / "again")
    assert read(tmp_path / "again") == expected
    with pytest.raises(ValueError, match="another column 'image_codes': rename or remove it"):
        compute(coded.remove_columns("codebook_fingerprint"), tmp_path / "others")


def test_the_splits_of_a_dataset_are_alike(compute, shapes, read, tmp_path):
    output = tmp_path / "out"
    compute(shapes, output)
    compute(shapes.select(range(3)), output, split="few")
    with pytest.raises(ValueError, match=r"out/few was created with different settings: columns was .*, now it is"):
        compute(shapes.remove_columns("caption"), output, split="other")
    with pytest.raises(ValueError, match="keep_images was True, now it is False"):
        compute(shapes, output, split="other", keep_images=False)
    assert len(read(output, "few")) == 3


def test_a_run_without_a_shard_may_begin_anew(compute, shapes, read, tmp_path):
    broken = datasets.Dataset.from_list([{"image": f"{tmp_path}/missing.png"}])
    with pytest.raises(ValueError, match="cannot be read"):
        compute(broken, tmp_path / "out", image_columns=["image"])
    compute(shapes, tmp_path / "out")
    assert len(read(tmp_path / "out")) == NUM_ROWS


def test_other_objects_are_refused(compute, shapes, model, tmp_path):
    for dataset, message in (
        (datasets.DatasetDict(train=shapes), r"must be one split, got train"),
        ([{"image": "a.png"}], "must be a Dataset or an IterableDataset, got list"),
    ):
        with pytest.raises(ValueError, match=message):
            compute(dataset, tmp_path / "out")
    with pytest.raises(ValueError, match="must be a LavitVisualTokenizer, got LavitImageProcessor"):
        precompute_codes(shapes, tmp_path / "out", *reversed(load_model(model)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_at_once(model, tmp_path, number):
    """The workers are full of images when it comes. Complete shards stay."""
    words = [sys.executable, "-m", "lavit_hf.cli", "precompute-codes", "shapes", str(tmp_path / "out")]
    words += ["--model", str(model), "--batch-size", "1", "--rows-per-shard", "4", "--num-rows", "600"]
    # A shell that runs the tests in the background may have left Ctrl-C ignored.
    run = "import signal as s, os, sys; s.signal(s.SIGINT, s.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    started = [sys.executable, "-c", run, *words]
    process = subprocess.Popen(started, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while not shard_names(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.1)
    started = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # a terminal sends Ctrl-C to all
    assert process.wait(timeout=60) == 128 + number
    while True:  # the group ends with its last process
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() - started < 60
        time.sleep(0.1)


def test_a_longer_stream_is_not_taken_for_complete(compute, shapes, tmp_path):
    stream = shapes.to_iterable_dataset()
    compute(stream.take(6), tmp_path / "out")
    with pytest.raises(ValueError, match=r"000001\.parquet was computed from other rows"):
        compute(stream.take(7), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_columns": ["photo"]}, "no column 'photo'; the dataset has index, image"),
        ({"image_columns": ["questions"]}, "'questions' must hold one image"),
        ({"selection": "sample"}, "topk or argmax, got 'sample'"),
        ({"broken_images": "ignore"}, "raise, skip, got 'ignore'"),
        ({"batch_size": 0}, "got 0 and 4"),
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
