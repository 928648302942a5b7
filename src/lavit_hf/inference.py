# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""One call each from images to codes, from images and text to text or codes, and from codes to images."""

import re
from collections import ChainMap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, BatchFeature
from transformers.utils import logging

from .diffusion import LavitImageDecoderPipeline
from .modeling import LavitForCausalLM, LavitVisualTokenizer, LavitVisualTokenizerOutput
from .modeling.arguments_lavit import check_integer
from .modeling.generation_settings_lavit import check_task_settings, end_ids, explicit_settings
from .processing import LavitProcessor
from .processing.chat_lavit import TURN_END, one_line, turn_end_ids


logger = logging.get_logger(__name__)
Images = Sequence[Sequence[Image.Image]]
# The settings of tasks, for a model that has none of its own.
TASK_SETTINGS: dict[str, dict[str, Any]] = {
    "caption": {"max_new_tokens": 64, "stop_strings": [TURN_END]},
    "answer": {"max_new_tokens": 32, "stop_strings": [TURN_END]},
}
PLAN_SETTINGS = {"max_new_tokens": 64}


@torch.no_grad()
def encode_images(
    visual_tokenizer: LavitVisualTokenizer,
    processor: LavitProcessor | BaseImageProcessor,
    images: Sequence[Image.Image],
    **kwargs,
) -> LavitVisualTokenizerOutput:
    """
    Encodes images.

    Args:
        visual_tokenizer ([`LavitVisualTokenizer`]): The visual tokenizer.
        processor ([`LavitProcessor`] or [`LavitImageProcessor`]): The processor, whose image processor is used.
        images (`list[PIL.Image.Image]`): The images.
        kwargs: Arguments of the visual tokenizer, such as `selection` and `generator`.

    Returns:
        [`LavitVisualTokenizerOutput`]
    """
    image_processor = getattr(processor, "image_processor", processor)
    pixel_values = image_processor(list(images), return_tensors="pt")["pixel_values"]
    return visual_tokenizer.tokenize_images(pixel_values.to(visual_tokenizer.device), **kwargs)


def prepare_prompts(
    processor: LavitProcessor, texts: Sequence[str], images: Images | None = None, **kwargs
) -> BatchFeature:
    """
    Prepares prompts in which images precede a text.

    Args:
        processor ([`LavitProcessor`]): The processor.
        texts (`list[str]`): One text for each prompt. Special tokens in them are read as plain text.
        images (`list[list[PIL.Image.Image]]`, *optional*): The images before each text.
        kwargs: Arguments of the processor, such as `generation_mode`.

    Returns:
        `BatchFeature`: The arguments of `generate`.

    Raises:
        ValueError: If `texts` is a single text, or `images` are not one list for each text.
    """
    before = _images_of_each(texts, images)
    prompts = [
        processor.image_token * len(row) + processor.escape(text) for row, text in zip(before, texts, strict=True)
    ]
    return processor(text=prompts, images=before if any(before) else None, return_tensors="pt", **kwargs)


def _images_of_each(texts: Sequence[str], images: Images | None) -> list[list[Image.Image]]:
    """Returns the images before each text, or raises the errors of [`prepare_prompts`]."""
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of texts, got {texts!r}.")
    rows = images or [[]] * len(texts)
    if len(rows) != len(texts) or not all(isinstance(row, Sequence) for row in rows):
        raise ValueError(f"images must be a list of images for each of {len(texts)} texts, got {images!r}.")
    return [list(row) for row in rows]


def _generate(
    model: LavitForCausalLM, processor: LavitProcessor, inputs: BatchFeature, settings: dict[str, Any]
) -> torch.Tensor:
    """Returns the ids that are generated after prompts, also if the model is set to return a `ModelOutput`."""
    processor.check_vocabulary(model.config)
    # transformers needs a tokenizer for `stop_strings`, which a model may have as a setting of its own.
    settings = {"tokenizer": processor.tokenizer} | settings
    return model.generate(**inputs, **settings | {"return_full_text": False, "return_dict_in_generate": False})


