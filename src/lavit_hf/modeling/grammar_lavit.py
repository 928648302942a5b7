# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The grammar of sequences: which tokens may follow, and which settings of sampling hold in text and in images."""

import torch
from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from .configuration_lavit import LavitConfig
from .expansion_lavit import open_image_start


class LavitGrammarLogitsProcessor(LogitsProcessor):
    """
    Sets the scores of all tokens to -inf that may not follow.

    Inside an image, codes may follow, `[/IMG]` once there are enough of them, and nothing but `[/IMG]` after the most.
    Outside, text may follow, and in interleaved generation `[IMG]` where another image is allowed and has room for the
    most codes, so that no image is cut. The placeholder never follows.

    Args:
        generation_mode (`str`): `"text"`, `"image"` or `"interleaved"`.
        config ([`LavitConfig`]): Names the ids.
        vocab_size (`int`): Width of the scores.
        num_codes (`tuple[int, int]`): Least and most codes of an image.
        prompt_length, max_length (`int`): The lengths at which generation begins and ends at the latest.
        max_images (`int`, *optional*): Most images of interleaved generation. Default: any number.
        first_modality (`"text"` or `"image"`, *optional*):
            The first modality to generate. `"image"` opens an image in each row that has no open image yet.
        min_new_tokens (`int`, *optional*, defaults to 0):
            New tokens before which no image is closed, unless it is full.
        device (`torch.device`, *optional*): Device of the scores.
    """

    def __init__(
        self,
        generation_mode: str,
        config: LavitConfig,
        vocab_size: int,
        num_codes: tuple[int, int],
        prompt_length: int,
        max_length: int,
        max_images: int | None = None,
        first_modality: str | None = None,
        min_new_tokens: int = 0,
        device: torch.device | None = None,
    ):
        ids = torch.arange(vocab_size, device=device)
        first_code = config.visual_token_offset
        self.is_code = (ids >= first_code) & (ids < first_code + config.codebook_size)
        self.is_start = ids.eq(config.image_start_token_id)
        self.is_end = ids.eq(config.image_end_token_id)
        # Tokens that a user has added behind the placeholder are text as well.
        self.is_text = ~(self.is_code | self.is_start | self.is_end | ids.eq(config.image_token_id))
        self.config = config
        self.generation_mode, self.max_images, self.first_modality = generation_mode, max_images, first_modality
        self.min_codes, self.max_codes = num_codes
        self.prompt_length, self.max_length, self.min_new_tokens = prompt_length, max_length, min_new_tokens

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.generation_mode == "text":
            return scores.masked_fill(~self.is_text, -torch.inf)
        start, is_open = open_image_start(input_ids, self.config)
        num_codes = (input_ids.shape[1] - 1 - start)[:, None]
        num_new_tokens = input_ids.shape[1] - self.prompt_length
        is_full = num_codes >= self.max_codes
        may_close = is_full | ((num_codes >= self.min_codes) & (num_new_tokens >= self.min_new_tokens))
        inside = (self.is_code & ~is_full) | (self.is_end & may_close)
        outside = self.is_text | (self.is_start & self._may_open(input_ids))
        # Where one token alone may follow, no other processor and no setting can have suppressed it.
        forced = is_open[:, None] & is_full & self.is_end
        if self.first_modality == "image" and num_new_tokens == 0:
            outside = self.is_start.expand_as(outside)
            forced = forced | (~is_open[:, None] & self.is_start)
        scores = scores.masked_fill(~torch.where(is_open[:, None], inside, outside), -torch.inf)
        return scores.masked_fill(forced, 0.0)

    def _may_open(self, input_ids: torch.LongTensor) -> torch.BoolTensor:
        """(B, 1) bool, True where an image may begin now."""
        new_ids = input_ids[:, self.prompt_length :]
        has_room = self.max_length - input_ids.shape[1] >= self.max_codes + 2
        too_early = self.first_modality == "text" and new_ids.shape[1] == 0
        num_images = new_ids.eq(self.config.image_end_token_id).sum(dim=-1, keepdim=True)
        limit = self.max_length if self.max_images is None else self.max_images
        return (num_images < limit) & (self.generation_mode == "interleaved" and has_room and not too_early)


# What interleaved generation can set apart for text and images: the warpers of `GenerationMixin` by their settings,
# in its order, and the values with which they change nothing.
WARPERS = {
    "temperature": (TemperatureLogitsWarper, 1.0),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, None),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
    "eta_cutoff": (EtaLogitsWarper, 0.0),
}
NEUTRAL = {name: value for name, (_, value) in WARPERS.items()}


def warpers(settings: dict) -> LogitsProcessorList:
    """The sampling of `settings`, a dict with `do_sample` and names of [`WARPERS`], as logits processors."""
    if not settings.get("do_sample"):
        # Where the other modality is sampled, the likeliest token alone is what greedy choice leaves.
        return LogitsProcessorList([TopKLogitsWarper(1)])
    chosen = ((warper, settings.get(name), neutral) for name, (warper, neutral) in WARPERS.items())
    return LogitsProcessorList([warper(value) for warper, value, neutral in chosen if value not in (None, neutral)])


class LavitModalityLogitsProcessor(LogitsProcessor):
    """
    Applies other processors to rows inside an image than to rows in text.

    Args:
        text, image (`LogitsProcessorList`): Processors of either.
        config ([`LavitConfig`]): Names the ids of `[IMG]` and `[/IMG]`.
    """

    def __init__(self, text: LogitsProcessorList, image: LogitsProcessorList, config: LavitConfig):
        self.text, self.image, self.config = text, image, config

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        _, is_open = open_image_start(input_ids, self.config)
        # Some processors write into the scores that they are given.
        image = self.image(input_ids, scores.clone())
        return torch.where(is_open[:, None], image, self.text(input_ids, scores))
