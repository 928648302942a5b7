# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What one call of `generate` is asked for: its modes, and which of the settings given, saved or usual holds where."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from .configuration_lavit import LavitConfig


GENERATION_MODES = ("text", "image", "interleaved")
# What chooses the same from scores that are all larger by one number.
SHIFT_INVARIANT = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
DEFAULT_MAX_LENGTH = 20  # of transformers, where nothing is said


@dataclass(frozen=True)
class LavitDecoding:
    """
    How one call of `generate` decodes, beyond what a `GenerationConfig` says.

    Args:
        generation_mode (`str`): `"text"`, `"image"` or `"interleaved"`.
        guidance_scale (`float`): Above 1, each row has an unconditional twin in the same forward.
        num_codes (`tuple[int, int]`): Least and most codes of a picture.
        max_images (`int`, *optional*), first_modality (`str`, *optional*): As of `generate`.
        codes_only (`bool`): Whether nothing but `[/IMG]` and codes can follow, and no one sees the other scores.
        text_settings, image_settings (`dict`):
            What a `GenerationConfig` says otherwise in text and within pictures of interleaved generation.
    """

    generation_mode: str
    guidance_scale: float
    num_codes: tuple[int, int]
    max_images: int | None = None
    first_modality: str | None = None
    codes_only: bool = False
    text_settings: dict[str, Any] = field(default_factory=dict)
    image_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def guided(self) -> bool:
        return self.guidance_scale != 1

    @property
    def begins_with_image(self) -> bool:
        return self.generation_mode == "image" or self.first_modality == "image"


def _check_mode(asked: dict[str, Any]) -> None:
    mode, max_images, first = asked["generation_mode"], asked["max_images"], asked["first_modality"]
    if mode not in GENERATION_MODES:
        raise ValueError(f"generation_mode must be one of {GENERATION_MODES}, got {mode!r}.")
    if mode != "interleaved" and (max_images is not None or first is not None):
        raise ValueError(f"max_images and first_modality go with generation_mode='interleaved', got {mode!r}.")
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images must be at least 1, got {max_images}.")
    if first not in (None, "text", "image"):
        raise ValueError(f"first_modality must be 'text' or 'image', got {first!r}.")


def resolve_decoding(
    config: LavitConfig,
    own: GenerationConfig,
    asked: dict[str, Any],
    image_generation: dict[str, Any] | None,
    generation_config: GenerationConfig | None,
    kwargs: dict[str, Any],
) -> tuple[LavitDecoding, GenerationConfig | None, dict[str, Any]]:
    """
    Args:
        config ([`LavitConfig`]), own (`GenerationConfig`): Of the model.
        asked (`dict`): `generation_mode`, `guidance_scale`, `max_images` and `first_modality` of the call.
        image_generation, generation_config, kwargs: As of `generate`.

    Returns:
        The decoding of this call, and `generation_config` and `kwargs` with what its mode sets.

    Raises:
        ValueError: as of `generate`.
    """
    _check_mode(asked)
    mode, scale = asked["generation_mode"], asked["guidance_scale"]

    def given(name, default=None):
        value = kwargs.get(name)
        value = getattr(generation_config, name, None) if value is None else value
        return default if value is None else value

    image_settings = {"guidance_scale": own.guidance_scale or 1.0}
    image_settings |= getattr(own, "image_generation", None) or {}
    image_settings |= image_generation or {}
    if scale is None:
        scale = 1.0 if mode == "text" else given("guidance_scale", image_settings["guidance_scale"])
    decoding = LavitDecoding(**asked | {"guidance_scale": float(scale)}, num_codes=(1, config.num_patches))

    defaults, forced = {}, {}
    if mode == "image":
        defaults = {"max_new_tokens": config.num_patches + 1} | image_settings
        forced["eos_token_id"] = config.image_end_token_id
        if given("max_length") is not None:
            del defaults["max_new_tokens"]
        if "min_new_tokens" in defaults:
            most = given("max_new_tokens", config.num_patches)
            defaults["min_new_tokens"] = min(defaults["min_new_tokens"], most)
    elif mode == "interleaved":
        text_is_sampled = given("do_sample", own.do_sample or False)
        searched = given("num_beams", own.num_beams or 1) > 1
        decoding = _by_modality(decoding, image_settings, text_is_sampled, searched)
        forced["do_sample"] = text_is_sampled or decoding.image_settings["do_sample"]
    # transformers' own guidance would run the model a second time
    defaults["guidance_scale"] = forced["guidance_scale"] = 1.0
    if generation_config is None:
        kwargs = defaults | kwargs | forced
    else:
        generation_config = copy.deepcopy(generation_config)
        generation_config.update(**defaults, defaults_only=True)
        generation_config.update(**forced)
    base = generation_config or own
    _check_decoding(decoding, config.num_patches, lambda name: kwargs.get(name, getattr(base, name)))
    return decoding, generation_config, kwargs


