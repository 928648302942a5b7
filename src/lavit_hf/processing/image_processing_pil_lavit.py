# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor of LaVIT on PIL, as the released model was trained; loading and checking of pictures."""

import io
import itertools
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ImageInput,
    PILImageResampling,
    is_pil_image,
    is_valid_image,
)


URL_PREFIXES = ("http://", "https://", "data:image/")
URL_TIMEOUT = 60  # seconds


def load_pictures(images: ImageInput | str | Path | Sequence) -> ImageInput:
    """Loads and checks pictures, keeping their nesting, so that every backend sees the same pictures and errors.

    Args:
        images: One picture or (nested) lists of them. A picture is a `PIL.Image.Image`, a path, a URL
            (`http(s)://` or `data:image/`), or an array or tensor of shape (H, W), (H, W, C) or (C, H, W), uint8 or
            floating with values in 0..255; four axes are a batch of pictures.

    Returns:
        The same nesting, with a loaded, upright `PIL.Image.Image` or an array in place of each picture.

    Raises:
        ValueError: If a picture is of another type, cannot be read, has several frames, or has values whose range is
            not known. The message names the picture by its place in reading order.
    """
    places = itertools.count()

    def load(item):
        is_batch = is_valid_image(item) and not is_pil_image(item) and item.ndim == 4
        if is_batch or isinstance(item, (list, tuple)):
            return [load(part) for part in item]
        name = f"Picture {next(places)}"
        if isinstance(item, (str, os.PathLike)):
            name = f"{name} ({str(item)[:100]!r})"
            return _check_pil(_open(item, name), name)
        if is_pil_image(item):
            return _check_pil(item, name)
        if is_valid_image(item):
            return _check_array(item, name)
        raise ValueError(
            f"{name} is of type {type(item).__name__}; expected a PIL image, a path, a URL, a numpy array or a tensor."
        )

    return load(images)


def _open(source: str | os.PathLike, name: str) -> Image.Image:
    """Opens a path or a URL. transformers' `load_image` would drop transparency instead of compositing it."""
    try:
        if str(source).startswith(URL_PREFIXES):
            request = urllib.request.Request(str(source), headers={"User-Agent": "lavit_hf"})
            with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as response:
                return Image.open(io.BytesIO(response.read()))
        return Image.open(source)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error


def _check_pil(picture: Image.Image, name: str) -> Image.Image:
    try:
        frames = getattr(picture, "n_frames", 1)
        picture.load()
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    # Cameras write JPEGs as MPO with a preview as second frame; the first one is the picture.
    if frames > 1 and picture.format != "MPO":
        raise ValueError(f"{name} has {frames} frames; pass one of them: `picture.seek(i); picture.copy()`.")
    if picture.mode.startswith("I;16"):  # PIL's own conversion to 8 bits would clip at 255
        picture = Image.fromarray(np.round(np.asarray(picture) / 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"{name} has mode {picture.mode!r}, whose range is not known; convert it to 8 bits first.")
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    return picture


def _check_array(picture, name: str):
    dtype = str(picture.dtype).removeprefix("torch.")
    if dtype != "uint8" and not dtype.startswith("float"):
        raise ValueError(f"{name} has dtype {dtype}; expected uint8, or floating with values in 0..255.")
    if picture.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {tuple(picture.shape)}; expected (H, W), (H, W, C) or (C, H, W).")
    return picture if picture.ndim == 3 else picture[None]


class LavitPreprocessing:
    """What both backends do: the released model's defaults, and one way of loading pictures."""

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    # The classes of a saved folder by their backend, for `trust_remote_code`: where there is no torchvision, PIL's.
    remote_code = {"pil": "image_processing_pil_lavit.LavitImageProcessorPil"}

    def fetch_images(self, image_url_or_urls: ImageInput) -> ImageInput:
        return load_pictures(image_url_or_urls)

    def to_dict(self) -> dict:
        values = super().to_dict()
        if "AutoImageProcessor" in values.get("auto_map", {}):
            values["auto_map"] = {"AutoImageProcessor": self.remote_code}
        return values


class LavitImageProcessorPil(LavitPreprocessing, PilBackend):
    """Image processor of LaVIT, PIL backend: `AutoImageProcessor.from_pretrained(path, backend="pil")`.

    RGB (transparency composited over white), squashed without crop to `size` with PIL's bicubic filter, divided by
    255, normalized by the mean and deviation of CLIP, as the released model was trained (arXiv 2309.04669).

    Returns:
        `pixel_values` (num_images, 3, height, width) float32, flat in reading order for nested lists.

    Raises:
        ValueError: For pictures that cannot be used, see [`load_pictures`].
    """


__all__ = ["LavitImageProcessorPil", "load_pictures"]
