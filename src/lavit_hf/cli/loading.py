# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading of models and pixel decoders, and the consoles that commands print to."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from PIL import Image
from rich.console import Console
from rich.markup import escape
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
from transformers.utils import GENERATION_CONFIG_NAME, find_adapter_config_file
from transformers.utils import logging as transformers_logging

from ..diffusion import LavitImageDecoderPipeline
from ..inference import describe_unknown_words
from ..modeling import LavitConfig, LavitGenerationConfig, LavitVisualTokenizer, LavitVisualTokenizerConfig
from ..modeling.codebook_lavit import check_same_codebook
from ..processing import LavitProcessor, read_image
from ..publishing.files import replacing_file
from .options import Decoder


# Names and texts of users may have brackets, which markup would take away.
console = Console(highlight=False, markup=False)
progress = Console(stderr=True, markup=False)


def quiet_libraries() -> None:
    """Silences the warnings and progress bars of transformers and diffusers."""
    transformers_logging.set_verbosity_error()
    for logging in (transformers_logging, diffusers_logging):
        logging.disable_progress_bar()


def read_images(paths: Iterable[Path]) -> tuple[list[tuple[Path, Image.Image]], list[str]]:
    """
    Reads the images at `paths`.

    Returns:
        `list[tuple[Path, Image.Image]]` and `list[str]`: The images that can be read, and the errors of the others.

    Raises:
        ValueError: If no image can be read.
    """
    images: list[tuple[Path, Image.Image]] = []
    errors: list[str] = []
    for path in paths:
        try:
            images.append((path, read_image(path)))
        except (ValueError, OSError) as error:
            errors.append(str(error))
    if not images:
        raise ValueError("\n".join(errors))
    return images, errors


def save_image(image: Image.Image, path: Path) -> None:
    """Writes an image completely or not at all, and makes its folder if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as hidden:
        image.save(hidden)


def warn_of_unknown_words(processor: LavitProcessor, text: str) -> bool:
    """Prints a warning if a text has words that are outside of the domain of the model. Returns whether it has."""
    if description := describe_unknown_words(processor, text):
        progress.print(description, style="yellow", soft_wrap=True)
    return description is not None


def load_model(
    model: str,
    device: str,
    dtype: str,
    model_class: Any = AutoModelForCausalLM,
    processor_class: Any = AutoProcessor,
    **settings,
) -> tuple[Any, Any]:
    """
    Loads a model and its processor.

    Args:
        model (`str`): A folder or a repository.
        device (`str`): The device.
        dtype (`str`): The data type of the weights.
        model_class, processor_class (*optional*): The classes of the model and of the processor.
        settings: Values of the configuration of the model.

    Raises:
        OSError: If there is no such model, or the Hub cannot be reached.
        ValueError: If it is a model of another kind.
    """
    quiet_libraries()
    try:
        check_kind(model, model_class)
        with progress.status(escape(f"Loading {model}")):
            loaded = model_class.from_pretrained(model, dtype=dtype, **settings).to(device).eval()
            if find_base(model) != model and Path(model, GENERATION_CONFIG_NAME).is_file():  # an adapter with its own
                loaded.generation_config = LavitGenerationConfig.from_pretrained(model)
            return loaded, processor_class.from_pretrained(model)
    except OSError as error:  # that of a repository does not name it
        raise OSError(f"{model} cannot be loaded: {error}") from error


def check_kind(model: str, model_class: Any) -> None:
    """
    Checks that a folder or a repository holds what a command needs, by its configuration.

    Raises:
        OSError: If there is no configuration.
        ValueError: If `model` is no LaVIT, and no visual tokenizer where `model_class` is that of one.
    """
    config = AutoConfig.from_pretrained(find_base(model))
    if model_class is LavitVisualTokenizer and isinstance(config, LavitVisualTokenizerConfig):
        return
    if isinstance(config, LavitVisualTokenizerConfig):
        raise ValueError(f"{model} holds a visual tokenizer alone, as stage 1 trains it: stage 2 makes a LaVIT of it.")
    if not isinstance(config, LavitConfig):
        raise ValueError(f"{model} holds a model of type {config.model_type!r}, and not a LaVIT.")


def find_base(model: str) -> str:
    """Returns the name of the model that an adapter is for, or `model` itself if it is no adapter."""
    adapter = find_adapter_config_file(model)
    if adapter is None:
        return model
    return json.loads(Path(adapter).read_text(encoding="utf-8")).get("base_model_name_or_path") or model


def load_with_decoder(
    model: str,
    decoder: Decoder,
    device: str,
    dtype: str,
    model_class: Any = AutoModelForCausalLM,
    required: bool = True,
    **settings,
) -> tuple[Any, Any, Any]:
    """
    Loads a model, its processor and its pixel decoder, which gets the device and the data type of the model.

    Args:
        decoder (`Decoder`): The pixel decoder. An adapter has that of its base model.
        required (`bool`, *optional*, defaults to `True`):
            Whether a folder must have a pixel decoder. Otherwise it is None for a folder without one.
        model, device, dtype, model_class, settings: Same arguments as [`load_model`].

    Raises:
        OSError: If there is no such model, or the Hub cannot be reached.
        ValueError: If the model has no such pixel decoder, or one of another codebook. That of a folder is looked for
            before the model is loaded.
    """
    subfolder = "lowres_decoder" if decoder is Decoder.lowres else None
    source = find_base(model)
    folder = Path(source)
    if folder.is_dir() and not (folder / (subfolder or "") / LavitImageDecoderPipeline.config_name).is_file():
        check_kind(model, model_class)  # a model of another kind does not lack a pixel decoder alone
        if not required and decoder is Decoder.highres:
            return *load_model(model, device, dtype, model_class, **settings), None
        place = f"--decoder lowres needs a folder {subfolder}" if subfolder else "Drawing needs a pixel decoder"
        raise ValueError(
            f"{place}, and {source} has none: save it there by `LavitImageDecoderPipeline.save_pretrained`."
        )
    loaded, processor = load_model(model, device, dtype, model_class, **settings)
    with progress.status(f"Loading the {decoder} pixel decoder"):
        pipeline = LavitImageDecoderPipeline.from_pretrained(source, subfolder=subfolder, dtype=loaded.dtype)
    check_same_codebook(loaded, pipeline.feature_decoder)
    pipeline.set_progress_bar_config(desc="pixels", leave=False)
    return loaded, processor, pipeline.to(loaded.device)
