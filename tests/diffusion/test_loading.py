# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file

from lavit_hf.diffusion import LavitImageDecoderPipeline

from ..hub_server import HubServer


PARTS = ["feature_decoder", "scheduler", "unet", "vae"]


@pytest.fixture(scope="module")
def lavit_folder(highres, lowres, tmp_path_factory):
    """A whole LaVIT: a model and its processor at the root, which must not be touched, and two pipelines."""
    folder = tmp_path_factory.mktemp("lavit")
    highres.save_pretrained(folder)
    lowres.save_pretrained(folder / "lowres_decoder")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "unet/diffusion_pytorch_model.bin"):
        (folder / name).write_text("of another model")
    (folder / "vae/diffusion_pytorch_model.fp16.safetensors").write_text("a variant")
    return folder


@pytest.fixture
def hub(lavit_folder, monkeypatch):
    with HubServer({"someone/lavit": lavit_folder, "someone/text": lavit_folder / "vae"}) as server:
        server.use(monkeypatch)
        yield server


def load(*args, **kwargs):
    pipe = LavitImageDecoderPipeline.from_pretrained(*args, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_draw_alike(pipe, expected, codes):
    options = {"num_inference_steps": 2, "output_type": "np"}
    images = [p(codes, generator=torch.Generator().manual_seed(0), **options).images for p in (pipe, expected)]
    np.testing.assert_array_equal(*images)


def test_folder_and_subfolder(lavit_folder, highres, lowres, codes):
    pipe = load(lavit_folder)
    assert pipe.config.visual_token_offset == 32002
    assert pipe.is_sdxl
    assert not any(pipe.components[part].training for part in ("feature_decoder", "unet", "vae"))
    assert_draw_alike(pipe, highres, codes[:2])
    assert_draw_alike(load(str(lavit_folder), subfolder="lowres_decoder"), lowres, codes[:2])


def test_saved_folder_has_no_pickles_and_a_stable_module_path(lowres, tmp_path):
    lowres.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["feature_decoder"] == ["lavit_hf.modeling.modeling_lavit_feature_decoder", "LavitFeatureDecoder"]
    assert index["visual_token_offset"] == 32002


def test_given_components_replace_stored_ones(lavit_folder, tmp_path, highres):
    shutil.copytree(lavit_folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "unet")
    pipe = load(tmp_path / "copy", unet=highres.unet, visual_token_offset=7)
    assert pipe.unet is highres.unet
    assert pipe.config.visual_token_offset == 7


@pytest.mark.parametrize("subfolder", [None, "lowres_decoder"])
def test_bfloat16_on_the_cpu(lavit_folder, codes, subfolder, highres, lowres):
    pipe = load(lavit_folder, subfolder=subfolder, torch_dtype=torch.bfloat16)
    assert {part.dtype for part in (pipe.unet, pipe.vae)} == {torch.bfloat16}
    assert pipe.feature_decoder.in_proj.weight.dtype == torch.bfloat16
    assert pipe.feature_decoder.codebook.dtype == torch.float32
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"latents": latents, "num_inference_steps": 2, "output_type": "np"}
    expected = (lowres if subfolder else highres)(codes[:2], **options).images
    images = pipe(codes[:2], **options).images
    assert images.dtype == np.float32
    assert np.abs(images - expected).mean() < 0.03


def test_float16_vae_is_upcast_for_decoding(lavit_folder, codes, monkeypatch):
    pipe = load(lavit_folder, dtype={"vae": torch.float16, "default": torch.float32})
    dtypes = []
    decode = pipe.vae.decode
    monkeypatch.setattr(
        pipe.vae, "decode", lambda latents, **kwargs: dtypes.append(latents.dtype) or decode(latents, **kwargs)
    )
    assert pipe(codes[:1], num_inference_steps=1).images[0].size == (64, 64)
    assert dtypes == [torch.float32]
    assert pipe.vae.dtype == torch.float16


