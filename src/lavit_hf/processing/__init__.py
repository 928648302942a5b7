# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What turns text and pictures into tensors, and ids back into text and codes."""

from .image_processing_lavit import LavitImageProcessor, LavitImageProcessorPil
from .image_reading_lavit import load_pictures, read_image
from .processing_lavit import LavitProcessor, new_image_processor
from .streaming_lavit import LavitIteratorStreamer, StreamedPicture, stream
from .tokenization_lavit import ImageSegment, TextSegment, extend_tokenizer


__all__ = [
    "ImageSegment",
    "LavitImageProcessor",
    "LavitImageProcessorPil",
    "LavitIteratorStreamer",
    "LavitProcessor",
    "StreamedPicture",
    "TextSegment",
    "extend_tokenizer",
    "load_pictures",
    "new_image_processor",
    "read_image",
    "stream",
]

# What is saved then carries the code that loads it where this package is not installed.
LavitImageProcessor.register_for_auto_class()
LavitImageProcessorPil.register_for_auto_class()
LavitProcessor.register_for_auto_class()
