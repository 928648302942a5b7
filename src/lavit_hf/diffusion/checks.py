# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checks of the pixel decoder: components that fit each other, and arguments within their ranges."""

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

from ..modeling.arguments_lavit import check_number


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# Many kernels index the elements of a tensor with 32 bits, and some of them go wrong beyond that without an error.
LARGEST_INT32 = 2**31 - 1


# The fields of configurations that tell whether components fit.
FIELDS = {
    "feature_decoder": ("condition_dims", "num_patches", "num_unconditional_tokens"),
    "unet": ("addition_embed_type", "cross_attention_dim", "in_channels", "out_channels", "sample_size"),
    "vae": ("latent_channels", "block_out_channels", "scaling_factor"),
}


def expect(holds: bool, message: str) -> None:
    """Raises a `ValueError` with the `message` unless a condition `holds`."""
    if not holds:
        raise ValueError(message)


def check_components(feature_decoder: nn.Module, unet: nn.Module, vae: nn.Module) -> None:
    """
    Checks a feature decoder, a U-Net and a VAE.

    Raises:
        ValueError: If they do not fit each other, or need a condition or a normalization of latents that the pipeline
            does not compute.
    """
    parts = {"feature_decoder": feature_decoder, "unet": unet, "vae": vae}
    for name, fields in FIELDS.items():
        kind, config = type(parts[name]).__name__, getattr(parts[name], "config", None)
        for field in fields:
            expected = f"{name} must be a model whose config has {', '.join(fields)}"
            expect(hasattr(config, field), f"{expected}; {kind} has no {field}.")
    _check_configs(*(part.config for part in parts.values()))


def _check_configs(decoder: Any, unet: Any, vae: Any) -> None:
    kind, width, condition_dim = unet.addition_embed_type, unet.cross_attention_dim, sum(decoder.condition_dims or [])
    expect(kind in (None, "text_time"), f"unet.config.addition_embed_type must be None or 'text_time', got {kind!r}.")
    for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim"):
        expect(unet.get(name) is None, f"unet.config.{name} must be None, got {unet.get(name)!r}: it is not computed.")
    for name in ("shift_factor", "latents_mean", "latents_std"):
        expect(not vae.get(name), f"vae.config.{name} must be None or 0, got {vae.get(name)!r}: latents are scaled.")
    widths = width if isinstance(width, (tuple, list)) else [width]
    expect(
        all(dim == condition_dim for dim in widths),
        f"unet.config.cross_attention_dim must be sum(condition_dims), {condition_dim}, got {width}.",
    )
    if kind == "text_time":
        pooled_dim, width = decoder.pooled_condition_dim, unet.projection_class_embeddings_input_dim
        expect(
            bool(pooled_dim) and width == pooled_dim + 6 * unet.addition_time_embed_dim,
            "unet.config.projection_class_embeddings_input_dim must be the feature decoder's pooled_condition_dim "
            f"({pooled_dim}) and 6 times unet.config.addition_time_embed_dim, got {width}.",
        )
    latent_channels, in_channels = vae.latent_channels, unet.in_channels
    has_map = in_channels == latent_channels + condition_dim
    expect(
        has_map or in_channels == latent_channels,
        f"unet.config.in_channels must be the VAE's latent_channels, {latent_channels}, or with a map of the "
        f"conditions {latent_channels + condition_dim}, got {in_channels}.",
    )
    expect(
        unet.out_channels == latent_channels,
        f"unet.config.out_channels must be the VAE's latent_channels, {latent_channels}, got {unet.out_channels}.",
    )
    stored, num_patches = decoder.num_unconditional_tokens, decoder.num_patches
    most = 0 if has_map else num_patches  # a map has no place for stored unconditional embeddings
    expect(stored <= most, f"num_unconditional_tokens must be {'at most ' if most else ''}{most}, got {stored}.")
    is_square = math.isqrt(num_patches) ** 2 == num_patches
    expect(is_square or not has_map, f"A map of the conditions needs a square num_patches, got {num_patches}.")


