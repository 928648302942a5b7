# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The forms in which the files of a checkpoint come."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lavit_hf import LavitForCausalLM

from .official import (
    ADAPTER,
    CHECKPOINT,
    DECODER,
    LANGUAGE_MODEL,
    TOKENIZER,
    TOWER,
    UNET,
    VAE,
    assert_nothing_left,
    assert_same_weights,
    convert,
    edit,
    load,
)


def write_shards(folder: Path, name: str, save) -> None:
    """The language model in two files whose tensors alternate, so that no order can be relied upon."""
    tensors = load(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").unlink()
    stem, ending = name.split(".")
    weight_map = {}
    for number in range(2):
        shard = {key: tensors[key] for key in list(tensors)[number::2]}
        path = folder / f"{stem}-{number + 1:05d}-of-00002.{ending}"
        save(shard, path)
        weight_map |= dict.fromkeys(shard, path.name)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_sharded_bin(source, tmp_path, converted):
    write_shards(source / "language_model", "pytorch_model.bin", torch.save)
    assert_same_weights(convert(source, tmp_path / "out"), converted)
    (source / "language_model/pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match="pytorch_model-00002-of-00002.bin"):
        convert(source, tmp_path / "other")


def test_sharded_safetensors(source, tmp_path, converted):
    write_shards(source / "language_model", "model.safetensors", save_file)
    assert_same_weights(convert(source, tmp_path / "out"), converted)


def test_a_tied_head_is_in_no_file(source, tmp_path):
    config = source / "language_model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    edit(source / LANGUAGE_MODEL, lambda tensors: tensors.pop("lm_head.weight"))
    model = LavitForCausalLM.from_pretrained(convert(source, tmp_path / "out"))
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_shards_elsewhere(source, tmp_path, name):
    outside = source / f"secret.{name.split('.')[1]}"
    (source / "language_model/pytorch_model.bin").rename(outside)
    index = source / f"language_model/{name}.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": f"../{outside.name}"}}))
    with pytest.raises(FileNotFoundError, match="lacks language_model/pytorch_model"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_other_versions(source, tmp_path, converted):
    """Whole safetensors; PyTorch's format before 1.6; an autoencoder's attention and a table of former names."""
    edit(
        source / LANGUAGE_MODEL,
        lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
    )
    save_file(load(source / UNET), (source / UNET).with_suffix(".safetensors"))
    (source / UNET).unlink()
    torch.save(load(source / TOKENIZER), source / TOKENIZER, _use_new_zipfile_serialization=False)
    former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    vae = load_file(source / VAE)
    for new, old in former.items():
        vae = {key.replace(new, old): tensor for key, tensor in vae.items()}
    assert any(".proj_attn." in key for key in vae)
    save_file(vae, source / VAE)
    assert_same_weights(convert(source, tmp_path / "out"), converted)


def test_copies_in_the_adapters_file(source, tmp_path, converted):
    key = "quantize.embedding.weight"
    codebook = load(source / TOKENIZER)[key]
    edit(source / ADAPTER, lambda tensors: tensors.update({key: codebook.half()}))
    assert_same_weights(convert(source, tmp_path / "out"), converted)
    edit(source / ADAPTER, lambda tensors: tensors.update({key: -codebook}))
    with pytest.raises(ValueError, match=f"visual_weight.bin:{key} must repeat"):
        convert(source, tmp_path / "other")


@pytest.mark.parametrize("strict", [False, True])
def test_files_that_hold_more(source, tmp_path, converted, caplog, strict):
    """Adds entries that training leaves behind, of any type, to each of the files."""
    extra = {
        "mask_token": torch.ones(3),
        "blocks.0.attn.relative_position_index": torch.ones(2, dtype=torch.long),
        "blocks.1.attn.relative_position_index": torch.ones(2, dtype=torch.long),
        "quantize.embedding.initted": torch.tensor(True),
        "epoch": 3,
        "optimizer": {"state": {0: torch.ones(1)}},
    }
    names = [LANGUAGE_MODEL, ADAPTER, TOWER, TOKENIZER, DECODER, UNET]
    for number, name in enumerate(names):
        edit(source / name, lambda tensors, number=number: tensors.update(extra | {f"only_{number}": number}))
    vae = load_file(source / VAE)
    save_file(vae | {"steps": torch.ones(1, dtype=torch.int64)}, source / VAE)
    if strict:
        with pytest.raises(ValueError, match="43 unknown"):
            convert(source, tmp_path / "out", strict=True, dtype="float32")
        assert_nothing_left(tmp_path / "out")
        return
    with caplog.at_level("WARNING", "lavit_hf"):
        folder = convert(source, tmp_path / "out", dtype="float32")
    assert_same_weights(folder, converted)
    card = (folder / "README.md").read_text()
    for text in (card, caplog.text):
        assert "`eva_vitg_psz14.bin:blocks.*.attn.relative_position_index`, 2 times" in text
        assert "`pixel_decoding/vae:steps`" in text
        assert "`visual_weight.bin:optimizer`" in text
        assert "`highres_tokenizer_decoder.bin:epoch`" in text
        assert all(f":only_{number}`" in text for number in range(len(names)))
    assert "43 entries" in caplog.text
    assert "left out" not in (converted / "README.md").read_text()


def test_what_is_assumed_is_said(converted, tmp_path, command_line):
    card = (converted / "README.md").read_text()
    assert "4 attention heads in the vision tower, the merger and the feature decoders" in card
    assert "epsilon of 1e-06 in the vision tower and 1e-05 elsewhere" in card
    options = ("--num-attention-heads", 4, "--without", "highres", "--without", "lowres")
    code, output, _ = command_line("convert", CHECKPOINT, tmp_path / "out", *options)
    assert code == 0
    assert "Assumed: 4 attention heads" in output