def _by_modality(
    decoding: LavitDecoding, image_settings: dict[str, Any], text_is_sampled: bool, searched: bool
) -> LavitDecoding:
    """`decoding` with what holds in text alone and within pictures alone. Beams go through both in one way."""
    image_settings = {"do_sample": text_is_sampled} | image_settings | {"guidance_scale": 1.0}
    if searched:
        image_settings["do_sample"] = text_is_sampled
    least, most = image_settings.pop("min_new_tokens", 1), image_settings.pop("max_new_tokens", decoding.num_codes[1])
    return replace(
        decoding,
        num_codes=(max(1, least), min(most, decoding.num_codes[1])),
        text_settings={"do_sample": text_is_sampled},
        image_settings=image_settings,
    )


def _check_decoding(decoding: LavitDecoding, num_patches: int, setting: Callable[[str], Any]) -> None:
    scale, num_beams = decoding.guidance_scale, setting("num_beams") or 1
    if not scale >= 1:
        raise ValueError(f"guidance_scale must be at least 1, got {scale}.")
    if decoding.guided and decoding.generation_mode == "text":
        raise ValueError(f"guidance_scale works on pictures, got {scale} with generation_mode='text'.")
    if decoding.guided and num_beams > 1:
        raise ValueError(f"guidance_scale={scale} does not work with num_beams={num_beams}.")
    if decoding.generation_mode == "image" and (setting("min_new_tokens") or 0) > num_patches:
        raise ValueError(
            f"min_new_tokens must be at most {num_patches}, the most codes of a picture, "
            f"got {setting('min_new_tokens')}."
        )
    if decoding.generation_mode != "interleaved":
        return
    least, most = decoding.num_codes
    if not 1 <= least <= most:
        raise ValueError(
            f"A picture has at least {least} codes by min_new_tokens of image_generation, "
            f"and at most {most} by its max_new_tokens and the {num_patches} patches of a picture."
        )
    room = setting("max_new_tokens") or setting("max_length") or DEFAULT_MAX_LENGTH
    if room < most + 2:
        raise ValueError(
            f"max_new_tokens={room} has no room for a picture of up to {most} codes and its two marks: give at least "
            f"{most + 2}, or image_generation with smaller max_new_tokens."
        )


def needs_codes_only(
    decoding: LavitDecoding,
    generation_config: GenerationConfig,
    processors: LogitsProcessorList,
    own_processors: LogitsProcessorList | None,
) -> bool:
    """Whether the text's scores, which a drawing has no use for, change nothing that is returned or chosen."""
    shown = generation_config.output_scores or generation_config.output_logits
    if decoding.generation_mode != "image" or generation_config.num_beams > 1 or shown or own_processors:
        return False
    # Guidance takes log-probabilities: of fewer ids they are larger by the same amount, which these do not mind.
    return not decoding.guided or all(isinstance(processor, SHIFT_INVARIANT) for processor in processors)
