# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processors of LaVIT, on torchvision and on Pillow."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BaseImageProcessor, BatchFeature
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)

from .image_reading_lavit import is_floating, load_pictures, to_channels_first


# What a saved image processor has beside its settings.
SAVED_NAMES = {"auto_map", "feature_extractor_type", "image_processor_type", "processor_class"}


class LavitPreprocessing(BaseImageProcessor):
    """What both backends share: the released model's defaults, and one way of reading images."""

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
        # As in transformers, entries of a file that are no arguments become attributes.
        known = cls.valid_kwargs.__annotations__.keys() | SAVED_NAMES
        arguments = {name: value for name, value in image_processor_dict.items() if name in known}
        loaded = super().from_dict(arguments, **kwargs)
        image_processor = loaded[0] if isinstance(loaded, tuple) else loaded
        for name in image_processor_dict.keys() - arguments.keys():
            setattr(image_processor, name, image_processor_dict[name])
        return loaded

    def fetch_images(self, image_url_or_urls: ImageInput) -> ImageInput:
        return load_pictures(image_url_or_urls)

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
        images = _flatten(load_pictures(images))
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
            image = image.cpu() if self.backend == "pil" else image
            loaded.append(self.process_image(image, input_data_format=ChannelDimension.FIRST, device=device))
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
    Image processor of LaVIT, torchvision backend (the default): batched, and on the device of the caller's choice.

    The steps are those of [`LavitImageProcessorPil`]. The bicubic filters of the two round differently: with Pillow 13
    or later a few values in a thousand differ by one level of 255, a few in a million by two; with earlier versions
    tall images differ by a few levels.

    Returns:
        [`BatchFeature`] with `pixel_values` (`torch.FloatTensor` of shape `(num_images, 3, height, width)`), flat in
        reading order for nested lists.

    Raises:
        ValueError: For images that cannot be used, see [`~lavit_hf.processing.load_pictures`].
        TypeError: For an unknown keyword argument.
    """

    def resize(self, image: torch.Tensor, size: SizeDict, *args, **kwargs) -> torch.Tensor:
        # Both libraries filter one axis after the other and round between. torchvision always begins with the width,
        # Pillow 13 with the height where that shrinks more than twice as many pixels: so does this.
        height, width = image.shape[-2:]
        if size.height and size.width and height - size.height > max(0, 2 * (width - size.width)):
            image = super().resize(image, SizeDict(height=size.height, width=width), *args, **kwargs)
        return super().resize(image, size, *args, **kwargs)


class LavitImageProcessorPil(LavitPreprocessing, PilBackend):
    """
    Image processor of LaVIT, PIL backend: `AutoImageProcessor.from_pretrained(path, backend="pil")`.

    Images become RGB with transparency over white, are squashed without crop to `size` with Pillow's bicubic filter,
    divided by 255, and normalized by the mean and deviation of CLIP, as the released model was trained
    (arXiv 2309.04669). Floating arrays are taken to be in [0, 1], and rounded to the 256 levels of image files first.
    With `do_rescale=False` what is in 0..255 stays so, and what is in [0, 1] does.

    Returns:
        [`BatchFeature`] with `pixel_values` (`torch.FloatTensor` of shape `(num_images, 3, height, width)`), flat in
        reading order for nested lists.

    Raises:
        ValueError: For images that cannot be used, see [`~lavit_hf.processing.load_pictures`].
        TypeError: For an unknown keyword argument.
    """


def _flatten(images) -> list:
    if isinstance(images, list):
        return [image for part in images for image in _flatten(part)]
    return [images]


__all__ = ["LavitImageProcessor", "LavitImageProcessorPil"]
