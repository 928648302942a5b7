# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What generation does to scores before a token is chosen: guidance, what may follow what, settings by modality."""

import torch
from transformers.generation import LogitsProcessor, LogitsProcessorList

from .configuration_lavit import LavitConfig
from .sequence_lavit import open_image_start


class LavitGuidanceLogitsProcessor(LogitsProcessor):
    """
    Combines the two branches of classifier-free guidance on log-probabilities, `u + s * (c - u)`, in rows that are
    within a picture; elsewhere the conditional branch is taken as it is.

    It comes before every other processor: on the -inf of a processor the difference is not a number.

    Args:
        guidance_scale (`float`): s.
        config ([`LavitConfig`]): The ids of `[IMG]` and `[/IMG]`.
    """

    def __init__(self, guidance_scale: float, config: LavitConfig):
        self.guidance_scale, self.config = guidance_scale, config

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`scores` (2B, vocab_size), the conditional rows first -> (B, vocab_size)."""
        conditional, unconditional = scores.log_softmax(dim=-1).chunk(2)
        _, is_open = open_image_start(input_ids, self.config)
        guided = unconditional + self.guidance_scale * (conditional - unconditional)
        return torch.where(is_open[:, None], guided, conditional)


class LavitModalityLogitsProcessor(LogitsProcessor):
    """
    Lets only those tokens follow that mode and state of a sequence admit. Within a picture: codes, `[/IMG]` after the
    least number of them, and nothing but `[/IMG]` after the most. Else text, and in interleaved generation `[IMG]`
    where another picture is allowed and the largest would still find room: none is cut.

    Args:
        generation_mode (`str`): `"text"`, `"image"` or `"interleaved"`.
        config ([`LavitConfig`]): The ids.
        vocab_size (`int`): Width of the scores.
        num_codes (`tuple[int, int]`): Least and most codes of a picture.
        prompt_length, max_length (`int`): Where generation begins, and where it ends at the latest.
        max_images (`int`, *optional*): Most pictures of interleaved generation; None for any number.
        begin_with_text (`bool`, *optional*, defaults to `False`): Whether the first token is text.
        device (`torch.device`, *optional*): Where the scores live.
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
        begin_with_text: bool = False,
        device: torch.device | None = None,
    ):
        ids = torch.arange(vocab_size, device=device)
        first_code = config.visual_token_offset
        self.is_code = (ids >= first_code) & (ids < first_code + config.codebook_size)
        self.is_start, self.is_end = ids == config.image_start_token_id, ids == config.image_end_token_id
        # No embedding is there for the placeholder; where the vocabulary has grown past it, it is masked here.
        self.is_text = ~(self.is_code | self.is_start | self.is_end | (ids == config.image_token_id))
        self.config = config
        self.generation_mode, self.max_images, self.begin_with_text = generation_mode, max_images, begin_with_text
        self.min_codes, self.max_codes = num_codes
        self.prompt_length, self.max_length = prompt_length, max_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.generation_mode == "text":
            return scores.masked_fill(~self.is_text, -torch.inf)
        start, is_open = open_image_start(input_ids, self.config)
        num_codes = (input_ids.shape[1] - 1 - start)[:, None]
        inside = (self.is_code & (num_codes < self.max_codes)) | (self.is_end & (num_codes >= self.min_codes))
        outside = self.is_text | (self.is_start & self._may_open(input_ids))
        return scores.masked_fill(~torch.where(is_open[:, None], inside, outside), -torch.inf)

    def _may_open(self, input_ids: torch.LongTensor) -> torch.BoolTensor:
        """(B, 1): whether a picture may begin now."""
        new_ids = input_ids[:, self.prompt_length :]
        has_room = self.max_length - input_ids.shape[1] >= self.max_codes + 2
        too_early = self.begin_with_text and new_ids.shape[1] == 0
        num_images = new_ids.eq(self.config.image_end_token_id).sum(dim=-1, keepdim=True)
        limit = self.max_length if self.max_images is None else self.max_images
        return (num_images < limit) & (self.generation_mode == "interleaved" and has_room and not too_early)


class LavitModalitySettingsLogitsProcessor(LogitsProcessor):
    """
    Other processors for rows that are within a picture than for rows that are in text: temperature, top-k and so on of
    each.

    Args:
        text, image (`LogitsProcessorList`): What is done to the scores of either.
        config ([`LavitConfig`]): The ids of `[IMG]` and `[/IMG]`.
    """

    def __init__(self, text: LogitsProcessorList, image: LogitsProcessorList, config: LavitConfig):
        self.text, self.image, self.config = text, image, config

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        _, is_open = open_image_start(input_ids, self.config)
        # Some processors write into the scores that they are given.
        image = self.image(input_ids, scores.clone())
        return torch.where(is_open[:, None], image, self.text(input_ids, scores))
