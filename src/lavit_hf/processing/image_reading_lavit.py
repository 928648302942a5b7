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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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


def load_images(images: ImageInput | str | os.PathLike | bytes | dict | Sequence) -> Any:
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
        is_batch = isinstance(item, np.ndarray | torch.Tensor) and item.ndim == 4
        if is_batch or (isinstance(item, Sequence) and not isinstance(item, str | bytes | bytearray | memoryview)):
            return [load(part) for part in item]
        return _load_image(item, f"Image {next(places)}")

    return load(images)


def read_image(source, name: str = "The image") -> Image.Image:
    """
    Reads one image as a person sees it: RGB, upright, with transparency over white.

    Args:
        source: One image of any kind that [`load_images`] takes.
        name (`str`, *optional*, defaults to `"The image"`): The name of the image in errors.

    Returns:
        `PIL.Image.Image`: The image.

    Raises:
        ValueError: If the image cannot be used, see [`load_images`], or if it is an array whose layout is ambiguous.
    """
    image = _load_image(source, name)
    return Image.fromarray(_to_array(image, image_label(name, source), convert_to_rgb=True))


def _load_image(source, name: str) -> Image.Image | np.ndarray | torch.Tensor:
    """Loads and checks one image, in the mode in which it is stored but with 8 bits a channel."""
    if isinstance(source, np.ndarray | torch.Tensor):
        _check_array(source, name)
        return source
    image = load_file(source, name)
    label = image_label(name, source)
    with _reading(label):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError(f"{label} has mode {image.mode!r} and no palette: save it with its colors.")
    if image.mode == "P" and image.palette.mode == "RGBA":  # transformers looks for transparency beside the palette
        image = image.convert("RGBA")
    if image.mode in ("I", "F", "LAB"):  # values of unknown range, and a mode that Pillow cannot convert
        raise ValueError(f"{label} has mode {image.mode!r}; convert it to RGB first.")
    return image


def load_file(source, name: str = "The image") -> Image.Image:
    """
    Loads an image as its file has it, neither turned nor converted. Same arguments as [`read_image`], without arrays.
    """
    label = image_label(name, source)
    image = source if isinstance(source, Image.Image) else read_content(source, name)
    with _reading(label):
        image = image if isinstance(image, Image.Image) else _open(image)
        _scale_transparency(image)
        frames = getattr(image, "n_frames", 1)
        image.load()
    # Cameras write JPEGs as MPO with a preview as second frame, and the frames of PSD are layers of its first one.
    if frames > 1 and image.format not in ("MPO", "PSD"):
        raise ValueError(f"{label} has {frames} frames, expected one: save one of them as an image.")
    if 0 in image.size:
        raise ValueError(f"{label} has no pixels: its width is {image.width}, its height {image.height}.")
    return image


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:  # its message would be the address of the buffer
        raise ValueError(f"its {len(content)} bytes are of no known image format") from error


