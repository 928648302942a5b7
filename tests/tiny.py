# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tiny models with random weights, large enough in scale that every part of the input shows in the output."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lavit_hf import LavitForCausalLM


TEXT_TOKENS = 100
CODEBOOK_SIZE = 40
IMAGE_SIZE = 32
NUM_PATCHES = 16

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": TEXT_TOKENS,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGE_START, IMAGE_END, VISUAL_OFFSET = TEXT_TOKENS, TEXT_TOKENS + 1, TEXT_TOKENS + 2
PLACEHOLDER = VISUAL_OFFSET + CODEBOOK_SIZE


def loosen(model: PreTrainedModel, std: float = 0.25) -> PreTrainedModel:
    """Weights of `std`, since the usual 0.02 makes a tiny model's outputs nearly blind to its inputs."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=std)
    return model


def tiny_lavit(vision=None, text=None, seed: int = 0, **kwargs) -> LavitForCausalLM:
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(**VISION) if vision is None else vision
    text = LlamaConfig(**TEXT) if text is None else text
    kwargs = {"codebook_size": CODEBOOK_SIZE, "num_merger_layers": 2} | kwargs
    return loosen(LavitForCausalLM.from_backbones(vision, text, **kwargs)).eval()


def text_tokenizer() -> PreTrainedTokenizerFast:
    """A text tokenizer with an id for each row of a tiny text model."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"word{index}": index for index in range(3, TEXT_TOKENS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def save_text_model(folder: Path) -> Path:
    """A language model and its tokenizer."""
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    return folder


class Colors(nn.Module):
    """The mean of each channel, of pictures as the Inception network takes them."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean(dim=(2, 3)) / 255


def save_clip(folder: Path) -> Path:
    """A CLIP whose text tower knows some words of the scenes, as `CLIPModel` and `CLIPProcessor` load it."""
    torch.manual_seed(1)
    words = "<end> a red blue circle star and large small at the top bottom left right in on center".split()
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<end>", eos_token="<end>")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = shape | {"vocab_size": len(words), "max_position_embeddings": 12, "eos_token_id": 0, "pad_token_id": 0}
    vision = shape | {"image_size": IMAGE_SIZE, "patch_size": 16}
    loosen(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pictures(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))


def pad_rows(rows: list[list[int]], side: str = "left", fill: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as (ids, attention mask), padded on `side`."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), fill)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    return ids, mask
