# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the Auto classes of transformers, by their public `register` methods, and diffusers know LaVIT."""

import diffusers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from .diffusion import LavitImageDecoderPipeline
from .modeling import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitModel,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
)
from .processing import LavitImageProcessor, LavitImageProcessorPil, LavitProcessor


def register() -> None:
    """Registers every class of LaVIT. Registering twice changes nothing."""
    models: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
        LavitConfig: LavitModel,
        LavitVisualTokenizerConfig: LavitVisualTokenizer,
        LavitFeatureDecoderConfig: LavitFeatureDecoder,
    }
    for config_class, model_class in models.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(LavitConfig, LavitForCausalLM, exist_ok=True)
    backends: dict[str, type] = {"torchvision": LavitImageProcessor, "pil": LavitImageProcessorPil}
    AutoImageProcessor.register(LavitConfig, image_processor_classes=backends, exist_ok=True)
    AutoProcessor.register(LavitConfig, LavitProcessor, exist_ok=True)
    # `DiffusionPipeline.from_pretrained` looks among the classes of diffusers for the one that a folder names, and
    # diffusers has no method to register one.
    setattr(diffusers, LavitImageDecoderPipeline.__name__, LavitImageDecoderPipeline)
