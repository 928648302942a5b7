# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Settings of generation: those that are saved with a model, and those that hold in one call of `generate`."""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any, Literal, get_args

from transformers import PreTrainedConfig
from transformers.generation import GenerationConfig

from .arguments_lavit import check_integer, check_number
from .configuration_lavit import LavitConfig
from .guidance_lavit import check_guidance
from .sampling_lavit import WARPERS, LavitSamplingLogitsProcessor


GenerationMode = Literal["text", "image", "interleaved"]
SETTINGS = frozenset(vars(GenerationConfig()))
# Defaults of transformers. A test compares them with transformers' own.
DEFAULT_MAX_LENGTH = 20
DEFAULT_TOP_K = 50
# Settings of `image_generation` that count codes, or that transformers does not need to know.
CODE_SETTINGS = ("min_new_tokens", "max_new_tokens", "guidance_scale")
# Settings of `image_generation` in interleaved generation. All others hold for text and images alike.
INTERLEAVED_SETTINGS = (*CODE_SETTINGS, "do_sample", *WARPERS)
# Arguments that do not work: transformers finds no layers to exit from, healing changes prompts, which are returned as
# they were given, and the grammar does not fit the scores of an assistant with another vocabulary.
REFUSED = ("assistant_early_exit", "token_healing", "assistant_tokenizer")
# Settings of texts for one purpose, and the settings that their texts do not have. A plan ends where a turn does.
TASKS = {
    "caption_generation": ("num_return_sequences", "return_dict_in_generate"),
    "answer_generation": ("num_return_sequences", "return_dict_in_generate"),
    "plan_generation": (
        "eos_token_id",
        "guidance_scale",
        "num_return_sequences",
        "return_dict_in_generate",
        "stop_strings",
    ),
}
# The smallest value of each setting that must be an integer.
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


