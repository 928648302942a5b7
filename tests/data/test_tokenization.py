# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets with codes: as the tokenizer alone gives them, in whole shards, whatever ends a run."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import AutoImageProcessor

from lavit_hf import LavitProcessor, LavitVisualTokenizer
from lavit_hf.data import tokenization, tokenized_dataset
from lavit_hf.data.loading import BrokenPictureError, load_rows, read_picture
from lavit_hf.data.tokenization import tokenize_dataset

from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, text_tokenizer, tiny_lavit


NUM_ROWS = 11
COLUMNS = ("image", "edited_image")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder as a user has it: a whole LaVIT and its processor."""
    folder = tmp_path_factory.mktemp("model")
    tiny_lavit().save_pretrained(folder)
    LavitProcessor.from_backbones(
        text=text_tokenizer(), codebook_size=CODEBOOK_SIZE, image_size=IMAGE_SIZE
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> datasets.Dataset:
    return load_rows("shapes", num_rows=NUM_ROWS, cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tokenize(model):
    def tokenize(dataset, output, **settings):
        usual = {"image_columns": COLUMNS, "batch_size": 2, "rows_per_shard": 4, "num_workers": 0, "device": "cpu"}
        return tokenize_dataset(dataset, output, model, **usual | settings)

    return tokenize


@pytest.fixture
def read(tmp_path):
    def read(output, split="train", **kwargs):
        return list(load_rows(output, split, cache_dir=str(tmp_path / "cache"), **kwargs))

    return read


@pytest.fixture(scope="module")
def expected(model, shapes) -> list[dict]:
    """Each row with the codes that the tokenizer gives its pictures one by one."""
    tokenizer = LavitVisualTokenizer.from_pretrained(model).eval()
    image_processor = AutoImageProcessor.from_pretrained(model)

    @torch.no_grad()
    def codes(value) -> list[int]:
        return tokenizer(**image_processor(read_picture(value), return_tensors="pt")).codes.tolist()

    return [row | {f"{column}_codes": codes(row[column]) for column in COLUMNS} for row in shapes]


def shard_names(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("train/*.parquet"))


def test_rows_come_back_with_their_codes(tokenize, shapes, expected, read, tmp_path):
    summary = tokenize(shapes, tmp_path / "out", num_workers=1)
    assert shard_names(tmp_path / "out") == ["000000.parquet", "000001.parquet", "000002.parquet"]
    assert read(tmp_path / "out") == expected
    assert read(tmp_path / "out", streaming=True) == expected
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.features["image"] == rows.features["edited_image"] == datasets.Image()
    assert rows.features["image_codes"] == datasets.List(datasets.Value("int32"))
    assert rows[3]["image"].size == (64, 64)
    codes = [row[f"{column}_codes"] for row in expected for column in COLUMNS]
    assert len({len(row) for row in codes}) > 2
    assert (summary.rows, summary.pictures, summary.skipped_rows) == (NUM_ROWS, 2 * NUM_ROWS, 0)
    assert summary.codes == summary.new_codes == sum(map(len, codes))
    assert summary.mean_codes == summary.codes / summary.pictures
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| {NUM_ROWS} | 0 | {2 * NUM_ROWS} | {summary.codes} |" in card
    again = tokenize(shapes, tmp_path / "out")
    assert (again.rows, again.codes, again.new_pictures) == (NUM_ROWS, summary.codes, 0)


def test_codes_of_another_tokenizer_are_refused(tokenize, shapes, model, tmp_path):
    tokenize(shapes, tmp_path / "out")
    codebook = LavitVisualTokenizer.from_pretrained(model, dtype="bfloat16").quantizer.codebook
    tokenized_dataset.check_codebook(tmp_path / "out", "train[:10%]", codebook)
    with pytest.raises(ValueError, match="out were made by another visual tokenizer"):
        tokenized_dataset.check_codebook(tmp_path / "out", "train", codebook + 0.1)
    for other in ("shapes", "owner/name", tmp_path):  # which were not tokenized here
        tokenized_dataset.check_codebook(other, "train", codebook)


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 16}, {"num_workers": 2, "batch_size": 3}])
def test_how_it_is_computed_does_not_show(tokenize, shapes, expected, read, tmp_path, settings):
    tokenize(shapes, tmp_path / "out", **settings)
    assert read(tmp_path / "out") == expected


@pytest.mark.parametrize("rows_per_shard", [4, 20])
def test_a_stream_gives_the_same(tokenize, expected, read, tmp_path, rows_per_shard):
    cache = str(tmp_path / "cache")
    settings = {"rows_per_shard": rows_per_shard, "num_rows": NUM_ROWS, "cache_dir": cache}
    tokenize("shapes", tmp_path / "stream", streaming=True, batch_size=3, **settings)
    tokenize("shapes", tmp_path / "map", **settings)
    assert read(tmp_path / "stream") == read(tmp_path / "map") == expected
    assert shard_names(tmp_path / "stream") == shard_names(tmp_path / "map")
    assert tokenize("shapes", tmp_path / "stream", **settings).new_pictures == 0


def test_without_pictures_and_with_two_splits(tokenize, expected, read, tmp_path):
    cache = str(tmp_path / "cache")
    for split in ("train", "test"):
        tokenize("shapes", tmp_path / "out", split=split, num_rows=NUM_ROWS, keep_images=False, cache_dir=cache)
    rows = read(tmp_path / "out")
    pictures = (*COLUMNS, "annotation")
    assert rows == [{name: row[name] for name in row if name not in pictures} for row in expected]
    assert len(read(tmp_path / "out", "test")) == NUM_ROWS
    assert read(tmp_path / "out", "test") != rows
    both = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)
    assert both.num_rows == {"train": NUM_ROWS, "test": NUM_ROWS}


@pytest.mark.parametrize("num_rows", [0, 30, 31])
def test_shards_are_written_in_groups(monkeypatch, tmp_path, num_rows):
    monkeypatch.setattr(tokenized_dataset, "ROWS_PER_GROUP", 10)
    writer = tokenized_dataset.ShardWriter(tmp_path / "000000.parquet")
    counts = {"pictures": 1, "codes": 7, "broken": []}
    for start in range(0, num_rows, 5):
        rows = pa.table({"x": list(range(start, min(start + 5, num_rows)))})
        writer.write(rows, input_rows=len(rows) + 1, **counts)
    writer.write(pa.table({"x": pa.array([], pa.int64())}), input_rows=1, **counts)
    assert not writer.path.exists()
    record = writer.finish()
    assert pq.read_table(writer.path)["x"].to_pylist() == list(range(num_rows))
    assert pq.read_metadata(writer.path).num_row_groups == -(-num_rows // 10)
    assert record == tokenized_dataset.ShardRecord.read(writer.path)
    assert (record.rows, record.codes) == (num_rows, 7 * record.pictures)


def in_fork(call, *args):
    """Starts a call in a process of its own, without a second import of everything."""

    def run():
        torch.set_num_threads(1)  # the threads of this process do not exist in its fork
        AcceleratorState._reset_state(reset_partial_state=True)
        call(*args)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait(process) -> int:
    """Its exit code."""
    process.join(120)
    if process.is_alive():
        process.kill()
        pytest.fail("A process did not end.")
    return process.exitcode


def die_before(target, name: str, times: int):
    """Lets SIGKILL end this process as it is about to do something for the so manieth time."""
    original, calls = getattr(target, name), []

    def call(*args, **kwargs):
        calls.append(None)
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(target, name, call)


@pytest.mark.parametrize("streaming", [False, True])
def test_killed_at_any_moment_it_goes_on(tokenize, expected, read, tmp_path, streaming):
    settings = {"num_rows": NUM_ROWS, "streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    output = tmp_path / "out"
    moments = [
        (tokenization, "open_split", 1, 0),
        (Path, "replace", 1, 0),
        (tokenized_dataset.ShardWriter, "_flush", 1, 0),
        (Path, "replace", 1, 0),
        (tokenized_dataset.ShardWriter, "write", 3, 1),
        (tokenized_dataset.ShardWriter, "finish", 1, 1),
        (tokenization, "count_split", 1, 3),
        (tokenized_dataset, "_write_card", 1, 3),
    ]

    def killed(target, name, times):
        die_before(target, name, times)
        tokenize("shapes", output, **settings)

    for target, name, times, finished in moments:
        assert wait(in_fork(killed, target, name, times)) == -signal.SIGKILL
        assert len(shard_names(output)) == finished, name
        if finished < 3 and list(output.glob("*/tokenization.json")):
            with pytest.raises(ValueError, match="not complete: run the same `tokenize` again"):
                read(output)
    tokenize("shapes", output, **settings)
    assert read(output) == expected
    assert len([path for path in output.rglob("*") if path.is_file()]) == 5


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(num_processes: int, call) -> list[int]:
    """What `torchrun` does: the same call in several processes that know of each other."""
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
def test_several_processes_do_as_one(tokenize, tmp_path, streaming):
    settings = {"num_rows": NUM_ROWS, "streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    if not torch.accelerator.is_available():
        settings["device"] = None  # unsaid, it is the CPU
    tokenize("shapes", tmp_path / "one", **settings)

    def call():
        summary = tokenize("shapes", tmp_path / "several", **settings)
        assert (summary.rows, summary.new_pictures) == (NUM_ROWS, 2 * num_missing)

    num_missing = NUM_ROWS
    assert launch(2, call) == [0, 0]
    (tmp_path / "several" / "train" / "000001.parquet").unlink()
    num_missing = 4
    assert launch(3, call) == [0, 0, 0]
    for path in (tmp_path / "one" / "train").iterdir():
        assert path.read_bytes() == (tmp_path / "several" / "train" / path.name).read_bytes()


@pytest.fixture
def photos(tmp_path) -> Path:
    """Pictures of several modes, of which the third and the last one are broken, and their captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, mode in enumerate(("RGB", "L", "RGB", "RGBA", "P", "CMYK", "LA")):
        name = f"{index}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new("RGB", (30 + index, 20), (30 * index, 90, 0)).convert(mode).save(folder / name)
    for name in ("2.png", "6.png"):
        (folder / name).write_bytes(b"no picture")
    lines = [f"{path.name},number {path.stem}" for path in sorted(folder.iterdir())]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]))
    return folder


