# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Converts the authors' checkpoint to one folder that transformers and diffusers load."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging

from ..diffusion import LavitImageDecoderPipeline
from ..modeling import LavitConfig, LavitFeatureDecoder, LavitForCausalLM
from ..processing import LavitImageProcessorPil, LavitProcessor, extend_tokenizer
from ..publishing.files import read_json
from ..publishing.saving import AUTO_MAP
from .model_card import summarize, write_release_card
from .official_lavit import (
    UNUSED,
    diffusers_rules,
    drop_repeated,
    feature_decoder_rules,
    model_rules,
    read_feature_decoder_config,
    read_model_config,
)
from .release import PIXEL_DECODERS, get_release
from .weights import Plan, map_weights, split_weights, write_weights


logger = logging.get_logger(__name__)

# The folder of each pixel decoder in the result. The better one lies beside the model, so that one path loads both.
DECODER_FOLDERS = {"highres": Path(), "lowres": Path("lowres_decoder")}

# The authors' settings for drawing from text. For prompts with images they use a guidance scale of 5.
IMAGE_GENERATION = {
    "do_sample": True,
    "top_k": 50,
    "top_p": 1.0,
    "temperature": 1.0,
    "min_new_tokens": 20,
    "max_new_tokens": 200,
    "guidance_scale": 4.0,
}

