# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The converted folder equals what the authors' code computes; the arguments that change it."""

import json
import re
import shutil
import weakref

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoProcessor, GenerationConfig

from lavit_hf import LavitVisualTokenizer
from lavit_hf.conversion import weights
from lavit_hf.diffusion import LavitImageDecoderPipeline

from .official import ADAPTER, CHECKPOINT, assert_nothing_left, assert_same_weights, convert, edit, load_all


def test_every_part_loads_complete(converted):
    for model_class in (AutoModelForCausalLM, LavitVisualTokenizer):
        model, info = model_class.from_pretrained(converted, output_loading_info=True)
        assert not any(info.values())
        assert model.dtype == torch.float32
    processor = AutoProcessor.from_pretrained(converted)
    assert (processor.image_start_token_id, processor.visual_token_offset) == (32000, 32002)
    assert processor.image_token_id == 48386
    assert not processor.drawing_image_markers
    generation = GenerationConfig.from_pretrained(converted)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 0)
    assert generation.image_generation["guidance_scale"] == 4.0
    for subfolder, dims in ((None, [24, 40]), ("lowres_decoder", [24])):
        pipe = LavitImageDecoderPipeline.from_pretrained(converted, subfolder=subfolder)
        assert pipe.feature_decoder.config.condition_dims == dims
        assert pipe.config.visual_token_offset == 32002


@torch.no_grad()
def test_tokenizer_equals_the_authors(converted, goldens, golden_json):
    tokenizer = LavitVisualTokenizer.from_pretrained(converted).eval()
    features = tokenizer.encode_vision(goldens["pixel_values"])
    torch.testing.assert_close(features, goldens["vit_features"][:, 1:], atol=1e-4, rtol=0)
    log_probs = tokenizer.selector(features)
    torch.testing.assert_close(log_probs, goldens["selector_log_probs"], atol=1e-5, rtol=0)
    for kind in ("argmax", "gumbel"):
        keep_mask = goldens[f"keep_{kind}"].bool()
        merged = tokenizer.merger(features, policy=keep_mask.float())[keep_mask]
        expected = goldens[f"generation_merged_{kind}"][keep_mask]
        torch.testing.assert_close(merged, expected, atol=1e-4, rtol=0)
        given = {"selection": "argmax"} if kind == "argmax" else {"keep_mask": keep_mask}
        codes = tokenizer(vision_features=features, **given).split()
        assert [(image + 32002).tolist() for image in codes] == golden_json[f"visual_ids_{kind}"]


@torch.no_grad()
def test_model_equals_the_authors(converted, goldens):
    model = AutoModelForCausalLM.from_pretrained(converted).eval()
    model.config.visual_tokenizer_config.selection = "argmax"
    ids = torch.tensor([[32000, 48386, 32001]] * 4)
    logits = model(input_ids=ids, pixel_values=goldens["pixel_values"], logits_to_keep=1).logits[:, -1]
    # The packed merger leaves out the authors' smoothing of the softmax.
    torch.testing.assert_close(logits[:, :-1], goldens["caption_first_logits"], atol=1e-3, rtol=0)
    # The placeholder, which the authors' vocabulary does not have, has no more than the mean of the text's scores.
    torch.testing.assert_close(logits[:, -1], logits[:, :32000].mean(dim=-1), atol=1e-4, rtol=0)


def test_pixel_decoders_equal_the_authors(converted, goldens, golden_json):
    for subfolder, kind, guidance_scale in ((None, "highres", 7.0), ("lowres_decoder", "lowres", 5.0)):
        pipe = LavitImageDecoderPipeline.from_pretrained(converted, subfolder=subfolder)
        pipe.set_progress_bar_config(disable=True)
        images = pipe(
            golden_json["visual_ids_argmax"],
            vocabulary_ids=True,
            num_inference_steps=4,
            guidance_scale=guidance_scale,
            latents=goldens["latents"],
            output_type="np",
        ).images
        torch.testing.assert_close(torch.tensor(images), goldens[f"{kind}_image"], atol=1e-4, rtol=0)


def test_card_and_notice(converted):
    notice = "LaVIT is licensed under the LaVIT Community License, Copyright (c) LaVIT authors, Inc. All Rights"
    card = (converted / "README.md").read_text()
    assert notice in card
    assert notice in (converted / "NOTICE").read_text()
    data = ModelCard.load(converted / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "any-to-any", "other")
    assert "lowres_decoder" in card


