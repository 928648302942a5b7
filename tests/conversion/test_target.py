# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder to write, which is complete or not there."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from lavit_hf.conversion import weights

from .official import CHECKPOINT, assert_nothing_left, assert_same_weights, convert


def test_existing(source, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    convert(CHECKPOINT, target, pixel_decoders=())  # an empty folder is as good as none
    assert [path.name for path in tmp_path.iterdir() if path != source] == ["out"]
    before = sorted(target.iterdir())
    for folder in (target, source, source.parent):
        with pytest.raises(FileExistsError, match=f"must be new or empty, {folder} is not"):
            convert(source, folder)
    assert sorted(target.iterdir()) == before


def test_not_enough_space(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
    with pytest.raises(OSError, match="free"):
        convert(CHECKPOINT, tmp_path / "out")
    assert_nothing_left(tmp_path / "out")


def test_nothing_is_written_with_a_size_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="Got 'many'"):
        convert(CHECKPOINT, tmp_path / "out", max_shard_size="many")
    assert_nothing_left(tmp_path / "out")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_failure_in_the_middle(tmp_path, monkeypatch, error):
    written = []

    def write(tensors, path, **kwargs):
        if len(written) == 2:
            raise error
        path.touch()
        written.append(path)

    monkeypatch.setattr(weights, "save_file", write)
    with pytest.raises(error):
        convert(CHECKPOINT, tmp_path / "new")
    assert len(written) == 2
    assert_nothing_left(tmp_path / "new")


CONVERT_AND_DIE = """
import os, signal, sys
from lavit_hf.conversion import convert_official_checkpoint

def audit(event, arguments):
    if event == "open" and str(arguments[0]).endswith(sys.argv[3]) and ".incomplete" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
convert_official_checkpoint(sys.argv[1], sys.argv[2], num_attention_heads=4)
"""


@pytest.mark.parametrize("file", ["lowres_decoder/unet/config.json", "NOTICE"])
def test_killed(tmp_path, converted, file):
    target = tmp_path / "out"
    command = [sys.executable, "-c", CONVERT_AND_DIE, str(CHECKPOINT), str(target), file]
    killed = subprocess.run(command, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert os.listdir(tmp_path) == [".out.incomplete"]
    assert_same_weights(convert(CHECKPOINT, target), converted)
    assert os.listdir(tmp_path) == ["out"]