@pytest.mark.parametrize("rows_per_shard", [1, 2, 100])
def test_broken_pictures_are_left_out_and_recorded(tokenize, photos, read, tmp_path, rows_per_shard):
    settings = {"image_columns": ["image"], "data_dir": photos, "rows_per_shard": rows_per_shard}
    settings["cache_dir"] = str(tmp_path / "cache")
    with pytest.raises(BrokenPictureError, match=r"^row 2, column 'image' \(.*2\.png\) cannot be read.*10 bytes"):
        tokenize("imagefolder", tmp_path / "out", **settings)
    # What was finished before stays, and the other way of dealing with broken pictures goes on from there.
    before = {name: os.stat(tmp_path / "out" / "train" / name).st_mtime_ns for name in shard_names(tmp_path / "out")}
    summary = tokenize("imagefolder", tmp_path / "out", broken_pictures="skip", **settings)
    assert all(os.stat(tmp_path / "out" / "train" / name).st_mtime_ns == time for name, time in before.items())
    rows = read(tmp_path / "out")
    assert [row["caption"] for row in rows] == [f"number {index}" for index in (0, 1, 3, 4, 5)]
    assert [row["image"]["path"] for row in rows] == ["0.png", "1.png", "3.png", "4.png", "5.jpg"]
    assert rows[1]["image"]["bytes"] == (photos / "1.png").read_bytes()
    assert (summary.rows, summary.skipped_rows, summary.pictures) == (5, 2, 5)
    broken = [json.loads(line) for line in (tmp_path / "out" / "train" / "broken.jsonl").read_text().splitlines()]
    assert [(entry["row"], Path(entry["file"]).name) for entry in broken] == [(2, "2.png"), (6, "6.png")]
    assert "no known image format" in broken[0]["error"]


