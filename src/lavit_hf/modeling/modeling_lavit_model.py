# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The language model of LaVIT without its head: text, codes and features of images in one sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg

from .arguments_lavit import check_keyword_arguments
from .codebook_lavit import POSITIONS_STD
from .configuration_lavit import LavitConfig
from .distributed_lavit import process_index_and_count
from .expansion_lavit import (
    LavitSequences,
    check_attention_mask,
    check_labels,
    check_no_image_arguments,
    check_no_placeholder,
    choose_features,
    expand_placeholders,
    pad_id,
)
from .freezing_lavit import VISUAL_PARTS, is_trained, list_adapters, list_copies
from .merger_lavit import LavitVisualAdapter, PatchPartition, read_blank
from .modeling_lavit_visual_tokenizer import LavitVisualTokenizer, LavitVisualTokenizerOutput
from .packing_lavit import check_packing_arguments, needs_one_row, pack_sequences
from .pretrained_language_lavit import LavitLanguagePreTrainedModel


@dataclass
class LavitModelOutputWithPast(BaseModelOutputWithPast):
    """
    Output of [`LavitModel`]. The length L is that of the input, or that of the expanded sequences where the input had
    one placeholder for each image.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, L, hidden_size)`): The input of the head.
        cache, hidden_states, attentions: Same as in `BaseModelOutputWithPast`.
        sequences ([`LavitSequences`], *optional*): Ids, masks and labels of length L. None without images and
            packing.
    """

    sequences: LavitSequences | None = None


