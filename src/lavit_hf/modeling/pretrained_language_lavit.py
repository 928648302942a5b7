# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The base class of models with a language model, and their quantized loading."""

import copy

from torch import nn
from transformers.quantizers import AutoQuantizationConfig

from .configuration_lavit import LavitConfig
from .freezing_lavit import keep_adapters_out
from .pretrained_lavit import LavitPreTrainedModel


# Parts of a quantized model that stay as they are: they are small, and images would get other codes. The names of a
# LavitForCausalLM come first, then those of a LavitModel.
UNQUANTIZED = ("model.visual_tokenizer", "model.visual_adapter", "lm_head", "visual_tokenizer", "visual_adapter")
# The names of the list of such parts in the quantizers of transformers.
EXCLUSIONS = ("modules_to_not_convert", "llm_int8_skip_modules", "skip_modules")


class LavitLanguagePreTrainedModel(LavitPreTrainedModel):
    """Base class of [`LavitModel`] and [`LavitForCausalLM`], which read and write text as well."""

    config: LavitConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    output_modalities = ("image", "text")
    _can_compile_fullgraph = True

    def __setattr__(self, name: str, value):
        # peft sets it when it has put in its adapters, which none of its own options keeps out of a part of a model.
        if name == "peft_config":
            keep_adapters_out(self, value)
        super().__setattr__(name, value)

    @classmethod
    def from_pretrained(cls, *args, quantization_config=None, **kwargs):
        """
        Same arguments as `PreTrainedModel.from_pretrained`. A `quantization_config` is for the language model alone.
        """
        if quantization_config is not None:
            kwargs["quantization_config"] = quantize_language_model_alone(quantization_config)
        return super().from_pretrained(*args, **kwargs)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Module:
        """
        Same arguments as `PreTrainedModel.resize_token_embeddings`.

        Returns:
            `nn.Module`: The embeddings of the input.

        Raises:
            ValueError: If `new_num_tokens` is less than the number of rows that text, image marks and codes take.
        """
        least = self.config.image_token_id + 1
        if new_num_tokens is not None and new_num_tokens < least:
            raise ValueError(
                f"new_num_tokens must be at least {least}, so that text, [IMG], [/IMG], codes and the image "
                f"placeholder keep their rows, got {new_num_tokens}."
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)


def quantize_language_model_alone(quantization_config):
    """
    Returns a copy of `quantization_config`, the configuration of a quantizer or a dictionary, that leaves the parts of
    images and the head as they are, unless it names other parts of the model.

    Raises:
        ValueError: If the kind of quantization cannot leave modules as they are.
    """
    quantization_config = copy.deepcopy(quantization_config)
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    names = [name for name in EXCLUSIONS if hasattr(quantization_config, name)]
    if not names:
        kind = type(quantization_config).__name__
        raise ValueError(f"quantization_config must be of a kind that can leave modules as they are, got {kind}.")
    for name in names:
        excluded = getattr(quantization_config, name) or ()
        # The default of some kinds is the head alone.
        if not set(excluded) - {"lm_head"}:
            setattr(quantization_config, name, list(dict.fromkeys([*UNQUANTIZED, *excluded])))
    return quantization_config
