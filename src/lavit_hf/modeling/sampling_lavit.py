# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling of text and images in one sequence, each by settings of its own."""

from typing import Any

import torch
from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from .configuration_lavit import LavitConfig
from .expansion_lavit import open_image_start


# The settings of sampling, in the order in which transformers applies them, and the values that change nothing.
WARPERS = {
    "temperature": (TemperatureLogitsWarper, 1.0),
    "top_h": (TopHLogitsWarper, None),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, None),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
    "eta_cutoff": (EtaLogitsWarper, 0.0),
}
KEEP_ALL = (TemperatureLogitsWarper, TopHLogitsWarper)  # which know no smallest number of tokens to keep


class LavitSamplingLogitsProcessor(LogitsProcessor):
    """
    Warps the scores of rows with an open image and of rows in text by settings of their own.

    Args:
        text, image (`dict`): Values of `do_sample` and of the settings in [`WARPERS`].
        config ([`LavitConfig`]): Gives the ids of `[IMG]` and `[/IMG]`.
        min_tokens_to_keep (`int`, *optional*, defaults to 1): The fewest tokens that sampling may choose from.
    """

    def __init__(self, text: dict[str, Any], image: dict[str, Any], config: LavitConfig, min_tokens_to_keep: int = 1):
        self.text, self.image = (make_warpers(settings, min_tokens_to_keep) for settings in (text, image))
        self.config = config

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        _, is_open = open_image_start(input_ids, self.config)
        # Some warpers write into the scores that they are given.
        image = self.image(input_ids, scores.clone())
        return torch.where(is_open[:, None], image, self.text(input_ids, scores))


class GreedyLogitsProcessor(LogitsProcessor):
    """Leaves the likeliest token of each row as the only choice: the first one, if several are equally likely."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        likeliest = scores.argmax(dim=-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, likeliest, scores.gather(1, likeliest))


def make_warpers(settings: dict[str, Any], min_tokens_to_keep: int) -> LogitsProcessorList:
    """Makes the warpers of `settings`. Greedy choice is sampling from one token."""
    if not settings["do_sample"]:
        return LogitsProcessorList([GreedyLogitsProcessor()])
    warpers = LogitsProcessorList()
    for name, (warper, neutral) in WARPERS.items():
        if (value := settings[name]) not in (None, neutral):
            least = {} if warper in KEEP_ALL else {"min_tokens_to_keep": min_tokens_to_keep}
            warpers.append(warper(value, **least))
    return warpers
