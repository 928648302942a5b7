# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading of the codes of images from lists, arrays and tensors, and their padding to batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..modeling.configuration_lavit import LavitFeatureDecoderConfig


ImageTokens = torch.Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]] | Sequence[torch.Tensor]


def to_codes(
    image_tokens: ImageTokens,
    config: LavitFeatureDecoderConfig,
    visual_token_offset: int | None,
    vocabulary_ids: bool,
    name: str = "image_tokens",
) -> list[torch.LongTensor]:
    """
    Reads the tokens of one or several images as codes.

    Args:
        image_tokens (`list[int]`, `list[list[int]]`, `torch.Tensor`, `np.ndarray` or a list of 1D ones):
            The tokens of one image (a flat list, a 1D tensor) or those of several images.
        config ([`LavitFeatureDecoderConfig`]):
            The configuration of the feature decoder. Codes are 0 to `codebook_size - 1`, and an image has at most
            `num_patches` of them.
        visual_token_offset (`int`, *optional*): The vocabulary id of code 0.
        vocabulary_ids (`bool`):
            Whether `image_tokens` are vocabulary ids (`visual_token_offset` + code) instead of codes. The values do
            not tell, since the two ranges may overlap.
        name (`str`, *optional*, defaults to `"image_tokens"`): The name of the argument, for errors.

    Returns:
        `list[torch.LongTensor]`: The codes of each image, on the CPU.

    Raises:
        ValueError: If there are no images, or an image has no tokens, too many, or other ones than expected. The
            message has the index of the image.
    """
    if not isinstance(vocabulary_ids, bool):
        raise ValueError(f"vocabulary_ids must be True or False, got {vocabulary_ids!r}.")
    if vocabulary_ids and visual_token_offset is None:
        raise ValueError("vocabulary_ids=True needs a visual_token_offset, got None.")
    first = visual_token_offset if vocabulary_ids else 0
    codebook_size, num_patches = config.codebook_size, config.num_patches
    all_codes = []
    for index, tokens in enumerate(_to_tensors(image_tokens, name)):
        if not 1 <= len(tokens) <= num_patches:
            raise ValueError(f"{name}: image {index} must have 1 to {num_patches} tokens, got {len(tokens)}.")
        codes = tokens - first
        is_code = (codes >= 0) & (codes < codebook_size)
        if not is_code.all():
            position = int(is_code.int().argmin())
            raise ValueError(
                f"{name}: image {index} must have only tokens from {first} to {first + codebook_size - 1} with "
                f"vocabulary_ids={vocabulary_ids}, got {tokens[position].item()} at position {position}."
            )
        all_codes.append(codes)
    return all_codes


def pad_codes(codes: Sequence[torch.LongTensor]) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """Pads the codes of images on the right to `(B, L)`, and returns them with their attention mask of that shape."""
    masks = [torch.ones_like(image_codes, dtype=torch.bool) for image_codes in codes]
    return pad_sequence(codes, batch_first=True), pad_sequence(masks, batch_first=True)


def _to_tensors(image_tokens: ImageTokens, name: str) -> list[torch.LongTensor]:
    is_array = isinstance(image_tokens, (torch.Tensor, np.ndarray)) and image_tokens.ndim in (1, 2)
    if not is_array and not isinstance(image_tokens, (list, tuple)):
        kind = f"{image_tokens.ndim} dimensions" if hasattr(image_tokens, "ndim") else type(image_tokens).__name__
        raise ValueError(f"{name} must be a list, or a tensor of 1 or 2 dimensions, got {kind}.")
    if len(image_tokens) == 0:
        raise ValueError(f"{name} must have at least one image, got none.")
    first = image_tokens[0]
    is_one_image = image_tokens.ndim == 1 if is_array else not isinstance(first, (list, tuple)) and np.ndim(first) == 0
    tensors = []
    for index, image in enumerate([image_tokens] if is_one_image else image_tokens):
        try:
            tokens = torch.as_tensor(image, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name}: image {index} must be a list of integers, got {image!r}.") from error
        is_integer = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
        if tokens.ndim != 1 or (tokens.numel() and not is_integer):
            kind = f"{tokens.dtype} of shape {tuple(tokens.shape)}"
            raise ValueError(f"{name}: image {index} must be a list of integers, got {kind}.")
        tensors.append(tokens.long())
    return tensors
