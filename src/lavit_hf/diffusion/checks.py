# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the pixel decoder's pipeline accepts: components that fit each other, and arguments within their ranges."""

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

from ..modeling.configuration_lavit import LavitFeatureDecoderConfig


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# Many kernels index the elements of a tensor with 32 bits, and some of them go wrong beyond that without an error.
LARGEST_INT32 = 2**31 - 1


# The fields of configurations that tell whether components fit.
FIELDS = {
    "feature_decoder": ("condition_dims", "num_patches", "num_unconditional_tokens"),
    "unet": ("addition_embed_type", "cross_attention_dim", "in_channels", "out_channels", "sample_size"),
    "vae": ("latent_channels", "block_out_channels", "scaling_factor"),
}


def check_components(feature_decoder: nn.Module, unet: nn.Module, vae: nn.Module) -> None:
    """
    Raises:
        ValueError: a U-Net, a VAE and a feature decoder that do not fit each other, or with a condition or a
            normalization of latents that the pipeline does not compute.
    """
    parts = {"feature_decoder": feature_decoder, "unet": unet, "vae": vae}
    for name, fields in FIELDS.items():
        missing = [field for field in fields if not hasattr(getattr(parts[name], "config", None), field)]
        if missing:
            raise ValueError(
                f"{name} must be a model whose config has {', '.join(fields)}; {type(parts[name]).__name__} has no "
                f"{missing[0]}."
            )
    _check_configurations(*(part.config for part in parts.values()))


def _check_configurations(decoder: LavitFeatureDecoderConfig, unet: Any, vae: Any) -> None:
    kind = unet.addition_embed_type
    if kind not in (None, "text_time"):
        raise ValueError(f"unet.config.addition_embed_type must be None or 'text_time', got {kind!r}.")
    for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim"):
        if unet.get(name) is not None:
            raise ValueError(
                f"unet.config.{name} must be None, got {unet[name]!r}: the pipeline has no such condition."
            )
    for name in ("shift_factor", "latents_mean", "latents_std"):
        if vae.get(name):
            raise ValueError(f"vae.config.{name} must be None or 0, got {vae[name]!r}: latents are only scaled.")
    width, given = unet.cross_attention_dim, sum(decoder.condition_dims or [])
    if any(dim != given for dim in (width if isinstance(width, (tuple, list)) else [width])):
        raise ValueError(f"unet.config.cross_attention_dim must be sum(condition_dims), {given}, got {width}.")
    if kind == "text_time":
        width = unet.projection_class_embeddings_input_dim
        expected = (decoder.pooled_condition_dim or 0) + 6 * unet.addition_time_embed_dim
        if not decoder.pooled_condition_dim or width != expected:
            raise ValueError(
                "unet.config.projection_class_embeddings_input_dim must be the feature decoder's pooled_condition_dim "
                f"({decoder.pooled_condition_dim}) and 6 times unet.config.addition_time_embed_dim, got {width}."
            )
    _check_channels(decoder, unet, vae, given)


def _check_channels(decoder: LavitFeatureDecoderConfig, unet: Any, vae: Any, condition_dim: int) -> None:
    latent_channels, in_channels = vae.latent_channels, unet.in_channels
    if in_channels not in (latent_channels, latent_channels + condition_dim):
        raise ValueError(
            f"unet.config.in_channels must be the VAE's latent_channels, {latent_channels}, or with a map of the "
            f"conditions {latent_channels + condition_dim}, got {in_channels}."
        )
    if unet.out_channels != latent_channels:
        raise ValueError(
            f"unet.config.out_channels must be the VAE's latent_channels, {latent_channels}, got {unet.out_channels}."
        )
    stored, num_patches = decoder.num_unconditional_tokens, decoder.num_patches
    if in_channels > latent_channels and stored:
        raise ValueError(
            "A map of the conditions has no place for stored unconditional embeddings: num_unconditional_tokens must "
            f"be 0, got {stored}."
        )
    if in_channels > latent_channels and math.isqrt(num_patches) ** 2 != num_patches:
        raise ValueError(f"A map of the conditions needs a square number of num_patches, got {num_patches}.")
    if stored > num_patches:
        raise ValueError(f"num_unconditional_tokens must be at most num_patches, {num_patches}, got {stored}.")


def is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_integer(name: str, value: Any, least: int, most: int = LARGEST_INT32) -> int:
    """Returns `value` as an `int`, or raises a `ValueError` that names it, if it is none or out of its range."""
    if not is_integer(value) or not least <= value <= most:
        raise ValueError(f"{name} must be an integer from {least} to {most}, got {value!r}.")
    return int(value)


