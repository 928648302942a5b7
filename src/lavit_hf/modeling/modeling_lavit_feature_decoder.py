# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The feature decoder (arXiv 2309.04669, section 3.1), which rebuilds vision features from codes."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers import PreTrainedModel  # noqa: F401 # diffusers loads a component whose module has its base class
from transformers import initialization as init
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .arguments_lavit import check_keyword_arguments
from .codebook_lavit import init_codebook
from .configuration_lavit import LavitFeatureDecoderConfig
from .merger_lavit import LavitAttention, LavitBlock, PolicyAttend, masked_attend, recorded_outputs
from .pretrained_lavit import LavitPreTrainedModel, check_none_missing


@dataclass
class LavitFeatureDecoderOutput(ModelOutput):
    """
    Output of [`LavitFeatureDecoder`].

    Args:
        features (`torch.FloatTensor` of shape `(B, num_patches, feature_size)`): The rebuilt vision features.
        prompt_embeds (`torch.FloatTensor` of shape `(B, num_patches, sum(condition_dims))`, *optional*):
            The condition of the cross-attention of the U-Net.
        pooled_prompt_embeds (`torch.FloatTensor` of shape `(B, pooled_condition_dim)`, *optional*):
            The pooled condition of a U-Net of the SDXL kind.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, with `output_hidden_states=True`):
            The queries and the output of each block, of shape `(B, num_patches, hidden_size)`.
        attentions, cross_attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_attentions=True`):
            The attention weights of each block, of queries to each other of shape `(B, num_attention_heads,
            num_patches, num_patches)`, and of queries to codes of shape `(B, num_attention_heads, num_patches, L)`.
    """

    features: torch.FloatTensor | None = None
    prompt_embeds: torch.FloatTensor | None = None
    pooled_prompt_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


class LavitAttentionPool(LavitAttention):
    """Pools features into one vector by attention, with their mean as the query, as the ResNets of CLIP do."""

    def __init__(self, config: LavitFeatureDecoderConfig):
        super().__init__(config, config.feature_size)
        self.position_embeddings = nn.Parameter(torch.empty(config.num_patches + 1, config.feature_size))
        self.out_proj = nn.Linear(config.feature_size, config.pooled_condition_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # type: ignore[override] # queries are not given
        """Pools features (B, N, feature_size) into vectors (B, pooled_condition_dim)."""
        states = torch.cat([features.mean(dim=1, keepdim=True), features], dim=1) + self.position_embeddings
        return super().forward(states[:, :1], states, masked_attend)[0].squeeze(1)


class LavitFeatureDecoder(LavitPreTrainedModel):
    """
    Rebuilds the vision features of all patches of an image from its codes, and projects them to the conditions of a
    diffusion U-Net. It is a part of the pixel decoder, and has its own copy of the codebook.

    Args:
        config ([`LavitFeatureDecoderConfig`]): The configuration. `condition_dims` says which output head there is.
    """

    config: LavitFeatureDecoderConfig
    base_model_prefix = "feature_decoder"
    main_input_name = "codes"
    _keep_in_fp32_modules_strict = ["codebook$"]
    _can_record_outputs = recorded_outputs("num_hidden_layers")

    def __init__(self, config: LavitFeatureDecoderConfig):
        super().__init__(config)
        size = config.hidden_size
        self.register_buffer("codebook", torch.empty(config.codebook_size, config.code_dim, dtype=torch.float32))
        self.in_proj = nn.Linear(config.code_dim, size)
        self.position_embeddings = nn.Parameter(torch.empty(1, config.num_patches, size))
        self.queries = nn.Parameter(torch.empty(1, config.num_patches, size))
        self.layers = nn.ModuleList([LavitBlock(config, size) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.decode_head = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, config.feature_size))
        dims = config.condition_dims or []
        self.condition_projections = nn.ModuleList([nn.Linear(config.feature_size, dim) for dim in dims])
        self.attention_pool = LavitAttentionPool(config) if config.pooled_condition_dim else None
        if config.num_unconditional_tokens:
            shape = (1, config.num_unconditional_tokens, sum(dims))
            self.register_buffer("unconditional_embeds", torch.empty(shape))
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """
        Same arguments as `PreTrainedModel.from_pretrained`.

        Returns:
            [`LavitFeatureDecoder`], or with `output_loading_info=True` a tuple of it and a dictionary.

        Raises:
            ValueError: If the checkpoint lacks a weight, which would be initialized at random.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        check_none_missing(cls.__name__, sorted(info["missing_keys"]))
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, LavitFeatureDecoder):
            init_codebook(module.codebook)
            # With this deviation, the projections of the rows, which are unit vectors, have unit variance.
            init.normal_(module.in_proj.weight, std=1.0)
            init.normal_(module.position_embeddings, std=std)
            init.normal_(module.queries, std=0.3)
            if module.config.num_unconditional_tokens:
                init.zeros_(module.unconditional_embeds)
        elif isinstance(module, LavitAttentionPool):
            init.normal_(module.position_embeddings, std=std)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        codes: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        code_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitFeatureDecoderOutput:
        """
        Args:
            codes (`torch.LongTensor` of shape `(B, L)`, *optional*): Codes 0..codebook_size-1, padded on the right.
            attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*):
                1 at codes, 0 at padding. A mask of floats is a policy, see [`PolicyAttend`], whose zeros may be at
                any position.
            code_embeds (`torch.FloatTensor` of shape `(B, L, code_dim)`, *optional*):
                The vectors of codes, instead of `codes`.

        Returns:
            [`LavitFeatureDecoderOutput`]

        Raises:
            ValueError: If not exactly one of `codes` and `code_embeds` is given, or if the number L of codes is not
                between 1 and `num_patches`.
            TypeError: If an argument is unknown.
        """
        check_keyword_arguments(self, kwargs)
        if (codes is None) == (code_embeds is None):
            raise ValueError("Give either codes or code_embeds.")
        if code_embeds is None:
            code_embeds = nn.functional.embedding(codes, self.codebook)
        length = code_embeds.shape[1]
        if not 1 <= length <= self.config.num_patches:
            raise ValueError(f"An image has 1 to {self.config.num_patches} codes, got {length}.")

        cross_attend, cross_mask = masked_attend, None
        positions = self.position_embeddings[:, :length]
        if attention_mask is not None and attention_mask.is_floating_point():
            cross_attend, cross_mask = PolicyAttend(), attention_mask[:, None]
            known = (attention_mask > 0.5).long()
            positions = self.position_embeddings[0][known.cumsum(dim=-1) - known]
        elif attention_mask is not None:
            cross_mask = attention_mask.bool()[:, None].expand(-1, self.config.num_patches, -1)
        context = self.in_proj(code_embeds.to(self.in_proj.weight.dtype)) + positions
        hidden_states = self.queries.expand(context.shape[0], -1, -1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, context, masked_attend, cross_attend, None, cross_mask, **kwargs)
        features = self.decode_head(self.norm(hidden_states))

        conditions = [projection(features) for projection in self.condition_projections]
        return LavitFeatureDecoderOutput(
            features=features,
            prompt_embeds=torch.cat(conditions, dim=-1) if conditions else None,
            pooled_prompt_embeds=self.attention_pool(features) if self.attention_pool is not None else None,
        )
