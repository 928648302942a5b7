# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What computes: configurations, visual tokenizer, feature decoder, language model, generation."""

from .configuration_lavit import LavitConfig, LavitFeatureDecoderConfig, LavitVisualTokenizerConfig
from .modeling_lavit import LavitCausalLMOutputWithPast, LavitForCausalLM, LavitModel, LavitPreTrainedModel
from .modeling_lavit_feature_decoder import (
    LavitFeatureDecoder,
    LavitFeatureDecoderOutput,
    LavitVisualTokenizerForPreTraining,
    LavitVisualTokenizerForPreTrainingOutput,
)
from .modeling_lavit_tokenizer import LavitVisualTokenizer, LavitVisualTokenizerOutput
from .selection_lavit import select_patches


__all__ = [
    "LavitCausalLMOutputWithPast",
    "LavitConfig",
    "LavitFeatureDecoder",
    "LavitFeatureDecoderConfig",
    "LavitFeatureDecoderOutput",
    "LavitForCausalLM",
    "LavitModel",
    "LavitPreTrainedModel",
    "LavitVisualTokenizer",
    "LavitVisualTokenizerConfig",
    "LavitVisualTokenizerForPreTraining",
    "LavitVisualTokenizerForPreTrainingOutput",
    "LavitVisualTokenizerOutput",
    "select_patches",
]
