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
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from .configuration_lavit import LavitConfig
from .expansion_lavit import open_image_start


# The settings of sampling, in the order in which transformers applies them, and the values that change nothing.
WARPERS = {
    "temperature": (TemperatureLogitsWarper, 1.0),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, None),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
    "eta_cutoff": (EtaLogitsWarper, 0.0),
}


class LavitSamplingLogitsProcessor(LogitsProcessor):
    """
    Warps the scores of rows with an open image and of rows in text by settings of their own.

    Args:
        text, image (`dict`): Values of `do_sample` and of the settings in [`WARPERS`].
        config ([`LavitConfig`]): Gives the ids of `[IMG]` and `[/IMG]`.
    """

    def __init__(self, text: dict[str, Any], image: dict[str, Any], config: LavitConfig):
        self.text, self.image, self.config = make_warpers(text), make_warpers(image), config

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        _, is_open = open_image_start(input_ids, self.config)
        # Some warpers write into the scores that they are given.
        image = self.image(input_ids, scores.clone())
        return torch.where(is_open[:, None], image, self.text(input_ids, scores))


def make_warpers(settings: dict[str, Any]) -> LogitsProcessorList:
    """Makes the warpers of `settings`. Greedy choice is sampling from the most likely token alone."""
    if not settings["do_sample"]:
        return LogitsProcessorList([TopKLogitsWarper(1)])
    chosen = ((warper, settings[name], neutral) for name, (warper, neutral) in WARPERS.items())
    return LogitsProcessorList([warper(value) for warper, value, neutral in chosen if value not in (None, neutral)])
