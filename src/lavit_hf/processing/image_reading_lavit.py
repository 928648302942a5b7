# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading of images: every kind of source becomes an image that is checked, or a ValueError that names it."""

import base64
import io
import itertools
import math
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers import image_transforms
from transformers.image_utils import ChannelDimension, ImageInput


URL_TIMEOUT = 60  # seconds
MAX_SHOWN = 300  # characters of a path in a message; base64 is longer
NUM_CHANNELS = (1, 3, 4)
EXPECTED = (
    "a PIL image, a path, a URL, base64, bytes, a binary file, {'bytes': ..., 'path': ...}, a numpy array or a tensor"
)


def load_pictures(images: ImageInput | str | os.PathLike | bytes | dict | Sequence) -> Any:
    """
    Loads and checks images and keeps their nesting, so that every backend sees the same images and errors.

    Args:
        images (`ImageInput`, `str`, `os.PathLike`, `bytes`, `dict`, a binary file or a nested list of these):
            An image is one of the following.

            - A `PIL.Image.Image`.
            - A path, a URL (`http:`, `https:`, `file:`, `data:`, or one that fsspec knows, such as `hf://`), or the
              base64 of an image file.
            - The content of an image file: `bytes`, a binary file object, or `{"bytes": ..., "path": ...}`, of which
              one may be None.
            - A numpy array or a tensor of shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels. Its dtype
              tells its range, its values never do: uint8 in 0..255, floating in [0, 1]. Four axes are a batch.

    Returns:
        The same nesting, with a loaded, upright `PIL.Image.Image` of 8 bits a channel or the array in place of each
        image.

    Raises:
        ValueError: If an image is of another type, dtype or shape, has no pixels, has values out of its range, has
            several frames, or cannot be read. The message names the image by its place in reading order.
    """
    places = itertools.count()

    def load(item):
        if isinstance(item, np.ndarray | torch.Tensor):
            if item.ndim == 4:
                return [load(part) for part in item]
            return _check_array(item, f"Image {next(places)}")
        if isinstance(item, Sequence) and not isinstance(item, str | bytes | bytearray | memoryview):
            return [load(part) for part in item]
        return open_image(item, f"Image {next(places)}")

    return load(images)


