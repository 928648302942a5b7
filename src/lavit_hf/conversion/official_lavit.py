# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The weights of the authors' checkpoint: how they are named, and the configuration that their shapes imply.

A weight of theirs is named `file:key` here and in every error.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Blip2VisionConfig

from ..modeling.configuration_lavit import LavitConfig, LavitFeatureDecoderConfig, LavitVisualTokenizerConfig
from .release import PIXEL_DECODERS
from .weights import Rule


LANGUAGE_MODEL = "language_model:"
VISION_TOWER = "eva_vitg_psz14.bin:"
TOKENIZER = "tokenizer_encoder.bin:"
VISUAL_ADAPTER = "visual_weight.bin:"
UNCONDITIONAL = "uncond_embeddings.bin:"
CODEBOOK = TOKENIZER + "quantize.embedding.weight"

# Two parts that no model of ours has: the classifier of the vision tower, and a table in old Llama checkpoints whose
# values follow from the configuration.
UNUSED = rf"{VISION_TOWER}head\.|{LANGUAGE_MODEL}model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$"

# The adapter's file may repeat these weights of the visual tokenizer.
REPEATED = r"(token_predictor\.(in|out)_conv\.|quantize\.embedding\.weight$|encode_task_layer\.)"

# Settings of a language model's `config.json` that describe the file and not the model.
FILE_SETTINGS = ("architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map")

# The authors' code adds it to the merger's masked softmax; no file says so.
ATTENTION_SMOOTHING = 1e-6


