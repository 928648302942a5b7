# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pipelines with the weights of the goldens' checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from lavit_hf.diffusion import LavitImageDecoderPipeline
from lavit_hf.modeling.configuration_lavit import LavitFeatureDecoderConfig
from lavit_hf.modeling.modeling_lavit_feature_decoder import LavitFeatureDecoder


GOLDENS = Path(__file__).parents[1] / "goldens"
CHECKPOINT = GOLDENS / "checkpoint"
VISUAL_TOKEN_OFFSET = 32002

RENAMED = [
    ("pos_embed", "position_embeddings"),
    ("query_embed", "queries"),
    ("blocks.", "layers."),
    ("norm0.", "self_attn_norm."),
    ("norm1.", "cross_attn_norm."),
    ("norm2.", "mlp_norm."),
    ("cross_attn.query.", "cross_attn.q_proj."),
    ("cross_attn.key.", "cross_attn.k_proj."),
    ("cross_attn.value.", "cross_attn.v_proj."),
    ("attn.proj.", "attn.out_proj."),
    ("decode_task_layer.", "decode_head."),
    ("unet_proj_1.", "condition_projections.0."),
    ("unet_proj_2.", "condition_projections.1."),
    ("unet_proj.", "condition_projections.0."),
    ("unet_attnpool.positional_embedding", "attention_pool.position_embeddings"),
    ("unet_attnpool.c_proj.", "attention_pool.out_proj."),
    ("unet_attnpool.", "attention_pool."),
]


def _load(path):
    return torch.load(CHECKPOINT / path, weights_only=True, map_location="cpu")


def _load_feature_decoder(file, **config):
    weights = {}
    for name, tensor in _load(f"visual_tokenizer/{file}").items():
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        if ".qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace("qkv", f"{part}_proj")] = rows
        else:
            weights[name] = tensor
    weights["codebook"] = _load("visual_tokenizer/tokenizer_encoder.bin")["quantize.embedding.weight"]
    if config.get("num_unconditional_tokens"):
        weights["unconditional_embeds"] = _load("pixel_decoding/uncond_embeddings.bin")
    sizes = {"hidden_size": 64, "feature_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    decoder = LavitFeatureDecoder(LavitFeatureDecoderConfig(num_patches=64, **sizes, **config))
    decoder.load_state_dict(weights)
    return decoder.eval()


def _load_pipeline(folder, feature_decoder):
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CHECKPOINT / folder / "unet"))
    unet.load_state_dict(_load(f"{folder}/unet/diffusion_pytorch_model.bin"))
    pipe = LavitImageDecoderPipeline(
        feature_decoder=feature_decoder,
        unet=unet.eval(),
        vae=AutoencoderKL.from_pretrained(CHECKPOINT / folder / "vae"),
        scheduler=DDIMScheduler.from_pretrained(CHECKPOINT / folder / "scheduler"),
        visual_token_offset=VISUAL_TOKEN_OFFSET,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def lowres():
    """The SD 1.5 kind: 61 stored unconditional embeddings for 64 patches."""
    decoder = _load_feature_decoder("tokenizer_decoder.bin", condition_dims=[24], num_unconditional_tokens=61)
    return _load_pipeline("pixel_decoding", decoder)


@pytest.fixture(scope="session")
def highres():
    """The SDXL kind."""
    decoder = _load_feature_decoder("highres_tokenizer_decoder.bin", condition_dims=[24, 40], pooled_condition_dim=40)
    return _load_pipeline("highres_pixel_decoding", decoder)


@pytest.fixture(scope="session")
def pipes(lowres, highres):
    return {"lowres": lowres, "highres": highres}


@pytest.fixture(scope="session")
def goldens():
    return load_file(GOLDENS / "goldens.safetensors")


@pytest.fixture(scope="session")
def visual_ids():
    """Vocabulary ids of four pictures."""
    return json.loads((GOLDENS / "goldens.json").read_text())["visual_ids_argmax"]


@pytest.fixture(scope="session")
def codes(visual_ids):
    return [[token - VISUAL_TOKEN_OFFSET for token in picture] for picture in visual_ids]
