# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The grammar of sequences: which tokens may follow."""

import sys

import torch
from transformers.generation import LogitsProcessor, StopStringCriteria

from .configuration_lavit import LavitConfig
from .expansion_lavit import open_image_start
from .generation_settings_lavit import LavitGenerationSettings


class LavitGrammarLogitsProcessor(LogitsProcessor):
    """
    Sets the scores of tokens that may not follow to -inf.

    Inside an image, codes may follow until the image has its largest number of codes or the context of the language
    model ends, and `[/IMG]` once it has its smallest number. Outside, text may follow, and in interleaved generation
    `[IMG]`, if another image is allowed and the largest image has room, so that no image is cut. The placeholder never
    follows.

    Args:
        settings ([`LavitGenerationSettings`]): Settings of generation, with the bounds on images and new tokens.
        config ([`LavitConfig`]): Gives the ids of the vocabulary.
        prompt_length (`int`): Length of the prompts.
        padding (`torch.LongTensor` of shape `(B,)`, *optional*):
            Length of the padding of each prompt, which takes no room in the context.
    """

    def __init__(
        self,
        settings: LavitGenerationSettings,
        config: LavitConfig,
        prompt_length: int,
        padding: torch.LongTensor | None = None,
    ):
        self.settings, self.config, self.prompt_length, self.padding = settings, config, prompt_length, padding
        self.longest = getattr(config.text_config, "max_position_embeddings", None) or sys.maxsize

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        settings, config = self.settings, self.config
        start, is_open = open_image_start(input_ids, config)
        if settings.generation_mode == "text":
            is_open = torch.zeros_like(is_open)
        num_codes, num_new_tokens = input_ids.shape[1] - 1 - start, input_ids.shape[1] - self.prompt_length
        room = self._room(input_ids)
        # An image ends within the context of the language model.
        is_full = is_open & ((num_codes >= settings.num_codes[1]) | (room <= 1))
        has_enough = (num_codes >= settings.num_codes[0]) & (num_new_tokens >= settings.min_new_tokens)
        must_open = ~is_open & (settings.first_modality == "image" and num_new_tokens == 0)

        allowed = ~(is_open | must_open)[:, None].repeat(1, scores.shape[1])
        codes = slice(config.visual_token_offset, config.visual_token_offset + config.codebook_size)
        allowed[:, codes] = (is_open & ~is_full)[:, None]
        allowed[:, config.image_start_token_id] = must_open | (~is_open & self._may_open(input_ids, room))
        allowed[:, config.image_end_token_id] = is_full | (is_open & has_enough)
        allowed[:, config.image_token_id] = False
        scores = scores.masked_fill(~allowed, -torch.inf)
        # A token that alone may follow is possible, even if another processor or setting has suppressed it.
        for token_id, is_forced in ((config.image_start_token_id, must_open), (config.image_end_token_id, is_full)):
            scores[:, token_id] = scores[:, token_id].masked_fill(is_forced, 0.0)
        return scores

    def _room(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """Returns how many tokens have room in the context behind each of the ids (B, L)."""
        room = input_ids.new_full((len(input_ids),), self.longest - input_ids.shape[1])
        if self.padding is None:
            return room
        padding = self.padding.to(room.device)
        return room + padding.repeat_interleave(len(room) // len(padding))

    def _may_open(self, input_ids: torch.LongTensor, room: torch.LongTensor) -> torch.BoolTensor:
        """Returns (B,) bool, True where `[IMG]` may follow text, by the `room` (B,) in the context."""
        settings, new_ids = self.settings, input_ids[:, self.prompt_length :]
        num_images = new_ids.eq(self.config.image_end_token_id).sum(dim=-1)
        has_room = room.clamp(max=settings.max_new_tokens - new_ids.shape[1]) >= settings.num_codes[1] + 2
        is_too_early = settings.first_modality == "text" and new_ids.shape[1] == 0
        limit = settings.max_new_tokens if settings.max_images is None else settings.max_images
        return (num_images < limit) & has_room & (settings.generation_mode == "interleaved" and not is_too_early)


class LavitStopStringCriteria(StopStringCriteria):
    """
    `StopStringCriteria` that looks for strings in text alone, and not in the names of codes and image marks.

    Args:
        tokenizer (`PreTrainedTokenizerBase`), stop_strings (`str` or `list[str]`): Same as in `StopStringCriteria`.
        config ([`LavitConfig`]): Gives the ids of the vocabulary.
    """

    def __init__(self, tokenizer, stop_strings: str | list[str], config: LavitConfig):
        super().__init__(tokenizer, stop_strings)
        self.config = config

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.Tensor:
        # Tokens that were added later are behind the placeholder. Ids beyond the vocabulary match no string.
        is_text = (input_ids < self.config.image_start_token_id) | (input_ids > self.config.image_token_id)
        return super().__call__(input_ids.where(is_text, sys.maxsize), scores, **kwargs)
