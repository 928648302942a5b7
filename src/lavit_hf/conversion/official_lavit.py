# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The checkpoint of LaVIT's authors: where its files lie, what its weights are called, what shapes they imply.

A name of one of its weights is written `file:key` here, and so it stands in every error.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Blip2VisionConfig, PreTrainedConfig

from ..modeling.configuration_lavit import LavitConfig, LavitFeatureDecoderConfig, LavitVisualTokenizerConfig
from .weights import Rule, StoredTensor, WeightReader, describe, find_weights


LANGUAGE_MODEL = "language_model:"
VISION_TOWER = "eva_vitg_psz14.bin:"
TOKENIZER = "tokenizer_encoder.bin:"
ADAPTER = "visual_weight.bin:"
UNCONDITIONAL = "uncond_embeddings.bin:"

# The folder of each pixel decoder and the file of its feature decoder.
PIXEL_DECODERS = {
    "highres": ("highres_pixel_decoding", "highres_tokenizer_decoder.bin"),
    "lowres": ("pixel_decoding", "tokenizer_decoder.bin"),
}

# No model has them: the tower's classifier, and a table that old Llama checkpoints hold and the configuration implies.
UNUSED = rf"{VISION_TOWER}head\.|{LANGUAGE_MODEL}model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$"

# The authors' code adds it to the merger's masked softmax; no file tells it.
ATTENTION_SMOOTHING = 1e-6

# Not weights to be rounded: codes are told apart by small distances.
FLOAT32 = r"codebook"


def _third(index: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Queries, keys or values out of their joint projection."""
    return partial(lambda tensor, index: tensor.chunk(3)[index], index=index)


def _join_biases(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The bias of a joint projection whose keys have none."""
    return torch.cat([query, torch.zeros_like(query), value])


def _block_rules(ours: str, theirs: str, self_attn: str = "self_attn", cross_attn: str = "cross_attn") -> list[Rule]:
    """Names within the blocks that merger and feature decoder share, in the modules `ours` and `theirs`."""
    layer, block = ours + r"layers\.(\d+)\.", theirs + r"blocks.\1."
    own = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
    crossing = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "proj"}
    return [
        Rule(layer + r"self_attn_norm\.", block + "norm0."),
        Rule(layer + r"cross_attn_norm\.", block + "norm1."),
        Rule(layer + r"mlp_norm\.", block + "norm2."),
        *[Rule(layer + rf"self_attn\.{new}\.", block + f"{self_attn}.qkv.", _third(i)) for new, i in own.items()],
        Rule(layer + r"self_attn\.out_proj\.", block + f"{self_attn}.proj."),
        *[Rule(layer + rf"cross_attn\.{new}\.", block + f"{cross_attn}.{old}.") for new, old in crossing.items()],
        Rule(layer + r"mlp\.", block + "mlp."),
    ]


def _merger_rules(ours: str, theirs: str) -> list[Rule]:
    theirs += "causal_encoder."
    return [
        Rule(ours + r"context_norm\.", theirs + "ln_vision."),
        Rule(ours + r"norm\.", theirs + "norm."),
        *_block_rules(ours, theirs, "token_causal_attn", "token_cross_attn"),
    ]


_TOWER = r"model\.visual_tokenizer\.vision_tower\."
_TOWER_LAYER, _TOWER_BLOCK = _TOWER + r"encoder\.layers\.(\d+)\.", VISION_TOWER + r"blocks.\1."
_SELECTOR, _PREDICTOR = r"model\.visual_tokenizer\.selector\.", TOKENIZER + "token_predictor."
_QUANTIZER = r"model\.visual_tokenizer\.quantizer\."

MODEL_RULES = [
    Rule(r"model\.language_model\.", LANGUAGE_MODEL + "model."),
    Rule(_TOWER + r"embeddings\.class_embedding", VISION_TOWER + "cls_token"),
    Rule(_TOWER + r"embeddings\.position_embedding", VISION_TOWER + "pos_embed"),
    Rule(_TOWER + r"embeddings\.patch_embedding\.", VISION_TOWER + "patch_embed.proj."),
    Rule(_TOWER + r"post_layernorm\.", VISION_TOWER + "norm."),
    Rule(_TOWER_LAYER + r"layer_norm([12])\.", _TOWER_BLOCK + r"norm\2."),
    Rule(
        _TOWER_LAYER + r"self_attn\.qkv\.bias",
        (_TOWER_BLOCK + "attn.q_bias", _TOWER_BLOCK + "attn.v_bias"),
        _join_biases,
    ),
    Rule(_TOWER_LAYER + r"self_attn\.qkv\.", _TOWER_BLOCK + "attn.qkv."),
    Rule(_TOWER_LAYER + r"self_attn\.projection\.", _TOWER_BLOCK + "attn.proj."),
    Rule(_TOWER_LAYER + r"mlp\.", _TOWER_BLOCK + "mlp."),
    Rule(_SELECTOR + r"norm\.", _PREDICTOR + "in_conv.0."),
    Rule(_SELECTOR + r"in_proj\.", _PREDICTOR + "in_conv.1."),
    Rule(_SELECTOR + r"fc1\.", _PREDICTOR + "out_conv.0."),
    Rule(_SELECTOR + r"fc2\.", _PREDICTOR + "out_conv.2."),
    Rule(_SELECTOR + r"out_proj\.", _PREDICTOR + "out_conv.4."),
    Rule(_QUANTIZER + "codebook", TOKENIZER + "quantize.embedding.weight"),
    Rule(_QUANTIZER + r"encode_head\.", TOKENIZER + "encode_task_layer."),
    *_merger_rules(r"model\.visual_tokenizer\.merger\.", TOKENIZER),
    *_merger_rules(r"model\.visual_adapter\.merger\.", ADAPTER),
    Rule(r"model\.visual_adapter\.projection\.", ADAPTER + "vit_proj."),
]


