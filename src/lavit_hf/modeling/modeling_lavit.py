# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LaVIT (arXiv 2309.04669): one language model that reads and writes text and picture codes alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg

from .backbones_lavit import Backbone, count_text_tokens, load_text_backbone, load_visual_tokenizer, make_room
from .configuration_lavit import LavitConfig
from .generation_lavit import LavitGenerationMixin
from .head_lavit import all_logits, code_logits, is_plain
from .interop_lavit import LavitInteropMixin
from .modeling_lavit_tokenizer import (
    LavitTokenizerPreTrainedModel,
    LavitVisualAdapter,
    LavitVisualTokenizer,
    LavitVisualTokenizerOutput,
    PatchPartition,
)
from .publishing_lavit import LavitPublishingMixin
from .sequence_lavit import IGNORE_INDEX, LavitSequences, choose_features, count_error, expand_placeholders


@dataclass
class LavitCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    A causal language model's output over the sequences as they are once pictures have been put in, of length L.

    Args:
        loss (`torch.FloatTensor`, *optional*): Cross-entropy over text and codes, where labels are given.
        logits (`torch.FloatTensor` of shape `(B, L, vocab_size)`): Of the next token, text or code; None if skipped.
        cache, hidden_states, attentions: As of every causal language model.
        sequences ([`LavitSequences`], *optional*): Ids, masks and labels of length L, where pictures were given.
        token_losses (`torch.FloatTensor` of shape `(num_labels,)`, *optional*):
            Cross-entropy of each label, row by row, where logits are skipped. A row's first position is predicted by
            nothing, and its label is not among them.
    """

    sequences: LavitSequences | None = None
    token_losses: torch.FloatTensor | None = None


class LavitPreTrainedModel(LavitTokenizerPreTrainedModel):
    """Weight initialisation and loading shared by LaVIT's language models."""

    config: LavitConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    output_modalities = ("image", "text")
    _can_compile_fullgraph = True