def test_card_examples_run(converted):
    card = (converted / "README.md").read_text()
    names = {"path": converted, "image": Image.open(CHECKPOINT.parent / "image_1.png")}
    for example in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL):
        exec(example, names)
    assert names["codes"]
    assert names["image"].size == (64, 64)


def test_shape_is_read_off_the_weights(converted):
    config = json.loads((converted / "config.json").read_text())
    tokenizer = config["visual_tokenizer_config"]
    vision = tokenizer["vision_config"]
    assert config["architectures"] == ["LavitForCausalLM"]
    assert [vision[name] for name in ("image_size", "patch_size", "num_hidden_layers")] == [112, 14, 3]
    assert [tokenizer[name] for name in ("num_merger_layers", "codebook_size", "code_dim")] == [2, 16384, 32]
    assert tokenizer["selection"] == "topk"
    assert tokenizer["attention_smoothing"] == 1e-6  # the authors' value, which no weight tells


def test_dtype_leaves_the_codebook(converted, tmp_path):
    folder = convert(CHECKPOINT, tmp_path / "out", dtype="bfloat16")
    for key, tensor in load_all(folder).items():
        assert tensor.dtype == (torch.float32 if key.endswith("codebook") else torch.bfloat16), key
    tokenizer = LavitVisualTokenizer.from_pretrained(folder)
    assert (tokenizer.dtype, tokenizer.quantizer.codebook.dtype) == (torch.bfloat16, torch.float32)
    rounded, exact = (load_file(path / "model.safetensors")["lm_head.weight"] for path in (folder, converted))
    assert torch.equal(rounded, exact.bfloat16())


def test_float16_that_overflows_is_refused(source, tmp_path):
    edit(source / ADAPTER, lambda tensors: tensors["vit_proj.bias"].fill_(1e5))
    with pytest.raises(ValueError, match=r"visual_adapter\.projection\.bias.*float16"):
        convert(source, tmp_path / "out", dtype="float16")
    assert_nothing_left(tmp_path / "out")


def test_shards(converted, tmp_path):
    folder = convert(CHECKPOINT, tmp_path / "out", dtype="float32", max_shard_size="1MB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert all(path.name.endswith(f"-of-{len(shards):05d}.safetensors") for path in shards)
    assert all(len(load_file(path)) == 1 for path in shards if path.stat().st_size > 1.1e6)
    assert_same_weights(folder, converted)
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    LavitImageDecoderPipeline.from_pretrained(folder)


def test_one_file_at_a_time_is_in_memory(tmp_path, monkeypatch):
    alive: list[int] = []
    written: list[weakref.ref] = []

    def dtype_to_save(*args):
        alive.append(sum(tensor() is not None for tensor in written))
        return find_dtype(*args)

    def save_file(shard, *args, **kwargs):
        save(shard, *args, **kwargs)
        # The codebook stays float32 and is the tensor of the source itself, which is mapped.
        written.extend(weakref.ref(tensor) for tensor in shard.values() if tensor.dtype == torch.bfloat16)

    find_dtype, save = weights.dtype_to_save, weights.save_file
    monkeypatch.setattr(weights, "dtype_to_save", dtype_to_save)
    monkeypatch.setattr(weights, "save_file", save_file)
    convert(CHECKPOINT, tmp_path / "out", dtype="bfloat16", max_shard_size="1MB")
    assert len(written) > 100
    assert not any(alive)


def test_pixel_decoder_left_out(source, tmp_path):
    shutil.rmtree(source / "highres_pixel_decoding")
    with pytest.raises(FileNotFoundError, match="highres_pixel_decoding.*pixel_decoders"):
        convert(source, tmp_path / "out")
    folder = convert(source, tmp_path / "out", pixel_decoders=["lowres"])
    assert not (folder / "model_index.json").exists()
    LavitImageDecoderPipeline.from_pretrained(folder, subfolder="lowres_decoder")


def test_licences_are_copied(source, tmp_path):
    for name in ("LICENSE", "USE_POLICY.md", "LLAMA2-LICENSE.txt"):
        (source / name).write_text(name)
    folder = convert(source, tmp_path / "out", pixel_decoders=())
    for name in ("LICENSE", "USE_POLICY.md", "LLAMA2-LICENSE.txt"):
        assert (folder / name).read_text() == name
        assert f"`{name}`" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dtype", "int8"),
        ("num_attention_heads", 5),
        ("pixel_decoders", ("highest",)),
        ("pixel_decoders", "highres"),
    ],
)
def test_refused(tmp_path, argument, value):
    with pytest.raises(ValueError, match=argument):
        convert(CHECKPOINT, tmp_path / "out", **{argument: value})