def vocabulary_rules(config: LavitConfig) -> list[Rule]:
    """Rules for the vocabulary, in which the image placeholder gets the last row: the mean of the text's rows."""

    def add_placeholder(rows: torch.Tensor) -> torch.Tensor:
        mean = rows[: config.image_start_token_id].float().mean(dim=0, keepdim=True)
        return torch.cat([rows, mean.to(rows.dtype)])

    return [
        Rule(r"model\.language_model\.embed_tokens\.", LANGUAGE_MODEL + "model.embed_tokens.", add_placeholder),
        Rule(r"lm_head\.", LANGUAGE_MODEL + "lm_head.", add_placeholder),
    ]


def feature_decoder_rules(file: str) -> list[Rule]:
    """Names of the feature decoder in `file`, of either kind."""
    theirs = file + ":"
    return [
        Rule("codebook", TOKENIZER + "quantize.embedding.weight"),
        Rule("unconditional_embeds", UNCONDITIONAL),
        Rule("position_embeddings", theirs + "pos_embed"),
        Rule("queries", theirs + "query_embed"),
        Rule(r"in_proj\.", theirs + "in_proj."),
        Rule(r"norm\.", theirs + "norm."),
        Rule(r"decode_head\.", theirs + "decode_task_layer."),
        Rule(r"condition_projections\.0\.", theirs + "unet_proj."),
        Rule(r"condition_projections\.0\.", theirs + "unet_proj_1."),
        Rule(r"condition_projections\.1\.", theirs + "unet_proj_2."),
        Rule(r"attention_pool\.position_embeddings", theirs + "unet_attnpool.positional_embedding"),
        Rule(r"attention_pool\.out_proj\.", theirs + "unet_attnpool.c_proj."),
        Rule(r"attention_pool\.", theirs + "unet_attnpool."),
        *_block_rules("", theirs),
    ]


def diffusers_rules(namespace: str) -> list[Rule]:
    """diffusers' own models, with what it called the attention of an autoencoder before version 0.17."""
    former = {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}
    return [
        Rule("", namespace),
        *[Rule(rf"(.*\.attentions\.\d+)\.{new}\.", namespace + rf"\1.{old}.") for new, old in former.items()],
    ]


def describe_model(src: Path) -> dict[str, StoredTensor]:
    """
    The weights of the whole language model with its visual tokenizer and adapter.

    Raises:
        FileNotFoundError, ValueError: as of [`describe`]; a tokenizer's weight in the adapter's file that is not equal
            to the tokenizer's own.
    """
    language_model, visual_tokenizer = src / "language_model", src / "visual_tokenizer"
    weights = describe(find_weights(language_model, ["model", "pytorch_model"]), LANGUAGE_MODEL)
    weights |= describe([visual_tokenizer / "eva_vitg_psz14.bin"], VISION_TOWER)
    weights |= describe([visual_tokenizer / "tokenizer_encoder.bin"], TOKENIZER)
    weights |= describe([language_model / "visual_weight.bin"], ADAPTER)
    return _without_copies(weights)


