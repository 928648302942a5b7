# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Commands overwrite nothing unasked and write nothing by halves, and a full disk loses nothing."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from lavit_hf import cli, demo_checkpoint
from lavit_hf.cli.demo import IMAGES
from lavit_hf.data.shapes import load_shapes, render_scene, sample_scene
from lavit_hf.evaluation import EvaluationReport
from lavit_hf.visualization import Sample


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


SHOWN = ("kept_patches", "merging", "reconstruction", "attention")
# Commands that write files, with the arguments, the files, and what is said before anything is written.
WRITING_FILES = {
    "draw": (("a red star", "--output", "out.png", "--steps", "1"), ["out.png"], "tokens"),
    "edit": (("image.png", "paint the star blue", "--output", "out.png", "--steps", "1"), ["out.png"], "tokens"),
    "reconstruct": (("image.png", "--output", "out.png", "--steps", "1"), ["out.png"], "tokens"),
    "encode": (("image.png", "--overlay", "out"), ["out/image.png"], "num_codes"),
    "show": (("image.png", "--output", "out", "--steps", "1"), [f"out/{name}.png" for name in SHOWN], ""),
    "demo": (("--output", "out"), [f"out/{name}.png" for name in IMAGES], "answer"),
    "evaluate": (
        ("--dataset", "rows", "--tasks", "captions", "--output", "out.json", "--samples-dir", "out"),
        ["out.json", "out/captions.png"],
        "captions",
    ),
}


@pytest.mark.parametrize("command", WRITING_FILES)
def test_files_are_overwritten_if_asked_and_then_as_a_whole(command, here, command_line):
    arguments, files, said = WRITING_FILES[command]
    Path("out").mkdir()
    for name in files:
        Path(name).write_bytes(b"old")
    before = contents(here)
    code, _, error = command_line(command, *arguments)
    assert code == 1
    assert f"{files[0]} exists: choose another output, or give --overwrite" in error
    assert contents(here) == before
    with full_disk(500):
        code, output, error = command_line(command, *arguments, "--overwrite")
    assert code == 1, output
    assert f"{files[0]} cannot be written: File too large" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert said in output
    assert contents(here) == before
    code, _, error = command_line(command, *arguments, "--overwrite")
    assert code == 0, error
    after = contents(here)
    assert after.keys() == before.keys()
    assert all(after[name] != b"old" for name in files)


def test_a_sheet_of_samples_on_a_full_disk(here):
    image = Image.open("image.png")
    report = EvaluationReport({}, {}, {}, {}, {"captions": [Sample((image,), ("a star",))]})
    with full_disk(500), pytest.raises(OSError, match=r"captions\.png cannot be written: File too large"):
        report.save_samples("out")
    assert not list(Path("out").iterdir())
    assert report.save_samples("out") == [Path("out/captions.png")]


# config.json of an exported model fits, and its weights do not.
@pytest.mark.parametrize(
    ("line", "room"),
    [
        (("export", "out"), 100_000),
        (("precompute-codes", "rows", "out", "--split", "test", "--num-workers", "0"), 1000),
    ],
)
def test_folders_are_complete_or_not_there(line, room, here, command_line):
    line = (*line, "--model", demo_checkpoint())
    with full_disk(room):
        code, output, error = command_line(*line)
    assert code == 1, output
    assert error.splitlines()[-1].startswith("lavit-hf: "), error
    assert "Traceback" not in error
    visible = {name for name in contents(here) if name.startswith("out") and "/." not in name}
    assert visible <= {"out/test/codes.json"}  # with which the same command goes on
    code, _, error = command_line(*line)
    assert code == 0, error
    assert not [name for name in contents(here) if "/." in name]


@pytest.mark.parametrize("command", ["caption", "encode"])
def test_one_bad_image_of_several(command, here, command_line):
    Path("bad.png").write_text("no image")
    images = ("missing.png", "image.png", "bad.png")
    code, output, error = command_line(command, *images)
    assert code == 1
    assert output.count("image.png") == 1
    assert "bad.png" not in output
    missing, bad = error.splitlines()[-2:]
    assert "missing.png" in missing
    assert "bad.png" in bad


@pytest.mark.parametrize("seconds", [0.2, 6])
def test_an_interrupt(seconds, here):
    """While a model is loaded, and later."""
    command = [sys.executable, "-m", "lavit_hf.cli", "draw", "a red star", "--output", "out.png", "--steps", "900"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # which jobs of a shell ignore
    )
    assert running.stderr
    assert any("small model" in line for line in running.stderr)
    time.sleep(seconds)
    # Code in C that calls Python and clears the error may lose an interrupt, and a user presses Ctrl-C again.
    for timeout in (15, 15, 120):
        os.kill(running.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            _, error = running.communicate(timeout=timeout)
            break
    assert running.returncode == 130
    assert error.splitlines()[-1].endswith("lavit-hf: interrupted")
    assert "Traceback" not in error
    assert set(contents(here)) == {"image.png"} | {name for name in contents(here) if name.startswith("rows")}


def test_an_interrupt_during_a_destructor(command_line, monkeypatch):
    """Python prints and drops an exception in `__del__`, so the command has to see the interrupt later."""

    class Interrupted:
        def __del__(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.app, "registered_commands", cli.app.registered_commands[:])

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs of a shell ignore

    @cli.app.command(name="wait")
    def wait():
        Interrupted()
        time.sleep(30)

    code, _, error = command_line("wait")
    signal.signal(signal.SIGINT, before)
    assert code == 130
    assert error == "lavit-hf: interrupted\n"


def test_formats_that_take_an_image(here, command_line):
    code, _, error = command_line("reconstruct", "image.png", "--output", "out.JPG", "--steps", 1)
    assert code == 0, error
    assert Image.open("out.JPG").format == "JPEG"
