# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What commands write: nothing is overwritten unasked or half-written, and a full disk loses nothing."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from lavit_hf import demo_checkpoint
from lavit_hf.data.shapes import load_shapes, render_scene, sample_scene


SIZES = {"export": 100_000}  # config.json fits, and the weights do not


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with an image and a dataset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path.with_name("cache"))
    render_scene(sample_scene(6, "test")).save("image.png")
    load_shapes("test", num_rows=2).select_columns(["image", "caption"]).save_to_disk("rows")
    return tmp_path


@contextmanager
def full_disk(room: int):
    """Within it, the system writes no file beyond `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MODEL = ("--model", demo_checkpoint())
COMMANDS = {
    "draw": ("a red star", "--output", "out.png", "--steps", "1"),
    "edit": ("image.png", "paint the star blue", "--output", "out.png", "--steps", "1"),
    "reconstruct": ("image.png", "--output", "out.png", "--steps", "1"),
    "encode": ("image.png", "--overlay", "out"),
    "show": ("image.png", "--output", "out", "--steps", "1"),
    "demo": ("--output", "out"),
    "evaluate": ("--dataset", "rows", "--tasks", "captions", "--output", "out.json"),
    "export": ("out", *MODEL),
    "precompute-codes": ("rows", "out", "--split", "test", "--num-workers", "0", *MODEL),
}
SAID = {  # before anything is written
    "encode": '"num_codes"',
    "demo": "caption",
    "evaluate": "captions",
    "draw": "tokens",
    "edit": "tokens",
    "reconstruct": "tokens",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(command, here, command_line):
    with full_disk(SIZES.get(command, 500)):
        code, output, error = command_line(command, *COMMANDS[command])
    before = contents(here)
    assert code == 1, output + error
    assert error.splitlines()[-1].startswith("lavit-hf: "), error
    assert "Traceback" not in error
    assert SAID.get(command, "") in output
    if command not in ("export", "precompute-codes"):
        assert "out" in error.splitlines()[-1]
        assert "File too large" in error
    made = {name for name in before if name.startswith("out") and not Path(name).name.startswith(".")}
    assert made <= {"out/test/codes.json"}  # with which the same command goes on
    code, _, error = command_line(command, *COMMANDS[command])
    assert code == 0, error
    assert not [name for name in contents(here) if Path(name).name.startswith(".")]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "precompute-codes"])
def test_nothing_is_overwritten_unasked(command, here, command_line):
    assert command_line(command, *COMMANDS[command])[0] == 0
    before = contents(here)
    code, _, error = command_line(command, *COMMANDS[command])
    assert code in (1, 2)
    assert "must be new or empty" in error or "give --overwrite" in error
    assert contents(here) == before
    if command == "export":
        return
    with full_disk(500):
        assert command_line(command, *COMMANDS[command], "--overwrite")[0] == 1
    assert contents(here) == before
    for name in before:
        if name.startswith("out"):
            Path(name).write_bytes(b"old")
    assert command_line(command, *COMMANDS[command], "--overwrite")[0] == 0
    assert all(content != b"old" for content in contents(here).values())


def test_a_sheet_of_samples_on_a_full_disk(here, command_line):
    arguments = ("--dataset", "rows", "--tasks", "captions", "--output", "out.json", "--samples-dir", "sheets")
    with full_disk(10_000):
        code, output, error = command_line("evaluate", *arguments)
    assert code == 1
    assert "captions.png cannot be written: File too large" in error
    assert json.loads(Path("out.json").read_text())["protocol"]["dataset"] == "rows"
    assert not list(Path("sheets").iterdir())


@pytest.mark.parametrize("command", ["caption", "encode"])
def test_one_bad_image_of_several(command, here, command_line):
    Path("bad.png").write_text("no image")
    images = ("missing.png", "image.png", "bad.png")
    code, output, error = command_line(command, *images)
    assert code == 1
    assert output.count("image.png") == 1
    assert "bad.png" not in output
    assert [name in line for name, line in zip(("missing.png", "bad.png"), error.splitlines()[-2:], strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("seconds", [0.2, 6])
def test_an_interrupt(seconds, here):
    """While a model is loaded, and later."""
    command = [sys.executable, "-m", "lavit_hf.cli", "draw", "a red star", "--output", "out.png", "--steps", "900"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stderr
    assert any("small model" in line for line in running.stderr)
    time.sleep(seconds)
    os.kill(running.pid, signal.SIGINT)
    _, error = running.communicate(timeout=120)
    assert running.returncode == 130
    assert error.splitlines()[-1].endswith("lavit-hf: interrupted")
    assert "Traceback" not in error
    assert set(contents(here)) == {"image.png"} | {name for name in contents(here) if name.startswith("rows")}


def test_formats_that_take_an_image(here, command_line):
    code, _, error = command_line("reconstruct", "image.png", "--output", "out.JPG", "--steps", 1)
    assert code == 0, error
    assert Image.open("out.JPG").format == "JPEG"
