# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The authors' checkpoint in tests, and its conversion."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from lavit_hf.conversion import convert_official_checkpoint


CHECKPOINT = Path(__file__).parents[1] / "goldens" / "checkpoint"
LANGUAGE_MODEL = "language_model/pytorch_model.bin"
ADAPTER = "language_model/visual_weight.bin"
TOWER = "visual_tokenizer/eva_vitg_psz14.bin"
TOKENIZER = "visual_tokenizer/tokenizer_encoder.bin"
DECODER = "visual_tokenizer/highres_tokenizer_decoder.bin"
UNET = "highres_pixel_decoding/unet/diffusion_pytorch_model.bin"
VAE = "pixel_decoding/vae/diffusion_pytorch_model.safetensors"


def convert(source: Path | str, target: Path, **kwargs) -> Path:
    return convert_official_checkpoint(source, target, **({"num_attention_heads": 4} | kwargs))


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def edit(path: Path, change) -> None:
    tensors = load(path)
    change(tensors)
    torch.save(tensors, path)


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a converted folder, by folder and name."""
    return {
        f"{path.parent.relative_to(folder)}:{key}": tensor
        for path in folder.rglob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


def assert_same_weights(actual: Path, expected: Path) -> None:
    actual, expected = load_all(actual), load_all(expected)
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(actual[key], tensor), key


def assert_nothing_left(target: Path) -> None:
    assert not [path.name for path in target.parent.glob(f"{target.name}*")]
