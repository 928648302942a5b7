# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The authors' checkpoint to one folder that transformers and diffusers load."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler
from tqdm.auto import tqdm
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging
from transformers.utils.hub import convert_file_size_to_int

from ..diffusion import LavitImageDecoderPipeline
from ..modeling import LavitConfig, LavitFeatureDecoder, LavitForCausalLM
from ..processing import LavitImageProcessorPil, LavitProcessor, extend_tokenizer
from .download import REPOSITORY_ID, download_official_checkpoint
from .model_card import copy_licences, summarize, write_model_card
from .official_lavit import (
    FLOAT32,
    MODEL_RULES,
    PIXEL_DECODERS,
    TOKENIZER,
    UNCONDITIONAL,
    UNUSED,
    describe_model,
    diffusers_rules,
    feature_decoder_rules,
    read_feature_decoder_config,
    read_model_config,
    vocabulary_rules,
)
from .weights import PlannedTensor, StoredTensor, describe, find_weights, plan, read_json, write_weights


logger = logging.get_logger(__name__)

# Where each pixel decoder goes: the better one beside the model, for one folder to serve both libraries.
DECODER_FOLDERS = {"highres": Path(), "lowres": Path("lowres_decoder")}

# How the authors draw (for prompts of text alone; with pictures in them they use a guidance of 5).
IMAGE_GENERATION = {
    "do_sample": True,
    "top_k": 50,
    "top_p": 1.0,
    "temperature": 1.0,
    "min_new_tokens": 20,
    "max_new_tokens": 200,
    "guidance_scale": 4.0,
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Part:
    """
    One folder of the result.

    Args:
        folder (`Path`): Its path there.
        save (`Callable[[Path], None]`): Writes everything but the weights.
        stem (`str`), planned (`list[PlannedTensor]`): The weights' file name without ending, and the weights.
        unknown (`list[str]`): The names of stored tensors that have no place in this part.
    """

    folder: Path
    save: Callable[[Path], None]
    stem: str = ""
    planned: list[PlannedTensor] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def convert_official_checkpoint(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    num_attention_heads: int = 16,
    pixel_decoders: Sequence[str] = ("highres", "lowres"),
    overwrite: bool = False,
    progress: bool = True,
    strict: bool = False,
    revision: str | None = None,
) -> Path:
    """
    Converts the checkpoint that LaVIT's authors released (`rain1011/LaVIT-7B-v2` and its like) into one folder that
    both `AutoModelForCausalLM` and [`LavitImageDecoderPipeline`] load.

    At the root there are the model, its processor, and the high-resolution pixel decoder; in `lowres_decoder/` the
    other one. All names and shapes are checked before anything is written, and the folder appears only once it is
    complete. One tensor is in memory at a time. Pickles are read as tensors alone: none of their code is run.

    The authors load their files non-strictly, so that these may hold more than the model has. Such tensors are left
    out, logged, and named in the model card. The card also says what the weights do not tell and was assumed.

    Args:
        src (`str` or `os.PathLike`):
            The authors' folder, or the id of a repository, of which the files that are needed are downloaded to the
            cache of `huggingface_hub`. What an interrupted download has completed is not downloaded again.
        dst (`str` or `os.PathLike`): The folder to make.
        dtype (`str` or `torch.dtype`, *optional*):
            `"float32"`, `"bfloat16"` or `"float16"`. Default (also `"auto"`): each weight as it is stored. The
            codebook is float32 always.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`): Most bytes of a file of weights.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Of vision tower, merger and feature decoders, which the weights do not tell. The release has 16.
        pixel_decoders (`Sequence[str]`, *optional*, defaults to `("highres", "lowres")`): The ones to convert.
        overwrite (`bool`, *optional*, defaults to `False`): Whether an earlier result at `dst` may be replaced.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar, in bytes.
        strict (`bool`, *optional*, defaults to `False`): Whether tensors that the model does not have are an error.
        revision (`str`, *optional*): Branch, tag or commit of a repository. Default: the main branch.

    Returns:
        `Path`: `dst`.

    Raises:
        FileNotFoundError: neither a folder nor a repository; something of the checkpoint is missing, by path.
        FileExistsError: `dst` is there and not empty, and `overwrite` does not apply.
        ValueError: weights that are missing, of a wrong shape or, with `strict`, unknown, by name; a file that is
            damaged or would run code; an argument out of its range.
        OSError: not enough space.
    """
    src, dst = os.fspath(src), Path(dst).resolve()
    dtype, max_shard_size = _check_dtype(dtype), _check_size(max_shard_size)
    if isinstance(pixel_decoders, str) or not set(pixel_decoders) <= set(PIXEL_DECODERS):
        raise ValueError(f"pixel_decoders must be some of {tuple(PIXEL_DECODERS)}, got {pixel_decoders!r}.")
    _bring_back(dst)
    if os.path.isdir(src):
        if revision is not None:
            raise ValueError(f"revision is for a repository, got {revision!r} for the folder {src}.")
        folder = Path(src)
        _check_target(folder.resolve(), dst, overwrite)
    elif not REPOSITORY_ID.fullmatch(src):
        raise FileNotFoundError(f"There is no folder {src}, and a repository would be given as owner/name.")
    else:
        _check_target(None, dst, overwrite)  # before 26 GB are downloaded
        folder = download_official_checkpoint(src, pixel_decoders, revision)

    weights = describe_model(folder)
    model_part, config = _plan_model(folder, weights, dtype, num_attention_heads, strict)
    parts = [model_part]
    for kind in pixel_decoders:
        parts += _plan_pixel_decoder(folder, kind, config, weights, dtype, num_attention_heads, strict)
    unknown = list(dict.fromkeys(name for part in parts for name in part.unknown))
    if unknown:
        names = ", ".join(summarize(unknown))
        logger.warning(f"{len(unknown)} entries of the files have no place in the model and are left out: {names}")

    size = sum(tensor.num_bytes for part in parts for tensor in part.planned)
    _check_space(dst.parent, size)
    with _complete_or_nothing(dst) as target:
        for part in parts:
            part.save(target / part.folder)
        facts = {"rounding": "" if dtype is None else str(dtype).removeprefix("torch."), "unknown": unknown}
        write_model_card(target, config, pixel_decoders, licences=copy_licences(folder, target), **facts)
        with tqdm(total=size, unit="B", unit_scale=True, desc="Converting", disable=not progress) as progress_bar:
            for part in parts:
                if part.planned:
                    write_weights(target / part.folder, part.stem, part.planned, max_shard_size, progress_bar)
    return dst


def _check_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    if dtype not in (*DTYPES, *DTYPES.values()):
        raise ValueError(f"dtype must be None, 'auto' or one of {tuple(DTYPES)}, got {dtype!r}.")
    return DTYPES.get(dtype, dtype)


def _check_size(size: int | str) -> int:
    try:
        num_bytes = convert_file_size_to_int(size)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"max_shard_size must be a number of bytes or say '5GB', got {size!r}.") from error
    if num_bytes <= 0:
        raise ValueError(f"max_shard_size must be positive, got {size!r}.")
    return num_bytes