# The authors' settings for captions and answers, and what ends the text that they evaluate.
CAPTION_GENERATION = {"num_beams": 2, "min_new_tokens": 8, "max_new_tokens": 36, "stop_strings": ["."]}
ANSWER_GENERATION = {
    "num_beams": 5,
    "min_new_tokens": 2,
    "max_new_tokens": 10,
    "length_penalty": 0.0,
    "early_stopping": True,
    "stop_strings": ["\n", ",", "."],
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ConvertedModel(NamedTuple):
    """
    A model of the result.

    Args:
        folder (`Path`): Its folder there.
        model (`PreTrainedModel` or `ModelMixin`): The model on the meta device.
        tensors (`dict[str, torch.Tensor]`): Its weights.
    """

    folder: Path
    model: Any
    tensors: dict[str, torch.Tensor]


def convert_official_checkpoint(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = "2GB",
    num_attention_heads: int = 16,
    pixel_decoders: Sequence[str] = ("highres", "lowres"),
    strict: bool = False,
    revision: str | None = None,
) -> Path:
    """
    Converts the checkpoint that LaVIT's authors released (`rain1011/LaVIT-7B-v2`) into one folder that both
    `AutoModelForCausalLM` and [`LavitImageDecoderPipeline`] load.

    The model, its processor, the code that loads them where `lavit_hf` is not installed, and the high-resolution pixel
    decoder lie at the root of the folder, the other pixel decoder in `lowres_decoder/`. All names and shapes are
    checked before anything is written, and the folder appears only when it is complete. One file of the result at a
    time is in memory. Pickles are read as tensors alone: none of their code is run.
    `transformers.utils.logging.disable_progress_bar` hides the progress bar.

    The authors load their files non-strictly, so that these may hold more than the model has. Such tensors are left
    out, logged, and listed in the model card. The card also lists what the weights do not show and was assumed.

    Args:
        src (`str` or `os.PathLike`):
            The authors' folder, or the id of a repository. The files that are needed are downloaded to the cache of
            `huggingface_hub`; an interrupted download is resumed.
        dst (`str` or `os.PathLike`): The folder to write, which must be new or empty.
        dtype (`str` or `torch.dtype`, *optional*):
            `"float32"`, `"bfloat16"` or `"float16"`. By default each weight keeps the dtype in which it is stored. The
            codebook is always float32.
        max_shard_size (`int` or `str`, *optional*, defaults to `"2GB"`): Largest size of a file of weights.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Attention heads of the vision tower, the merger and the feature decoders, which the weights do not show.
            The release has 16.
        pixel_decoders (`Sequence[str]`, *optional*, defaults to `("highres", "lowres")`):
            The pixel decoders to convert.
        strict (`bool`, *optional*, defaults to `False`): Whether tensors that the model does not have are an error.
        revision (`str`, *optional*): Branch, tag or commit of a repository. Default: the main branch.

    Returns:
        `Path`: `dst`.

    Raises:
        FileNotFoundError: If `src` is neither a folder nor a repository, or if files of the checkpoint are missing.
        FileExistsError: If `dst` is not empty.
        ValueError: If weights are missing, of a wrong shape or, with `strict`, unknown; if a file is damaged or would
            run code; if an argument is not one of the values above.
        OSError: If there is not enough space.
    """
    if dtype is not None and dtype not in (*DTYPES, *DTYPES.values()):
        raise ValueError(f"dtype must be None or one of {tuple(DTYPES)}, got {dtype!r}.")
    if isinstance(pixel_decoders, str) or not set(pixel_decoders) <= set(PIXEL_DECODERS):
        raise ValueError(f"pixel_decoders must be some of {tuple(PIXEL_DECODERS)}, got {pixel_decoders!r}.")
    dtype, dst = DTYPES[dtype] if isinstance(dtype, str) else dtype, Path(dst).resolve()
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        raise FileExistsError(f"The folder to write must be new or empty, {dst} is not.")

    # 1. Find or download the files, and map their contents into memory
    folder, files = get_release(os.fspath(src), pixel_decoders, revision)
    stored = map_weights(folder, files)
    drop_repeated(stored)

    # 2. Build all models on the meta device, from the shapes of the weights
    try:
        model = _build_model(folder, stored, num_attention_heads)
        pipelines = {
            kind: _build_pipeline(folder, stored, kind, num_attention_heads, model.config.visual_token_offset)
            for kind in pixel_decoders
        }
    except StrictDataclassError as error:
        raise ValueError(f"The weights make no LaVIT: {error}") from error
    processor = _load_processor(folder / "language_model", model.config)
    ids = {name: getattr(processor.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(
        **ids,
        image_generation=IMAGE_GENERATION,
        caption_generation=CAPTION_GENERATION,
        answer_generation=ANSWER_GENERATION,
    )

    # 3. Find the stored tensors of each weight
    plan = Plan(stored)
    models = _fill_models(plan, model, pipelines)
    unknown = plan.check(UNUSED, strict)
    if unknown:
        names = ", ".join(summarize(unknown))
        logger.warning(f"{len(unknown)} entries of the files have no place in the model and are left out: {names}")

    # 4. Write everything
    with _complete_or_absent(dst) as target:
        _write_models(target, models, dtype, max_shard_size)
        processor.save_pretrained(target)
        for kind, pipeline in pipelines.items():
            pipeline.save_config(target / DECODER_FOLDERS[kind])
            pipeline.scheduler.save_pretrained(target / DECODER_FOLDERS[kind] / "scheduler")
        write_release_card(target, folder, model.config, pixel_decoders, dtype, unknown)
    return dst


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """
    Gives a folder beside `folder`, which is new or empty, to write to. It takes the place of `folder` when the block
    ends without an error. `replacing` of `publishing.files` would do so file by file in `folder` itself.
    """
    incomplete = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    try:
        yield incomplete
        if folder.exists():
            folder.rmdir()
        incomplete.rename(folder)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


def _build_model(folder: Path, stored: Mapping[str, Any], num_attention_heads: int) -> LavitForCausalLM:
    text_config = read_json(folder / "language_model" / "config.json")
    config = read_model_config(stored, text_config, num_attention_heads)
    with torch.device("meta"):
        return LavitForCausalLM(config)


def _build_pipeline(
    folder: Path, stored: Mapping[str, Any], kind: str, num_attention_heads: int, visual_token_offset: int
) -> LavitImageDecoderPipeline:
    source, file = folder / PIXEL_DECODERS[kind][0], PIXEL_DECODERS[kind][1]
    # The authors draw with DDIM, whichever scheduler the folder names.
    scheduler = DDIMScheduler.from_config(read_json(source / "scheduler" / "scheduler_config.json"))
    with torch.device("meta"):
        feature_decoder = LavitFeatureDecoder(read_feature_decoder_config(stored, file, num_attention_heads))
        unet = UNet2DConditionModel.from_config(read_json(source / "unet" / "config.json"))
        vae = AutoencoderKL.from_config(read_json(source / "vae" / "config.json"))
    return LavitImageDecoderPipeline(feature_decoder, unet, vae, scheduler, visual_token_offset)


def _fill_models(
    plan: Plan, model: LavitForCausalLM, pipelines: Mapping[str, LavitImageDecoderPipeline]
) -> list[ConvertedModel]:
    """Returns the model and the components of the pixel decoders, with the stored tensors that are their weights."""
    converted = [ConvertedModel(Path(), model, plan.fill(model, model_rules(model.config)))]
    for kind, pipeline in pipelines.items():
        (source, file), folder = PIXEL_DECODERS[kind], DECODER_FOLDERS[kind]
        rules = {name: diffusers_rules(f"{source}/{name}") for name in ("unet", "vae")}
        rules["feature_decoder"] = feature_decoder_rules(file)
        for name in rules:
            component = pipeline.components[name]
            converted.append(ConvertedModel(folder / name, component, plan.fill(component, rules[name])))
    return converted


def _load_processor(folder: Path, config: LavitConfig) -> LavitProcessor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer = extend_tokenizer(tokenizer, config.codebook_size, config.image_start_token_id)
    tokenizer_config: Any = config.visual_tokenizer_config
    size = tokenizer_config.vision_config.image_size
    image_processor = LavitImageProcessorPil(size={"height": size, "width": size})
    # In the release's training, the images in the prompt of a drawing had no marks around them.
    return LavitProcessor(image_processor, tokenizer, drawing_image_markers=False)


def _write_models(
    target: Path, models: Sequence[ConvertedModel], dtype: torch.dtype | None, max_shard_size: int | str
) -> None:
    """Writes the configuration and the weights of each model, and the code of the whole LaVIT."""
    stems = ["model" if isinstance(part.model, PreTrainedModel) else "diffusion_pytorch_model" for part in models]
    splits = [
        split_weights(part.tensors, dtype, f"{stem}{{suffix}}.safetensors", max_shard_size)
        for part, stem in zip(models, stems, strict=True)
    ]
    size, free = sum(split.metadata["total_size"] for split in splits), shutil.disk_usage(target).free
    if size > free:
        raise OSError(f"The weights take {size / 1e9:.1f} GB, but {target.parent} has just {free / 1e9:.1f} GB free.")
    with logging.tqdm(total=size, unit="B", unit_scale=True, desc="Converting") as progress:
        for part, split in zip(models, splits, strict=True):
            _save_config(part, target / part.folder, dtype)
            write_weights(target / part.folder, part.tensors, dtype, split, progress)


def _save_config(part: ConvertedModel, folder: Path, dtype: torch.dtype | None) -> None:
    if not isinstance(part.model, PreTrainedModel):
        part.model.save_config(folder)
        return
    config: Any = part.model.config
    config.architectures = [type(part.model).__name__]
    # The dtype that from_pretrained is to load. Parts of the model note it as well, since each can be loaded alone.
    main = "queries" if isinstance(part.model, LavitFeatureDecoder) else "model.language_model.embed_tokens.weight"
    config.dtype = dtype or part.tensors[main].dtype
    if isinstance(part.model, LavitForCausalLM):
        tokenizer_config = config.visual_tokenizer_config
        for part_config in (config.text_config, tokenizer_config, tokenizer_config.vision_config):
            part_config.dtype = config.dtype
        part.model.generation_config.save_pretrained(folder)
        # `save_pretrained` of a model calls it, too. There is no public way to save the code without the weights.
        config.auto_map = dict(AUTO_MAP)
        custom_object_save(part.model, folder, config)
    config.save_pretrained(folder)
