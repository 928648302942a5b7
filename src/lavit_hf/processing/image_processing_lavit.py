# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor of LaVIT on torchvision: batched, and on the device of the caller's choice."""

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict

from .image_processing_pil_lavit import LavitPreprocessing


class LavitImageProcessor(LavitPreprocessing, TorchvisionBackend):
    """Image processor of LaVIT, torchvision backend (the default).

    The same steps as [`LavitImageProcessorPil`]; the bicubic filters of the two differ by one level of 255 at most
    with Pillow 13 or later, and by a few levels on tall pictures with earlier ones.

    Returns:
        `pixel_values` (num_images, 3, height, width) float32, flat in reading order for nested lists.

    Raises:
        ValueError: For pictures that cannot be used, see [`load_pictures`].
    """

    remote_code = {"torchvision": "image_processing_lavit.LavitImageProcessor"} | LavitPreprocessing.remote_code

    def resize(self, image: torch.Tensor, size: SizeDict, *args, **kwargs) -> torch.Tensor:
        # Both libraries filter one axis after the other and round between. torchvision always begins with the width,
        # Pillow 13 with the height where that shrinks more than twice as many pixels: so does this.
        height, width = image.shape[-2:]
        if size.height and size.width and height - size.height > max(0, 2 * (width - size.width)):
            image = super().resize(image, SizeDict(height=size.height, width=width), *args, **kwargs)
        return super().resize(image, size, *args, **kwargs)


__all__ = ["LavitImageProcessor"]