def _scale_transparency(image: Image.Image) -> None:
    """
    Brings the transparent color of a PNG to 8 bits. Pillow does so with the pixels alone, unless the image is grey
    with 16 bits. A color of 16 bits then stands for all of those with the same 8 bits. Once pixels are loaded, an
    image does not tell how many bits they had: a grey one of 2 or 4 bits that was loaded before is taken for 8 bits.
    """
    transparent = image.info.get("transparency")
    if transparent is None or image.format != "PNG":
        return
    tiles = getattr(image, "tile", None)
    layout = tiles[0].args if tiles else None
    if layout in ("L;2", "L;4"):
        image.info["transparency"] = transparent * 255 // (2 ** int(layout[-1]) - 1)
    elif image.mode == "RGB" and (layout == "RGB;16B" or max(transparent) > 255):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Converts a grey image of 16 bits to 8 bits. The conversion of Pillow would clip its values at 255."""
    values = np.asarray(image)
    grey = Image.fromarray(np.round(values / 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    opacity = np.where(values == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", [grey, Image.fromarray(opacity)])


# Contents of files


def read_content(source, name: str = "The image") -> bytes:
    """
    Reads the content of an image file.

    Args:
        source: A path, a URL, base64, bytes, a binary file object, or `{"bytes": ..., "path": ...}`.
        name (`str`, *optional*, defaults to `"The image"`): The name of the image in errors.

    Returns:
        `bytes`: The content of the file.

    Raises:
        ValueError: If the source is of another type or cannot be read.
    """
    label = image_label(name, source)
    if isinstance(source, dict):
        if not source.keys() <= {"bytes", "path"}:
            raise ValueError(f"{label} is a dict of {', '.join(map(str, source))}; expected 'bytes' and 'path'.")
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if source is None:
        raise ValueError(f"{label} is missing; expected {EXPECTED}.")
    with _reading(label):
        if isinstance(source, str):
            source = _read_text(source)
        elif isinstance(source, os.PathLike):
            source = read_file(source)
        elif hasattr(source, "read"):
            if hasattr(source, "seekable") and source.seekable():
                source.seek(0)
            source = source.read()
            if isinstance(source, str):
                raise ValueError("its read() gives str; open the file in binary mode")
    if not isinstance(source, bytes | bytearray | memoryview):
        raise ValueError(f"{label} is of type {type(source).__name__}; expected {EXPECTED}.")
    return bytes(source)


def read_file(address: str | os.PathLike) -> bytes:
    """Reads the whole file at a path or URL. Every image that is named rather than given passes through here."""
    if isinstance(address, str) and address[:5].lower() == "data:":
        head, comma, content = address.partition(",")
        if not comma:
            raise ValueError("a data: URL needs a comma before its content")
        address = head.lower() + comma + content  # urllib compares ";base64" case-sensitively
    if isinstance(address, str) and re.match("(https?|file|data):", address, re.IGNORECASE):
        url = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]|")
        request = urllib.request.Request(url, headers={"User-Agent": "lavit_hf"})
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as response:
            content = response.read()
        if not content:  # urllib skips what is not base64
            raise ValueError(f"{address[:40]} has no content")
        return content
    opener = fsspec.open if isinstance(address, str) and "://" in address else open
    with opener(address, "rb") as file:
        return file.read()


def _read_text(text: str) -> bytes:
    """Reads the file that a text names. A text that names neither a URL nor a file is taken for base64."""
    try:
        return read_file(text)
    except (OSError, ValueError):
        if ":" in text or os.path.exists(text):
            raise
        with suppress(ValueError, UnidentifiedImageError):
            content = base64.b64decode("".join(text.split()), validate=True)
            Image.open(io.BytesIO(content)).close()
            return content
        raise FileNotFoundError("No such file, nor is it the base64 of an image") from None


@contextmanager
def _reading(label: str) -> Iterator[None]:
    """Turns an error of reading into a ValueError that names the image."""
    try:
        yield
    except Exception as error:  # file systems and the plugins of Pillow raise whatever they run into
        raise ValueError(f"{label} cannot be read: {str(error).rstrip('.') or type(error).__name__}") from error


def image_label(name: str, source) -> str:
    """Returns the label of an image in errors: its name and, if it has one, its path."""
    path = source.get("path") if isinstance(source, dict) else source
    if not isinstance(path, str | os.PathLike):
        return name
    text = str(path)
    return f"{name} ({text if len(text) <= MAX_SHOWN else text[:40] + '...'})"


# Arrays


def is_floating(image: Image.Image | np.ndarray | torch.Tensor) -> bool:
    """Returns whether an image is an array of floats, with values in [0, 1] rather than 0..255."""
    if isinstance(image, np.ndarray):
        return np.issubdtype(image.dtype, np.floating)
    return isinstance(image, torch.Tensor) and image.is_floating_point()


def _check_array(image: np.ndarray | torch.Tensor, name: str) -> None:
    dtype, shape = str(image.dtype).removeprefix("torch."), tuple(image.shape)
    if dtype != "uint8" and not is_floating(image):
        raise ValueError(f"{name} has dtype {dtype}; expected uint8 in 0..255, or floating in [0, 1].")
    if 0 in shape:
        raise ValueError(f"{name} has no pixels: its shape is {shape}.")
    if not (len(shape) == 2 or (len(shape) == 3 and (shape[0] in NUM_CHANNELS or shape[-1] in NUM_CHANNELS))):
        raise ValueError(f"{name} has shape {shape}; expected (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels.")
    if dtype != "uint8":
        low, high = float(image.min()), float(image.max())
        if math.isnan(low) or math.isnan(high):
            raise ValueError(f"{name} has values that are not numbers (NaN).")
        if not -0.5 <= 255 * low <= 255 * high <= 255.5:
            raise ValueError(
                f"{name} is {dtype} with values from {low:g} to {high:g}, but floating images are in [0, 1]: "
                "rescale it, or pass values of 0..255 as uint8."
            )


def to_channels_first(
    image: Image.Image | np.ndarray | torch.Tensor,
    name: str,
    convert_to_rgb: bool,
    input_data_format: str | ChannelDimension | None = None,
) -> torch.ByteTensor:
    """
    Brings a loaded image to shape (C, H, W), uint8. Floating images are rounded to the 256 levels that image files
    have, so that an array and a file of the same image give the same pixels.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): An image that [`load_images`] returns.
        name (`str`): The name of the image in errors.
        convert_to_rgb (`bool`): Whether to make three channels, with transparency over white.
        input_data_format (`str`, *optional*):
            `"channels_first"` or `"channels_last"`, the layout of arrays. By default, the axis that can be channels;
            if both can, the image is refused.

    Returns:
        `torch.ByteTensor` of shape `(C, H, W)`: The image, on the device of `image` if that is a tensor.
    """
    pixels = torch.from_numpy(_to_array(image, name, convert_to_rgb, input_data_format))
    return pixels.movedim(-1, 0).contiguous().to(image.device if isinstance(image, torch.Tensor) else "cpu")


def _to_array(image, name: str, convert_to_rgb: bool, input_data_format=None) -> np.ndarray:
    """Returns the pixels of a loaded image, of shape (H, W, C), uint8."""
    if not isinstance(image, Image.Image):
        image = _to_image(image, name, input_data_format)
    if convert_to_rgb:
        with _reading(name):
            return image_transforms.convert_to_rgb(image, return_numpy=True)
    if image.mode not in ("L", "RGB", "RGBA"):
        raise ValueError(f"{name} has mode {image.mode!r}; without `do_convert_rgb` expected L, RGB or RGBA.")
    return np.array(image).reshape(image.height, image.width, -1)


def _to_image(image: np.ndarray | torch.Tensor, name: str, input_data_format) -> Image.Image:
    """Converts an array that is checked to an image of 8 bits, as a file of it would hold it."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if is_floating(image):
        image = (image.astype(np.float32) * 255).round().clip(0, 255)
    if image.ndim == 3:
        axes = {ChannelDimension.FIRST: 0, ChannelDimension.LAST: -1}
        fitting = [layout for layout, axis in axes.items() if image.shape[axis] in NUM_CHANNELS]
        if input_data_format is None and len(fitting) > 1:
            raise ValueError(
                f"{name} has shape {image.shape}, which can be (C, H, W) as well as (H, W, C): say which by "
                "`input_data_format`, 'channels_first' or 'channels_last'."
            )
        layout = fitting[0] if input_data_format is None else ChannelDimension(input_data_format)
        if layout not in fitting:
            raise ValueError(f"{name} has shape {image.shape}, which is not {layout.value} with 1, 3 or 4 channels.")
        image = np.moveaxis(image, axes[layout], -1)
        image = image[..., 0] if image.shape[-1] == 1 else image
    return Image.fromarray(np.ascontiguousarray(image, np.uint8))
