# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of a call of the processor."""

from typing import Any, Literal

import torch
from transformers.processing_utils import ProcessingKwargs


DECISION = ("num_codes", "max_codes", "keep_scale")
# The arguments with which files are found, and those with which a model is loaded.
HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
HUB += ("trust_remote_code", "code_revision")
LOADING = ("dtype", "device_map", "attn_implementation")
# transformers returns none of these for texts in which special tokens are escaped.
NOT_ESCAPED = ("return_offsets_mapping", "return_length", "return_special_tokens_mask", "return_token_type_ids")
NOT_ESCAPED += ("return_overflowing_tokens",)


class LavitProcessorKwargs(ProcessingKwargs, total=False):
    """
    generation_mode (`"text"`, `"image"` or `"interleaved"`, *optional*, defaults to `"text"`):
        The `generation_mode` of `generate` that the prompt is for.
    split_special_tokens (`bool`, *optional*):
        Whether to read the special tokens in texts as plain text, other than the placeholders of images that are
        given. Defaults to the tokenizer's `split_special_tokens`.
    num_codes, max_codes (`int`, `list[int]` or `torch.LongTensor`), keep_scale (`float`):
        How many codes the images have, as in [`LavitVisualTokenizer.forward`], with a visual tokenizer.
    """

    generation_mode: Literal["text", "image", "interleaved"]
    split_special_tokens: bool | None
    num_codes: int | list[int] | torch.Tensor | None
    max_codes: int | list[int] | torch.Tensor | None
    keep_scale: float | None


def check_arguments(processor: Any, kwargs: dict[str, Any]) -> None:
    """
    Raises a `TypeError` for an argument that no processor of transformers, and no part of this one, has, and a
    `ValueError` for videos, for audio, and for a number of codes if the processor has no visual tokenizer.
    """
    # Clients of many kinds of models pass the arguments of videos and of audio to all of them.
    own = LavitProcessorKwargs.__annotations__
    known = {*own, "common_kwargs", "videos", "audio"}
    for kind in (*own.values(), getattr(processor.image_processor, "valid_kwargs", None)):
        known |= {*getattr(kind, "__annotations__", ())}
    if unknown := [name for name in kwargs if name not in known]:
        raise TypeError(f"{type(processor).__name__} got an unexpected argument {unknown[0]!r}.")
    for name in ("videos", "audio"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(processor).__name__} reads text and images, got {name}.")
    if processor.visual_tokenizer is None:
        for name in DECISION:
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} needs the visual tokenizer: load the processor with visual_tokenizer=True.")
