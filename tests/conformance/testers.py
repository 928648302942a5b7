# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tiny models and their inputs, in the form in which transformers' common tests ask for them."""

import torch
from transformers import Blip2VisionConfig, LlamaConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitModel,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
    LavitVisualTokenizerForPreTraining,
)
from tests.tiny import CODEBOOK_SIZE, NUM_PATCHES, TEXT, TEXT_TOKENS, VISION, pictures


NUM_CODES = NUM_PATCHES // 2  # of every image: a new selector keeps each patch with a probability near one half
# By these names the suites tell a base model from one with a head, and know which takes labels.
MODEL_MAPPING_NAMES |= {
    "lavit": "LavitModel",
    "lavit_visual_tokenizer": "LavitVisualTokenizer",
    "lavit_feature_decoder": "LavitFeatureDecoder",
}
for names in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
    names["lavit"] = "LavitForCausalLM"


def visual_tokenizer_config() -> LavitVisualTokenizerConfig:
    """With the kind of tower that the release has, and with all optional parts."""
    return LavitVisualTokenizerConfig(
        vision_config=Blip2VisionConfig(**VISION),
        codebook_size=CODEBOOK_SIZE,
        num_merger_layers=2,
        encode_positions=True,
        feature_whitening=0.01,
    )


class Tester:
    """The attributes of all testers."""

    batch_size = 3
    is_training = True
    hidden_size = VISION["hidden_size"]
    num_hidden_layers = VISION["num_hidden_layers"]
    num_attention_heads = VISION["num_attention_heads"]
    image_size = VISION["image_size"]
    patch_size = VISION["patch_size"]

    def __init__(self, parent):
        self.parent = parent


class TextTester(Tester):
    """`LavitForCausalLM` as a causal language model: text and codes, no image."""

    base_model_class = LavitModel
    causal_lm_class = LavitForCausalLM
    all_model_classes = (LavitModel, LavitForCausalLM)
    seq_length = 7
    vocab_size = (
        TEXT_TOKENS + 3 + CODEBOOK_SIZE + 16
    )  # The suites cut off the last 15 rows, and use the last that is left.

    def get_config(self) -> LavitConfig:
        return LavitConfig(
            text_config=LlamaConfig(**TEXT | {"vocab_size": self.vocab_size}),
            visual_tokenizer_config=visual_tokenizer_config(),
            image_start_token_id=TEXT_TOKENS,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[LavitConfig, dict[str, torch.Tensor]]:
        input_ids = torch.randint(3, TEXT_TOKENS, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class ImageTester(TextTester):
    """`LavitForCausalLM` with an image in each row, as many placeholders as it has codes."""

    batch_size = 7  # As many rows as the suites' largest batch: a row that they add would have no placeholders.
    seq_length = 2 + 1 + NUM_CODES + 1 + 1  # The suites take up to two tokens at either end for padding.

    def prepare_config_and_inputs_for_common(self) -> tuple[LavitConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        text = torch.randint(3, TEXT_TOKENS, (self.batch_size, 3))
        image = [config.image_start_token_id, *[config.image_token_id] * NUM_CODES, config.image_end_token_id]
        input_ids = torch.cat([text[:, :2], torch.tensor([image] * self.batch_size), text[:, 2:]], dim=1)
        return config, {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": pictures(self.batch_size),
        }


class VisualTokenizerTester(Tester):
    """Images to codes."""

    all_model_classes = (LavitVisualTokenizer,)
    seq_length = NUM_CODES

    def get_config(self) -> LavitVisualTokenizerConfig:
        return visual_tokenizer_config()

    def prepare_config_and_inputs_for_common(self) -> tuple[LavitVisualTokenizerConfig, dict[str, torch.Tensor]]:
        return self.get_config(), {"pixel_values": pictures(self.batch_size)}


class PreTrainingTester(VisualTokenizerTester):
    """Stage 1, whose hidden states and attentions are those of the feature decoder."""

    all_model_classes = (LavitVisualTokenizerForPreTraining,)
    seq_length = NUM_PATCHES


class FeatureDecoderTester(Tester):
    """Codes to the features of an image's patches and to the conditions of an SDXL kind of U-Net."""

    all_model_classes = (LavitFeatureDecoder,)
    seq_length = 5
    encoder_seq_length = NUM_PATCHES

    def get_config(self) -> LavitFeatureDecoderConfig:
        config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(visual_tokenizer_config())
        conditions = {"condition_dims": [8, 8], "pooled_condition_dim": 8, "num_unconditional_tokens": 3}
        return LavitFeatureDecoderConfig(**config.to_dict() | conditions)

    def prepare_config_and_inputs_for_common(self) -> tuple[LavitFeatureDecoderConfig, dict[str, torch.Tensor]]:
        codes = torch.randint(CODEBOOK_SIZE, (self.batch_size, self.seq_length))
        return self.get_config(), {"codes": codes, "attention_mask": torch.ones_like(codes)}
