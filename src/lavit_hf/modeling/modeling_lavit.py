# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LaVIT (arXiv 2309.04669): one language model that reads and writes text and the codes of images alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg

from .arguments_lavit import check_keyword_arguments
from .backbones_lavit import (
    Backbone,
    check_logits,
    count_text_tokens,
    load_text_backbone,
    load_visual_tokenizer,
    make_room,
)
from .configuration_lavit import LavitConfig
from .expansion_lavit import (
    IGNORE_INDEX,
    LavitSequences,
    check_attention_mask,
    check_labels_elsewhere,
    check_no_image_arguments,
    check_placeholders,
    choose_features,
    count_labels,
    expand_placeholders,
    mask_labels,
    pad_id,
)
from .freezing_lavit import is_trained, warn_of_trained_adapter
from .generation_lavit import LavitGenerationMixin
from .guidance_lavit import combine_branches
from .head_lavit import all_logits
from .library_lavit import LavitExportMixin
from .modeling_lavit_tokenizer import (
    LavitTokenizerPreTrainedModel,
    LavitVisualAdapter,
    LavitVisualTokenizer,
    LavitVisualTokenizerOutput,
    PatchPartition,
)
from .names_lavit import write_names
from .precision_lavit import read_dtype


@dataclass
class LavitModelOutputWithPast(BaseModelOutputWithPast):
    """
    Output of the language model. With images that had one placeholder each, L is the length of the expanded sequences;
    otherwise L is the length of the input.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, L, hidden_size)`): The input of the head.
        cache, hidden_states, attentions: Same as in `BaseModelOutputWithPast`.
        sequences ([`LavitSequences`], *optional*): Ids, masks and labels of length L, where images were given.
    """

    sequences: LavitSequences | None = None


@dataclass
class LavitCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Output of a causal language model, where L is the same as in [`LavitModelOutputWithPast`].

    Args:
        loss (`torch.FloatTensor`, *optional*): Mean cross-entropy over the labels of text and codes.
        logits (`torch.FloatTensor` of shape `(B, L, vocab_size)`, *optional*): Scores of the next token.
        cache, hidden_states, attentions: Same as in `CausalLMOutputWithPast`.
        sequences ([`LavitSequences`], *optional*): Ids, masks and labels of length L, where images were given.
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
            The labels that the loss counts, moved along with images, -100 for none.
        token_losses (`torch.FloatTensor` of shape `(num_labels,)`, *optional*):
            Cross-entropy of each label, row by row, where `skip_logits` is set.
    """

    sequences: LavitSequences | None = None
    labels: torch.LongTensor | None = None
    token_losses: torch.FloatTensor | None = None


def is_linear(cache: Cache | None) -> bool:
    """Whether a cache holds states of linear attention alone, which do not tell how many positions they have seen."""
    return cache is not None and all(cache.is_linear)


def check_image_arguments(input_ids, inputs_embeds, cache: Cache | None, encoded) -> None:
    """Raises a `ValueError` for arguments that do not go with images."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Images go with either input_ids or inputs_embeds.")
    if encoded:
        raise ValueError("Give either images or mm_encoder_outputs.")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError("Images belong to the first forward of a sequence, got a filled cache.")


class LavitPreTrainedModel(LavitTokenizerPreTrainedModel):
    """Weight initialisation and loading shared by LaVIT's language models."""

    config: LavitConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    output_modalities = ("image", "text")
    _can_compile_fullgraph = True

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Module:
        """
        Same arguments as `PreTrainedModel.resize_token_embeddings`.

        Raises:
            ValueError: fewer rows than the vocabulary of LaVIT has.
        """
        least = self.config.image_token_id + 1
        if new_num_tokens is not None and new_num_tokens < least:
            raise ValueError(
                f"new_num_tokens must be at least {least}, so that text, [IMG], [/IMG], codes and the image "
                f"placeholder keep their rows, got {new_num_tokens}."
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)


