# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the Auto classes of transformers know LaVIT, and LaVIT its pixel decoder. Imported once, with the package."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

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


for config in (LavitConfig, LavitVisualTokenizerConfig, LavitFeatureDecoderConfig):
    AutoConfig.register(config.model_type, config)
AutoModel.register(LavitConfig, LavitModel)
AutoModel.register(LavitVisualTokenizerConfig, LavitVisualTokenizer)
AutoModel.register(LavitFeatureDecoderConfig, LavitFeatureDecoder)
for auto_model in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_model.register(LavitConfig, LavitForCausalLM)
# Pipelines of transformers look their models up by name.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[LavitConfig.model_type] = LavitForCausalLM.__name__
AutoImageProcessor.register(
    LavitConfig, image_processor_classes={"torchvision": LavitImageProcessor, "pil": LavitImageProcessorPil}
)
AutoProcessor.register(LavitConfig, LavitProcessor)

# What is saved then carries the code that loads it where this package is not installed. A pixel decoder does not: it
# is a pipeline of this package.
LavitConfig.register_for_auto_class()
LavitVisualTokenizerConfig.register_for_auto_class()
LavitModel.register_for_auto_class()
LavitVisualTokenizer.register_for_auto_class()
LavitForCausalLM.register_for_auto_class(AutoModelForCausalLM)
LavitImageProcessor.register_for_auto_class()
LavitImageProcessorPil.register_for_auto_class()
LavitProcessor.register_for_auto_class()

LavitForCausalLM.image_decoder_class = LavitImageDecoderPipeline