def check_number(name: str, value: Any, least: float, most: float, meaning: str) -> float:
    """Returns `value` as a `float`, or raises a `ValueError` that names it; NaN is out of every range."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a finite number {meaning}, got {value!r}.")
    return float(value)


def check_guidance_scale(name: str, value: Any) -> float:
    """As `check_number`."""
    return check_number(name, value, 1, sys.float_info.max, "from 1 (no guidance)")


def check_size(height: Any, width: Any, factor: int, num_images: int) -> tuple[int, int]:
    """
    Returns:
        `tuple[int, int]`: Height and width.

    Raises:
        ValueError: a side that is no multiple of `factor`, or too many pixels in all.
    """
    for name, value in (("height", height), ("width", width)):
        if not is_integer(value) or value <= 0 or value % factor:
            raise ValueError(f"{name} must be a positive multiple of {factor}, the VAE's scale factor, got {value!r}.")
    height, width = int(height), int(width)
    if 3 * height * width * num_images > LARGEST_INT32:
        raise ValueError(
            f"height, width and num_images_per_prompt must make at most {LARGEST_INT32} values in one call, got "
            f"{num_images} images of 3 x {height} x {width}."
        )
    return height, width


def check_noise(shape: tuple[int, ...], generator: Any, latents: Any) -> None:
    """Raises a `ValueError` for generators or latents that do not fit latents of `shape`."""
    generators = list(generator) if isinstance(generator, (list, tuple)) else [generator]
    for item in generators if generator is not None else []:
        if not isinstance(item, torch.Generator):
            raise ValueError(f"generator must be a torch.Generator or a list of them, got {item!r}.")
    if isinstance(generator, (list, tuple)) and len(generator) != shape[0]:
        raise ValueError(f"generator must have one generator for each of {shape[0]} images, got {len(generator)}.")
    if latents is None:
        return
    if not isinstance(latents, torch.Tensor):
        raise ValueError(f"latents must be a torch.Tensor of shape {shape}, got {type(latents).__name__}.")
    if tuple(latents.shape) != shape:
        raise ValueError(f"latents must have the shape {shape}, got {tuple(latents.shape)}.")
    if not latents.is_floating_point():
        raise ValueError(f"latents must have a floating point dtype, got {latents.dtype}.")
    if not latents.isfinite().all():
        raise ValueError("latents must be finite, got NaN or infinity.")


def check_output_type(output_type: Any) -> None:
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")


def check_callback(callback: Any, names: Any, known: Collection[str]) -> None:
    """Raises a `ValueError` for a callback that cannot be called, or is to be given what there is not."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end must be callable, got {callback!r}.")
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"callback_on_step_end_tensor_inputs must be a list of names, got {names!r}.")
    for name in names:
        if name not in known:
            raise ValueError(f"callback_on_step_end_tensor_inputs must be of {', '.join(known)}, got {name!r}.")


def check_callback_outputs(outputs: Any, tensors: Mapping[str, torch.Tensor], guidance_scale: Any) -> None:
    """
    Args:
        outputs: What a callback has returned.
        tensors (`dict[str, torch.Tensor]`): The tensors that it may replace.
        guidance_scale (`float`): As it is after the callback, which may have changed it.

    Raises:
        ValueError: no dictionary; a name that is not known; a tensor of a shape that the next step cannot use; a
            `guidance_scale` that is no finite number.
    """
    if not isinstance(outputs, Mapping):
        raise ValueError(f"callback_on_step_end must return a dictionary of the tensors to replace, got {outputs!r}.")
    check_number("callback_on_step_end: guidance_scale", guidance_scale, 0, sys.float_info.max, "from 0")
    for name, tensor in outputs.items():
        if name not in tensors:
            raise ValueError(f"callback_on_step_end must return tensors of {', '.join(tensors)}, got {name!r}.")
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"callback_on_step_end must return a tensor as {name}, got {tensor!r}.")
    num_images = len(tensors["latents"])
    for name, old in tensors.items():
        new = tuple(outputs.get(name, old).shape)
        rows = [2 * num_images] if guidance_scale > 1 else [num_images, 2 * num_images]
        shapes = [(count, *old.shape[1:]) for count in ([num_images] if name == "latents" else rows)]
        if new not in shapes:
            raise ValueError(
                f"After callback_on_step_end, with guidance_scale={guidance_scale}, {name} must have the shape "
                f"{' or '.join(map(str, shapes))}, got {new}."
            )


def check_finite(values: torch.Tensor, part: str, guidance_scale: float) -> None:
    """Raises a `ValueError` that names the first image (of `values` (B, ...)) that `part` made NaN or infinite."""
    finite = values.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"Image {finite.logical_not().nonzero()[0].item()} has become NaN or infinity in the {part}: choose a "
            f"smaller guidance_scale than {guidance_scale}, or a dtype of larger range than {values.dtype}."
        )
