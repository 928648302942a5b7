# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The conditions of the U-Net, and its call, which are the same in the pipeline and in training."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..modeling.configuration_lavit import LavitFeatureDecoderConfig
from ..modeling.modeling_lavit_feature_decoder import LavitFeatureDecoder


def prepare_conditions(
    feature_decoder: LavitFeatureDecoder,
    prompt_embeds: torch.Tensor,
    pooled_prompt_embeds: torch.Tensor | None,
    size: tuple[int, int],
    guided: bool,
) -> dict[str, torch.Tensor]:
    """
    Prepares all conditions of the U-Net.

    Args:
        feature_decoder ([`LavitFeatureDecoder`]): The feature decoder, with or without stored embeddings.
        prompt_embeds (`torch.Tensor` of shape `(B, num_patches, sum(condition_dims))`): The conditions of images.
        pooled_prompt_embeds (`torch.Tensor` of shape `(B, pooled_condition_dim)`, *optional*):
            The pooled conditions of the SDXL kind.
        size (`tuple[int, int]`): Height and width of the images in pixels.
        guided (`bool`):
            Whether to add an unconditional row for each image before the others. Its conditions are the stored
            embeddings, if there are any, and then zeros.

    Returns:
        `dict[str, torch.Tensor]`: The conditions by the names that callbacks use.
    """
    rows = prompt_embeds
    if guided:
        unconditional = torch.zeros_like(prompt_embeds)
        if stored := feature_decoder.config.num_unconditional_tokens:
            unconditional[:, :stored] = feature_decoder.unconditional_embeds.to(unconditional)
        rows = torch.cat([unconditional, prompt_embeds])
    if pooled_prompt_embeds is None:
        return {"prompt_embeds": rows}
    pooled = pooled_prompt_embeds
    if guided:
        pooled = torch.cat([torch.zeros_like(pooled), pooled])
    # Original size, top left corner of the crop, target size; in float32, as bfloat16 rounds sizes.
    time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=rows.device)
    return {"prompt_embeds": rows, "add_text_embeds": pooled, "add_time_ids": time_ids.repeat(len(rows), 1)}


def guidance_attention_mask(config: LavitFeatureDecoderConfig, latents: torch.Tensor) -> torch.Tensor | None:
    """
    Computes the attention mask of guided rows. It hides the zeros that follow the stored unconditional embeddings.

    Args:
        config ([`LavitFeatureDecoderConfig`]): The configuration of the feature decoder.
        latents (`torch.Tensor` of shape `(B, ...)`): A tensor whose number of images, dtype and device the mask has.

    Returns:
        `torch.Tensor` of shape `(2 B, num_patches)` for the unconditional and the conditional rows, or `None` if it
        would be 1 everywhere.
    """
    if config.num_unconditional_tokens in (0, config.num_patches):
        return None
    mask = torch.ones(2 * len(latents), config.num_patches, device=latents.device, dtype=latents.dtype)
    mask[: len(latents), config.num_unconditional_tokens :] = 0
    return mask


def apply_unet(
    unet: Any,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Predicts noise or velocity. If the U-Net takes more channels than latents have, it also gets the conditions of each
    patch as a map, at the place of the patch.

    Args:
        unet (`UNet2DConditionModel`): The U-Net.
        latents (`torch.Tensor` of shape `(B, C, h, w)`): Noisy latents.
        timesteps (`torch.Tensor` of shape `()` or `(B,)`): Their timesteps.
        conditions (`dict[str, torch.Tensor]`): B rows of the conditions of [`prepare_conditions`].
        attention_mask (`torch.Tensor` of shape `(B, num_patches)`, *optional*): 0 for conditions to hide.

    Returns:
        `torch.Tensor` of shape `(B, C, h, w)`.
    """
    prompt_embeds, added = conditions["prompt_embeds"], None
    if "add_text_embeds" in conditions:
        added = {"text_embeds": conditions["add_text_embeds"], "time_ids": conditions["add_time_ids"]}
    if unet.config.in_channels > latents.shape[1]:
        side = math.isqrt(prompt_embeds.shape[1])
        maps = prompt_embeds.transpose(1, 2).unflatten(-1, (side, side))
        latents = torch.cat([latents, nn.functional.interpolate(maps, latents.shape[-2:]).to(latents.dtype)], dim=1)
    return unet(
        latents,
        timesteps,
        encoder_hidden_states=prompt_embeds,
        encoder_attention_mask=attention_mask,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
