# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LaVIT (arXiv 2309.04669): one language model that reads and writes text and the codes of images alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg

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
    LavitSequences,
    check_labels,
    check_labels_elsewhere,
)
from .generation_lavit import LavitGenerationMixin
from .generation_settings_lavit import LavitGenerationConfig
from .guidance_lavit import combine_branches
from .labels_lavit import IGNORE_INDEX, count_items, mask_labels
from .modeling_lavit_model import LavitLanguagePreTrainedModel, LavitModel
from .optional_mixins_lavit import LavitExportMixin
from .precision_lavit import read_dtype


# Attributes of text configurations. `from_backbones` refuses a language model that gives them another meaning.
FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, MiniCPM3; Inkling
CAP = "final_logit_softcapping"  # Gemma


@dataclass
class LavitCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Output of [`LavitForCausalLM`]. The length L is the same as in [`LavitModelOutputWithPast`]. With `pack`, B and L
    are those of the packed rows, and `sequences` has neither a mask nor features of images.

    Args:
        loss (`torch.FloatTensor`, *optional*): Mean cross-entropy over the labels of text and codes.
        logits (`torch.FloatTensor` of shape `(B, L, vocab_size)`, *optional*): Scores of the next token.
        cache, hidden_states, attentions: Same as in `CausalLMOutputWithPast`.
        sequences ([`LavitSequences`], *optional*): Ids, masks and labels of length L. None without images and packing.
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
            The labels that the loss counts, at the positions of the expanded sequences; -100 where there is none.
        token_losses (`torch.FloatTensor` of shape `(num_labels,)`, *optional*):
            The cross-entropy of each label, row by row, if `skip_logits` is set.
    """

    sequences: LavitSequences | None = None
    labels: torch.LongTensor | None = None
    token_losses: torch.FloatTensor | None = None


class LavitForCausalLM(LavitExportMixin, LavitLanguagePreTrainedModel, LavitGenerationMixin):
    """
    LaVIT: one causal language model over text and the codes of images, which captions, answers and draws.

    Args:
        config ([`LavitConfig`]): The configuration.
        model ([`LavitModel`], *optional*): An existing model without a head. By default, a new one.
        lm_head (`nn.Linear`, *optional*): An existing head. By default, a new one.
    """

    # `Trainer` reads it, and passes `num_items_in_batch` to the model.
    accepts_loss_kwargs = True
    # New models take it. `adjust_generation_fn` sees to those that are loaded.
    generation_config_class = LavitGenerationConfig
    # transformers shards the language model by the plan of its own class, which does not know the head.
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
        # transformers asks for it before assisted generation, which has to take tokens back from the cache.
        self._is_stateful = self.model.language_model._is_stateful
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
        Builds a LaVIT around a vision model, or a visual tokenizer, and a causal language model. Selector, merger,
        codebook, visual adapter and the vocabulary rows of `[IMG]`, `[/IMG]`, codes and placeholder are new.

        Models that are given become parts of the LaVIT, and are not copied: the vocabulary of the language model is
        resized, and the vision model is frozen.

        Args:
            vision (`str`, `PreTrainedConfig` or `PreTrainedModel`):
                The vision tower: a folder or repository with pretrained weights, a configuration of a new tower, or
                the tower itself. A [`LavitVisualTokenizer`], or the folder or repository of one or of a whole LaVIT,
                is taken as the visual tokenizer.
            text (`str`, `PreTrainedConfig` or `PreTrainedModel`):
                The causal language model: a folder or repository, a configuration, or the model itself.
            num_text_tokens (`int`, *optional*):
                Number of ids of text, which is the id of `[IMG]`. By default, one more than the largest id of the
                tokenizer beside a named model, or else the vocabulary size of the language model.
            dtype (`torch.dtype` or `str`, *optional*):
                The dtype of all weights but those that stay float32, see [`LavitPreTrainedModel`]. By default, the
                wider dtype of the two backbones.
            copy_merger (`bool`, *optional*, defaults to `True`):
                Whether the merger and the positions of the visual adapter start as copies of the visual tokenizer's.
            kwargs: Arguments of [`LavitVisualTokenizerConfig`], such as `codebook_size` or `num_merger_layers`.

        Returns:
            [`LavitForCausalLM`]

        Raises:
            ValueError: If `vision` or `text` is no backbone, if `kwargs` are given for an existing visual tokenizer,
                if `dtype` is no floating-point dtype, or if a LaVIT does not compute the logits of the language model.
            TypeError: If one of `kwargs` is unknown.
        """
        dtype = read_dtype(dtype)
        loading = {} if dtype is None else {"dtype": dtype}
        visual_tokenizer = load_visual_tokenizer(vision, loading, kwargs)
        text_model = load_text_backbone(text, **loading)
        if dtype is None:
            dtype = torch.promote_types(visual_tokenizer.dtype, text_model.dtype)
        tokenizer_config = visual_tokenizer.config
        if num_text_tokens is None:
            num_text_tokens = count_text_tokens(text, text_model.config.vocab_size)
        make_room(text_model, num_text_tokens, visual_tokenizer.quantizer.codebook)

        lm_head = text_model.get_output_embeddings()
        # A part that is not named would get the implementation of the part that it is in.
        tower_attention = tokenizer_config.vision_config._attn_implementation
        attention = {
            "": text_model.config._attn_implementation,
            "visual_tokenizer_config": {"": tokenizer_config._attn_implementation, "vision_config": tower_attention},
        }
        config = LavitConfig(
            text_config=text_model.config,
            visual_tokenizer_config=tokenizer_config,
            image_start_token_id=num_text_tokens,
            lm_head_bias=lm_head.bias is not None,
            attn_implementation=attention,  # type: ignore[call-arg] # in all configurations
        )
        model = cls(config, LavitModel(config, visual_tokenizer, text_model.base_model), lm_head)
        check_logits(text_model, model)
        if copy_merger:
            model.model.visual_adapter.start_from(visual_tokenizer)
        model.generation_config.update(**text_model.generation_config.to_dict())
        # `from_pretrained` sets the same dtypes, so that a new and a loaded model save equal configurations.
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
        pack: bool = False,
        image_guidance_scale: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitCausalLMOutputWithPast:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`):
                Ids of text and codes, and image placeholders. With one placeholder for each code of an image, the
                sequences keep their length. With one placeholder for each image, the model replaces it by as many
                positions as the image has codes. Without images the model is an ordinary causal language model.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`, *optional*):
                All images of the batch in reading order. With `num_images = 0`, all parts of the model still run in
                training, as distributed training needs it.
            attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 at padding, on either side.
            position_ids (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Positions, which cannot be combined with one placeholder for each image. By default, positions that do
                not count padding.
            cache (`Cache`, *optional*): Keys and values of earlier positions.
            inputs_embeds (`torch.FloatTensor` of shape `(B, L, hidden_size)`, *optional*):
                Embeddings instead of `input_ids`. Placeholders are found by their embedding.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Ids to predict, -100 for none. The codes of an image are its labels, also if the image enters as
                features, unless the label of its placeholder is -100. Labels at padding and the label of the first
                token of a row are ignored.
            image_inputs (`"features"` or `"codes"`, or a list with one of these words per image, *optional*):
                How images enter. By default, as the configuration says.
            supervise_images (`bool`, *optional*):
                Whether the codes of images are labels. By default, as the configuration says.
            vision_features (`torch.FloatTensor` of shape `(num_images, N, vision_hidden_size)`, *optional*):
                Output of [`LavitVisualTokenizer.encode_vision`] for the images. The vision tower does not run then,
                and cannot be trained.
            keep_mask (`torch.BoolTensor` of shape `(num_images, N)`, *optional*):
                The patches to keep, instead of the decision of the selector.
            mm_encoder_outputs (`dict`, *optional*):
                `{"image": output}` with an output of `get_image_features`, instead of images, with one placeholder
                for each code. The codes are unknown then, and are no labels.
            mm_token_type_ids (`torch.LongTensor` of shape `(B, L)`, *optional*):
                1 at placeholders, as processors return it on request. Not used.
            use_cache (`bool`, *optional*): Whether to return keys and values.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Number of last positions whose logits are computed, or the positions themselves. 0 stands for all.
            skip_logits (`bool`, *optional*, defaults to `False`):
                With `labels`, computes logits only at positions with a label, and returns losses alone.
            pack (`bool`, *optional*, defaults to `False`):
                Whether the sequences are put side by side into few rows, once images are expanded, so that hardly any
                padding is computed. `use_cache` is ignored then, and outputs have the shape of these rows. The
                language model must keep packed sequences apart, as [`LavitForCausalLMTrainer`] finds out.
            image_guidance_scale (`torch.FloatTensor` of shape `(B / 2, L)`, *optional*):
                Set by `generate` under guidance, see [`combine_branches`].
            kwargs: Arguments that transformers has for every model, and arguments of the language model. Among them:
                `shift_labels` (B, L), the id that follows each position, accompanies `labels` in sequence parallel
                training without images. `num_items_in_batch` is the number of labels, as they are given, in all
                batches whose gradients are accumulated; the loss is then the share of this batch in the mean over all
                of them. Where the model changes the labels of a batch, for example since an image has one
                placeholder, the number of changed labels of all batches is estimated from the share in this one, which
                is exact for one batch. `Trainer` counts the labels of first tokens behind padding as well, which makes
                the loss of several batches smaller, by the same factor for all labels.

        Returns:
            [`LavitCausalLMOutputWithPast`]

        Raises:
            ValueError: If the number of placeholders is neither that of the images nor that of their codes (without
                images, a compiled model and one that continues a cache do not count), if images come with a filled
                cache, if `attention_mask` has another shape than the input, if `image_inputs` is unknown, if
                `image_inputs` or `keep_mask` come without images, if `vision_features` are given while the vision
                tower is trained, if a trainer compares labels with the logits of sequences that the model has made
                longer, if `pack` comes without labels or with positions, or if `output_router_logits` is set.
            TypeError: If an argument is unknown.
        """
        self._refuse_router_loss(kwargs.get("output_router_logits"), labels)
        # They are not in the signature, since `Trainer` would then expect them in every batch.
        shift_labels, num_items_in_batch = kwargs.pop("shift_labels", None), kwargs.pop("num_items_in_batch", None)
        given = labels, shift_labels, attention_mask
        if shift_labels is not None and (pixel_values is not None or vision_features is not None or pack):
            raise ValueError("shift_labels go neither with images, whose codes are labels as well, nor with pack.")
        if pack and labels is None:
            raise ValueError("pack needs labels, which move with their tokens.")
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
            pack=pack,
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
            num_items_in_batch = count_items(num_items_in_batch, labels, shift_labels, given)
        if sequences is not None:
            sequences.labels = labels
        loss, logits, token_losses = None, None, None
        if skip_logits and labels is not None:
            hidden_states = outputs.last_hidden_state
            loss, token_losses = self._compute_losses(hidden_states, labels, shift_labels, num_items_in_batch)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = compute_logits(self.lm_head, outputs.last_hidden_state[:, kept], self.config)
            if labels is not None:
                loss = self.loss_function(
                    logits=logits,
                    labels=labels,
                    vocab_size=logits.shape[-1],
                    num_items_in_batch=num_items_in_batch,
                    shift_labels=shift_labels,
                )
            if image_guidance_scale is not None:
                logits = combine_branches(logits, image_guidance_scale)
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

    def _refuse_router_loss(self, output_router_logits: bool | None, labels: torch.Tensor | None) -> None:
        """Raises a `ValueError` if a mixture of experts is asked for the loss that balances its experts."""
        if output_router_logits is None and labels is not None:
            output_router_logits = getattr(self.config.text_config, "output_router_logits", False)
        if output_router_logits:
            raise ValueError(
                "output_router_logits must be False, got True: the loss of a LaVIT has no part that balances experts."
            )

    def _compute_losses(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor,
        shift_labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Computes the loss, and the cross-entropy (num_labels,) of each label (B, L) but those of the first column in
        float32, from hidden states (B, L, hidden_size).
        """
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX) if shift_labels is None else shift_labels
        check_labels(labels, hidden_states)
        labels = labels.to(hidden_states.device)
        supervised = labels.flatten().ne(IGNORE_INDEX).nonzero()[:, 0]  # found once, since the host waits for it
        logits = compute_logits(self.lm_head, hidden_states.flatten(0, 1)[supervised], self.config)
        labels = labels.flatten()[supervised].to(logits.device)  # the head may be on another device
        losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.to(losses.device)
        return losses.sum() / num_items_in_batch, losses


def compute_logits(head: nn.Module, hidden_states: torch.Tensor, config: LavitConfig) -> torch.Tensor:
    """
    Computes the logits (..., vocab_size) of hidden states (..., hidden_size), with the scales and the cap of the
    language model.
    """
    logits = head(hidden_states)
    for name in FACTORS:
        if (factor := getattr(config.text_config, name, None)) is not None:
            logits = logits * factor
    for name in DIVISORS:
        if (divisor := getattr(config.text_config, name, None)) is not None:
            logits = logits / divisor
    if (cap := getattr(config.text_config, CAP, None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


# These tables name the class of a causal language model that reads and writes images. `Trainer` looks up the first one
# to shift labels when it smooths them, and the pipelines "text-generation" and "any-to-any" look up one each. Entries
# are made here, and not at registration, so that the code that travels with a checkpoint makes them as well.
for table in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES):
    table[LavitConfig.model_type] = LavitForCausalLM.__name__
