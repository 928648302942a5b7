# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pretrained backbones, given as a folder, a repository, a configuration or a model, for a new LaVIT around them."""

import os

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from .configuration_lavit import LavitConfig, LavitVisualTokenizerConfig, check_vision_config
from .modeling_lavit_tokenizer import LavitVisualTokenizer
from .vision_tower_lavit import build_vision_tower, check_model_type


Backbone = str | os.PathLike | PreTrainedConfig | PreTrainedModel


def _check_kind(backbone: Backbone, name: str) -> None:
    if not isinstance(backbone, Backbone):
        raise ValueError(
            f"{name} must be a folder, a repository id, a configuration or a model, got {type(backbone).__name__}."
        )


def load_vision_backbone(vision: Backbone, **kwargs) -> PreTrainedModel:
    """
    The vision tower of `vision`; of a model with several towers (CLIP, SigLIP, ...) the one that sees. A visual
    tokenizer, or the folder or repository of one or of a whole LaVIT, gives the visual tokenizer.

    Args:
        vision (`str`, `PreTrainedConfig` or `PreTrainedModel`): Pretrained if named, new if just a configuration.
        kwargs: For `from_pretrained`.

    Raises:
        ValueError: something that is no backbone, or no vision transformer.
    """
    _check_kind(vision, "vision")
    if isinstance(vision, PreTrainedModel):
        return vision
    if isinstance(vision, PreTrainedConfig):
        config = getattr(vision, "vision_config", vision)
        check_vision_config(config)
        return build_vision_tower(config)
    config = AutoConfig.from_pretrained(vision)
    if isinstance(config, LavitVisualTokenizerConfig | LavitConfig):
        return LavitVisualTokenizer.from_pretrained(vision, **kwargs)
    # Before the weights are loaded, or even downloaded.
    config = getattr(config, "vision_config", config)
    check_vision_config(config)
    check_model_type(config)
    return AutoModel.from_pretrained(vision, config=config, **kwargs)


def load_visual_tokenizer(vision: Backbone, loading: dict, settings: dict) -> tuple[LavitVisualTokenizer, str | dict]:
    """
    A visual tokenizer, as it is where `vision` is or names one, else a new one around the vision tower of `vision`.

    Args:
        vision, loading: As of [`load_vision_backbone`].
        settings (`dict`): For the [`LavitVisualTokenizerConfig`] of a new one.

    Returns:
        The visual tokenizer, and the choice of attention that its configuration forgets within another.

    Raises:
        ValueError: settings for a visual tokenizer that has its own.
    """
    vision = load_vision_backbone(vision, **loading)
    attention = vision.config._attn_implementation
    if not isinstance(vision, LavitVisualTokenizer):
        config = LavitVisualTokenizerConfig(vision_config=vision.config, **settings)
        return LavitVisualTokenizer(config, vision_tower=vision), attention
    if settings:
        raise ValueError(f"The visual tokenizer has its own {', '.join(settings)}: it takes no others.")
    return vision, attention


def load_text_backbone(text: Backbone, **kwargs) -> PreTrainedModel:
    """
    The causal language model of `text`, with its head.

    Args:
        text (`str`, `PreTrainedConfig` or `PreTrainedModel`): Pretrained if named, new if just a configuration.
        kwargs: For `from_pretrained`.
    """
    _check_kind(text, "text")
    if isinstance(text, PreTrainedModel):
        return text
    if isinstance(text, PreTrainedConfig):
        return AutoModelForCausalLM.from_config(text.get_text_config(decoder=True))
    config = AutoConfig.from_pretrained(text).get_text_config(decoder=True)
    return AutoModelForCausalLM.from_pretrained(text, config=config, **kwargs)


def causal_model_around(language_model: PreTrainedModel, lm_head: torch.nn.Module) -> PreTrainedModel:
    """The causal language model of its own architecture, such as a `LlamaForCausalLM`, that has these two parts."""
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(language_model.config, dtype=language_model.dtype)
    setattr(whole, whole.base_model_prefix, language_model)
    whole.set_output_embeddings(lm_head)
    return whole


def count_text_tokens(text: Backbone, vocab_size: int) -> int:
    """
    How many ids text takes: up to the last of the tokenizer beside a named model, else `vocab_size`. Rows of the
    vocabulary beyond the tokenizer are padding, which the picture's ids take over.
    """
    if not isinstance(text, (str, os.PathLike)):
        return vocab_size
    return max(AutoTokenizer.from_pretrained(text).get_vocab().values()) + 1


@torch.no_grad()
def make_room(text_model: PreTrainedModel, num_text_tokens: int, codebook: torch.Tensor) -> None:
    """
    Gives the vocabulary of `text_model` new rows behind its text, for `[IMG]`, `[/IMG]`, the codes and the image
    placeholder. They start around the mean of the text's rows, so that what the model predicts on text stays what it
    was; embeddings of codes spread about it as the text's do, in a random projection of the codebook: codes that are
    alike start alike. The placeholder is the mean itself.

    Args:
        text_model (`PreTrainedModel`): A causal language model.
        num_text_tokens (`int`): Rows that are the text's.
        codebook (`torch.FloatTensor` of shape `(codebook_size, code_dim)`): The codes' vectors.
    """
    if num_text_tokens < text_model.config.vocab_size:
        text_model.resize_token_embeddings(num_text_tokens)
    text_model.resize_token_embeddings(num_text_tokens + 2 + len(codebook) + 1)
    embeddings = text_model.get_input_embeddings().weight
    std, mean = torch.std_mean(embeddings[:num_text_tokens].float(), dim=0)
    centred = (codebook - codebook.mean(dim=0)).to(std)
    spread = centred @ torch.randn(codebook.shape[1], len(std), device=std.device)
    embeddings[num_text_tokens + 2 : -1] = (mean + std * spread / spread.std()).to(embeddings.dtype)
    embeddings[-1] = mean.to(embeddings.dtype)
