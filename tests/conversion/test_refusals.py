# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Damaged and incomplete checkpoints."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from .official import (
    ADAPTER,
    DECODER,
    LANGUAGE_MODEL,
    TOKENIZER,
    TOWER,
    UNET,
    VAE,
    assert_nothing_left,
    convert,
    edit,
    load,
)


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "name",
    [
        LANGUAGE_MODEL,
        ADAPTER,
        TOWER,
        DECODER,
        UNET,
        VAE,
        "language_model/config.json",
        "language_model/tokenizer.model",
        "pixel_decoding/uncond_embeddings.bin",
        "pixel_decoding/scheduler/scheduler_config.json",
        "highres_pixel_decoding/vae/config.json",
    ],
)
def test_missing_file(source, tmp_path, name):
    (source / name).unlink()
    with pytest.raises(FileNotFoundError, match=Path(name).parent.name):
        convert(source, tmp_path / "out")
    assert_nothing_left(tmp_path / "out")


@pytest.mark.parametrize("name", [LANGUAGE_MODEL, ADAPTER, TOWER, TOKENIZER, DECODER, UNET])
def test_weights(source, tmp_path, name):
    """A missing one, one of a wrong shape, one of integers and a foreign one, all of them in the one error."""
    gone, reshaped, whole = [key for key in load(source / name) if key.endswith(".weight")][3:6]

    def change(tensors):
        del tensors[gone]
        tensors["foreign.weight"] = torch.ones(1)
        tensors[reshaped] = torch.ones(3, 2)
        tensors[whole] = tensors[whole].to(torch.long)

    edit(source / name, change)
    for strict in (False, True):
        with pytest.raises(ValueError, match="missing:") as error:
            convert(source, tmp_path / "out", strict=strict)
        for expected in (gone, "of a wrong shape:", reshaped, "found (3, 2)", "of another type", whole):
            assert expected in str(error.value)
        assert ("1 unknown:" in str(error.value)) == ("foreign.weight" in str(error.value)) == strict
    assert_nothing_left(tmp_path / "out")


def test_long_lists_are_cut(source, tmp_path):
    edit(source / TOWER, lambda tensors: tensors.update({f"extra.{i}": torch.ones(1) for i in range(40)}))
    with pytest.raises(ValueError, match="40 unknown") as error:
        convert(source, tmp_path / "out", strict=True)
    assert len(str(error.value).splitlines()) < 15


@pytest.mark.parametrize("name", [LANGUAGE_MODEL, "pixel_decoding/uncond_embeddings.bin"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_pickle_with_code(source, tmp_path, name, save):
    trace = tmp_path / "trace"
    content = {"model.norm.weight": Malicious(trace)}
    if save == "pickle":
        (source / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, source / name, _use_new_zipfile_serialization=save == "zip")
    with pytest.raises(ValueError, match=f"{Path(name).name} was not loaded"):
        convert(source, tmp_path / "out")
    assert not trace.exists()
    assert_nothing_left(tmp_path / "out")


@pytest.mark.parametrize("kind", ["cut", "empty", "pointer", "other zip", "a list", "no tensor", "integers"])
def test_damaged_file(source, tmp_path, kind):
    path = source / TOWER
    if kind == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/b", "c")
    elif kind == "a list":
        torch.save([torch.ones(1)], path)
    else:
        cls_token = load(path)["cls_token"]
        value = cls_token.tolist() if kind == "no tensor" else cls_token.long()
        edit(path, lambda tensors: tensors.update(cls_token=value))
    with pytest.raises(ValueError, match="eva_vitg_psz14.bin"):
        convert(source, tmp_path / "out")


def test_damaged_safetensors(source, tmp_path):
    (source / VAE).write_bytes((source / VAE).read_bytes()[:-100])
    with pytest.raises(ValueError, match="vae/diffusion_pytorch_model.safetensors cannot be read"):
        convert(source, tmp_path / "out")


def test_broken_json(source, tmp_path):
    (source / "language_model/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"language_model/config.json is not valid JSON"):
        convert(source, tmp_path / "out")


def test_no_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "out")