class LavitModel(LavitPreTrainedModel):
    """
    Visual tokenizer, adapter and language model, without a head.

    The visual tokenizer is frozen: it is trained before, in a [`LavitVisualTokenizerForPreTraining`]. A vision tower
    whose parameters are made to require gradients learns from images that are read as features, not from codes.

    Args:
        config ([`LavitConfig`]): Its shape.
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*), language_model (`PreTrainedModel`, *optional*):
            Parts that exist already, instead of new ones.
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
        # Not in the dtype that its configuration was saved with: a whole LaVIT may be asked for in another.
        self.language_model = language_model or AutoModel.from_config(
            config.text_config, dtype=torch.get_default_dtype()
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """
        Computes the features of images as the language model reads them.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`): Images.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state`, the vision features (num_images, N, d),
            `pooler_output`, a tuple with the features (num_codes, text_hidden_size) of each image, and
            `hidden_states` and `attentions` of the visual tokenizer, where they are asked for.
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
        Runs the visual tokenizer as at inference, see [`LavitVisualTokenizer.tokenize_images`]. Where
        `vision_features` are given, the vision tower does not run.

        Same arguments and errors as [`LavitForCausalLM.forward`].
        """
        is_learning = self.training and torch.is_grad_enabled()
        if vision_features is not None and is_learning and is_trained(self.visual_tokenizer.vision_tower):
            raise ValueError(
                "vision_features do not go with training the vision tower, which gets no gradient from them: give "
                "pixel_values alone."
            )
        if is_learning and not torch.compiler.is_compiling():
            warn_of_trained_adapter(self.visual_tokenizer)
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
    ) -> LavitSequences:
        """
        Puts images into sequences: codes as ids in place of placeholders, and as inputs of the language model either
        the embeddings of these codes or the features of the adapter.

        Same arguments and errors as [`LavitForCausalLM.forward`]. Returns the sequences with `inputs_embeds`.
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
        # A blank image where there is none: in training all processes have to call the same modules.
        given = {"pixel_values": pixel_values, "vision_features": vision_features, "keep_mask": keep_mask}
        if num_images == 0:
            given = {
                name: None if value is None or name == "keep_mask" else value.new_zeros(1, *value.shape[1:])
                for name, value in given.items()
            }
        tokenized = self.tokenize_images(**given)
        sequences = expand_placeholders(
            self.config,
            input_ids,
            attention_mask,
            labels,
            tokenized.codes.to(input_ids.device)[: None if num_images else 0],
            tokenized.num_codes.to(input_ids.device)[:num_images],
            supervise_images,
            position_ids,
            inputs_embeds,
            is_expanded=vision_features is not None and keep_mask is not None,
        )
        embeds = self.get_input_embeddings()(sequences.input_ids)
        if sequences.inputs_embeds is not None:
            is_image = sequences.image_mask[..., None].to(embeds.device)
            embeds = torch.where(is_image, embeds.to(sequences.inputs_embeds), sequences.inputs_embeds)
        if chosen:
            features, feature_mask = self._read(tokenized, chosen, sequences.image_mask)
            embeds = embeds.masked_scatter(feature_mask[..., None].to(embeds.device), features.to(embeds))
            sequences.feature_mask, sequences.image_features = feature_mask, features
            sequences.feature_counts = tokenized.num_codes[chosen]
        elif self.training:
            features, _ = self._read(tokenized, [0], sequences.image_mask)
            embeds = embeds + 0.0 * features.sum().to(embeds)
        sequences.inputs_embeds = embeds
        return sequences

    def _read(
        self, tokenized: LavitVisualTokenizerOutput, chosen: list[int], image_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The adapter's features of the images `chosen`, packed, and the positions (B, L) that they take."""
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
        """(B, L) bool, True at placeholders; with embeddings alone, where these are the placeholder's."""
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
        """Embeddings (B, L, hidden_size) with features that were computed before in place of placeholders."""
        is_placeholder = self._find_placeholders(input_ids, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        features = torch.cat([part.flatten(0, -2) for part in encoded.pooler_output]).to(inputs_embeds)
        if not torch.compiler.is_compiling():
            num_placeholders = int(is_placeholder.sum())
            if num_placeholders != len(features):
                raise ValueError(
                    f"mm_encoder_outputs hold {len(features)} features for {num_placeholders} placeholders."
                )
        return inputs_embeds.masked_scatter(is_placeholder[..., None].to(inputs_embeds.device), features)

    def _check_no_images(self, input_ids, inputs_embeds, cache: Cache | None) -> None:
        """Raises a `ValueError` for placeholders at the beginning of sequences for which no images were given."""
        if torch.compiler.is_compiling() or (cache is not None and not is_linear(cache) and cache.get_seq_length()):
            return
        check_placeholders(int(self._find_placeholders(input_ids, inputs_embeds).sum()))

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitModelOutputWithPast:
        """
        Same arguments and errors as [`LavitForCausalLM.forward`]. `labels` are moved along with images.

        Returns:
            [`LavitModelOutputWithPast`]
        """
        check_keyword_arguments(self, kwargs, self.language_model)
        sequences, encoded = None, (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None or vision_features is not None:
            check_image_arguments(input_ids, inputs_embeds, cache, encoded)
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
            else:
                self._check_no_images(input_ids, inputs_embeds, cache)
        given = input_ids if inputs_embeds is None else inputs_embeds
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim != 4 and not is_linear(cache):
            check_attention_mask(attention_mask, given.shape, cache.get_seq_length() if cache is not None else 0)
            if position_ids is None:
                # Padding on the left does not count, whatever kind of positions the language model has.
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
        return LavitModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.get("cache"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            sequences=sequences,
        )


class LavitForCausalLM(LavitExportMixin, LavitPreTrainedModel, LavitGenerationMixin):
    """
    LaVIT: captions, answers and draws as one causal language model over text and the codes of images.

    Args:
        config ([`LavitConfig`]): Its shape.
        model ([`LavitModel`], *optional*), lm_head (`nn.Linear`, *optional*):
            Parts that exist already, instead of new ones.
    """

    accepts_loss_kwargs = True
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: LavitConfig, model: LavitModel | None = None, lm_head: nn.Linear | None = None):
        super().__init__(config)
        text_config = config.text_config
        self.model = model or LavitModel(config)
        self.lm_head = lm_head or nn.Linear(text_config.hidden_size, text_config.vocab_size, config.lm_head_bias)
        embeddings = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        # As transformers' own models say whether assisted generation can take tokens back.
        self._is_stateful = self.model.language_model._is_stateful
        # One made from the model's configuration would lose its custom entries, `image_generation`, when loaded.
        self.generation_config._from_model_config = False
        self.post_init()

    @classmethod
    def from_backbones(
        cls,
        vision: Backbone,
        text: Backbone,
        num_text_tokens: int | None = None,
        dtype: torch.dtype | str | None = None,
        copy_merger: bool = True,
        **kwargs,
    ) -> "LavitForCausalLM":
        """
        A new LaVIT around a vision model or a visual tokenizer, and a causal language model. What is not given is new:
        selector, merger and codebook, the adapter, and the vocabulary's rows for `[IMG]`, `[/IMG]` and the codes,
        behind those of the text.

        Args:
            vision (`str`, `PreTrainedConfig` or `PreTrainedModel`):
                Vision tower: a folder or repository with pretrained weights, or a configuration of a new one. Or a
                [`LavitVisualTokenizer`], or the folder or repository of one (or of a whole LaVIT), taken as it is.
            text (`str`, `PreTrainedConfig` or `PreTrainedModel`): Causal language model, likewise.
            num_text_tokens (`int`, *optional*):
                Ids that text takes; `[IMG]` is the next. Default: the length of the tokenizer beside a named model,
                else the vocabulary of the text model.
            dtype (`torch.dtype` or `str`, *optional*):
                The dtype of all weights. Default: the wider of the two backbones' own, which rounds neither. What must
                not be rounded stays float32, see [`LavitFloat32Mixin`].
            copy_merger (`bool`, *optional*, defaults to `True`):
                Whether the adapter's merger (and positions, if any) start as copies of the visual tokenizer's.
            kwargs: For [`LavitVisualTokenizerConfig`], say `codebook_size` or `num_merger_layers`.

        Raises:
            ValueError: something that is no backbone; settings for a visual tokenizer that has its own; a `dtype`
                that is none of floating-point numbers; a language model whose logits a LaVIT does not compute.
        """
        if "torch_dtype" in kwargs:
            raise ValueError(f"from_backbones takes dtype, not torch_dtype, got torch_dtype={kwargs['torch_dtype']}.")
        dtype = read_dtype(dtype)
        loading = {} if dtype is None else {"dtype": dtype}
        visual_tokenizer, vision_attention = load_visual_tokenizer(vision, loading, kwargs)
        text_model = load_text_backbone(text, **loading)
        if dtype is None:
            dtype = torch.promote_types(visual_tokenizer.dtype, text_model.dtype)
        # Read first: a configuration forgets its parts' choice of kernels when it is put together.
        text_attention, experts = text_model.config._attn_implementation, text_model.config._experts_implementation
        tokenizer_config = visual_tokenizer.config
        if num_text_tokens is None:
            num_text_tokens = count_text_tokens(text, text_model.config.vocab_size)
        make_room(text_model, num_text_tokens, visual_tokenizer.quantizer.codebook)

        lm_head = text_model.get_output_embeddings()
        config = LavitConfig(
            text_config=text_model.config,
            visual_tokenizer_config=tokenizer_config,
            image_start_token_id=num_text_tokens,
            lm_head_bias=lm_head.bias is not None,
            attn_implementation={  # type: ignore[call-arg] # every configuration takes it
                "": text_attention,
                "text_config": text_attention,
                "visual_tokenizer_config": vision_attention,
            },
            experts_implementation={"text_config": experts},  # type: ignore[call-arg]
        )
        model = cls(config, LavitModel(config, visual_tokenizer, text_model.base_model), lm_head)
        check_logits(text_model, model)
        if copy_merger:
            model.model.visual_adapter.start_from(visual_tokenizer)
        settings = text_model.generation_config.to_dict() | {"_from_model_config": False}
        model.generation_config.update(**settings)
        # `from_pretrained` says the same: what is saved is then equal whether the model was loaded before or not.
        config.text_config.dtype = config.visual_tokenizer_config.dtype = dtype
        return model.to(dtype)

    def get_image_features(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Same arguments and outputs as [`LavitModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, **kwargs)

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
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        image_guidance_scale: float | None = None,
        guided_positions: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitCausalLMOutputWithPast:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`):
                Text, codes, and placeholders for the images: either one for each code of an image, in which case
                nothing changes its length, or one for each image, which becomes as many positions as its image has
                codes. Without images the model is an ordinary causal language model.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`, *optional*):
                All images of the batch in reading order. There may be none: in training all parts then run none the
                less, so that processes with other batches can wait for each other's gradients.
            attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 at padding, on either side.
            position_ids (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Not with one placeholder for each image. Default: positions that do not count padding.
            cache (`Cache`, *optional*): Keys and values of the positions before.
            inputs_embeds (`torch.FloatTensor` of shape `(B, L, hidden_size)`, *optional*):
                Replace `input_ids`. Placeholders are found by their embedding.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Ids to predict, -100 for none. The codes of an image are its labels also where its input is features,
                unless the label of its placeholder is -100. Labels at padding and the label of the first token of a
                row are ignored.
            image_inputs (`"features"` or `"codes"`, or a list of these words, one per image, *optional*):
                Overrides the configuration's.
            supervise_images (`bool`, *optional*): Overrides the configuration's; False masks the codes out.
            vision_features (`torch.FloatTensor` of shape `(num_images, N, vision_hidden_size)`, *optional*):
                Output of [`LavitVisualTokenizer.encode_vision`] for the images. The vision tower then does not run,
                and cannot be trained.
            keep_mask (`torch.BoolTensor` of shape `(num_images, N)`, *optional*):
                The patches to keep, in place of the selector's decision.
            mm_encoder_outputs (`dict`, *optional*):
                `{"image": output}` with an output of `get_image_features`, in place of images, and with one
                placeholder for each code. The codes are not known then, and are no labels.
            mm_token_type_ids (`torch.LongTensor` of shape `(B, L)`, *optional*):
                1 at placeholders, as a processor gives it on request. Not used, since `input_ids` tell the same.
            use_cache (`bool`, *optional*): Whether to return keys and values.
            logits_to_keep (`int` or `torch.Tensor`, *optional*): Only the last positions' logits; 0 for all.
            skip_logits (`bool`, *optional*, defaults to `False`):
                With labels, computes logits only where there is something to predict, and returns losses alone.
            image_guidance_scale (`float`, *optional*), guided_positions (`torch.BoolTensor`, *optional*):
                Set by `generate` under guidance, see [`combine_branches`].
            kwargs: Arguments that transformers has for every model, and those of the language model. `shift_labels`
                (B, L), the id that follows each position, comes with `labels` in sequence parallel training. Not with
                images. With `num_items_in_batch`, the number of labels in this batch and in those whose gradients are
                added to its own, the loss is not the mean, but its share of the mean over all of these. Both count the
                `labels` as they are given: where the model has others, say of an image with one placeholder, the mean
                over its own labels is weighed by the number of those that were given. That is the mean for one batch,
                and an approximation for several.

        Returns:
            [`LavitCausalLMOutputWithPast`]

        Raises:
            ValueError: as many placeholders as images, or as codes, were expected; images together with a filled
                cache; a mask of another shape; an unknown `image_inputs`; arguments of images without images;
                `vision_features` while the vision tower is trained; one placeholder for an image, and a trainer that
                compares `labels` with logits itself; `output_router_logits` of a mixture-of-experts language model.
            TypeError: an unknown argument.
        """
        wants_router_loss = kwargs.get("output_router_logits")
        if wants_router_loss is None and labels is not None:
            wants_router_loss = getattr(self.config.text_config, "output_router_logits", False)
        if wants_router_loss:
            raise ValueError(
                "output_router_logits must be False, got True: the loss of a LaVIT has no part that balances experts."
            )
        # Named in the signature, Trainer would expect them in every batch.
        shift_labels, num_items_in_batch = kwargs.pop("shift_labels", None), kwargs.pop("num_items_in_batch", None)
        num_given = None if labels is None or num_items_in_batch is None else count_labels(labels, shift_labels)
        if shift_labels is not None and (pixel_values is not None or vision_features is not None):
            raise ValueError("shift_labels do not go with images, whose codes are labels as well.")
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            labels=labels,
            image_inputs=image_inputs,
            supervise_images=supervise_images,
            vision_features=vision_features,
            keep_mask=keep_mask,
            mm_encoder_outputs=mm_encoder_outputs,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        sequences = outputs.sequences
        if sequences is not None:
            if labels is None and num_items_in_batch is not None:
                length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
                check_labels_elsewhere(length, sequences.image_mask)
            attention_mask, labels = sequences.attention_mask, sequences.labels
        if labels is not None:
            labels = mask_labels(self.config, labels, attention_mask)
        if shift_labels is not None:
            shift_labels = shift_labels.masked_fill(shift_labels == self.config.image_token_id, IGNORE_INDEX)
        if num_given is not None:
            num_labels = count_labels(labels, shift_labels).clamp(min=1)
            num_items_in_batch = num_items_in_batch * (num_labels / num_given.clamp(min=1))
        if sequences is not None:
            sequences.labels = labels
        loss, logits, token_losses = None, None, None
        if skip_logits and labels is not None:
            token_losses = self._token_losses(outputs.last_hidden_state, labels, shift_labels)
            loss = token_losses.sum() / (
                max(1, len(token_losses)) if num_items_in_batch is None else num_items_in_batch
            )
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = all_logits(self.lm_head, outputs.last_hidden_state[:, kept], self.config)
            if labels is not None:
                loss = self.loss_function(
                    logits=logits,
                    labels=labels,
                    vocab_size=logits.shape[-1],
                    num_items_in_batch=num_items_in_batch,
                    shift_labels=shift_labels,
                )
            if image_guidance_scale is not None:
                logits = combine_branches(logits, image_guidance_scale, guided_positions)
        return LavitCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            sequences=sequences,
            labels=labels,
            token_losses=token_losses,
        )

    def _token_losses(
        self, hidden_states: torch.Tensor, labels: torch.Tensor, shift_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states (B, L, d), labels (B, L) -> float32 cross-entropies of all labels but the first column's."""
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX) if shift_labels is None else shift_labels
        labels = labels.to(hidden_states.device)
        supervised = labels != IGNORE_INDEX
        logits = all_logits(self.lm_head, hidden_states[supervised], self.config)
        return nn.functional.cross_entropy(logits.float(), labels[supervised], reduction="none")


# Here, so that the model's code that travels with its weights is found by name as well.
write_names(LavitConfig.model_type, LavitForCausalLM.__name__)

__all__ = [
    "LavitCausalLMOutputWithPast",
    "LavitForCausalLM",
    "LavitModel",
    "LavitModelOutputWithPast",
    "LavitPreTrainedModel",
]