def _without_copies(weights: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """
    `weights` without the tokenizer's that the adapter's file may repeat. Dropping one that differs would silently
    change how pictures are read, and one model has one tokenizer: so it must be the same.
    """
    copies = {
        name: TOKENIZER + name.removeprefix(ADAPTER)
        for name in weights
        if re.match(
            ADAPTER + r"(token_predictor\.(in|out)_conv\.|quantize\.embedding\.weight$|encode_task_layer\.)", name
        )
    }
    copies = {name: original for name, original in copies.items() if original in weights}
    read = WeightReader()
    # File by file, since a change of file opens it anew.
    repeated = {name: read(weights[name]) for name in copies}
    for name, original in copies.items():
        mine, own = repeated[name], read(weights[original])
        # What one of the files has rounded is compared rounded.
        dtype = min(mine.dtype, own.dtype, key=lambda dtype: dtype.itemsize)
        if not torch.equal(mine.to(dtype), own.to(dtype)):
            raise ValueError(f"{name} must repeat {original}, which it does not: one model has one visual tokenizer.")
    return {name: stored for name, stored in weights.items() if name not in copies}


def _size(weights: Mapping[str, StoredTensor], name: str, axis: int) -> int:
    """The extent of a tensor that a configuration is read off."""
    if name not in weights:
        raise ValueError(f"{name} is missing: the model's shape is read off it.")
    shape = weights[name].shape
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{name} must have at least {axis + 1 if axis >= 0 else -axis} axes, found {shape}.")
    return shape[axis]


def _count_blocks(weights: Mapping[str, StoredTensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
    numbers = [int(match[1]) for name in weights if (match := pattern.match(name))]
    if not numbers:
        raise ValueError(f"{prefix}blocks.0 is missing.")
    return max(numbers) + 1


def _build(config_class: type[PreTrainedConfig], **values) -> PreTrainedConfig:
    """A configuration, its own errors as a ValueError."""
    try:
        return config_class(**values)
    except StrictDataclassError as error:
        raise ValueError(f"The checkpoint makes no {config_class.__name__}: {error}") from error


def read_model_config(
    weights: Mapping[str, StoredTensor], text_config: Mapping, num_attention_heads: int
) -> LavitConfig:
    """
    The configuration that the shapes of [`describe_model`]'s weights imply.

    Args:
        weights (`Mapping[str, StoredTensor]`): The weights.
        text_config (`Mapping`): The language model's own `config.json`.
        num_attention_heads (`int`): Of tower and merger, which no shape tells.

    Raises:
        ValueError: a weight that is missing or no picture's shape; values that do not fit together.
    """
    patch_size = _size(weights, VISION_TOWER + "patch_embed.proj.weight", -1)
    num_patches = _size(weights, VISION_TOWER + "pos_embed", 1) - 1
    if math.isqrt(num_patches) ** 2 != num_patches:
        raise ValueError(f"{VISION_TOWER}pos_embed must cover CLS and a square of patches, found 1 + {num_patches}.")
    vision_config = _build(
        Blip2VisionConfig,
        hidden_size=_size(weights, VISION_TOWER + "cls_token", -1),
        intermediate_size=_size(weights, VISION_TOWER + "blocks.0.mlp.fc1.weight", 0),
        num_hidden_layers=_count_blocks(weights, VISION_TOWER),
        num_attention_heads=num_attention_heads,
        image_size=math.isqrt(num_patches) * patch_size,
        patch_size=patch_size,
    )
    tokenizer_config = _build(
        LavitVisualTokenizerConfig,
        vision_config=vision_config,
        num_merger_layers=_count_blocks(weights, TOKENIZER + "causal_encoder."),
        intermediate_size=_size(weights, TOKENIZER + "causal_encoder.blocks.0.mlp.fc1.weight", 0),
        attention_smoothing=ATTENTION_SMOOTHING,
        codebook_size=_size(weights, TOKENIZER + "quantize.embedding.weight", 0),
        code_dim=_size(weights, TOKENIZER + "quantize.embedding.weight", 1),
    )
    # What describes the file rather than the model.
    dropped = ("architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map")
    text_config = {name: value for name, value in text_config.items() if name not in dropped}
    text_config["vocab_size"] = _size(weights, LANGUAGE_MODEL + "model.embed_tokens.weight", 0) + 1  # the placeholder
    return _build(LavitConfig, text_config=text_config, visual_tokenizer_config=tokenizer_config)


def read_feature_decoder_config(
    weights: Mapping[str, StoredTensor], file: str, num_attention_heads: int
) -> LavitFeatureDecoderConfig:
    """
    The configuration that the shapes of the feature decoder in `file` imply.

    Raises:
        ValueError: a weight that is missing; values that do not fit together.
    """
    theirs = file + ":"
    projections = [f"{theirs}{name}.weight" for name in ("unet_proj", "unet_proj_1", "unet_proj_2")]
    present = [name for name in projections if name in weights] or projections[:1]
    pool = theirs + "unet_attnpool.c_proj.weight"
    return _build(
        LavitFeatureDecoderConfig,
        hidden_size=_size(weights, theirs + "in_proj.weight", 0),
        num_hidden_layers=_count_blocks(weights, theirs),
        num_attention_heads=num_attention_heads,
        intermediate_size=_size(weights, theirs + "blocks.0.mlp.fc1.weight", 0),
        feature_size=_size(weights, theirs + "decode_task_layer.2.weight", 0),
        num_patches=_size(weights, theirs + "query_embed", 1),
        codebook_size=_size(weights, TOKENIZER + "quantize.embedding.weight", 0),
        code_dim=_size(weights, TOKENIZER + "quantize.embedding.weight", 1),
        condition_dims=[_size(weights, name, 0) for name in present],
        pooled_condition_dim=_size(weights, pool, 0) if pool in weights else None,
        num_unconditional_tokens=_size(weights, UNCONDITIONAL, 1) if UNCONDITIONAL in weights else 0,
    )