def _join_biases(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The bias of a joint projection whose keys have no bias."""
    return torch.cat([query, torch.zeros_like(query), value])


def _block_rules(ours: str, theirs: str, self_attn: str = "self_attn", cross_attn: str = "cross_attn") -> list[Rule]:
    """Rules for the transformer blocks of a merger or feature decoder, in the modules `ours` and `theirs`."""
    layer, block = ours + r"layers\.(\d+)\.", theirs + r"blocks.\1."
    crossing = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "proj"}
    return [
        Rule(layer + r"self_attn_norm\.", block + "norm0."),
        Rule(layer + r"cross_attn_norm\.", block + "norm1."),
        Rule(layer + r"mlp_norm\.", block + "norm2."),
        # The authors project queries, keys and values by one matrix.
        Rule(layer + r"self_attn\.q_proj\.", f"{block}{self_attn}.qkv.", lambda qkv: qkv.chunk(3)[0]),
        Rule(layer + r"self_attn\.k_proj\.", f"{block}{self_attn}.qkv.", lambda qkv: qkv.chunk(3)[1]),
        Rule(layer + r"self_attn\.v_proj\.", f"{block}{self_attn}.qkv.", lambda qkv: qkv.chunk(3)[2]),
        Rule(layer + r"self_attn\.out_proj\.", f"{block}{self_attn}.proj."),
        *[Rule(layer + rf"cross_attn\.{new}\.", f"{block}{cross_attn}.{old}.") for new, old in crossing.items()],
        Rule(layer + r"mlp\.", block + "mlp."),
    ]


def _merger_rules(ours: str, theirs: str) -> list[Rule]:
    theirs += "causal_encoder."
    return [
        Rule(ours + r"context_norm\.", theirs + "ln_vision."),
        Rule(ours + r"norm\.", theirs + "norm."),
        *_block_rules(ours, theirs, "token_causal_attn", "token_cross_attn"),
    ]


def model_rules(config: LavitConfig) -> list[Rule]:
    """Rules for the language model with the visual tokenizer and adapter."""

    def add_placeholder(rows: torch.Tensor) -> torch.Tensor:
        """Appends the row of the image placeholder, which is the mean of the text's rows."""
        mean = rows[: config.image_start_token_id].float().mean(dim=0, keepdim=True)
        return torch.cat([rows, mean.to(rows.dtype)])

    tower = r"model\.visual_tokenizer\.vision_tower\."
    layer, block = tower + r"encoder\.layers\.(\d+)\.", VISION_TOWER + r"blocks.\1."
    selector, predictor = r"model\.visual_tokenizer\.selector\.", TOKENIZER + "token_predictor."
    return [
        Rule(r"model\.language_model\.embed_tokens\.", LANGUAGE_MODEL + "model.embed_tokens.", add_placeholder),
        Rule(r"lm_head\.", LANGUAGE_MODEL + "lm_head.", add_placeholder),
        Rule(r"model\.language_model\.", LANGUAGE_MODEL + "model."),
        Rule(tower + r"embeddings\.class_embedding", VISION_TOWER + "cls_token"),
        Rule(tower + r"embeddings\.position_embedding", VISION_TOWER + "pos_embed"),
        Rule(tower + r"embeddings\.patch_embedding\.", VISION_TOWER + "patch_embed.proj."),
        Rule(tower + r"post_layernorm\.", VISION_TOWER + "norm."),
        Rule(layer + r"layer_norm([12])\.", block + r"norm\2."),
        Rule(layer + r"self_attn\.qkv\.bias", (block + "attn.q_bias", block + "attn.v_bias"), _join_biases),
        Rule(layer + r"self_attn\.qkv\.", block + "attn.qkv."),
        Rule(layer + r"self_attn\.projection\.", block + "attn.proj."),
        Rule(layer + r"mlp\.", block + "mlp."),
        Rule(selector + r"norm\.", predictor + "in_conv.0."),
        Rule(selector + r"in_proj\.", predictor + "in_conv.1."),
        Rule(selector + r"fc1\.", predictor + "out_conv.0."),
        Rule(selector + r"fc2\.", predictor + "out_conv.2."),
        Rule(selector + r"out_proj\.", predictor + "out_conv.4."),
        Rule(r"model\.visual_tokenizer\.quantizer\.codebook", CODEBOOK),
        Rule(r"model\.visual_tokenizer\.quantizer\.encode_head\.", TOKENIZER + "encode_task_layer."),
        *_merger_rules(r"model\.visual_tokenizer\.merger\.", TOKENIZER),
        *_merger_rules(r"model\.visual_adapter\.merger\.", VISUAL_ADAPTER),
        Rule(r"model\.visual_adapter\.projection\.", VISUAL_ADAPTER + "vit_proj."),
    ]


def feature_decoder_rules(file: str) -> list[Rule]:
    """Rules for the feature decoder in `file`, of either pixel decoder."""
    theirs = file + ":"
    return [
        Rule("codebook", CODEBOOK),
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


def diffusers_rules(folder: str) -> list[Rule]:
    """Rules for diffusers' model in `folder`, which may use the names of attention before diffusers 0.17."""
    former = {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}
    rules = [Rule(rf"(.*\.attentions\.\d+)\.{new}\.", rf"{folder}:\1.{old}.") for new, old in former.items()]
    return [Rule("", f"{folder}:"), *rules]


def drop_repeated(stored: dict[str, Any]) -> None:
    """
    Removes the visual tokenizer's weights from those of the adapter's file, which may repeat them.

    Raises:
        ValueError: If they differ. The model has one visual tokenizer, and images would be read in another way.
    """
    for name in [name for name in stored if re.match(VISUAL_ADAPTER + REPEATED, name)]:
        original = TOKENIZER + name.removeprefix(VISUAL_ADAPTER)
        if original in stored:
            copy, own = stored.pop(name), stored[original]
            # If one of the files holds rounded weights, both are compared rounded.
            dtype = min(copy.dtype, own.dtype, key=lambda dtype: dtype.itemsize)
            if not torch.equal(copy.to(dtype), own.to(dtype)):
                raise ValueError(f"{name} must repeat {original}, which it does not.")


def _size(stored: Mapping[str, Any], name: str, axis: int) -> int:
    """The extent of a tensor, for a configuration."""
    if name not in stored:
        raise ValueError(f"{name} is missing: the model's shape is read off it.")
    shape = tuple(getattr(stored[name], "shape", ()))
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{name} must be a tensor with an axis {axis}, found one of shape {shape}.")
    return shape[axis]


def _count_blocks(stored: Mapping[str, Any], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
    numbers = [int(match[1]) for name in stored if (match := pattern.match(name))]
    if not numbers:
        raise ValueError(f"{prefix}blocks.0 is missing.")
    return max(numbers) + 1


def read_model_config(stored: Mapping[str, Any], text_config: Mapping, num_attention_heads: int) -> LavitConfig:
    """
    Returns the configuration that the shapes of the weights imply.

    Args:
        stored (`Mapping[str, Any]`): The weights.
        text_config (`Mapping`): The language model's own `config.json`.
        num_attention_heads (`int`): Attention heads of the vision tower and merger, which no shape shows.

    Raises:
        ValueError: If a weight is missing, or if its shape is not that of an image model.
    """
    patch_size = _size(stored, VISION_TOWER + "patch_embed.proj.weight", -1)
    num_patches = _size(stored, VISION_TOWER + "pos_embed", 1) - 1
    if math.isqrt(num_patches) ** 2 != num_patches:
        raise ValueError(f"{VISION_TOWER}pos_embed must cover CLS and a square of patches, found 1 + {num_patches}.")
    vision_config = Blip2VisionConfig(
        hidden_size=_size(stored, VISION_TOWER + "cls_token", -1),
        intermediate_size=_size(stored, VISION_TOWER + "blocks.0.mlp.fc1.weight", 0),
        num_hidden_layers=_count_blocks(stored, VISION_TOWER),
        num_attention_heads=num_attention_heads,
        image_size=math.isqrt(num_patches) * patch_size,
        patch_size=patch_size,
    )
    tokenizer_config = LavitVisualTokenizerConfig(
        vision_config=vision_config,
        num_merger_layers=_count_blocks(stored, TOKENIZER + "causal_encoder."),
        intermediate_size=_size(stored, TOKENIZER + "causal_encoder.blocks.0.mlp.fc1.weight", 0),
        attention_smoothing=ATTENTION_SMOOTHING,
        codebook_size=_size(stored, CODEBOOK, 0),
        code_dim=_size(stored, CODEBOOK, 1),
    )
    text_config = {name: value for name, value in text_config.items() if name not in FILE_SETTINGS}
    text_config["vocab_size"] = _size(stored, LANGUAGE_MODEL + "model.embed_tokens.weight", 0) + 1  # the placeholder
    return LavitConfig(text_config=text_config, visual_tokenizer_config=tokenizer_config)


def read_feature_decoder_config(
    stored: Mapping[str, Any], file: str, num_attention_heads: int
) -> LavitFeatureDecoderConfig:
    """Returns the configuration of the feature decoder in `file`. Same errors as [`read_model_config`]."""
    theirs = file + ":"
    projections = [f"{theirs}{name}.weight" for name in ("unet_proj", "unet_proj_1", "unet_proj_2")]
    present = [name for name in projections if name in stored] or projections[:1]
    pool = theirs + "unet_attnpool.c_proj.weight"
    return LavitFeatureDecoderConfig(
        hidden_size=_size(stored, theirs + "in_proj.weight", 0),
        num_hidden_layers=_count_blocks(stored, theirs),
        num_attention_heads=num_attention_heads,
        intermediate_size=_size(stored, theirs + "blocks.0.mlp.fc1.weight", 0),
        feature_size=_size(stored, theirs + "decode_task_layer.2.weight", 0),
        num_patches=_size(stored, theirs + "query_embed", 1),
        codebook_size=_size(stored, CODEBOOK, 0),
        code_dim=_size(stored, CODEBOOK, 1),
        condition_dims=[_size(stored, name, 0) for name in present],
        pooled_condition_dim=_size(stored, pool, 0) if pool in stored else None,
        num_unconditional_tokens=_size(stored, UNCONDITIONAL, 1) if file == PIXEL_DECODERS["lowres"][1] else 0,
    )