def describe_unknown_words(processor: LavitProcessor, text: str) -> str | None:
    """
    Names the words of a text that are outside of the domain of a model.

    Args:
        processor ([`LavitProcessor`]): The processor of the model, which may have a `domain`.
        text (`str`): The text that a person typed.

    Returns:
        `str`, *optional*: A sentence that also says what the model knows. None if the model knows all words, or has no
        `domain`.
    """
    if (domain := processor.domain) is None:
        return None
    words = dict.fromkeys(re.findall(r"[^\W\d_]+", text.lower()))
    unknown = ", ".join(repr(word) for word in words if word not in domain["words"])
    return f"This model does not know {unknown}. It knows {domain['description']}." if unknown else None


def write_texts(
    model: LavitForCausalLM,
    processor: LavitProcessor,
    texts: Sequence[str],
    images: Images | None = None,
    task: str | None = None,
    **kwargs,
) -> list[str]:
    """
    Generates a text after each prompt.

    Args:
        model ([`LavitForCausalLM`]): The model.
        processor, texts, images: Same as in [`prepare_prompts`].
        task (`str`, *optional*):
            `"caption"` or `"answer"` takes the settings that the model has for it, `caption_generation` or
            `answer_generation` of its `generation_config`.
        kwargs: Arguments of `generate`, such as `max_new_tokens`. `stop_strings` end the text, and are not part of it.

    Returns:
        `list[str]`: The text after each prompt.

    Raises:
        ValueError: If the task is another one, or as in [`prepare_prompts`].
    """
    settings, images = kwargs, _images_of_each(texts, images)
    if task is not None:
        settings = _task_settings(model, task, kwargs)
        texts = [text.rstrip(" ") for text in texts]  # what follows begins with a space
    known = ChainMap(settings, explicit_settings(kwargs.get("generation_config")), vars(model.generation_config))
    stops = known.get("stop_strings") or []
    stops = [stops] if isinstance(stops, str) else stops
    if (known.get("num_beams") or 1) > 1:
        settings.pop("stop_strings", None)  # beams are compared at their full lengths
    inputs = prepare_prompts(processor, texts, images).to(model.device)
    ids = _generate(model, processor, inputs, settings)
    written = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    ends = [min((text.index(stop) for stop in stops if stop in text), default=len(text)) for text in written]
    return [text[:end].strip() for text, end in zip(written, ends, strict=True)]


def _task_settings(model: LavitForCausalLM, task: str, given: dict[str, Any]) -> dict[str, Any]:
    """
    Returns the arguments of `generate` for a task: those that are given, also in a `generation_config`, and the others
    as the model has them.
    """
    if task not in TASK_SETTINGS:
        raise ValueError(f"task must be one of {', '.join(TASK_SETTINGS)}, got {task!r}.")
    own = model.generation_config
    default = {name: value for name, value in TASK_SETTINGS[task].items() if getattr(own, name, None) is None}
    saved = getattr(own, f"{task}_generation", None)
    settings = default if saved is None else saved
    explicit = explicit_settings(given.get("generation_config")) | given
    displaced = {*explicit, *(("max_new_tokens",) if "max_length" in explicit else ())}
    settings = {name: value for name, value in settings.items() if name not in displaced} | given
    if settings.get("num_beams") == 1:  # these settings are of beams
        settings = {
            name: value for name, value in settings.items() if name not in ("early_stopping", "length_penalty")
        }
    least, most = settings.get("min_new_tokens"), settings.get("max_new_tokens")
    if least is not None and most is not None and least > most:  # the one of the model gives way
        if "min_new_tokens" not in explicit:
            settings["min_new_tokens"] = most
        elif "max_new_tokens" not in explicit:
            settings["max_new_tokens"] = least
    return settings