class LavitModel(LavitPreTrainedModel):
    """
    Visual tokenizer, adapter and language model, without a head.

    The tokenizer is frozen: it is trained as a [`LavitVisualTokenizerForPreTraining`], before.

    Args:
        config ([`LavitConfig`]): Its shape.
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*), language_model (`PreTrainedModel`, *optional*):
            Parts that exist already, instead of new ones.
    """

    def __init__(
        self,
        config: LavitConfig,
        visual_tokenizer: LavitVisualTokenizer | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.visual_tokenizer = visual_tokenizer or LavitVisualTokenizer(config.visual_tokenizer_config)
        self.visual_adapter = LavitVisualAdapter(config.visual_tokenizer_config, config.text_config.hidden_size)
        self.language_model = language_model or AutoModel.from_config(config.text_config)
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True):
        """The visual tokenizer is frozen: it stays in evaluation mode, and its parameters ask for no gradient."""
        super().train(mode)
        self.visual_tokenizer.eval().requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs) -> BaseModelOutputWithPooling:
        """
        Pictures as the language model reads them.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`): Pictures.
            kwargs: What transformers passes to every model, and has no meaning here.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state`, the vision features (num_images, N, d), and
            `pooler_output`, a tuple with the features (num_codes, text_hidden_size) of each picture.
        """
        outputs = self._tokenize(pixel_values)
        features = self.visual_adapter(outputs.vision_features, outputs.partition)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.vision_features, pooler_output=features.split(outputs.num_codes.tolist())
        )

    @torch.no_grad()
    def _tokenize(self, pixel_values: torch.Tensor):
        # Under autocast a picture would get other codes than at inference and in a tokenized dataset.
        with torch.autocast(pixel_values.device.type, enabled=False):
            return self.visual_tokenizer(pixel_values)

    def expand_images(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.FloatTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        image_inputs: str | Sequence[str] | None = None,
        supervise_images: bool | None = None,
    ) -> LavitSequences:
        """
        Puts pictures into the sequences: in place of each placeholder its codes as ids and, as what is read there,
        either the embeddings of these codes or the adapter's features.

        Arguments and errors as of [`LavitForCausalLM.forward`]. Returns the sequences with `inputs_embeds`.
        """
        image_inputs = self.config.image_inputs if image_inputs is None else image_inputs
        chosen = choose_features(image_inputs, len(pixel_values))
        if supervise_images is None:
            supervise_images = self.config.supervise_images
        # A blank picture where there is none: in training all processes have to call the same modules.
        num_images, blank = len(pixel_values), pixel_values.new_zeros(1, *pixel_values.shape[1:])
        tokenized = self._tokenize(pixel_values if num_images else blank)
        sequences = expand_placeholders(
            self.config,
            input_ids,
            attention_mask,
            labels,
            tokenized.codes.to(input_ids.device)[: None if num_images else 0],
            tokenized.num_codes.to(input_ids.device)[:num_images],
            supervise_images,
        )
        inputs_embeds = self.get_input_embeddings()(sequences.input_ids)
        if chosen:
            features, image_mask = self._read(tokenized, chosen, sequences.image_mask)
            image_mask = image_mask[..., None].to(inputs_embeds.device)
            inputs_embeds = inputs_embeds.masked_scatter(image_mask, features.to(inputs_embeds))
        elif self.training:
            features, _ = self._read(tokenized, [0], sequences.image_mask)
            inputs_embeds = inputs_embeds + 0.0 * features.sum().to(inputs_embeds)
        sequences.inputs_embeds = inputs_embeds
        return sequences

    def _read(
        self, tokenized: LavitVisualTokenizerOutput, chosen: list[int], image_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The adapter's features of the pictures `chosen`, packed, and the positions (B, L) that they take."""
        vision_features, partition = tokenized.vision_features, tokenized.partition
        if len(chosen) < len(vision_features):
            indices = torch.tensor(chosen, device=vision_features.device)
            is_chosen = torch.zeros_like(tokenized.num_codes, dtype=torch.bool).index_fill(0, indices, True)
            per_code = is_chosen.repeat_interleave(tokenized.num_codes, output_size=len(tokenized.codes))
            image_mask = torch.zeros_like(image_mask).masked_scatter(image_mask, per_code.to(image_mask.device))
            vision_features, partition = vision_features[indices], PatchPartition(tokenized.keep_mask[indices])
        return self.visual_adapter(vision_features, partition), image_mask

    def check_no_placeholder(self, input_ids: torch.LongTensor) -> None:
        """Raises the ValueError of a placeholder in `input_ids` (B, L) for which there is no picture."""
        num_placeholders = int(input_ids.eq(self.config.image_token_id).sum())
        if num_placeholders:
            raise count_error(num_placeholders, 0)

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        image_inputs: str | Sequence[str] | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Arguments and errors as of [`LavitForCausalLM.forward`]. Returns the language model's output."""
        if pixel_values is not None:
            sequences = self.expand_images(input_ids, pixel_values, attention_mask, image_inputs=image_inputs)
            attention_mask, position_ids = sequences.attention_mask, sequences.position_ids
            input_ids, inputs_embeds = None, sequences.inputs_embeds
        elif cache is None and input_ids is not None and not torch.compiler.is_compiling():
            self.check_no_placeholder(input_ids)
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


class LavitForCausalLM(LavitPublishingMixin, LavitInteropMixin, LavitPreTrainedModel, LavitGenerationMixin):
    """
    LaVIT: captions, answers and draws as one causal language model over text and picture codes.

    Args:
        config ([`LavitConfig`]): Its shape.
        model ([`LavitModel`], *optional*), lm_head (`nn.Linear`, *optional*):
            Parts that exist already, instead of new ones.
    """

    # Trainer would divide the loss by the labels that it counts before placeholders become codes.
    accepts_loss_kwargs = False

    def __init__(self, config: LavitConfig, model: LavitModel | None = None, lm_head: nn.Linear | None = None):
        super().__init__(config)
        text_config = config.text_config
        self.model = model or LavitModel(config)
        self.lm_head = lm_head or nn.Linear(text_config.hidden_size, text_config.vocab_size, config.lm_head_bias)
        embeddings = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        # One made from the model's configuration would lose its custom entries, `image_generation`, when loaded.
        self.generation_config._from_model_config = False
        self.post_init()

    @classmethod
    def from_backbones(
        cls,
        vision: Backbone,
        text: Backbone,
        num_text_tokens: int | None = None,
        dtype=None,
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
            dtype (`torch.dtype`, *optional*): Of all weights. Default: the backbones' own.
            copy_merger (`bool`, *optional*, defaults to `True`):
                Whether the adapter's merger (and positions, if any) start as copies of the visual tokenizer's.
            kwargs: For [`LavitVisualTokenizerConfig`], say `codebook_size` or `num_merger_layers`.

        Raises:
            ValueError: something that is no backbone; settings for a visual tokenizer that has its own.
        """
        loading = {} if dtype is None else {"dtype": dtype}
        visual_tokenizer, vision_attention = load_visual_tokenizer(vision, loading, kwargs)
        text_model = load_text_backbone(text, **loading)
        # Read first: a configuration forgets its parts' choice of attention when it is put together.
        text_attention = text_model.config._attn_implementation
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
        )
        model = cls(config, LavitModel(config, visual_tokenizer, text_model.base_model), lm_head)
        if copy_merger:
            model.model.visual_adapter.start_from(visual_tokenizer)
        settings = text_model.generation_config.to_dict() | {"_from_model_config": False}
        model.generation_config.update(**settings)
        return model if dtype is None else model.to(dtype)

    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs) -> BaseModelOutputWithPooling:
        """Arguments and outputs as of [`LavitModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, **kwargs)

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
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        codes_only: bool = False,
        **kwargs,
    ) -> LavitCausalLMOutputWithPast:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`):
                Text, codes, and one placeholder for each picture of `pixel_values`. The placeholder becomes as many
                positions as its picture has codes; everything else is an ordinary causal language model.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`, *optional*):
                All pictures of the batch in reading order. There may be none: in training all parts then run none the
                less, so that processes with other batches can wait for each other's gradients.
            attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 at padding, on either side.
            position_ids (`torch.LongTensor` of shape `(B, L)`, *optional*): Only without pictures.
            cache (`Cache`, *optional*): Keys and values of the positions before.
            inputs_embeds (`torch.FloatTensor` of shape `(B, L, hidden_size)`, *optional*): Instead of ids.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Ids to predict, -100 for none. They are moved along with the placeholders, and a picture's codes are
                its labels also where its input is features, unless its placeholder's label is -100.
            image_inputs (`"features"` or `"codes"`, or a list of these words, one per picture, *optional*):
                Overrides the configuration's.
            supervise_images (`bool`, *optional*): Overrides the configuration's; False masks the codes out.
            use_cache (`bool`, *optional*): Whether to return keys and values.
            logits_to_keep (`int` or `torch.Tensor`, *optional*): Only the last positions' logits; 0 for all.
            skip_logits (`bool`, *optional*, defaults to `False`):
                With labels: run the head just where there is something to predict, and return losses alone.
            codes_only (`bool`, *optional*, defaults to `False`):
                Whether only the head's rows of `[/IMG]` and the codes are computed, where it is a plain linear layer;
                other logits are then -10,000.

        Returns:
            [`LavitCausalLMOutputWithPast`]

        Raises:
            ValueError: as many placeholders as pictures were expected; pictures together with `inputs_embeds`,
                `position_ids` or a filled cache; an unknown `image_inputs`.
        """
        sequences = None
        if pixel_values is not None:
            if input_ids is None or inputs_embeds is not None or position_ids is not None:
                raise ValueError("pixel_values go with input_ids, and with neither inputs_embeds nor position_ids.")
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError("pixel_values belong to the first forward of a sequence, got a filled cache.")
            sequences = self.model.expand_images(
                input_ids, pixel_values, attention_mask, labels, image_inputs, supervise_images
            )
            attention_mask, position_ids, labels = (
                sequences.attention_mask,
                sequences.position_ids,
                sequences.labels,
            )
            input_ids, inputs_embeds = None, sequences.inputs_embeds

        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        loss, logits, token_losses = None, None, None
        if skip_logits and labels is not None:
            token_losses = self._token_losses(outputs.last_hidden_state, labels)
            loss = token_losses.sum() / max(1, len(token_losses))
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            hidden_states = outputs.last_hidden_state[:, kept]
            compute = code_logits if codes_only and is_plain(self.lm_head) else all_logits
            logits = compute(self.lm_head, hidden_states, self.config)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return LavitCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            sequences=sequences,
            token_losses=token_losses,
        )

    def _token_losses(self, hidden_states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, L, d), labels (B, L) -> float32 cross-entropies of all labels but the first column's."""
        labels = labels[:, 1:].to(hidden_states.device)
        supervised = labels != IGNORE_INDEX
        logits = all_logits(self.lm_head, hidden_states[:, :-1][supervised], self.config)
        return nn.functional.cross_entropy(logits.float(), labels[supervised], reduction="none")


__all__ = ["LavitCausalLMOutputWithPast", "LavitForCausalLM", "LavitModel", "LavitPreTrainedModel"]
