# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Backbones of a new LaVIT: vision and language models from a folder, a repository, a configuration or a model."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import filterfalse

import torch
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from .arguments_lavit import check_config_arguments, check_vision_config
from .configuration_lavit import LavitConfig, LavitVisualTokenizerConfig
from .freezing_lavit import evaluation_mode, list_adapters
from .modeling_lavit_visual_tokenizer import LavitVisualTokenizer
from .pretrained_lavit import check_none_missing
from .vision_tower_lavit import build_vision_tower, model_class


POOLER = re.compile(r"(^|\.)(pooler|head)\.")  # by the names that it has in vision models of transformers

Backbone = str | os.PathLike | PreTrainedConfig | PreTrainedModel


@contextmanager
def _without_reports() -> Iterator[None]:
    """Within this context, transformers logs errors alone: its reports of what is meant to be would alarm a user."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _check_kind(backbone: Backbone, name: str) -> None:
    if not isinstance(backbone, Backbone):
        raise ValueError(
            f"{name} must be a folder, a repository id, a configuration or a model, got {type(backbone).__name__}."
        )


def load_vision_backbone(vision: Backbone, **kwargs) -> PreTrainedModel:
    """
    Loads or builds a vision tower. The vision part of a model with several towers (CLIP, SigLIP, ...) is taken. For a
    visual tokenizer, or the folder or repository of one or of a whole LaVIT, the visual tokenizer is returned.

    Args:
        vision (`str`, `PreTrainedConfig` or `PreTrainedModel`):
            A folder or repository with pretrained weights, a configuration of a new model, or the model itself.
        kwargs: Arguments of `from_pretrained`.

    Returns:
        `PreTrainedModel`: The vision tower, or a [`LavitVisualTokenizer`].

    Raises:
        ValueError: If `vision` is no backbone, no vision transformer, or its files lack weights.
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
    # The configuration is checked before weights are downloaded and loaded.
    config = getattr(config, "vision_config", config)
    check_vision_config(config)
    model_class(config)
    # The report would be about parts that LaVIT does not use: a pooler that the files lack, or the text model of CLIP.
    with _without_reports():
        model, info = AutoModel.from_pretrained(vision, config=config, output_loading_info=True, **kwargs)
    check_none_missing(f"the vision tower {vision}", sorted(filterfalse(POOLER.search, info["missing_keys"])))
    return model


def build_visual_tokenizer(vision_tower: PreTrainedModel, **kwargs) -> LavitVisualTokenizer:
    """
    Builds a new visual tokenizer around a vision tower, with the attention implementation of the tower.

    Args:
        vision_tower (`PreTrainedModel`): The vision tower.
        kwargs: Arguments of [`LavitVisualTokenizerConfig`].
    """
    kwargs = {"attn_implementation": {"": vision_tower.config._attn_implementation}} | kwargs
    config = LavitVisualTokenizerConfig(vision_config=vision_tower.config, **kwargs)
    return LavitVisualTokenizer(config, vision_tower=vision_tower)


def load_visual_tokenizer(vision: Backbone, loading: dict, settings: dict) -> LavitVisualTokenizer:
    """
    Loads the visual tokenizer that `vision` is or names, or else builds a new one around a vision tower.

    Args:
        vision: Same as in [`load_vision_backbone`].
        loading (`dict`): Arguments of `from_pretrained`.
        settings (`dict`): Arguments of the [`LavitVisualTokenizerConfig`] of a new visual tokenizer.

    Raises:
        TypeError: If the configuration does not have one of `settings`.
        ValueError: If `settings` are given for an existing visual tokenizer.
    """
    check_config_arguments(LavitVisualTokenizerConfig, settings)
    vision = load_vision_backbone(vision, **loading)
    if not isinstance(vision, LavitVisualTokenizer):
        return build_visual_tokenizer(vision, **settings)
    if settings:
        raise ValueError(f"An existing visual tokenizer keeps its own {', '.join(settings)}: give no other values.")
    return vision


def load_text_backbone(text: Backbone, **kwargs) -> PreTrainedModel:
    """
    Loads or builds a causal language model with its head.

    Args:
        text (`str`, `PreTrainedConfig` or `PreTrainedModel`):
            A folder or repository with pretrained weights, a configuration of a new model, or the model itself.
        kwargs: Arguments of `from_pretrained`.

    Returns:
        `PreTrainedModel`: The causal language model.

    Raises:
        ValueError: If `text` is no backbone, or does not consist of one base model and one linear head.
    """
    _check_kind(text, "text")
    if isinstance(text, PreTrainedModel):
        text_model = text
    elif isinstance(text, PreTrainedConfig):
        text_model = AutoModelForCausalLM.from_config(text.get_text_config(decoder=True))
    else:
        config = AutoConfig.from_pretrained(text).get_text_config(decoder=True)
        text_model = AutoModelForCausalLM.from_pretrained(text, config=config, **kwargs)
    _check_parts(text_model)
    return text_model


def _refusal(text_model: PreTrainedModel, reason: str) -> ValueError:
    return ValueError(f"{type(text_model).__name__} cannot be the language model of a LaVIT: {reason}.")