def plan_drawings(
    model: LavitForCausalLM,
    processor: LavitProcessor,
    texts: Sequence[str],
    images: Images | None = None,
    plan_generation: dict[str, Any] | Literal[False] | None = None,
) -> list[str]:
    """
    Lets a model plan what it is going to draw, if it was trained to do so: its `generation_config` has
    `plan_generation`, the arguments of `generate` for plans. A small model follows free words better if it writes the
    objects of the image and their places first.

    Args:
        model, processor, texts, images: Same as in [`write_texts`].
        plan_generation (`dict` or `False`, *optional*):
            Arguments of `generate` for plans, over those of the model. With `False`, no plans are written.

    Returns:
        `list[str]`: The prompt of each drawing: the text in one line with the plan after it. The plan is missing if it
        is empty or not finished within `max_new_tokens`, or the text is empty. If no plans are written, the prompts
        are the texts.

    Raises:
        ValueError: If `plan_generation` has a setting that plans do not have, or the model writes no plans, or as in
            [`prepare_prompts`].
    """
    settings, rows = plan_settings(model, plan_generation), _images_of_each(texts, images)
    if settings is None:
        return list(texts)
    prompts = [one_line(text) for text in texts]
    asked = [index for index, prompt in enumerate(prompts) if prompt]
    if not asked:
        return prompts
    requests = [f"{prompts[index]}{TURN_END}" for index in asked]
    before = [rows[index] for index in asked]
    # A plan ends as a turn does. Images before it are read as before a drawing.
    ends = [*end_ids(model.generation_config.eos_token_id), *turn_end_ids(processor.tokenizer)]
    settings |= {"eos_token_id": ends, "num_return_sequences": 1}
    settings.setdefault("min_new_tokens", 0)  # that of texts does not hold
    if any(before):
        settings["image_inputs"] = "codes"
    inputs = prepare_prompts(processor, requests, before, generation_mode="image").to(model.device)
    ids = _generate(model, processor, inputs, settings)
    written = processor.batch_decode(ids, skip_special_tokens=True)
    is_whole = torch.isin(ids, torch.tensor(ends, device=ids.device)).any(1).tolist()
    for index, request, text, whole in zip(asked, requests, written, is_whole, strict=True):
        plan = text.partition(TURN_END)[0].strip()
        if not whole:
            most = settings["max_new_tokens"]
            logger.warning(f"The plan of {prompts[index]!r} does not end within {most} tokens, and is left out.")
        elif plan:
            prompts[index] = f"{request}{plan}{TURN_END}"
    return prompts


def plan_settings(model: LavitForCausalLM, plan_generation: dict[str, Any] | Literal[False] | None) -> dict | None:
    """
    Returns the arguments of `generate` for plans, or None if drawings have no plans. The argument is that of
    [`plan_drawings`], which raises the same errors.
    """
    own = getattr(model.generation_config, "plan_generation", None)
    if plan_generation is False:
        return None
    check_task_settings("plan_generation", plan_generation)
    if own is None and plan_generation is not None:
        raise ValueError(f"This model writes no plans, got plan_generation={plan_generation!r}.")
    return None if own is None else PLAN_SETTINGS | own | (plan_generation or {})