def _check_target(src: Path | None, dst: Path, overwrite: bool) -> None:
    if src is not None and src.is_relative_to(dst):
        raise ValueError(f"The result at {dst} would replace the checkpoint in {src} itself.")
    if dst.is_dir() and not any(dst.iterdir()):
        return
    if dst.exists() and not overwrite:
        raise FileExistsError(f"{dst} is there already and not empty; overwrite=True replaces an earlier result.")
    # A mistyped path must not cost somebody a folder of something else.
    if dst.exists() and not (dst / "config.json").is_file():
        raise FileExistsError(f"{dst} is not replaced: it holds no config.json, so it is no earlier result.")


def _check_space(folder: Path, size: int) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(f"The weights take {size / 1e9:.1f} GB, but {folder} has just {free / 1e9:.1f} GB free.")


def _places_beside(dst: Path) -> tuple[Path, Path]:
    return dst.with_name(f"{dst.name}.incomplete"), dst.with_name(f"{dst.name}.replaced")


def _bring_back(dst: Path) -> None:
    """Puts an earlier result back, if a run that was to replace it was killed between its two renames."""
    folder, replaced = _places_beside(dst)
    if replaced.exists() and not dst.exists():
        replaced.rename(dst)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _complete_or_nothing(dst: Path) -> Iterator[Path]:
    """A folder beside `dst` that takes its place at the end. If anything goes wrong it is removed instead."""
    folder, replaced = _places_beside(dst)
    shutil.rmtree(folder, ignore_errors=True)  # what a run that was killed has left
    folder.mkdir(parents=True)
    try:
        yield folder
        if dst.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            dst.rename(replaced)
        folder.rename(dst)
    except BaseException:  # KeyboardInterrupt as well
        shutil.rmtree(folder, ignore_errors=True)
        if replaced.exists() and not dst.exists():
            replaced.rename(dst)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _plan_model(
    src: Path, weights: dict[str, StoredTensor], dtype: torch.dtype | None, num_attention_heads: int, strict: bool
) -> tuple[Part, LavitConfig]:
    """The language model with all that belongs to it, and its configuration."""
    language_model = src / "language_model"
    config = read_model_config(weights, read_json(language_model / "config.json"), num_attention_heads)
    with torch.device("meta"):
        model = LavitForCausalLM(config)
    expected = _untied_weights(model)
    rules = vocabulary_rules(config) + MODEL_RULES
    planned, unknown = plan(expected, weights, rules, dtype, UNUSED, FLOAT32, strict)
    # The parts as well, since each can be loaded alone.
    tokenizer_config = config.visual_tokenizer_config
    for part in (config, config.text_config, tokenizer_config, tokenizer_config.vision_config):
        _record_dtype(part, planned, "model.language_model.embed_tokens.weight")
    config.architectures = [type(model).__name__]
    processor = _read_processor(language_model, config)
    generation_config = _read_generation_config(language_model, processor.tokenizer.pad_token_id)

    def save(folder: Path) -> None:
        config.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)

    return Part(Path(), save, "model", planned, unknown), config