def is_integer(value: Any) -> bool:
    """Returns whether a value is an integer and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_size(height: Any, width: Any, factor: int, num_images: int) -> tuple[int, int]:
    """Returns height and width, or raises a `ValueError` unless they are multiples of `factor` and not too large."""
    for name, value in (("height", height), ("width", width)):
        fits = is_integer(value) and value > 0 and value % factor == 0
        expect(fits, f"{name} must be a positive multiple of {factor}, the VAE's scale factor, got {value!r}.")
    height, width = int(height), int(width)
    expect(
        3 * height * width * num_images <= LARGEST_INT32,
        f"height, width and num_images_per_prompt must make at most {LARGEST_INT32} values in one call, got "
        f"{num_images} images of 3 x {height} x {width}.",
    )
    return height, width


def check_noise(shape: tuple[int, ...], generator: Any, latents: Any) -> None:
    """Raises a `ValueError` for generators or latents that do not fit latents of `shape`."""
    is_list = isinstance(generator, (list, tuple))
    for item in generator if is_list else [] if generator is None else [generator]:
        is_generator = isinstance(item, torch.Generator)
        expect(is_generator, f"generator must be a torch.Generator or a list of them, got {item!r}.")
    if is_list:
        expected = f"generator must have one generator for each of {shape[0]} images"
        expect(len(generator) == shape[0], f"{expected}, got {len(generator)}.")
    if latents is None:
        return
    kind = type(latents).__name__
    expect(isinstance(latents, torch.Tensor), f"latents must be a torch.Tensor of shape {shape}, got {kind}.")
    expect(latents.shape == shape, f"latents must have the shape {shape}, got {tuple(latents.shape)}.")
    expect(latents.is_floating_point(), f"latents must have a floating point dtype, got {latents.dtype}.")
    expect(bool(latents.isfinite().all()), "latents must be finite, got NaN or infinity.")


def check_output(output_type: Any, callback: Any, names: Any, known: Collection[str]) -> None:
    """Raises a `ValueError` for an unknown output type, or a callback or names of its tensors that cannot be used."""
    is_known = isinstance(output_type, str) and output_type in OUTPUT_TYPES
    expect(is_known, f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
    expect(callback is None or callable(callback), f"callback_on_step_end must be callable, got {callback!r}.")
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    expect(is_list, f"callback_on_step_end_tensor_inputs must be a list of names, got {names!r}.")
    for name in names:
        expected = f"callback_on_step_end_tensor_inputs must be of {', '.join(known)}"
        expect(name in known, f"{expected}, got {name!r}.")


def check_callback_outputs(outputs: Any, tensors: Mapping[str, torch.Tensor], guidance_scale: Any) -> None:
    """
    Checks the return value of a callback.

    Args:
        outputs: The return value.
        tensors (`dict[str, torch.Tensor]`): The tensors that it may replace.
        guidance_scale (`float`): The guidance scale after the callback, which may have changed it.

    Raises:
        ValueError: If the return value is no dictionary of tensors with known names and shapes that the next step can
            use, or the guidance scale is no finite number.
    """
    is_mapping = isinstance(outputs, Mapping)
    expect(is_mapping, f"callback_on_step_end must return a dictionary of the tensors to replace, got {outputs!r}.")
    check_number("callback_on_step_end: guidance_scale", guidance_scale, 0)
    for name, tensor in outputs.items():
        expect(name in tensors, f"callback_on_step_end must return tensors of {', '.join(tensors)}, got {name!r}.")
        is_tensor = isinstance(tensor, torch.Tensor)
        expect(is_tensor, f"callback_on_step_end must return a tensor as {name}, got {tensor!r}.")
    num_images = len(tensors["latents"])
    for name, old in tensors.items():
        new = tuple(outputs.get(name, old).shape)
        rows = [2 * num_images] if guidance_scale > 1 else [num_images, 2 * num_images]
        shapes = [(count, *old.shape[1:]) for count in ([num_images] if name == "latents" else rows)]
        expect(
            new in shapes,
            f"After callback_on_step_end, with guidance_scale={guidance_scale}, {name} must have the shape "
            f"{' or '.join(map(str, shapes))}, got {new}.",
        )


def check_finite(values: torch.Tensor, part: str, guidance_scale: float) -> None:
    """Raises a `ValueError` that names the first image of `values` (B, ...) that `part` made NaN or infinite."""
    finite = values.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        index = int(finite.int().argmin())
        raise ValueError(
            f"Image {index} has become NaN or infinity in the {part}: choose a smaller guidance_scale than "
            f"{guidance_scale}, or a dtype of larger range than {values.dtype}."
        )