def _check_parts(text_model: PreTrainedModel) -> None:
    """Checks that a language model consists of a base model that `AutoModel` builds and a linear head."""
    config, base_model = text_model.config, text_model.base_model
    if adapters := list_adapters(text_model):
        raise _refusal(text_model, f"it has adapters, such as that of {adapters[0]}: call `merge_and_unload` first")
    if config.is_encoder_decoder or config.get_text_config(decoder=True) is not config:
        raise _refusal(text_model, "it has other parts than a decoder-only language model")
    head = text_model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise _refusal(text_model, f"its head must be a linear layer, got {type(head).__name__}")
    if base_model is text_model or not isinstance(base_model, MODEL_MAPPING.get(type(config), ())):
        raise _refusal(text_model, f"AutoModel builds another base model than its {type(base_model).__name__}")
    known = {*base_model.parameters(), head.weight, head.bias}
    if others := [name for name, parameter in text_model.named_parameters() if parameter not in known]:
        raise _refusal(text_model, f"it has weights outside its base model and its linear head, such as {others[0]}")
    num_rows = base_model.get_input_embeddings().num_embeddings
    if num_rows != config.vocab_size:
        raise _refusal(text_model, f"it has {num_rows} embeddings for a vocabulary of {config.vocab_size}")


@torch.no_grad()
def check_logits(text_model: PreTrainedModel, model: PreTrainedModel) -> None:
    """
    Checks on a few tokens that a LaVIT computes the same logits as the causal language model whose parts it has, from
    embeddings instead of ids and with the cache that `generate` creates. Nothing is checked on the meta device.

    Args:
        text_model (`PreTrainedModel`): The causal language model.
        model ([`LavitForCausalLM`]): A LaVIT that has the base model and the head of `text_model` as its own.

    Raises:
        ValueError: If the logits differ, or if later tokens change the logits of earlier ones.
    """
    if any(parameter.device.type == "meta" for parameter in text_model.parameters()):
        return
    embeddings, head = text_model.get_input_embeddings(), text_model.get_output_embeddings()
    ids = torch.linspace(0, model.config.image_start_token_id - 1, 7, device=embeddings.weight.device)
    ids = ids.long()[None, 1:-1]
    first, last = ids[:, :-1], ids[:, -1:]
    # Every second logit is magnified, since the small logits of a new model do not reach a cap. The others are not,
    # since a cap hides a factor.
    factors = torch.tensor([1.0, 1e4], device=head.weight.device).repeat(head.out_features)[: head.out_features]
    magnifier = head.register_forward_hook(lambda module, arguments, logits: logits.float() * factors)
    with evaluation_mode(text_model, model), magnifier:
        own = text_model(input_ids=first, use_cache=True)
        if getattr(own, "cache", None) is None:
            raise _refusal(text_model, "it returns no cache")
        own_step = text_model(input_ids=last, cache=own.cache, use_cache=True)
        own_whole = text_model(input_ids=ids)
        try:
            cache = DynamicCache(config=text_model.config)
            ours = model(inputs_embeds=embeddings(first), cache=cache, use_cache=True)
            cache.get_seq_length()  # `generate` calls it, and a cache without attention layers raises an error
            step = model(input_ids=last, cache=cache, use_cache=True)
        except (AttributeError, TypeError, ValueError) as error:
            raise _refusal(text_model, f"it does not run inside one ({error})") from error
    if not (_are_close(ours.logits, own.logits, 0.01) and _are_close(step.logits, own_step.logits, 0.01)):
        raise _refusal(text_model, "it changes its head's logits, or its input embeddings, in a way of its own")
    if not _are_close(own_whole.logits[:, :-1], own.logits, 0.1):
        raise _refusal(text_model, "it is not causal: later tokens change the logits of earlier ones")


def _are_close(logits: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether the even and the odd logits (1, L, vocab_size) each differ by at most a share of their largest one."""
    if logits.shape != expected.shape:
        return False
    halves = [(logits[..., start::2], expected[..., start::2]) for start in (0, 1)]
    return all(bool((ours - own).abs().max() <= tolerance * own.abs().max()) for ours, own in halves)


def count_text_tokens(text: Backbone, vocab_size: int) -> int:
    """
    Returns the number of ids of text: those of the tokenizer beside a named model, or else `vocab_size`. Rows of the
    vocabulary beyond the tokenizer are padding, which is replaced by the rows of images.
    """
    if not isinstance(text, (str, os.PathLike)):
        return vocab_size
    return max(AutoTokenizer.from_pretrained(text).get_vocab().values()) + 1


@torch.no_grad()
def make_room(text_model: PreTrainedModel, num_text_tokens: int, codebook: torch.Tensor) -> None:
    """
    Adds rows to the vocabulary of `text_model` behind its text, for `[IMG]`, `[/IMG]`, the codes and the image
    placeholder. The rows are distributed around the mean of the rows of text, so that predictions on text hardly
    change. The embeddings of codes are a random projection of the codebook with the standard deviation of the
    embeddings of text, so that similar codes have similar embeddings. The placeholder has the mean itself.

    Args:
        text_model (`PreTrainedModel`): A causal language model.
        num_text_tokens (`int`): Number of ids of text.
        codebook (`torch.FloatTensor` of shape `(codebook_size, code_dim)`): The vectors of the codes.
    """
    with _without_reports():
        if num_text_tokens < text_model.config.vocab_size:
            text_model.resize_token_embeddings(num_text_tokens)
        text_model.resize_token_embeddings(num_text_tokens + 2 + len(codebook) + 1)
    embeddings = text_model.get_input_embeddings().weight
    std, mean = torch.std_mean(embeddings[:num_text_tokens].float(), dim=0)
    centred = (codebook - codebook.mean(dim=0)).to(std)
    spread = centred @ torch.randn(codebook.shape[1], len(std), device=std.device)
    deviation = spread.std().clamp(min=torch.finfo(spread.dtype).tiny)  # a single code has the mean
    embeddings[num_text_tokens + 2 : -1] = (mean + std * spread / deviation).to(embeddings.dtype)
    embeddings[-1] = mean.to(embeddings.dtype)
