# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the Auto classes of transformers know LaVIT. Imported once, with the package."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
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


for config in (LavitConfig, LavitVisualTokenizerConfig, LavitFeatureDecoderConfig):
    AutoConfig.register(config.model_type, config)
AutoModel.register(LavitConfig, LavitModel)
AutoModel.register(LavitVisualTokenizerConfig, LavitVisualTokenizer)
AutoModel.register(LavitFeatureDecoderConfig, LavitFeatureDecoder)
for auto_model in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_model.register(LavitConfig, LavitForCausalLM)
AutoImageProcessor.register(
    LavitConfig, image_processor_classes={"torchvision": LavitImageProcessor, "pil": LavitImageProcessorPil}
)
AutoProcessor.register(LavitConfig, LavitProcessor)