@pytest.mark.parametrize("missing", ["model_index.json", "feature_decoder", "vae"])
def test_missing_parts_are_named(lowres, tmp_path, missing):
    lowres.save_pretrained(tmp_path)
    path = tmp_path / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = (
        f"There is no LavitImageDecoderPipeline in .*: expected model_index.json and .*, but {missing} is missing"
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("part", ["feature_decoder", "unet", "vae"])
def test_missing_weights_are_named(lowres, tmp_path, part):
    """Missing weights would be random or without values, and images wrong."""
    lowres.save_pretrained(tmp_path)
    [file] = (tmp_path / part).glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in sorted(weights, reverse=True) if name.endswith("bias"))
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"files of .* lack 1 of its weights, such as {name}"):
        load(tmp_path)
    assert load(tmp_path, **{part: lowres.components[part]}).unet.config.sample_size == 8


def test_wrong_places_and_pickles_are_refused(lavit_folder, lowres, tmp_path):
    with pytest.raises(ValueError, match="subfolder 'nowhere': .* but model_index.json is missing"):
        load(lavit_folder, subfolder="nowhere")
    with pytest.raises(ValueError, match="Expected an existing folder or the id of a repository, got './a/b/c'"):
        load("./a/b/c")
    with pytest.raises(ValueError, match="Weights must be safetensors, got use_safetensors=False"):
        load(lavit_folder, use_safetensors=False)
    lowres.save_pretrained(tmp_path)
    for part, name in (("unet", "diffusion_pytorch_model"), ("feature_decoder", "pytorch_model")):
        weights = next((tmp_path / part).glob("*.safetensors"))
        saved = weights.rename(tmp_path / "aside.safetensors")
        torch.save(lowres.components[part].state_dict(), tmp_path / part / f"{name}.bin")
        with pytest.raises(OSError, match="safetensors"):
            load(tmp_path)
        saved.rename(weights)


def test_hub_repository(hub, highres, codes, tmp_path):
    pipe = load("someone/lavit", cache_dir=tmp_path, token="hf_secret")
    assert_draw_alike(pipe, highres, codes[:2])
    assert pipe.name_or_path == "someone/lavit"
    assert hub.tokens == {"Bearer hf_secret"}
    assert {path.split("/")[0] for path in hub.downloads} == {"model_index.json", *PARTS}
    assert not [path for path in hub.downloads if path.endswith((".bin", ".fp16.safetensors"))]

    hub.requests.clear()
    assert_draw_alike(load("someone/lavit", cache_dir=tmp_path, local_files_only=True), highres, codes[:1])
    assert not hub.requests
    load("someone/lavit", cache_dir=tmp_path, revision=hub.commit_of("someone/lavit"))
    assert not hub.downloads
    load("someone/lavit", cache_dir=tmp_path, force_download=True)
    assert hub.downloads


def test_hub_subfolder_and_given_components(hub, lowres, codes, tmp_path):
    pipe = load("someone/lavit", subfolder="lowres_decoder", cache_dir=tmp_path, unet=lowres.unet)
    assert_draw_alike(pipe, lowres, codes[:2])
    expected = {"model_index.json", "feature_decoder", "scheduler", "vae"}
    assert {"/".join(path.split("/")[:2]) for path in hub.downloads} == {f"lowres_decoder/{x}" for x in expected}


def test_hub_errors(hub, tmp_path):
    with pytest.raises(ValueError, match="in 'someone/text': .* but model_index.json is missing"):
        load("someone/text", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="in 'someone/lavit', subfolder 'x': .* but model_index.json is missing"):
        load("someone/lavit", subfolder="x", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        load("someone/nothing", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        load("someone/lavit", revision="v9", cache_dir=tmp_path)
    with pytest.raises(LocalEntryNotFoundError):
        load("someone/lavit", cache_dir=tmp_path / "empty", local_files_only=True)