def draw_codes(
    model: LavitForCausalLM,
    processor: LavitProcessor,
    texts: Sequence[str],
    images: Images | None = None,
    num_return_sequences: int = 1,
    plan_generation: dict[str, Any] | Literal[False] | None = None,
    **kwargs,
) -> list[list[int]]:
    """
    Generates the codes of an image after each prompt.

    Args:
        model, processor, texts, images: Same as in [`write_texts`].
        num_return_sequences (`int`, *optional*, defaults to 1):
            The number of drawings of each prompt. Each one has a plan of its own.
        plan_generation (`dict` or `False`, *optional*):
            Same as in [`plan_drawings`].
        kwargs: Arguments of `generate`, such as `guidance_scale`.

    Returns:
        `list[list[int]]`: The codes of each drawing, from 0 to `codebook_size - 1`. A warning tells of a drawing that
        an argument such as `max_time` has cut.

    Raises:
        ValueError: If an argument is out of its range, if settings of plans are given and the model writes none, if a
            drawing was cut before its first code, or as in [`prepare_prompts`].
    """
    check_integer("num_return_sequences", num_return_sequences, 1)
    if plan_settings(model, plan_generation) is not None:
        images = [before for before in _images_of_each(texts, images) for _ in range(num_return_sequences)]
        texts = [text for text in texts for _ in range(num_return_sequences)]
        texts = plan_drawings(model, processor, texts, images, plan_generation)
        num_return_sequences = 1
    inputs = prepare_prompts(processor, texts, images, generation_mode="image").to(model.device)
    settings = {"generation_mode": "image", "num_return_sequences": num_return_sequences, **kwargs}
    ids = _generate(model, processor, inputs, settings)
    drawings: list = [processor.decode_interleaved(row)[0] for row in ids]
    for index, drawing in enumerate(drawings):
        if not drawing.complete:
            message = (
                f"Drawing {index} was cut after {len(drawing.codes)} codes, before its [/IMG]: arguments that end a "
                "generation, such as max_new_tokens and max_time, must leave room for the whole image. "
                "image_generation={'max_new_tokens': ...} limits the codes of an image instead."
            )
            if not drawing.codes:
                raise ValueError(message)
            logger.warning(message)
    return [drawing.codes for drawing in drawings]


def decode_codes(
    pipeline: LavitImageDecoderPipeline, codes: Sequence[Sequence[int]], seed: int = 0, **kwargs
) -> list[Image.Image]:
    """
    Decodes the codes of images. The noise of each image depends on the seed and the image's place alone.

    Args:
        pipeline ([`LavitImageDecoderPipeline`]): The pixel decoder.
        codes (`list[list[int]]`): The codes of each image.
        seed (`int`, *optional*, defaults to 0): The seed of the first image's noise; that of the next is one larger.
        kwargs: Arguments of the pipeline, such as `num_inference_steps`.

    Returns:
        `list[PIL.Image.Image]`: The image of each list of codes.

    Raises:
        ValueError: If `codes` are those of one image instead of a list of them, or if several drawings of each image
            are asked for.
    """
    if any(not isinstance(image_codes, Sequence) and np.ndim(image_codes) == 0 for image_codes in codes):
        raise ValueError(f"codes must be a list with the codes of each image, got {codes!r}.")
    if (count := kwargs.get("num_images_per_prompt", 1)) != 1:
        raise ValueError(f"num_images_per_prompt must be 1, got {count!r}: repeat the codes for several drawings.")
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(codes))]
    return pipeline(codes, generator=generators, **kwargs).images  # type: ignore[return-value] # PIL by default


def decode_edits(
    pipeline: LavitImageDecoderPipeline,
    images: Sequence[Image.Image],
    source_codes: Sequence[Sequence[int]],
    codes: Sequence[Sequence[int]],
    seed: int = 0,
    **kwargs,
) -> list[Image.Image]:
    """
    Decodes the codes of edited images. The parts of an image in which its codes have not changed are kept.

    Args:
        pipeline ([`LavitImageDecoderPipeline`]): The pixel decoder.
        images (`list[PIL.Image.Image]`): The images before the edit.
        source_codes (`list[list[int]]`): The codes of `images`.
        codes (`list[list[int]]`): The codes of the edited images, which [`draw_codes`] generates after `images`.
        seed, kwargs: Same as in [`decode_codes`].

    Returns:
        `list[PIL.Image.Image]`: The edited images, in the size of the pixel decoder.

    Raises:
        ValueError: If there are not as many images as codes.
    """
    if not isinstance(images, Sequence) or not len(images) == len(source_codes) == len(codes):
        raise ValueError(f"images must be a list of {len(codes)} images with their source_codes, got {images!r}.")
    mask = pipeline.generate_mask(source_codes, codes, vocabulary_ids=kwargs.get("vocabulary_ids", False))
    return decode_codes(pipeline, codes, seed, image=list(images), mask_image=mask, **kwargs)


__all__ = [
    "decode_codes",
    "decode_edits",
    "describe_unknown_words",
    "draw_codes",
    "encode_images",
    "plan_drawings",
    "prepare_prompts",
    "write_texts",
]