def read_image(source, name: str = "The image") -> Image.Image:
    """
    Reads one image as a person sees it: RGB, upright, with transparency over white.

    Args:
        source: One image of any kind that [`load_pictures`] takes.
        name (`str`, *optional*): What errors call the image.

    Raises:
        ValueError: As [`load_pictures`] does, and for an array whose layout is not clear.
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        pixels = to_channels_first(_check_array(source, name), name, convert_to_rgb=True)
        return Image.fromarray(pixels.movedim(0, -1).contiguous().cpu().numpy())
    image = open_image(source, name)
    return Image.fromarray(_convert_to_rgb(image, image_label(name, source)))


def open_image(source, name: str = "The image") -> Image.Image:
    """Opens one image like [`read_image`], but in the mode in which it is stored, with 8 bits a channel."""
    label = image_label(name, source)
    image = load_file(source, name)
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # as in `load_file`
        raise ValueError(f"{label} cannot be read: {_reason(error)}") from error
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.mode in ("I", "F", "LAB"):  # values of unknown range, and a mode that Pillow cannot convert
        raise ValueError(f"{label} has mode {image.mode!r}; convert it to RGB first.")
    return image


def load_file(source, name: str = "The image") -> Image.Image:
    """Loads an image as its file has it, neither turned nor converted. A file of several frames is refused."""
    label = image_label(name, source)
    image = source if isinstance(source, Image.Image) else _open(read_content(source, name), label)
    try:
        frames = getattr(image, "n_frames", 1)
        image.load()
    except Exception as error:  # on damaged files Pillow's plugins raise whatever their parsing runs into
        raise ValueError(f"{label} cannot be read: {_reason(error)}") from error
    # Cameras write JPEGs as MPO with a preview as second frame, and the frames of PSD are layers of its first one.
    if frames > 1 and image.format not in ("MPO", "PSD"):
        raise ValueError(f"{label} has {frames} frames, expected one. In Pillow, `image.seek(index)` chooses a frame.")
    if 0 in image.size:
        raise ValueError(f"{label} has no pixels: its width is {image.width}, its height {image.height}.")
    return image


def _open(content: bytes, label: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:  # its message would be the address of the buffer
        raise ValueError(f"{label} cannot be read: its {len(content)} bytes are of no known image format") from error
    except Exception as error:  # as in `load_file`
        raise ValueError(f"{label} cannot be read: {_reason(error)}") from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits as one of 8, which Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    grey = np.round(values / 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is None:
        return Image.fromarray(grey)
    opacity = np.where(values == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opacity)])


def read_content(source, name: str = "The image") -> bytes:
    """
    The content of an image file.

    Args:
        source: A path, a URL, base64, bytes, a binary file object, or `{"bytes": ..., "path": ...}`.
        name (`str`, *optional*): What errors call the image.

    Raises:
        ValueError: If it is of another type or cannot be read.
    """
    label = image_label(name, source)
    content, place = source, None
    if isinstance(source, dict):
        if not source.keys() <= {"bytes", "path"}:
            raise ValueError(f"{label} is a dict of {', '.join(map(str, source))}; expected 'bytes' and 'path'.")
        content, place = source.get("bytes"), source.get("path")
    if content is None and place is None:
        raise ValueError(f"{label} is missing; expected {EXPECTED}.")
    if place is not None and not isinstance(place, str | os.PathLike):
        raise ValueError(f"{label} has a path of type {type(place).__name__}; expected a string.")
    try:
        if content is None:
            return read_file(place)
        if isinstance(content, str):
            return _read_text(content)
        if isinstance(content, os.PathLike):
            return read_file(content)
        if hasattr(content, "read"):
            content = _read_stream(content)
    except Exception as error:  # as many kinds as there are file systems
        raise ValueError(f"{label} cannot be read: {_reason(error)}") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ValueError(f"{label} is of type {type(content).__name__}; expected {EXPECTED}.")
    return bytes(content)


def read_file(address: str | os.PathLike) -> bytes:
    """Reads the whole file at a path or URL. Every image that is named rather than given passes through here."""
    if isinstance(address, str):
        scheme = address.partition(":")[0].lower()
        if scheme == "data":
            return _decode_data_url(address)
        if scheme == "file" or re.match("https?://", address, re.IGNORECASE):
            quoted = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]|") if scheme != "file" else address
            request = urllib.request.Request(quoted, headers={"User-Agent": "lavit_hf"})
            with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as response:
                return response.read()
        if "://" in address:
            with fsspec.open(address, "rb") as file:
                return file.read()
    with open(address, "rb") as file:
        return file.read()


def _decode_data_url(url: str) -> bytes:
    header, comma, data = url.partition(",")
    if not comma:
        raise ValueError("a data URL has a comma before its content")
    content = urllib.parse.unquote_to_bytes(data)
    return base64.b64decode(content) if header.lower().endswith(";base64") else content


def _read_text(text: str) -> bytes:
    """What a text names, or what it holds: only what is neither URL nor file is taken for base64."""
    try:
        return read_file(text)
    except (OSError, ValueError):
        if ":" in text or os.path.exists(text):
            raise
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
            Image.open(io.BytesIO(content)).close()
        except (ValueError, UnidentifiedImageError):
            raise FileNotFoundError("No such file, nor is it the base64 of an image") from None
        return content


def _read_stream(file) -> bytes:
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise ValueError(f"its read() gives {type(content).__name__}; open the file in binary mode")
    return content


def image_label(name: str, source) -> str:
    """What errors call an image: its name and, if it has one, its path."""
    path = source.get("path") if isinstance(source, dict) else source
    if not isinstance(path, str | os.PathLike):
        return name
    text = str(path)
    return f"{name} ({text if len(text) <= MAX_SHOWN else text[:40] + '...'})"


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


# Arrays


def is_floating(image: Image.Image | np.ndarray | torch.Tensor) -> bool:
    """Whether an image is an array of floats, with values in [0, 1] rather than 0..255."""
    if isinstance(image, np.ndarray):
        return np.issubdtype(image.dtype, np.floating)
    return isinstance(image, torch.Tensor) and image.is_floating_point()


def _check_array(image, name: str):
    dtype, shape = str(image.dtype).removeprefix("torch."), tuple(image.shape)
    if dtype != "uint8" and not is_floating(image):
        raise ValueError(f"{name} has dtype {dtype}; expected uint8 in 0..255, or floating in [0, 1].")
    if 0 in shape:
        raise ValueError(f"{name} has no pixels: its shape is {shape}.")
    if not (len(shape) == 2 or (len(shape) == 3 and (shape[0] in NUM_CHANNELS or shape[-1] in NUM_CHANNELS))):
        raise ValueError(f"{name} has shape {shape}; expected (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels.")
    if dtype != "uint8":
        values = image.detach().float() if isinstance(image, torch.Tensor) else image
        low, high = float(values.min()), float(values.max())
        if math.isnan(low) or math.isnan(high):
            raise ValueError(f"{name} has values that are not numbers (NaN).")
        if not -0.5 <= 255 * low <= 255 * high <= 255.5:
            raise ValueError(
                f"{name} is {dtype} with values from {low:g} to {high:g}, but floating images are in [0, 1]: "
                "rescale it, or pass values of 0..255 as uint8."
            )
    return image


def to_channels_first(
    image: Image.Image | np.ndarray | torch.Tensor,
    name: str,
    convert_to_rgb: bool,
    input_data_format: str | ChannelDimension | None = None,
) -> torch.ByteTensor:
    """
    Brings a checked image to shape (C, H, W), uint8. Floating images are rounded to the 256 levels that image files
    have, so that an array and a file of the same image give the same pixels.

    Args:
        image: As [`load_pictures`] returns it.
        name (`str`): What errors call the image.
        convert_to_rgb (`bool`): Whether to make three channels, with transparency over white.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, the layout of arrays. By
            default the axis that can be channels; where both can, the image is refused.
    """
    if isinstance(image, Image.Image):
        return torch.from_numpy(_pixels(image, name, convert_to_rgb)).movedim(-1, 0).contiguous()
    if isinstance(image, np.ndarray):
        dtype = np.float32 if is_floating(image) else np.uint8
        image = torch.from_numpy(np.require(image, dtype, ["C", "W", "E"]))
    image = image.detach()
    if image.is_floating_point():
        image = image.float().mul(255).round().clamp(0, 255).to(torch.uint8)
    if image.ndim == 2:
        image = image[None]
    elif _layout(image.shape, name, input_data_format) == ChannelDimension.LAST:
        image = image.movedim(-1, 0)
    if convert_to_rgb and image.shape[0] == 4:  # by way of Pillow, for the rounding that files get
        rgba = Image.fromarray(image.movedim(0, -1).contiguous().cpu().numpy())
        return torch.from_numpy(_pixels(rgba, name, True)).movedim(-1, 0).contiguous().to(image.device)
    return (image.repeat(3, 1, 1) if convert_to_rgb and image.shape[0] == 1 else image).contiguous()


def _layout(shape: Sequence[int], name: str, input_data_format) -> ChannelDimension:
    fits = {ChannelDimension.FIRST: shape[0] in NUM_CHANNELS, ChannelDimension.LAST: shape[-1] in NUM_CHANNELS}
    if input_data_format is not None:
        layout = ChannelDimension(input_data_format)
        if not fits[layout]:
            raise ValueError(f"{name} has shape {tuple(shape)}, which is not {layout.value} with 1, 3 or 4 channels.")
        return layout
    if all(fits.values()):
        raise ValueError(
            f"{name} has shape {tuple(shape)}, which can be (C, H, W) as well as (H, W, C): say which by "
            "`input_data_format`, 'channels_first' or 'channels_last'."
        )
    return ChannelDimension.FIRST if fits[ChannelDimension.FIRST] else ChannelDimension.LAST


def _pixels(image: Image.Image, name: str, convert_to_rgb: bool) -> np.ndarray:
    """(H, W, C) uint8"""
    if convert_to_rgb:
        return _convert_to_rgb(image, name)
    if image.mode not in ("L", "RGB", "RGBA"):
        raise ValueError(f"{name} has mode {image.mode!r}; without `do_convert_rgb` expected L, RGB or RGBA.")
    return np.array(image).reshape(image.height, image.width, -1)


def _convert_to_rgb(image: Image.Image, label: str) -> np.ndarray:
    try:
        return image_transforms.convert_to_rgb(image, return_numpy=True)
    except ValueError as error:
        raise ValueError(f"{label} has mode {image.mode!r}, which cannot be converted to RGB: {error}") from error


__all__ = ["load_pictures", "read_image"]