def test_paths_in_text_columns_become_pictures(tokenize, photos, read, tmp_path):
    rows = [{"picture": str(photos / name)} for name in ("0.png", "1.png")]
    tokenize(datasets.Dataset.from_list(rows), tmp_path / "out", image_columns=["picture"])
    assert read(tmp_path / "out")[1]["picture"] == {"bytes": (photos / "1.png").read_bytes(), "path": "1.png"}


def test_other_settings_are_refused_by_name(tokenize, shapes, model, tmp_path):
    output = tmp_path / "out"
    tokenize(shapes, output)
    files = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    other_model = tmp_path / "model"
    shutil.copytree(model, other_model)
    tiny_lavit(seed=1).save_pretrained(other_model)
    for changed, message in [
        ({"rows_per_shard": 5}, "rows_per_shard was 4, now it is 5"),
        ({"keep_images": False}, "keep_images was True, now it is False"),
        ({"image_columns": ["image"]}, "image_columns was"),
        ({"selection": "argmax"}, "selection was 'topk', now it is 'argmax'"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', now it is 'bfloat16'"),
        ({"dataset": shapes.select(range(5))}, "input_rows was 11, now it is 5"),
        ({"dataset": shapes.select([0, 2, 1, *range(3, NUM_ROWS)])}, "dataset was .*'sampled_rows'"),
    ]:
        with pytest.raises(ValueError, match=message):
            tokenize(**({"dataset": shapes, "output": output} | changed))
    with pytest.raises(ValueError, match="model was 'sha256:"):
        tokenize_dataset(shapes, output, other_model, image_columns=COLUMNS, rows_per_shard=4, num_workers=0)
    # Where the model lies is no difference, nor how fast it goes.
    shutil.copytree(model, other_model, dirs_exist_ok=True)
    tokenize_dataset(shapes, output, other_model, image_columns=COLUMNS, rows_per_shard=4, batch_size=7, num_workers=1)
    assert files == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_columns": ["picture"]}, "no column 'picture'; the dataset has index, image"),
        ({"image_columns": ["questions"]}, "'questions' must hold one picture"),
        ({"selection": "sample"}, "topk or argmax, got 'sample'"),
        ({"broken_pictures": "ignore"}, "raise, skip, got 'ignore'"),
        ({"batch_size": 0}, "got 0 and 4"),
        ({"num_rows": 3}, "num_rows goes with the name of a dataset"),
    ],
)
def test_mistakes_leave_nothing_behind(tokenize, shapes, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        tokenize(shapes, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_other_folders_and_columns_are_left_alone(tokenize, shapes, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="something else than a tokenized dataset"):
        tokenize(shapes, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(ValueError, match="column 'image_codes' already"):
        tokenize(shapes.add_column("image_codes", [[0]] * NUM_ROWS), tmp_path / "out")


def test_command(model, command_line, tmp_path, photos, read):
    run = partial(command_line, "tokenize")
    common = ("--model", model, "--device", "cpu", "--num-workers", 0)
    code, out, _ = run(photos, tmp_path / "out", *common, "--broken-pictures", "skip", "--drop-images")
    assert code == 0
    assert "5 rows, 5 pictures" in out
    assert "broken pictures: 2, listed in broken.jsonl" in out
    assert "pictures and" in out
    assert set(read(tmp_path / "out")[0]) == {"caption", "image_codes"}
    expected = "must be a folder, or a repository of the Hub as owner/name"
    code, _, error = run(photos, tmp_path / "other", "--model", tmp_path / "nowhere")
    assert code == 1
    assert error.endswith(f"The model {expected}: there is no {tmp_path}/nowhere.\n")
    code, _, error = run(photos, tmp_path / "raise", *common)
    assert code == 1
    assert "row 2, column 'image'" in error
    assert "Traceback" not in error
