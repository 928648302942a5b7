# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The codes of pictures, read from the forms in which users have them."""

from collections.abc import Sequence

import numpy as np
import torch


ImageTokens = torch.Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]] | Sequence[torch.Tensor]


def to_codes(
    image_tokens: ImageTokens,
    codebook_size: int,
    num_patches: int,
    visual_token_offset: int | None = None,
    vocabulary_ids: bool | None = None,
) -> list[torch.LongTensor]:
    """
    Args:
        image_tokens (`list[int]`, `list[list[int]]`, `torch.Tensor`, `np.ndarray` or a list of 1D ones):
            One picture's tokens (a flat list, a 1D tensor), or those of several pictures.
        codebook_size (`int`): Codes are 0 to `codebook_size - 1`.
        num_patches (`int`): The most tokens a picture can have.
        visual_token_offset (`int`, *optional*): The vocabulary id of code 0.
        vocabulary_ids (`bool`, *optional*):
            Whether the tokens are vocabulary ids or codes. By default the values tell, picture by picture; without a
            `visual_token_offset` they are codes. It must be said where codes and vocabulary ids overlap, for then a
            picture would be read one way or the other as chance has it.

    Returns:
        `list[torch.LongTensor]`: Each picture's codes, on the CPU.

    Raises:
        ValueError: no picture, or one that has no tokens, too many, or others than expected, by index and value.
    """
    if vocabulary_ids and visual_token_offset is None:
        raise ValueError(f"vocabulary_ids={vocabulary_ids} needs a visual_token_offset, got None.")
    if vocabulary_ids is None and visual_token_offset is not None and visual_token_offset < codebook_size:
        raise ValueError(
            f"With visual_token_offset {visual_token_offset} and a codebook of {codebook_size} codes, codes and "
            "vocabulary ids overlap: pass vocabulary_ids=True or vocabulary_ids=False, got None."
        )
    codes_expected = f"codes 0 to {codebook_size - 1}"
    if visual_token_offset is None or vocabulary_ids is False:
        expected, vocabulary_ids = codes_expected, False
    else:
        last = visual_token_offset + codebook_size - 1
        expected = f"vocabulary ids {visual_token_offset} to {last}, without [IMG] and [/IMG]"
        expected = expected if vocabulary_ids else f"{codes_expected}, or only {expected}"

    codes = []
    for index, tokens in enumerate(_to_pictures(image_tokens)):
        if not 1 <= len(tokens) <= num_patches:
            raise ValueError(f"Picture {index} must have 1 to {num_patches} tokens, got {len(tokens)}.")
        # The first token tells for its whole picture, so that a mixture is an error that names what disagrees.
        are_ids = tokens[0] >= visual_token_offset if vocabulary_ids is None else vocabulary_ids
        picture = tokens - visual_token_offset if are_ids else tokens
        wrong = ((picture < 0) | (picture >= codebook_size)).nonzero()
        if len(wrong):
            position = wrong[0].item()
            value = tokens[position].item()
            raise ValueError(f"Picture {index} must have only {expected}; got {value} at position {position}.")
        codes.append(picture)
    return codes


def _to_pictures(image_tokens: ImageTokens) -> list[torch.LongTensor]:
    if isinstance(image_tokens, (torch.Tensor, np.ndarray)) and image_tokens.ndim in (1, 2):
        pictures = [image_tokens] if image_tokens.ndim == 1 else list(image_tokens)
    elif isinstance(image_tokens, (list, tuple)):
        pictures = list(image_tokens)
        if pictures and not isinstance(pictures[0], (list, tuple)) and np.ndim(pictures[0]) == 0:
            pictures = [pictures]
    else:
        kind = f"{image_tokens.ndim} dimensions" if hasattr(image_tokens, "ndim") else type(image_tokens).__name__
        raise ValueError(f"image_tokens must be a list, or a tensor of 1 or 2 dimensions, got {kind}.")
    if not pictures:
        raise ValueError("image_tokens must have at least one picture, got none.")
    return [_to_tensor(index, picture) for index, picture in enumerate(pictures)]


def _to_tensor(index: int, picture) -> torch.LongTensor:
    try:
        tokens = torch.as_tensor(picture, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Picture {index} must be a list of integers, got {picture!r}.") from error
    is_integer = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
    if tokens.ndim != 1 or (tokens.numel() and not is_integer):
        raise ValueError(
            f"Picture {index} must be a list of integers, got {tokens.dtype} of shape {tuple(tokens.shape)}."
        )
    return tokens.long()
