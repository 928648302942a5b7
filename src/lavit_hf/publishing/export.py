# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Interfaces for other libraries: pixels of drawn images, and the language model alone."""

import copy
import json
import os
from functools import cached_property
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)
from transformers.utils import logging
from transformers.utils.hub import resolve_revision

from ..modeling.generation_settings_lavit import SETTINGS, end_ids
from .files import replacing
from .saving import MixinBase


logger = logging.get_logger(__name__)


class LavitExportMixin(MixinBase):
    """Pixels for transformers' pipelines, and a plain language model for serving engines."""

    _origin: dict[str, Any] = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Same arguments as `PreTrainedModel.from_pretrained`."""
        name = pretrained_model_name_or_path
        # The token is not kept, since it would be shared together with the model.
        where = {key: kwargs[key] for key in ("cache_dir", "local_files_only") if key in kwargs}
        token = kwargs.get("token")
        # All that is loaded from beside the model later on is of the same commit.
        kwargs["revision"] = resolve_revision(name, kwargs.get("revision"), token=token, **where)
        loaded = super().from_pretrained(name, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        if name is not None and model.name_or_path != os.fspath(name):  # the name is that of an adapter
            model._origin = where | {"revision": resolve_revision(model.name_or_path, token=token, **where)}
        else:
            model._origin = where | {key: kwargs[key] for key in ("revision", "subfolder") if key in kwargs}
        return loaded

    @cached_property
    def image_decoder(self):
        """
        The pixel decoder, a [`LavitImageDecoderPipeline`]: the one that was set, or the one beside this model, which
        is loaded on first use, in this model's dtype and on its device. A private repository needs the token of
        `hf auth login`.

        Raises:
            ValueError: If there is none beside the model, if it has another codebook, or if the model was not loaded
                from a folder or repository.
        """
        from ..diffusion import LavitImageDecoderPipeline  # imported late, since the models import this file
        from ..modeling.codebook_lavit import check_same_codebook

        if not self.name_or_path:
            raise ValueError("This model was not loaded from anywhere that has a pixel decoder: set `image_decoder`.")
        pipeline = LavitImageDecoderPipeline.from_pretrained(self.name_or_path, dtype=self.dtype, **self._origin)
        check_same_codebook(self, pipeline.feature_decoder)  # type: ignore[arg-type]
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)

    def decode_image_tokens(self, image_tokens: torch.LongTensor, **kwargs) -> torch.FloatTensor:
        """
        Decodes the last image of each sequence to pixels.

        Args:
            image_tokens (`torch.LongTensor` of shape `(B, L)`):
                Sequences as `generate` returns them, or the vocabulary ids of codes alone. Text is ignored.
            kwargs: Arguments of the pixel decoder, such as `num_inference_steps` and `generator`.

        Returns:
            `torch.FloatTensor` of shape `(B, 3, height, width)` in [0, 1].

        Raises:
            ValueError: If a sequence has no codes, or text and codes without marks, or if there is no pixel decoder of
                the same codebook.
        """
        from ..modeling.codebook_lavit import check_same_codebook  # imported late, as above
        from ..modeling.expansion_lavit import open_image_start

        config: Any = self.config
        if not torch.is_tensor(image_tokens) or image_tokens.ndim != 2:
            shape = tuple(image_tokens.shape) if torch.is_tensor(image_tokens) else type(image_tokens).__name__
            raise ValueError(f"image_tokens must be a tensor of shape (batch_size, sequence_length), got {shape}.")
        start, is_open = open_image_start(image_tokens, config)
        codes = image_tokens - config.visual_token_offset
        positions = torch.arange(image_tokens.shape[1], device=image_tokens.device)
        of_image = (codes >= 0) & (codes < config.codebook_size) & (positions > start[:, None])
        images = [row[mask].tolist() for row, mask in zip(codes, of_image, strict=True)]
        for index, image in enumerate(images):
            if not image:
                raise ValueError(f"Sequence {index} has no image to decode: no codes follow its last [IMG].")
        # Codes alone, as `draw_codes` returns them, would be taken for text and other codes.
        marks = torch.tensor([config.image_start_token_id, config.image_end_token_id], device=image_tokens.device)
        generation = self.generation_config
        fillers = [*end_ids(generation.eos_token_id), *end_ids(generation.pad_token_id)]
        is_known = of_image | torch.isin(image_tokens, image_tokens.new_tensor(fillers))
        is_known |= torch.isin(image_tokens, marks).any(dim=-1, keepdim=True)
        if not is_known.all():
            row = is_known.all(dim=-1).logical_not().nonzero()[0, 0]
            raise ValueError(
                f"Sequence {row} has no [IMG], so that it must have the vocabulary ids of codes alone, from "
                f"{config.visual_token_offset} on, got {image_tokens[row][~is_known[row]][0]}."
            )
        if cut := is_open.nonzero().flatten().tolist():
            logger.warning(
                f"The image of sequence {cut[0]} has no [/IMG] after {len(images[cut[0]])} codes, so that it may be "
                "cut: give `generate` larger max_new_tokens."
            )
        check_same_codebook(self, self.image_decoder.feature_decoder)  # type: ignore[arg-type]
        return self.image_decoder(images, output_type="pt", vocabulary_ids=False, **kwargs).images.float()

    def export_language_model(
        self, save_directory: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None = None, **kwargs
    ) -> None:
        """
        Saves the language model alone as a checkpoint of its own architecture, a Llama for the release, which other
        engines load as an ordinary text model. It draws by writing codes: ids `visual_token_offset` and up. Vocabulary
        and tokenizer are saved without the image placeholder.

        Args:
            save_directory (`str` or `os.PathLike`): The folder to write.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Default: the one beside this model.
            kwargs: Same as in `PreTrainedModel.save_pretrained`, such as `max_shard_size`.

        Raises:
            ValueError: If the exported model would compute other logits than this one, if the model has adapters, or
                if the tokenizer has tokens behind the placeholder.
        """
        from ..modeling.backbones_lavit import check_logits  # imported late, as above
        from ..modeling.freezing_lavit import check_no_adapters

        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, **self._origin)
        if behind := [token for token, index in tokenizer.get_vocab().items() if index > self.config.image_token_id]:
            raise ValueError(
                f"The tokenizer has {len(behind)} tokens behind the image placeholder, such as {behind[0]!r}: without "
                "the placeholder they would have other ids than the model has learned."
            )
        check_no_adapters(self)
        language_model = causal_model_around(self.model.language_model, self.lm_head)
        check_logits(language_model, self)
        settings = {name: value for name, value in self.generation_config.to_dict().items() if name in SETTINGS}
        language_model.generation_config = GenerationConfig.from_dict(settings)
        vocab_size = self.config.image_token_id
        vocabulary = {language_model.get_input_embeddings().weight, self.lm_head.weight, self.lm_head.bias}
        weights = {
            name: weight.detach()[:vocab_size] if weight in vocabulary else weight.detach()
            for name, weight in language_model.state_dict(keep_vars=True).items()
        }
        # The parts are this model's own: their configuration is changed in a copy.
        language_model.config = copy.deepcopy(language_model.config)
        language_model.config.vocab_size = vocab_size
        language_model.config.tie_word_embeddings = self.config.tie_word_embeddings
        with replacing(save_directory) as folder:
            language_model.save_pretrained(folder, state_dict=weights, **kwargs)
            without_placeholder(tokenizer, vocab_size).save_pretrained(folder)


def without_placeholder(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> PreTrainedTokenizerBase:
    """Returns a copy of `tokenizer` with the tokens below `vocab_size` alone, which names no class of this library."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["id"] < vocab_size]
    named = tokenizer.special_tokens_map
    return TokenizersBackend(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        padding_side=tokenizer.padding_side,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **{name: named[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if name in named},
    )


def causal_model_around(language_model: PreTrainedModel, lm_head: torch.nn.Module) -> PreTrainedModel:
    """
    Returns a causal language model of its own architecture, such as a `LlamaForCausalLM`, with the parts
    `language_model` and `lm_head`.

    Raises:
        ValueError: If the head has a bias and that of the architecture has none, or the other way round.
    """
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(language_model.config, dtype=language_model.dtype)
    has_bias = [getattr(head, "bias", None) is not None for head in (lm_head, whole.get_output_embeddings())]
    if has_bias[0] != has_bias[1]:
        raise ValueError(
            f"The head of {type(whole).__name__} has {'a' if has_bias[1] else 'no'} bias, and that of this model has "
            f"{'one' if has_bias[0] else 'none'}."
        )
    setattr(whole, whole.base_model_prefix, language_model)
    whole.set_output_embeddings(lm_head)
    return whole