def _untied_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in model.state_dict().items() if key not in model.all_tied_weights_keys}


def _record_dtype(config: PreTrainedConfig, planned: list[PlannedTensor], main: str) -> None:
    """Notes down the dtype that `from_pretrained` is to load, that of the weight `main`."""
    config.dtype = next(tensor.dtype for tensor in planned if tensor.key == main)


def _read_generation_config(folder: Path, pad_token_id: int) -> GenerationConfig:
    """The ids of the language model, and how pictures are drawn. Other entries of theirs are not for this model."""
    path = folder / "generation_config.json"
    settings = read_json(path if path.is_file() else folder / "config.json")
    ids = {name: settings.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # Llama checkpoints may have none, or -1, which is no id.
    if ids["pad_token_id"] is None or ids["pad_token_id"] < 0:
        ids["pad_token_id"] = pad_token_id
    return GenerationConfig(**ids, image_generation=IMAGE_GENERATION)


def _read_processor(folder: Path, config: LavitConfig) -> LavitProcessor:
    names = ("tokenizer.model", "tokenizer.json")
    if not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(f"{folder} holds no tokenizer, expected one of {names}.")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer = extend_tokenizer(tokenizer, config.codebook_size, config.image_start_token_id)
    size = config.visual_tokenizer_config.vision_config.image_size
    image_processor = LavitImageProcessorPil(size={"height": size, "width": size})
    # The release was trained to see a drawing prompt's pictures bare.
    return LavitProcessor(image_processor, tokenizer, drawing_image_markers=False)


def _plan_pixel_decoder(
    src: Path,
    kind: str,
    config: LavitConfig,
    model_weights: dict[str, StoredTensor],
    dtype: torch.dtype | None,
    num_attention_heads: int,
    strict: bool,
) -> list[Part]:
    """A pixel decoder: its feature decoder, diffusion models, scheduler, and the file that names them."""
    folder, target = src / PIXEL_DECODERS[kind][0], DECODER_FOLDERS[kind]
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing. To do without it, leave {kind!r} out of pixel_decoders.")
    # The release draws with DDIM, whatever the scheduler that its files were made for.
    scheduler = DDIMScheduler.from_config(read_json(folder / "scheduler" / "scheduler_config.json"))
    feature_decoder, decoder_part = _plan_feature_decoder(src, kind, model_weights, dtype, num_attention_heads, strict)
    unet, unet_part = _plan_diffusers_model(UNet2DConditionModel, folder / "unet", target / "unet", dtype, strict)
    vae, vae_part = _plan_diffusers_model(AutoencoderKL, folder / "vae", target / "vae", dtype, strict)
    pipeline = LavitImageDecoderPipeline(feature_decoder, unet, vae, scheduler, config.visual_token_offset)
    return [
        Part(target, pipeline.save_config),
        Part(target / "scheduler", scheduler.save_pretrained),
        decoder_part,
        unet_part,
        vae_part,
    ]


def _plan_feature_decoder(
    src: Path,
    kind: str,
    model_weights: dict[str, StoredTensor],
    dtype: torch.dtype | None,
    num_attention_heads: int,
    strict: bool,
) -> tuple[LavitFeatureDecoder, Part]:
    folder, file = PIXEL_DECODERS[kind]
    weights = describe([src / "visual_tokenizer" / file], file + ":")
    codebook = TOKENIZER + "quantize.embedding.weight"
    weights[codebook] = model_weights[codebook]
    if kind == "lowres":
        weights |= describe([src / folder / "uncond_embeddings.bin"], UNCONDITIONAL)
    config = read_feature_decoder_config(weights, file, num_attention_heads)
    with torch.device("meta"):
        model = LavitFeatureDecoder(config)
    rules = feature_decoder_rules(file)
    planned, unknown = plan(model.state_dict(), weights, rules, dtype, float32=FLOAT32, strict=strict)
    _record_dtype(config, planned, "queries")
    config.architectures = [type(model).__name__]
    folder = DECODER_FOLDERS[kind] / "feature_decoder"
    return model, Part(folder, config.save_pretrained, "model", planned, unknown)


def _plan_diffusers_model(model_class, folder: Path, target: Path, dtype: torch.dtype | None, strict: bool):
    """The meta twin of a model of diffusers, and how it is written."""
    config = read_json(folder / "config.json")
    stem = "diffusion_pytorch_model"
    namespace = f"{folder.parent.name}/{folder.name}:"
    weights = describe(find_weights(folder, [stem]), namespace)
    with torch.device("meta"):
        model = model_class.from_config(config)
    planned, unknown = plan(model.state_dict(), weights, diffusers_rules(namespace), dtype, strict=strict)
    return model, Part(target, model.save_config, stem, planned, unknown)
