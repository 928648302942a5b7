# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LaVIT (arXiv 2309.04669) for the Hugging Face ecosystem. Importing it makes the Auto classes know LaVIT."""

from .conversation import Conversation
from .demo import demo_checkpoint
from .diffusion import ASPECT_RATIOS, LavitImageDecoderPipeline
from .modeling import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitGenerationConfig,
    LavitModel,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
    LavitVisualTokenizerForPreTraining,
    LavitVisualTokenizerOutput,
)
from .processing import (
    ImageSegment,
    LavitImageProcessor,
    LavitImageProcessorPil,
    LavitIteratorStreamer,
    LavitProcessor,
    StreamedImage,
    TextSegment,
    stream,
)
from .registration import register


__version__ = "0.1.0"

__all__ = [
    "ASPECT_RATIOS",
    "Conversation",
    "ImageSegment",
    "LavitConfig",
    "LavitFeatureDecoder",
    "LavitFeatureDecoderConfig",
    "LavitForCausalLM",
    "LavitGenerationConfig",
    "LavitImageDecoderPipeline",
    "LavitImageProcessor",
    "LavitImageProcessorPil",
    "LavitIteratorStreamer",
    "LavitModel",
    "LavitProcessor",
    "LavitVisualTokenizer",
    "LavitVisualTokenizerConfig",
    "LavitVisualTokenizerForPreTraining",
    "LavitVisualTokenizerOutput",
    "StreamedImage",
    "TextSegment",
    "demo_checkpoint",
    "stream",
]

register()
