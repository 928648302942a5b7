# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The models of LaVIT: configurations, visual tokenizer, feature decoder, language model, generation."""

from transformers import AutoModelForCausalLM

from .configuration_lavit import LavitConfig, LavitFeatureDecoderConfig, LavitVisualTokenizerConfig
from .generation_settings_lavit import LavitGenerationConfig
from .modeling_lavit import LavitCausalLMOutputWithPast, LavitForCausalLM
from .modeling_lavit_feature_decoder import LavitFeatureDecoder, LavitFeatureDecoderOutput
from .modeling_lavit_model import LavitModel, LavitModelOutputWithPast
from .modeling_lavit_stage_one import LavitVisualTokenizerForPreTraining, LavitVisualTokenizerForPreTrainingOutput
from .modeling_lavit_visual_tokenizer import LavitVisualTokenizer, LavitVisualTokenizerOutput
from .pretrained_lavit import LavitPreTrainedModel
from .selector_lavit import select_patches


__all__ = [
    "LavitCausalLMOutputWithPast",
    "LavitConfig",
    "LavitFeatureDecoder",
    "LavitFeatureDecoderConfig",
    "LavitFeatureDecoderOutput",
    "LavitForCausalLM",
    "LavitGenerationConfig",
    "LavitModel",
    "LavitModelOutputWithPast",
    "LavitPreTrainedModel",
    "LavitVisualTokenizer",
    "LavitVisualTokenizerConfig",
    "LavitVisualTokenizerForPreTraining",
    "LavitVisualTokenizerForPreTrainingOutput",
    "LavitVisualTokenizerOutput",
    "select_patches",
]


# A saved folder then has the code that loads it where this package is not installed.
LavitConfig.register_for_auto_class()
LavitVisualTokenizerConfig.register_for_auto_class()
LavitModel.register_for_auto_class()
LavitVisualTokenizer.register_for_auto_class()
LavitForCausalLM.register_for_auto_class(AutoModelForCausalLM)
