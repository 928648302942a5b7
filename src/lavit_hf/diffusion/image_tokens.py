# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The codes of images, read from the forms in which users have them."""

from collections.abc import Sequence

import numpy as np
import torch


ImageTokens = torch.Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]] | Sequence[torch.Tensor]


def to_codes(
    image_tokens: ImageTokens,
    codebook_size: int,
    num_patches: int,
    visual_token_offset: int | None = None,
    vocabulary_ids: bool = False,
) -> list[torch.LongTensor]:
    """
    Reads the tokens of one or several images as codes.

    Args:
        image_tokens (`list[int]`, `list[list[int]]`, `torch.Tensor`, `np.ndarray` or a list of 1D ones):
            The tokens of one image (a flat list, a 1D tensor) or those of several images.
        codebook_size (`int`): Codes are 0 to `codebook_size - 1`.
        num_patches (`int`): The largest number of tokens that an image can have.
        visual_token_offset (`int`, *optional*): The vocabulary id of code 0.
        vocabulary_ids (`bool`, *optional*, defaults to `False`):
            Whether `image_tokens` are vocabulary ids (`visual_token_offset` + code) instead of codes. The values never
            decide it, since the two ranges may overlap.

    Returns:
        `list[torch.LongTensor]`: The codes of each image, on the CPU.

    Raises:
        ValueError: no image; an image without tokens, with too many or with others than expected, by index and value;
            `vocabulary_ids` that is no bool, or is `True` without a `visual_token_offset`.
    """
    if not isinstance(vocabulary_ids, bool):
        raise ValueError(f"vocabulary_ids must be True or False, got {vocabulary_ids!r}.")
    if vocabulary_ids and visual_token_offset is None:
        raise ValueError("vocabulary_ids=True needs a visual_token_offset, got None.")
    first = visual_token_offset if vocabulary_ids else 0
    all_codes = []
    for index, tokens in enumerate(_to_images(image_tokens)):
        if not 1 <= len(tokens) <= num_patches:
            raise ValueError(f"image_tokens: image {index} must have 1 to {num_patches} tokens, got {len(tokens)}.")
        codes = tokens - first
        wrong = ((codes < 0) | (codes >= codebook_size)).nonzero()
        if len(wrong):
            position = wrong[0].item()
            raise ValueError(
                f"image_tokens: image {index} must have only {_ranges(codebook_size, visual_token_offset)}; with "
                f"vocabulary_ids={vocabulary_ids} got {tokens[position].item()} at position {position}."
            )
        all_codes.append(codes)
    return all_codes


def _ranges(codebook_size: int, visual_token_offset: int | None) -> str:
    codes = f"codes 0 to {codebook_size - 1}"
    if visual_token_offset is None:
        return codes
    last = visual_token_offset + codebook_size - 1
    return (
        f"{codes} (vocabulary_ids=False) or vocabulary ids {visual_token_offset} to {last}, without [IMG] and [/IMG] "
        "(vocabulary_ids=True)"
    )


def _to_images(image_tokens: ImageTokens) -> list[torch.LongTensor]:
    if isinstance(image_tokens, (torch.Tensor, np.ndarray)) and image_tokens.ndim in (1, 2):
        images = [image_tokens] if image_tokens.ndim == 1 else list(image_tokens)
    elif isinstance(image_tokens, (list, tuple)):
        images = list(image_tokens)
        if images and not isinstance(images[0], (list, tuple)) and np.ndim(images[0]) == 0:
            images = [images]
    else:
        kind = f"{image_tokens.ndim} dimensions" if hasattr(image_tokens, "ndim") else type(image_tokens).__name__
        raise ValueError(f"image_tokens must be a list, or a tensor of 1 or 2 dimensions, got {kind}.")
    if not images:
        raise ValueError("image_tokens must have at least one image, got none.")
    return [_to_tensor(index, image) for index, image in enumerate(images)]


def _to_tensor(index: int, image) -> torch.LongTensor:
    try:
        tokens = torch.as_tensor(image, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"image_tokens: image {index} must be a list of integers, got {image!r}.") from error
    is_integer = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
    if tokens.ndim != 1 or (tokens.numel() and not is_integer):
        raise ValueError(
            f"image_tokens: image {index} must be a list of integers, got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}."
        )
    return tokens.long()
