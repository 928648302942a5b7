# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
LaVIT (arXiv 2309.04669) for the Hugging Face ecosystem. Importing it makes the Auto classes know LaVIT.

What is named here is imported when it is first asked for, as transformers does it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register


if TYPE_CHECKING:
    from .conversation import Conversation
    from .demo import demo_checkpoint
    from .diffusion import ASPECT_RATIOS, LavitImageDecoderPipeline
    from .modeling import (
        LavitConfig,
        LavitFeatureDecoder,
        LavitFeatureDecoderConfig,
        LavitForCausalLM,
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
        StreamedPicture,
        TextSegment,
        stream,
    )


__version__ = "0.1.0"

__all__ = [
    "ASPECT_RATIOS",
    "Conversation",
    "ImageSegment",
    "LavitConfig",
    "LavitFeatureDecoder",
    "LavitFeatureDecoderConfig",
    "LavitForCausalLM",
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
    "StreamedPicture",
    "TextSegment",
    "demo_checkpoint",
    "stream",
]

# Where each name is; what is not here is of `modeling`.
_MODULES = {
    "ASPECT_RATIOS": "diffusion",
    "Conversation": "conversation",
    "ImageSegment": "processing",
    "LavitImageDecoderPipeline": "diffusion",
    "LavitImageProcessor": "processing",
    "LavitImageProcessorPil": "processing",
    "LavitIteratorStreamer": "processing",
    "LavitProcessor": "processing",
    "StreamedPicture": "processing",
    "TextSegment": "processing",
    "demo_checkpoint": "demo",
    "stream": "processing",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_MODULES.get(name, 'modeling')}", __name__)
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register(sys.modules[__name__])
