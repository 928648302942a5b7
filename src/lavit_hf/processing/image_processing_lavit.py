# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processors of LaVIT, with torchvision and with Pillow."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoImageProcessor, BaseImageProcessor, BatchFeature, PreTrainedConfig
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.utils import is_torchvision_available, logging

from .image_reading_lavit import is_floating, load_images, to_channels_first


logger = logging.get_logger(__name__)

# The entries of a saved image processor that are not its settings.
SAVED_NAMES = {"auto_map", "feature_extractor_type", "image_processor_type", "processor_class"}


class LavitPreprocessing(BaseImageProcessor):
    """The defaults of the released model and the reading of images, which both backends share."""

    backend: str
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def __init__(self, **kwargs):
        unknown = kwargs.keys() - self.valid_kwargs.__annotations__.keys() - SAVED_NAMES
        if unknown:
            raise TypeError(f"{type(self).__name__} got unknown arguments: {', '.join(sorted(unknown))}.")
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs):
        # Entries of a file that are no arguments become attributes, as in transformers.
        known = cls.valid_kwargs.__annotations__.keys() | SAVED_NAMES
        arguments = {name: value for name, value in image_processor_dict.items() if name in known}
        loaded = super().from_dict(arguments, **kwargs)
        image_processor = loaded[0] if isinstance(loaded, tuple) else loaded
        for name in image_processor_dict.keys() - arguments.keys():
            setattr(image_processor, name, image_processor_dict[name])
        return loaded

    def fetch_images(self, image_url_or_urls: ImageInput) -> ImageInput:
        return load_images(image_url_or_urls)

    # transformers documents this method as the one to override where images are prepared in another way.
    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        *args,
        do_convert_rgb: bool | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: str | torch.device | None = None,
        **kwargs,
    ) -> BatchFeature:
        if kwargs["data_format"] not in (None, ChannelDimension.FIRST):
            raise ValueError(f"data_format must be 'channels_first', got {kwargs['data_format']!r}.")
        images = _flatten(load_images(images))
        if not images:
            raise ValueError("No images were given.")
        floating = [is_floating(image) for image in images]
        if not do_rescale and any(floating):
            # Floats stay in [0, 1] without rescaling. From here on they are of 8 bits, as are all images.
            if not all(floating):
                raise ValueError(
                    f"Image {floating.index(False)} is in 0..255 and image {floating.index(True)} in [0, 1], which "
                    "do_rescale=False would leave so: pass images of one range."
                )
            do_rescale, rescale_factor = True, 1 / 255
        loaded = []
        for index, image in enumerate(images):
            image = to_channels_first(image, f"Image {index}", bool(do_convert_rgb), input_data_format)
            for setting in ("image_mean", "image_std") if kwargs["do_normalize"] else ():
                values = kwargs[setting]
                if isinstance(values, Sequence) and len(values) != len(image):
                    raise ValueError(f"Image {index} has {len(image)} channels, but {setting} is {values}.")
            loaded.append(image.numpy(force=True) if self.backend == "pil" else image.to(device=device))
        return self._preprocess(loaded, *args, do_rescale=do_rescale, rescale_factor=rescale_factor, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if "AutoImageProcessor" in values.get("auto_map", {}):
            module = __name__.rpartition(".")[2]
            classes = {"torchvision": LavitImageProcessor, "pil": LavitImageProcessorPil}
            backends = {backend: f"{module}.{cls.__name__}" for backend, cls in classes.items()}
            values["auto_map"] = {"AutoImageProcessor": backends}
        return values


class LavitImageProcessor(LavitPreprocessing, TorchvisionBackend):
    """
    Image processor of LaVIT with the torchvision backend, the default: batched, and on a device of your choice.

    The steps are those of [`LavitImageProcessorPil`]. The bicubic filters of the two backends round differently: with
    Pillow 13 or later a few values in a thousand differ by one level of 255, a few in a million by two; with earlier
    versions tall images differ by a few levels.

    Returns:
        [`BatchFeature`] with `pixel_values` (`torch.FloatTensor` of shape `(num_images, 3, height, width)`), flat in
        reading order for nested lists.

    Raises:
        ValueError: If an image cannot be used, see [`~lavit_hf.processing.load_images`].
        TypeError: If an argument is unknown.
    """

    def resize(self, image: torch.Tensor, size: SizeDict, *args, **kwargs) -> torch.Tensor:
        # Both libraries filter one axis after the other and round in between. torchvision always begins with the
        # width. Pillow 13, and so this method, begins with the height if it shrinks by more than twice as many pixels.
        height, width = image.shape[-2:]
        if size.height and size.width and height - size.height > max(0, 2 * (width - size.width)):
            image = super().resize(image, SizeDict(height=size.height, width=width), *args, **kwargs)
        return super().resize(image, size, *args, **kwargs)


class LavitImageProcessorPil(LavitPreprocessing, PilBackend):
    """
    Image processor of LaVIT with the PIL backend: `AutoImageProcessor.from_pretrained(path, backend="pil")`.

    Images become RGB with transparency over white, are resized to `size` with Pillow's bicubic filter, without a crop
    and without keeping their aspect ratio, divided by 255, and normalized by the mean and deviation of CLIP, as the
    released model was trained (arXiv 2309.04669). Floating arrays are in [0, 1], and are first rounded to the 256
    levels of image files. With `do_rescale=False`, each image stays in its range, 0..255 or [0, 1].

    Returns:
        [`BatchFeature`] with `pixel_values` (`torch.FloatTensor` of shape `(num_images, 3, height, width)`), flat in
        reading order for nested lists.

    Raises:
        ValueError: If an image cannot be used, see [`~lavit_hf.processing.load_images`].
        TypeError: If an argument is unknown.
    """


def _flatten(images) -> list:
    if isinstance(images, list):
        return [image for part in images for image in _flatten(part)]
    return [images]


def new_image_processor(
    vision: str | os.PathLike | BaseImageProcessor | PreTrainedConfig | None = None,
    image_size: int | dict[str, int] | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
) -> LavitImageProcessor | LavitImageProcessorPil:
    """
    Builds the image processor of a new LaVIT around a vision backbone, with torchvision where it is installed.

    Args:
        vision (`str`, `os.PathLike`, `BaseImageProcessor` or `PreTrainedConfig`, *optional*):
            Folder, repository or image processor of the vision backbone. It gives the size, mean, deviation and
            resampling filter, except for those given here. A configuration gives the size alone. Without an image
            processor, mean and deviation are those of CLIP.
        image_size (`int` or `dict[str, int]`, *optional*):
            Height and width of the square input, or `{"height": ..., "width": ...}`.
        image_mean, image_std (`list[float]`, *optional*): Mean and deviation of each channel, for values in [0, 1].

    Returns:
        [`LavitImageProcessor`], or a [`LavitImageProcessorPil`] where torchvision is not installed.

    Raises:
        ValueError: If no image size is known.
    """
    if isinstance(vision, (str, os.PathLike)):
        try:
            vision = AutoImageProcessor.from_pretrained(vision)
        except OSError as error:
            logger.warning(f"{vision} has no image processor, the mean and deviation of CLIP are used: {error}")
            vision = None
    if isinstance(vision, PreTrainedConfig):
        image_size = getattr(vision, "image_size", None) if image_size is None else image_size
        vision = None
    names = ("image_mean", "image_std", "resample", "do_rescale", "rescale_factor", "do_normalize")
    settings = {name: getattr(vision, name, None) for name in names}
    if vision is not None:
        size = (vision.crop_size if vision.do_center_crop else vision.size) or SizeDict()
        # LaVIT needs an exact size: a shortest edge stands for a square.
        height, width = size.height or size.shortest_edge, size.width or size.shortest_edge
        settings["size"] = {"height": height, "width": width} if height and width else None
    given = {"size": image_size, "image_mean": image_mean, "image_std": image_std}
    settings.update({name: value for name, value in given.items() if value is not None})
    if settings.get("size") is None:
        raise ValueError(f"No image size is known for vision={vision!r}: give `image_size`.")
    image_processor_class = LavitImageProcessor if is_torchvision_available() else LavitImageProcessorPil
    return image_processor_class(**{name: value for name, value in settings.items() if value is not None})