class LavitModel(LavitLanguagePreTrainedModel):
    """
    The visual tokenizer, the visual adapter and the language model without its head.

    The visual tokenizer is frozen, since stage 1 trains it in a [`LavitVisualTokenizerForPreTraining`]. A vision tower
    whose parameters are set to require gradients learns from images that enter as features, not from codes.

    Args:
        config ([`LavitConfig`]): The configuration.
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*): An existing visual tokenizer. By default, a new one.
        language_model (`PreTrainedModel`, *optional*): An existing language model. By default, a new one.
    """

    _frozen_parts = ("visual_tokenizer",)

    def __init__(
        self,
        config: LavitConfig,
        visual_tokenizer: LavitVisualTokenizer | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.visual_tokenizer = visual_tokenizer or LavitVisualTokenizer(config.visual_tokenizer_config)
        self.visual_adapter = LavitVisualAdapter(config.visual_tokenizer_config, config.text_config.hidden_size)
        # The dtype that was asked for the whole LaVIT holds, not the one that `text_config` was saved with.
        self.language_model = language_model or AutoModel.from_config(
            config.text_config, dtype=torch.get_default_dtype()
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LavitVisualAdapter) and module.position_embeddings is not None:
            init.normal_(module.position_embeddings, std=POSITIONS_STD)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def get_encoder(self, modality: str | None = None):
        """Same arguments as `PreTrainedModel.get_encoder`. The encoder of images is the vision tower."""
        return self.visual_tokenizer.vision_tower if modality == "image" else super().get_encoder(modality)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """
        Computes the features with which images enter the language model.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`): Images.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` has the vision features (num_images, N, hidden_size),
            `pooler_output` is a tuple with the features (num_codes, text_hidden_size) of each image, and
            `hidden_states` and `attentions` are those of the visual tokenizer, if they were asked for.
        """
        check_keyword_arguments(self, kwargs)
        outputs = self.tokenize_images(pixel_values, **kwargs)
        features = self.visual_adapter(outputs.vision_features, outputs.partition)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.vision_features,
            pooler_output=features.split(outputs.num_codes.tolist()),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def tokenize_images(
        self,
        pixel_values: torch.FloatTensor | None = None,
        vision_features: torch.FloatTensor | None = None,
        keep_mask: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitVisualTokenizerOutput:
        """
        Runs the visual tokenizer as at inference, see [`LavitVisualTokenizer.tokenize_images`]. The vision tower does
        not run if `vision_features` are given.

        Same arguments and errors as [`LavitForCausalLM.forward`].

        Returns:
            [`LavitVisualTokenizerOutput`]
        """
        is_learning = self.training and torch.is_grad_enabled()
        if vision_features is not None and is_learning and is_trained(self.visual_tokenizer.vision_tower):
            raise ValueError(
                "vision_features do not go with training the vision tower, which gets no gradient from them: give "
                "pixel_values alone."
            )
        if (
            is_learning
            and is_trained(self.visual_tokenizer)
            and (names := list_adapters(self.visual_tokenizer) + list_copies(self.visual_tokenizer))
        ):
            raise ValueError(
                f"peft trains 'visual_tokenizer.{names[0]}', which would change the codes of images. "
                f"A second adapter of a `PeftModel` needs exclude_modules={VISUAL_PARTS!r}."
            )
        return self.visual_tokenizer.tokenize_images(
            pixel_values if vision_features is None else None, vision_features, keep_mask, **kwargs
        )

    def expand_images(
        self,
        input_ids: torch.LongTensor | None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        image_inputs: str | Sequence[str] | None = None,
        supervise_images: bool | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        vision_features: torch.FloatTensor | None = None,
        keep_mask: torch.BoolTensor | None = None,
        embed: bool = True,
    ) -> LavitSequences:
        """
        Puts images into sequences. The ids of codes replace the placeholders. The inputs of the language model are the
        embeddings of these codes, or the features of the visual adapter.

        Same arguments and errors as [`LavitForCausalLM.forward`], and `embed` (`bool`, *optional*, defaults to
        `True`), whether `inputs_embeds` are computed.

        Returns:
            [`LavitSequences`]: The sequences, with `inputs_embeds` if `embed` is True.
        """
        images = pixel_values if vision_features is None else vision_features
        if pixel_values is not None and len(images) != len(pixel_values):
            raise ValueError(
                f"vision_features must be those of the {len(pixel_values)} images of pixel_values, got {len(images)}."
            )
        num_images = len(images)
        if keep_mask is not None and len(keep_mask) != num_images:
            raise ValueError(f"keep_mask must be that of {num_images} images, got {len(keep_mask)} rows.")
        chosen = choose_features(self.config.image_inputs if image_inputs is None else image_inputs, num_images)
        if supervise_images is None:
            supervise_images = self.config.supervise_images
        if input_ids is None:
            is_placeholder = self._find_placeholders(None, inputs_embeds)
            input_ids = torch.where(is_placeholder, self.config.image_token_id, pad_id(self.config))
        # A blank image stands for none where processes must call the same modules, and where modules are trained, all
        # of whose parameters need gradients.
        must_agree = process_index_and_count()[1] > 1
        must_tokenize = must_agree or (self.training and is_trained(self.visual_tokenizer))
        must_read = must_tokenize or (self.training and is_trained(self.visual_adapter))
        given = {"pixel_values": pixel_values, "vision_features": vision_features, "keep_mask": keep_mask}
        if num_images == 0:
            given = {
                name: None if value is None or name == "keep_mask" else value.new_zeros(1, *value.shape[1:])
                for name, value in given.items()
            }
        tokenized, codes, num_codes = None, input_ids.new_zeros(0), input_ids.new_zeros(0)
        if num_images or must_tokenize:
            tokenized = self.tokenize_images(**given)
        if num_images:
            codes, num_codes = tokenized.codes.to(input_ids.device), tokenized.num_codes.to(input_ids.device)
        sequences = expand_placeholders(
            self.config,
            input_ids,
            attention_mask,
            labels,
            codes,
            num_codes,
            supervise_images,
            position_ids,
            inputs_embeds,
            is_expanded=vision_features is not None and keep_mask is not None,
        )
        sequences.image_tokens = tokenized if num_images else None
        features = None
        if chosen or (must_read and tokenized is not None):
            features, feature_mask = self._read(tokenized, chosen or [0], sequences.image_mask)
        elif must_read:
            features = read_blank(self.visual_adapter, self.config.visual_tokenizer_config)
        if chosen:
            sequences.feature_mask, sequences.image_features = feature_mask, features
            sequences.feature_counts = tokenized.num_codes[chosen]
        if not embed:
            return sequences
        embeds = self.get_input_embeddings()(sequences.input_ids)
        if sequences.inputs_embeds is not None:
            is_image = sequences.image_mask[..., None].to(embeds.device)
            embeds = torch.where(is_image, embeds.to(sequences.inputs_embeds), sequences.inputs_embeds)
        if chosen:
            embeds = embeds.masked_scatter(feature_mask[..., None].to(embeds.device), features.to(embeds))
        elif features is not None and features.requires_grad:
            # The adapter has a gradient of zeros, as where another process reads images.
            embeds = embeds + 0.0 * features.sum().to(embeds)
        sequences.inputs_embeds = embeds
        return sequences

    def _read(
        self, tokenized: LavitVisualTokenizerOutput, chosen: list[int], image_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the packed features of the images with indices `chosen`, and the mask (B, L) of their positions."""
        vision_features, partition = tokenized.vision_features, tokenized.partition
        if len(chosen) < len(vision_features):
            indices = torch.tensor(chosen, device=vision_features.device)
            is_chosen = torch.zeros_like(tokenized.num_codes, dtype=torch.bool).index_fill(0, indices, True)
            per_code = is_chosen.repeat_interleave(tokenized.num_codes, output_size=len(tokenized.codes))
            image_mask = torch.zeros_like(image_mask).masked_scatter(image_mask, per_code.to(image_mask.device))
            vision_features, partition = vision_features[indices], PatchPartition(tokenized.keep_mask[indices])
        return self.visual_adapter(vision_features, partition), image_mask

    def _find_placeholders(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.FloatTensor | None
    ) -> torch.BoolTensor:
        """Returns a mask (B, L) of the placeholders, found by their id, or by their embedding if there are no ids."""
        if input_ids is not None:
            return input_ids == self.config.image_token_id
        placeholder = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(placeholder)).all(dim=-1)

    def _put_features(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.FloatTensor | None,
        encoded: BaseModelOutputWithPooling,
    ) -> torch.FloatTensor:
        """Returns embeddings (B, L, hidden_size) in which precomputed features replace the placeholders."""
        is_placeholder = self._find_placeholders(input_ids, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        features = torch.cat([part.flatten(0, -2) for part in encoded.pooler_output]).to(inputs_embeds)
        if not torch.compiler.is_compiling() and (num_placeholders := int(is_placeholder.sum())) != len(features):
            raise ValueError(f"mm_encoder_outputs hold {len(features)} features for {num_placeholders} placeholders.")
        return inputs_embeds.masked_scatter(is_placeholder[..., None].to(inputs_embeds.device), features)

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        image_inputs: str | Sequence[str] | None = None,
        supervise_images: bool | None = None,
        vision_features: torch.FloatTensor | None = None,
        keep_mask: torch.BoolTensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        pack: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitModelOutputWithPast:
        """
        Same arguments and errors as [`LavitForCausalLM.forward`]. `labels` are moved along with images, and packed.

        Returns:
            [`LavitModelOutputWithPast`]
        """
        check_keyword_arguments(self, kwargs, self.language_model)
        sequences, check, encoded = None, None, (mm_encoder_outputs or {}).get("image")
        num_past = 0 if cache is None else cache.get_seq_length()
        if pack or pixel_values is not None or vision_features is not None:
            check_labels(labels, input_ids if inputs_embeds is None else inputs_embeds)
        if pack:
            check_packing_arguments(cache, position_ids, attention_mask, kwargs)
            check_attention_mask(attention_mask, (input_ids if inputs_embeds is None else inputs_embeds).shape)
        if pixel_values is not None or vision_features is not None:
            if (input_ids is None) == (inputs_embeds is None):
                raise ValueError("Images go with either input_ids or inputs_embeds.")
            if encoded:
                raise ValueError("Give either images or mm_encoder_outputs.")
            if num_past:
                raise ValueError("Images belong to the first forward of a sequence, got a filled cache.")
            check_attention_mask(attention_mask, (input_ids if inputs_embeds is None else inputs_embeds).shape)
            sequences = self.expand_images(
                input_ids,
                pixel_values,
                attention_mask,
                labels,
                image_inputs,
                supervise_images,
                position_ids,
                inputs_embeds,
                vision_features,
                keep_mask,
            )
            attention_mask, position_ids = sequences.attention_mask, sequences.position_ids
            input_ids, inputs_embeds = None, sequences.inputs_embeds
        else:
            check_no_image_arguments(image_inputs, keep_mask, encoded)
            if encoded is not None:
                input_ids, inputs_embeds = None, self._put_features(input_ids, inputs_embeds, encoded)
            elif not torch.compiler.is_compiling() and not num_past:
                check = check_no_placeholder(self._find_placeholders(input_ids, inputs_embeds))
        if pack:
            sequences = sequences or LavitSequences(input_ids, attention_mask, None, labels, None, inputs_embeds)
            sequences = pack_sequences(self.config, sequences, needs_one_row(self.language_model))
            inputs_embeds = sequences.inputs_embeds
            input_ids = sequences.input_ids if inputs_embeds is None else None
            attention_mask, position_ids, use_cache = None, sequences.position_ids, False
        given = input_ids if inputs_embeds is None else inputs_embeds
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim != 4:
            check_attention_mask(attention_mask, given.shape, num_past)
            if position_ids is None:
                # No language model, whatever kind of positions it has, is to count padding on the left.
                position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -given.shape[1] :]
        outputs = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        if check is not None:
            check()
        return LavitModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.get("cache"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            sequences=sequences,
        )
