# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the Auto classes of transformers know LaVIT, by their public `register` methods."""

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
