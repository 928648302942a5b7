# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The settings of one call of `generate`: which of the given, saved and usual settings hold."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin
from transformers.generation import GenerationConfig

from .configuration_lavit import LavitConfig
from .grammar_lavit import NEUTRAL


GENERATION_MODES = ("text", "image", "interleaved")
# The defaults of transformers where nothing is said. A test compares them with transformers' own.
DEFAULT_MAX_LENGTH = 20
DEFAULT_TOP_K = 50
INTEGERS = {
    "max_new_tokens": 1,
    "min_new_tokens": 0,
    "max_length": 1,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "prefill_chunk_size": 1,
    "prompt_lookup_num_tokens": 1,
}
# What `image_generation` can say in interleaved generation, where all other settings hold for text and images alike.
INTERLEAVED_IMAGE_SETTINGS = ("do_sample", "guidance_scale", "min_new_tokens", "max_new_tokens", *NEUTRAL)


@dataclass(frozen=True)
class LavitDecoding:
    """
    How one call of `generate` decodes, beyond what transformers' own arguments say.

    Args:
        generation_mode (`str`): `"text"`, `"image"` or `"interleaved"`.
        guidance_scale (`float`): Above 1, each row has an unconditional branch in the same forward.
        num_codes (`tuple[int, int]`): Least and most codes of an image.
        max_new_tokens, min_new_tokens (`int`): Most new tokens, and new tokens before which no image is closed.
        max_images (`int`, *optional*), first_modality (`str`, *optional*): Same as the arguments of `generate`.
        sampling (`dict`, *optional*): Settings of sampling in `"text"` and in an `"image"`, where they differ.
    """

    generation_mode: str
    guidance_scale: float
    num_codes: tuple[int, int]
    max_new_tokens: int
    min_new_tokens: int = 0
    max_images: int | None = None
    first_modality: str | None = None
    sampling: dict[str, dict[str, Any]] | None = None

    @property
    def guided(self) -> bool:
        return self.guidance_scale != 1


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises a `ValueError` unless `value` is None or an integer of at least `least`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < least):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def check_guidance_scale(value: Any) -> float:
    """Returns `value` as a float, or raises a `ValueError` unless it is a finite number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and value >= 1):
        raise ValueError(f"guidance_scale must be a finite number of at least 1, got {value!r}.")
    return float(value)


def image_settings(mode: str, *layers: GenerationConfig | dict[str, Any] | None) -> dict[str, Any]:
    """
    Merges settings of drawing, of which later ones hold.

    Raises:
        ValueError: a setting that `GenerationConfig` does not have, or that cannot differ between text and images.
    """
    known = vars(GenerationConfig())
    merged: dict[str, Any] = {}
    for layer in layers:
        if isinstance(layer, GenerationConfig):
            layer = explicit_settings(layer)
        if layer is not None and not isinstance(layer, dict):
            raise ValueError(f"image_generation must be a dict or a GenerationConfig, got {layer!r}.")
        if unknown := [name for name in layer or () if name not in known]:
            raise ValueError(f"image_generation must hold settings of a GenerationConfig, got {unknown[0]!r}.")
        merged |= layer or {}
    apart = [name for name in merged if name not in INTERLEAVED_IMAGE_SETTINGS]
    if mode == "interleaved" and apart:
        raise ValueError(
            f"image_generation can set {', '.join(INTERLEAVED_IMAGE_SETTINGS)} in interleaved generation, got "
            f"{apart[0]!r}, which holds for text and images alike."
        )
    for name, least in INTEGERS.items():
        check_integer(f"{name} of image_generation", merged.get(name), least)
    return merged


def explicit_settings(generation_config: GenerationConfig | None) -> dict[str, Any]:
    """The settings that a `GenerationConfig` has of its own, as arguments of `generate`."""
    if generation_config is None:
        return {}
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    return {name: value for name, value in vars(generation_config).items() if name in known and value is not None}


def resolve_decoding(
    config: LavitConfig,
    own: GenerationConfig,
    generation_config: GenerationConfig | None,
    kwargs: dict[str, Any],
    prompt_length: int,
    *,
    generation_mode: str,
    guidance_scale: float | None,
    image_generation: dict[str, Any] | GenerationConfig | None,
    max_images: int | None,
    first_modality: str | None,
) -> tuple[LavitDecoding, dict[str, Any]]:
    """
    Decides which settings hold. Arguments of the call come first, then those of its `generation_config`, then, where
    images alone are drawn, those of `image_generation` and of the model's, then those of the model's own generation
    config, then transformers' defaults.

    Args:
        config ([`LavitConfig`]), own (`GenerationConfig`): Configurations of the model.
        generation_config, kwargs: Arguments of `generate`.
        prompt_length (`int`): Length of the prompts as they were given.

    Returns:
        The decoding of this call, and the arguments for `GenerationMixin.generate`.

    Raises:
        ValueError: a value out of its range, or settings that exclude each other, by name.
    """
    mode = generation_mode
    if mode not in GENERATION_MODES:
        raise ValueError(f"generation_mode must be one of {GENERATION_MODES}, got {mode!r}.")
    if mode != "interleaved" and (max_images is not None or first_modality is not None):
        raise ValueError(f"max_images and first_modality go with generation_mode='interleaved', got {mode!r}.")
    check_integer("max_images", max_images, 1)
    if first_modality not in (None, "text", "image"):
        raise ValueError(f"first_modality must be 'text' or 'image', got {first_modality!r}.")

    saved = [getattr(layer, "image_generation", None) for layer in (own, generation_config)]
    image = image_settings(mode, *saved, image_generation)
    asked = explicit_settings(generation_config) | kwargs
    for name, least in INTEGERS.items():
        check_integer(name, asked.get(name), least)
    scale = guidance_scale if guidance_scale is not None else asked.pop("guidance_scale", None)
    if scale is None:
        default = image.get("guidance_scale") or own.guidance_scale or 1.0
        scale = 1.0 if mode == "text" else default
    scale = check_guidance_scale(scale)
    if scale != 1 and mode == "text":
        raise ValueError(f"guidance_scale works on images, got {scale} with generation_mode='text'.")
    num_codes = _code_bounds(image, config.num_patches)

    image_only = {"max_new_tokens", "min_new_tokens", "guidance_scale"}
    if mode == "image":
        # Lengths of the model's own configuration are meant for text.
        asked = {name: value for name, value in image.items() if name not in image_only} | asked
        asked["eos_token_id"] = config.image_end_token_id
        first_modality = "image"

    def setting(name: str, default=None):
        value = asked[name] if name in asked else getattr(own, name, None)
        return default if value is None else value

    lengths = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")
    most, longest, least, shortest = (asked.get(name) if mode == "image" else setting(name) for name in lengths)
    if most is None and longest is not None:
        most = longest - prompt_length
        if most < 1:
            raise ValueError(f"max_length={longest} leaves no room behind the input, whose length is {prompt_length}.")
    least = max(least or 0, (shortest or 0) - prompt_length)
    if mode == "image":
        most = most or num_codes[1] + 2
    if most is not None:
        asked |= {"max_new_tokens": most, "max_length": None}
    else:
        most = DEFAULT_MAX_LENGTH
    # In an image, the grammar knows when it may end.
    asked |= {"min_new_tokens": None if mode == "image" else least or None, "min_length": 0}

    sampling = None
    if mode == "interleaved":
        sampling, asked = _split_sampling(asked, image, setting)
        if most < num_codes[1] + 2:
            raise ValueError(
                f"max_new_tokens={most} has no room for an image of up to {num_codes[1]} codes and its two marks: "
                f"give at least {num_codes[1] + 2}, or image_generation with smaller max_new_tokens."
            )
    if mode == "image" and least > num_codes[1] + 2:
        raise ValueError(
            f"min_new_tokens must be at most {num_codes[1] + 2}, the most codes of an image and its two marks, got "
            f"{least}."
        )
    if (early_exit := setting("assistant_early_exit")) is not None:
        raise ValueError(f"assistant_early_exit does not work with a LaVIT, got {early_exit}.")
    if scale != 1:
        _check_guided(mode, scale, setting, asked, config)
    decoding = LavitDecoding(mode, scale, num_codes, most, least, max_images, first_modality, sampling)
    # transformers' own guidance would run the model a second time.
    return decoding, asked | {"guidance_scale": 1.0}


def _code_bounds(image: dict[str, Any], num_patches: int) -> tuple[int, int]:
    least, most = image.get("min_new_tokens") or 1, image.get("max_new_tokens") or num_patches
    bounds = max(1, least), min(most, num_patches)
    if bounds[0] > bounds[1]:
        raise ValueError(
            f"An image has at least {least} codes by min_new_tokens of image_generation, and at most {bounds[1]} by "
            f"its max_new_tokens and the {num_patches} patches of an image."
        )
    return bounds


def _split_sampling(asked: dict[str, Any], image: dict[str, Any], setting) -> tuple[dict | None, dict[str, Any]]:
    """Settings of sampling in text and in images, and `asked` without them; None where neither is sampled."""
    usual = NEUTRAL | {"top_k": DEFAULT_TOP_K}
    text = {"do_sample": setting("do_sample", False)} | {name: setting(name, usual[name]) for name in NEUTRAL}
    image = text | {name: value for name, value in image.items() if name in text}
    if setting("num_beams", 1) > 1:
        image["do_sample"] = text["do_sample"]  # a beam goes through both
    if not (text["do_sample"] or image["do_sample"]):
        return None, asked
    return {"text": text, "image": image}, asked | NEUTRAL | {"do_sample": True}


def keeps_state(config: LavitConfig) -> bool:
    """Whether layers of the language model keep a state of all that they have seen, as Mamba's do."""
    layers = DynamicCache(config=config.text_config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _check_guided(mode: str, scale: float, setting, asked: dict[str, Any], config: LavitConfig) -> None:
    """Raises a `ValueError` that names the argument with which guidance does not work."""
    if keeps_state(config):
        kind = config.text_config.model_type
        if mode == "interleaved":
            raise ValueError(
                f"guidance_scale={scale} does not work in interleaved generation with {kind}, whose layers keep a "
                "state of all that they have seen: the unconditional branch cannot begin at an [IMG]."
            )
        # Such layers read a single token even where the mask hides it from the unconditional branch.
        for name in ("prefill_chunk_size", "cache"):
            if setting(name) is not None:
                raise ValueError(f"guidance_scale={scale} does not work with {name} with {kind}.")
    num_beams = setting("num_beams", 1)
    if num_beams > 1:
        raise ValueError(f"guidance_scale={scale} does not work with num_beams={num_beams}: guidance_scale=1 is none.")
    if asked.get("assistant_model") is not None:
        raise ValueError(f"guidance_scale={scale} does not work with an assistant_model.")
    if mode == "interleaved" and setting("prompt_lookup_num_tokens") is not None:
        raise ValueError(
            f"guidance_scale={scale} does not work with prompt_lookup_num_tokens in interleaved generation, got "
            f"{setting('prompt_lookup_num_tokens')}."
        )
