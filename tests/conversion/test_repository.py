# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint in a repository on the Hub."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from lavit_hf.diffusion import LavitImageDecoderPipeline

from ..hub_server import HubServer
from .official import ADAPTER, CHECKPOINT, LANGUAGE_MODEL, TOKENIZER, UNET, VAE, assert_same_weights, convert, load


RELEASE = "rain1011/LaVIT-7B-v2"
CONVERT = """
import sys
from lavit_hf.conversion import convert_official_checkpoint
convert_official_checkpoint(*sys.argv[1:], num_attention_heads=4, dtype="float32")
"""


@pytest.fixture
def repository(source) -> Path:
    """The authors' files among others, one of them twice."""
    save_file(load(source / UNET), (source / UNET).with_suffix(".safetensors"))
    others = ("assets/demo.png", "safety_checker/model.bin", "language_model/notes.txt", "README.md")
    for name in (*others, "pixel_decoding/unet/random_states_0.pkl", "visual_tokenizer/optimizer.bin"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("not needed")
    for name in ("LICENSE", "USE_POLICY.md"):
        (source / name).write_text(name)
    return source


@pytest.fixture
def hub(repository, tmp_path, monkeypatch):
    with HubServer({RELEASE: repository}) as server:
        server.use(monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def test_what_is_needed_is_downloaded(hub, repository, converted, tmp_path):
    folder = convert(RELEASE, tmp_path / "out", dtype="float32")
    assert_same_weights(folder, converted)
    there = {path.relative_to(CHECKPOINT).as_posix() for path in CHECKPOINT.rglob("*") if path.is_file()}
    weights = {UNET, UNET.replace(".bin", ".safetensors")}
    needed = there - weights | {"LICENSE", "USE_POLICY.md"}
    assert hub.downloads - weights <= needed
    # The client downloads files of equal content once.
    contents = {(repository / name).read_bytes() for name in hub.downloads}
    assert {(repository / name).read_bytes() for name in needed} <= contents
    assert hub.downloads & weights == {UNET.replace(".bin", ".safetensors")}
    assert (folder / "LICENSE").read_text() == "LICENSE"
    hub.requests.clear()
    convert(RELEASE, tmp_path / "lowres", pixel_decoders=["lowres"], revision=hub.commit_of(RELEASE))
    assert not hub.downloads


def test_one_pixel_decoder(hub, tmp_path):
    convert(RELEASE, tmp_path / "out", pixel_decoders=["lowres"])
    assert not [name for name in hub.downloads if "highres" in name]


def test_a_killed_download_goes_on(hub, converted, tmp_path):
    hub.stalled.add(TOKENIZER)
    command = [sys.executable, "-c", CONVERT, RELEASE, str(tmp_path / "out")]
    environment = os.environ | hub.environment(tmp_path / "home")
    process = subprocess.Popen(command, env=environment)
    cache = tmp_path / "home" / "hub"
    while not list(cache.glob("**/snapshots/*/language_model/pytorch_model.bin")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = {
        path.relative_to(next(cache.glob("*/snapshots/*"))).as_posix() for path in cache.glob("*/snapshots/*/**/*")
    }
    hub.stalled.clear()
    hub.requests.clear()
    subprocess.run(command, env=environment, check=True)
    assert TOKENIZER in hub.downloads
    assert LANGUAGE_MODEL not in hub.downloads
    assert not hub.downloads & done
    assert_same_weights(tmp_path / "out", converted)


def test_refused_before_anything_is_downloaded(hub, repository, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="new or empty"):
        convert(RELEASE, tmp_path / "full")
    assert not hub.requests
    with pytest.raises(FileNotFoundError, match=r"neither a folder nobody/none nor a repository"):
        convert("nobody/none", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no repository|nor a repository .* revision 'none'"):
        convert(RELEASE, tmp_path / "out", revision="none")
    with pytest.raises(FileNotFoundError, match=r"neither a folder no/such/folder"):
        convert("no/such/folder", tmp_path / "out")
    with pytest.raises(ValueError, match=r"revision is for a repository"):
        convert(CHECKPOINT, tmp_path / "out", revision="main")
    (repository / ADAPTER).unlink()
    (repository / VAE).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{RELEASE} lacks {ADAPTER}, pixel_decoding/vae/"):
        convert(RELEASE, tmp_path / "out")
    assert not hub.downloads


def test_command_line(hub, tmp_path, command_line):
    options = ("--num-attention-heads", 4, "--without", "highres")
    assert command_line("convert", RELEASE, tmp_path / "out", *options)[0] == 0
    LavitImageDecoderPipeline.from_pretrained(tmp_path / "out", subfolder="lowres_decoder")