class LavitGenerationConfig(GenerationConfig):
    """
    Generation configuration of a [`LavitForCausalLM`], with a nested configuration for drawing.

    Args:
        image_generation (`GenerationConfig` or `dict`, *optional*):
            Settings that hold while an image is drawn. Its `min_new_tokens` and `max_new_tokens` are the smallest and
            the largest number of codes of an image.
        caption_generation, answer_generation (`dict`, *optional*):
            Settings of captions, and of answers to questions. See [`write_texts`].
        plan_generation (`dict`, *optional*):
            Settings of plans, for a model that writes a plan before it draws. See [`plan_drawings`].
        kwargs: Same arguments as `GenerationConfig`.

    Raises:
        ValueError: If the settings of a task are no dictionary, or have a setting that the task does not have.
    """

    image_generation: GenerationConfig
    caption_generation: dict[str, Any] | None
    answer_generation: dict[str, Any] | None
    plan_generation: dict[str, Any] | None

    def __init__(
        self,
        image_generation: GenerationConfig | dict[str, Any] | None = None,
        caption_generation: dict[str, Any] | None = None,
        answer_generation: dict[str, Any] | None = None,
        plan_generation: dict[str, Any] | None = None,
        **kwargs,
    ):
        self.image_generation = image_generation
        self.caption_generation, self.answer_generation = caption_generation, answer_generation
        self.plan_generation = plan_generation
        super().__init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in TASKS:
            check_task_settings(name, value)
        if name == "image_generation":
            check_image_settings({k: v for k, v in explicit_settings(value).items() if k in SETTINGS})
            if not isinstance(value, GenerationConfig):
                value = GenerationConfig(**explicit_settings(value))
        super().__setattr__(name, value)

    @classmethod
    def from_model_config(cls, model_config: PreTrainedConfig | dict[str, Any]) -> "LavitGenerationConfig":
        """Same arguments as `GenerationConfig.from_model_config`, which knows no settings of a class of its own."""
        return cls.from_dict(GenerationConfig.from_model_config(model_config).to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings as a dictionary, in which `image_generation` is a dictionary as well."""
        values = super().to_dict() | {"image_generation": explicit_settings(self.image_generation)}
        values = {name: value for name, value in values.items() if name not in TASKS or value is not None}
        # A file with this flag would be loaded without `image_generation`, which transformers does not know.
        values.pop("_from_model_config", None)
        return values


def end_ids(eos_token_id: int | list[int] | None) -> list[int]:
    """Returns the ids that end a sequence as a list, from the one, several or none that a configuration has."""
    if eos_token_id is None:
        return []
    return eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]


def explicit_settings(config: GenerationConfig | dict[str, Any] | None) -> dict[str, Any]:
    """
    Returns the settings that have a value in a configuration, or the settings of a dictionary.

    Raises:
        ValueError: If `config` is neither.
    """
    if isinstance(config, GenerationConfig):
        values = {name: value for name, value in vars(config).items() if value is not None and name[0] != "_"}
        values.pop("transformers_version", None)
        return values
    if config is not None and not isinstance(config, dict):
        raise ValueError(f"image_generation must be a dict or a GenerationConfig, got {config!r}.")
    return config or {}


def check_task_settings(task: str, settings: dict[str, Any] | None) -> None:
    """Raises a `ValueError` for settings that the texts of a task do not have, or that are no dictionary."""
    if settings is not None and not isinstance(settings, dict):
        raise ValueError(f"{task} must be a dict with settings of a GenerationConfig, got {settings!r}.")
    for name in settings or {}:
        if name not in SETTINGS or name in TASKS[task]:
            without = ", ".join(TASKS[task])
            raise ValueError(f"{task} must hold settings of a GenerationConfig without {without}, got {name!r}.")
    check_integers(settings or {}, f" of {task}")


def check_integers(settings: Mapping[str, Any], suffix: str = "") -> None:
    """Raises a `ValueError` for a setting that should be an integer and has another type, or is too small."""
    for name, least in INTEGERS.items():
        if (value := settings.get(name)) is not None:
            check_integer(name + suffix, value, least)


class LavitGenerationSettings:
    """
    Decides which settings hold in one call of `generate`.

    A setting is looked up first in the arguments of the call, then in its `generation_config`, then, if
    `generation_mode` is `"image"`, in `image_generation`, then in the generation configuration of the model.
    `image_generation` itself is looked up in the same order. If a setting is in none of them, the default of
    transformers holds.

    In interleaved generation, `image_generation` overrides the settings of sampling inside images, also those that are
    arguments of the call. A setting of sampling that it does not name is that of text. The argument `guidance_scale`
    overrides all others in every mode. Lengths that are saved with the model apply to text only.

    Args:
        config ([`LavitConfig`]), saved (`GenerationConfig`): Configuration and generation configuration of the model.
        generation_config (`GenerationConfig`, *optional*), arguments (`dict`): Arguments of `generate`.
        prompt_length (`int`): Length of the prompts as they were given.
        generation_mode, guidance_scale, image_generation, max_images, first_modality: Same as in `generate`.

    Attributes:
        explicit (`Mapping`): The settings that are given anywhere, without defaults.
        arguments (`dict`): Arguments for `GenerationMixin.generate`.
        guidance_scale (`float`): Strength of guidance, 1 for none.
        num_codes (`tuple[int, int]`): Smallest and largest number of codes of an image.
        min_new_tokens, max_new_tokens (`int`): Number of new tokens before which no image is closed, and of all.
        sampling (`list`): A logits processor if text and images are sampled by settings of their own.

    Raises:
        ValueError: If a value is out of its range, or if settings exclude each other.
    """

    def __init__(
        self,
        config: LavitConfig,
        saved: GenerationConfig,
        generation_config: GenerationConfig | None,
        arguments: dict[str, Any],
        prompt_length: int,
        generation_mode: str,
        guidance_scale: float | None = None,
        image_generation: dict[str, Any] | GenerationConfig | None = None,
        max_images: int | None = None,
        first_modality: str | None = None,
    ):
        mode = generation_mode
        if mode not in (modes := get_args(GenerationMode)):
            raise ValueError(f"generation_mode must be one of {modes}, got {mode!r}.")
        if mode != "interleaved" and (max_images is not None or first_modality is not None):
            raise ValueError(f"max_images and first_modality go with generation_mode='interleaved', got {mode!r}.")
        if max_images is not None:
            check_integer("max_images", max_images, 1)
        if task := next(filter(arguments.__contains__, TASKS), None):
            function = "plan_drawings" if task == "plan_generation" else "write_texts"
            raise ValueError(f"generate has no settings of tasks, got {task}: use lavit_hf.inference.{function}.")
        if first_modality not in (None, "text", "image"):
            raise ValueError(f"first_modality must be 'text' or 'image', got {first_modality!r}.")
        self.generation_mode, self.max_images = mode, max_images
        self.first_modality = "image" if mode == "image" else first_modality

        layers = (image_generation, *(getattr(each, "image_generation", None) for each in (generation_config, saved)))
        image = ChainMap(*map(explicit_settings, layers))
        check_image_settings(image, mode)
        self.num_codes = _code_bounds(image, config.num_patches)

        # An earlier dictionary of a `ChainMap` comes first.
        call, own = (
            {k: v for k, v in explicit_settings(c).items() if k in SETTINGS} for c in (generation_config, saved)
        )
        given, decided = ChainMap(arguments, call), {"guidance_scale": 1.0}  # transformers would run the model twice
        scales = [guidance_scale, call.get("guidance_scale")]
        if mode != "text":
            scales += [image.get("guidance_scale"), own.get("guidance_scale")]
        scale = next((scale for scale in scales if scale is not None), 1.0)
        self.guidance_scale = check_number("guidance_scale", scale, 1)
        if mode == "image":
            given = ChainMap(arguments, call, {k: v for k, v in image.items() if k not in CODE_SETTINGS})
            decided["eos_token_id"] = config.image_end_token_id
        check_integers(given)
        for source in (arguments, call):
            least, most = source.get("min_new_tokens"), source.get("max_new_tokens")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_new_tokens must be at most max_new_tokens={most}, got {least}.")
        known = ChainMap(*given.maps, own)
        # Lengths that are saved with a model are meant for text.
        decided |= self._decide_lengths(given if mode == "image" else known, prompt_length)
        self.sampling = self._split_sampling(known, image, config) if mode == "interleaved" else []
        if self.sampling:
            decided |= dict.fromkeys(WARPERS) | {"do_sample": True}
        self.explicit = ChainMap(decided, *known.maps)
        for name in REFUSED:
            if (value := self.explicit.get(name)) not in (None, False):
                shown = value if isinstance(value, int) else type(value).__name__
                raise ValueError(f"{name} does not work with a LaVIT, got {shown}.")
        if self.guided:
            check_guidance(self.guidance_scale, mode, self.explicit, config)
        self.arguments = {**given, **decided}

    @property
    def guided(self) -> bool:
        """Whether each row has an unconditional branch."""
        return self.guidance_scale != 1

    def _decide_lengths(self, lengths: ChainMap, prompt_length: int) -> dict[str, Any]:
        """
        Decides on the numbers of new tokens, and returns the settings of transformers for them. Lengths of whole
        sequences count the prompts as they were given.
        """
        names = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")
        most, longest, least, shortest = map(lengths.get, names)
        if most is None and longest is not None:
            most = longest - prompt_length
            if most < 1:
                raise ValueError(
                    f"max_length={longest} leaves no room behind the input, whose length is {prompt_length}."
                )
        least = max(least or 0, (shortest or 0) - prompt_length)
        if most is not None and self.generation_mode != "image":
            least = min(least, most)  # one that is saved with the model gives way
        largest_image = self.num_codes[1] + 2
        if self.generation_mode == "image":
            if least > largest_image:
                raise ValueError(
                    f"min_new_tokens must be at most {largest_image}, the most codes of an image and its two marks, "
                    f"got {least}."
                )
            most = most or largest_image
        self.max_new_tokens = most or DEFAULT_MAX_LENGTH
        if self.generation_mode == "interleaved" and self.max_new_tokens < largest_image:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens} has no room for an image of up to {self.num_codes[1]} codes "
                f"and its two marks: give at least {largest_image}, or image_generation with smaller max_new_tokens."
            )
        # The grammar knows when an image may end, and transformers knows it for text.
        self.min_new_tokens = least if self.generation_mode == "image" else 0
        if self.first_modality == "image" and prompt_length == 0:
            if most == 1:
                raise ValueError("max_new_tokens must be at least 2 to draw from empty prompts, got 1.")
            # The model reads the first [IMG] in place of an empty prompt.
            most, least = self.max_new_tokens - 1, max(least - 1, 0)
        decided = {"min_new_tokens": None if self.generation_mode == "image" else least or None}
        if most is not None:
            decided |= {"max_new_tokens": most, "max_length": None}
        if shortest:  # it counts in `least`
            decided["min_length"] = 0
        return decided

    @staticmethod
    def _split_sampling(known: ChainMap, image: ChainMap, config: LavitConfig) -> list[LavitSamplingLogitsProcessor]:
        """Returns what samples in the place of transformers, unless both text and images are greedy."""
        text = {name: known.get(name) for name in ("do_sample", *WARPERS)}
        if text["top_k"] is None:
            text["top_k"] = DEFAULT_TOP_K
        inside = text | {name: value for name, value in image.items() if name in text}
        has_beams = (known.get("num_beams") or 1) > 1
        if has_beams:
            inside["do_sample"] = text["do_sample"]  # A beam goes through text and images.
        if not (text["do_sample"] or inside["do_sample"]):
            return []
        # Beams need a token beside those that end a text, as in transformers.
        least = max(len(end_ids(known.get("eos_token_id"))), 1) + 1 if has_beams else 1
        return [LavitSamplingLogitsProcessor(text, inside, config, least)]


def check_image_settings(image: Mapping[str, Any], mode: str = "image") -> None:
    """
    Raises a `ValueError` for settings of `image_generation` that are out of their ranges, that drawing does not have,
    or, in the mode `"interleaved"`, that hold for text and images alike.
    """
    if unknown := [name for name in image if name not in SETTINGS]:
        raise ValueError(f"image_generation must hold settings of a GenerationConfig, got {unknown[0]!r}.")
    shared = [name for name in image if name not in INTERLEAVED_SETTINGS]
    if mode == "interleaved" and shared:
        raise ValueError(
            f"image_generation can set {', '.join(INTERLEAVED_SETTINGS)} in interleaved generation, got "
            f"{shared[0]!r}, which holds for text and images alike."
        )
    check_integers(image, " of image_generation")
    if (scale := image.get("guidance_scale")) is not None:
        check_number("guidance_scale of image_generation", scale, 1)


def _code_bounds(image: ChainMap, num_patches: int) -> tuple[int, int]:
    """Returns the smallest and the largest number of codes of an image."""
    least, most = image.get("min_new_tokens") or 1, min(image.get("max_new_tokens") or num_patches, num_patches)
    if least > most:
        raise ValueError(
            f"An image has at least {least} codes by min_new_tokens of image_generation, and at most {most} by its "
            f"max_new_tokens and the {num_patches} patches of an image."
        )
    return least, most
