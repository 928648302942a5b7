# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts of `generate`: as they are given, and as the model reads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_lavit import LavitConfig
from .expansion_lavit import (
    LavitSequences,
    check_attention_mask,
    check_placeholders,
    move_padding_left,
    open_image_start,
)
from .generation_settings_lavit import LavitGenerationSettings, end_ids


@dataclass
class LavitPrompts:
    """
    Prompts as they were given, and as the model reads them: images expanded, padded on the left.

    Args:
        given (`torch.LongTensor` of shape `(B, L)`): The ids that the result begins with.
        input_ids, attention_mask (`torch.Tensor` of shape `(B, L')`):
            Inputs of the model. In place of an empty prompt it reads the `[IMG]` of a drawing.
        coded (`torch.LongTensor` of shape `(B, L')`): The prompts with the codes of all images.
        features (`dict`, *optional*): The features of images, as `mm_encoder_outputs` of the model.
    """

    given: torch.LongTensor
    input_ids: torch.LongTensor
    attention_mask: torch.Tensor
    coded: torch.LongTensor
    features: dict[str, Any] | None = None

    @property
    def length(self) -> int:
        """The number of ids that precede generated ones. The `[IMG]` in place of an empty prompt is generated."""
        return self.input_ids.shape[1] - int(self.given.shape[1] == 0)

    @property
    def are_as_given(self) -> bool:
        """Whether the model reads the prompts as they were given."""
        return self.input_ids.shape == self.given.shape and torch.equal(self.input_ids, self.given)

    def put_back(self, input_ids: torch.LongTensor, prompt: torch.LongTensor | None = None) -> torch.LongTensor:
        """Replaces the prompts in `input_ids` (N * B, ...) by `prompt` (B, ...). Default: by the given ones."""
        prompt = self.given if prompt is None else prompt
        prompt = prompt.repeat_interleave(len(input_ids) // len(prompt), dim=0).to(input_ids.device)
        return torch.cat([prompt, input_ids[:, self.length :]], dim=1)


class CalledAsGiven:
    """A logits processor or stopping criterion of the user, which is called with the prompts as they were given."""

    def __init__(self, function: Callable, prompts: LavitPrompts):
        self._function, self._prompts = function, prompts

    def __call__(self, input_ids, scores):
        return self._function(self._prompts.put_back(input_ids), scores)

    def __getattr__(self, name: str):
        return getattr(self._function, name)


class StreamedAsGiven(BaseStreamer):
    """A streamer of the user, which gets the prompts as they were given."""

    def __init__(self, streamer: BaseStreamer, prompts: LavitPrompts):
        self._streamer, self._prompts, self._is_prompt = streamer, prompts, True

    def put(self, value):
        if self._is_prompt:
            value, self._is_prompt = self._prompts.put_back(value), False
        self._streamer.put(value)

    def end(self):
        self._streamer.end()


def check_prompts(config: LavitConfig, input_ids: torch.LongTensor) -> None:
    """Raises a `ValueError` for prompts that are no ids of this model."""
    if input_ids.ndim != 2 or input_ids.is_floating_point() or len(input_ids) == 0:
        raise ValueError(
            f"input_ids must be integers of shape (B, L), got {input_ids.dtype} of {tuple(input_ids.shape)}."
        )
    if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < config.vocab_size:
        raise ValueError(
            f"input_ids must be from 0 to {config.vocab_size - 1}, got {int(input_ids.min())} to "
            f"{int(input_ids.max())}."
        )


def check_context(config: LavitConfig, attention_mask: torch.Tensor, settings: LavitGenerationSettings) -> None:
    """Raises a `ValueError` if prompts with a mask (B, L), and the images asked for, do not fit into the context."""
    length = int(attention_mask.sum(dim=-1).max())  # padding takes no positions
    longest = getattr(config.text_config, "max_position_embeddings", None)
    num_images = settings.max_images or int(settings.first_modality == "image")
    needed = num_images * (settings.num_codes[0] + 2) or 1
    if longest is not None and length + needed > longest:
        raise ValueError(
            f"The context holds {longest} positions: prompts of {length} leave no room for "
            f"{'a token' if num_images == 0 else 'an image' if num_images == 1 else f'{num_images} images'}."
        )


def infer_attention_mask(input_ids: torch.LongTensor, settings: LavitGenerationSettings) -> torch.LongTensor:
    """Returns the mask that transformers infers if none is given: 0 at padding that is told from ends of text."""
    pad, eos = settings.explicit.get("pad_token_id"), settings.explicit.get("eos_token_id")
    if pad is None or pad in end_ids(eos):
        return torch.ones_like(input_ids)
    return input_ids.ne(pad).long()


def read_prompts(
    config: LavitConfig,
    given: torch.LongTensor,
    attention_mask: torch.Tensor,
    expand_images: Callable[..., LavitSequences] | None,
    features: dict[str, Any] | None,
    settings: LavitGenerationSettings,
) -> LavitPrompts:
    """
    Expands the images of prompts. Images that enter as codes become codes, others stay placeholders.

    Args:
        config ([`LavitConfig`]): Configuration of the model.
        given, attention_mask (`torch.Tensor` of shape `(B, L)`): Prompts, padded on either side.
        expand_images (`Callable`, *optional*): Puts images into ids and a mask. None if there are no images.
        features (`dict`, *optional*): Features of images that were computed before.
        settings ([`LavitGenerationSettings`]): Settings of generation.

    Returns:
        [`LavitPrompts`]

    Raises:
        ValueError: If the mask does not fit, if a prompt of text is empty, if placeholders do not fit images, or if
            an image that is to be continued does not enter as codes.
    """
    if attention_mask.ndim != 2:
        raise ValueError(f"attention_mask must be of shape (B, L), got {tuple(attention_mask.shape)}.")
    check_attention_mask(attention_mask, given.shape)
    is_empty = ~attention_mask.bool().any(dim=-1)
    if settings.first_modality != "image" and is_empty.any():
        raise ValueError(
            f"Prompt {int(is_empty.int().argmax())} is empty: text needs at least one token to start from."
        )
    input_ids = given
    if given.shape[1] == 0:
        input_ids = given.new_full((len(given), 1), config.image_start_token_id)
        attention_mask = torch.ones_like(input_ids)
    elif not attention_mask[:, -1].all():
        input_ids, attention_mask = move_padding_left(given, attention_mask)
    coded = input_ids
    if expand_images is not None:
        sequences = expand_images(input_ids, attention_mask=attention_mask)
        coded = input_ids = sequences.input_ids
        attention_mask = sequences.attention_mask
        if sequences.feature_mask is not None:
            input_ids = coded.masked_fill(sequences.feature_mask, config.image_token_id)
            parts = sequences.image_features.split(sequences.feature_counts.tolist())
            features = {"image": BaseModelOutputWithPooling(pooler_output=list(parts))}
    elif features is None:
        check_placeholders(int(input_ids.eq(config.image_token_id).sum()))
    start, is_open = open_image_start(input_ids, config)
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    is_continued = (columns > start[:, None]) & is_open[:, None]
    if (is_continued & (input_ids == config.image_token_id)).any():
        raise ValueError(
            "An image that is to go on, behind an [IMG] without [/IMG], must enter as codes: pass "
            "image_inputs='codes'."
        )
    return LavitPrompts(given, input_ids, attention_mask, coded if given.shape[1] else given, features)


def continue_prompts(
    config: LavitConfig,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor,
    cache: Cache,
    has_images: bool,
    settings: LavitGenerationSettings,
) -> LavitPrompts:
    """
    Returns prompts whose beginning the model has read into `cache`.

    Raises:
        ValueError: If the cache is not that of the prompts, or if they have images, since a placeholder does not tell
            how many positions its image has in the cache.
    """
    past, length = cache.get_seq_length(), input_ids.shape[1]
    is_whole = attention_mask.shape[-1] == length
    if has_images or (is_whole and length <= past) or input_ids.eq(config.image_token_id).any():
        raise ValueError(
            f"cache holds {past} positions, and input_ids must be those and further ones without images, got "
            f"{length} ids: sequences with images go on from the result of `return_prompt_codes=True`."
        )
    check_attention_mask(attention_mask, input_ids.shape, 0 if is_whole else past)
    if (attention_mask.diff(dim=-1) < 0).any():
        raise ValueError("attention_mask must have its zeros on the left where a cache goes on, as the cache has.")
    keys = getattr(cache.layers[0], "keys", None)
    num_rows = len(input_ids) * (2 if settings.guided else 1)
    if (keys is not None and len(keys) != num_rows) or (settings.guided and not is_whole):
        raise ValueError(
            f"cache must hold {num_rows} rows of {len(input_ids)} whole prompts with guidance_scale="
            f"{settings.guidance_scale}, got {'' if keys is None else len(keys)} rows."
        )
    return LavitPrompts(input_ids, input_ids, attention_mask, input_ids)
