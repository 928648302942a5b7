# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Turns text and images into tensors, and ids back into text and codes."""

from .image_processing_lavit import LavitImageProcessor, LavitImageProcessorPil, new_image_processor
from .image_reading_lavit import load_images, read_image
from .processing_lavit import LavitProcessor
from .segments_lavit import ImageSegment, TextSegment
from .streaming_lavit import LavitIteratorStreamer, StreamedImage, stream
from .tokenization_lavit import extend_tokenizer


__all__ = [
    "ImageSegment",
    "LavitImageProcessor",
    "LavitImageProcessorPil",
    "LavitIteratorStreamer",
    "LavitProcessor",
    "StreamedImage",
    "TextSegment",
    "extend_tokenizer",
    "load_images",
    "new_image_processor",
    "read_image",
    "stream",
]

# A saved folder then carries the code that loads it where this package is not installed.
LavitImageProcessor.register_for_auto_class()
LavitImageProcessorPil.register_for_auto_class()
LavitProcessor.register_for_auto_class()
