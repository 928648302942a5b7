# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The merger (paper, section 3.1), which folds dropped patches into kept ones, and the block it shares with the feature
decoder.

A block computes projections and MLPs on whatever layout its input has. How queries meet keys is passed in as an
[`Attend`]: over a padded batch ([`masked_attend`]), over packed tokens of variable number ([`PackedAttend`]), or over
every position under a differentiable policy ([`PolicyAttend`]). Which keys a query sees is a tensor beside it, the
mask: a gradient reaches a tensor argument through either kind of gradient checkpointing.
"""

from collections.abc import Callable
from typing import Unpack

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder

from .configuration_lavit import LavitVisualTokenizerConfig


# (module, query, key, value, mask), where query, key and value have shape (..., hidden_size) and mask (B, Lq, Lk)
# -> the queries' outputs in the shape of query, and the weights (B, num_heads, Lq, Lk) or None
Attend = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


class PackedLayout:
    """
    Where the tokens of a packed tensor (T, ...) stand in a padded one (B, L, ...), row by row, pads on the right.

    Args:
        counts (`torch.LongTensor` of shape `(B,)`): Tokens of each row.
        total (`int`), length (`int`):
            Their sum T and their maximum L. Given, because reading them off a device is a synchronisation that the
            caller has already paid for.
    """

    def __init__(self, counts: torch.Tensor, total: int, length: int):
        self.counts = counts
        self.length = length
        row = torch.repeat_interleave(counts, output_size=total)
        column = torch.arange(total, device=counts.device) - (counts.cumsum(0) - counts)[row]
        self._place = row * length + column

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """(T, ...) -> (B, L, ...), zeros where there is no token."""
        padded = packed.new_zeros(self.counts.shape[0] * self.length, *packed.shape[1:])
        return padded.index_copy(0, self._place, packed).unflatten(0, (-1, self.length))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(B, L, ...) -> (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self._place)

    @property
    def mask(self) -> torch.Tensor:
        """(B, L) bool, True where a token stands."""
        return torch.arange(self.length, device=self.counts.device) < self.counts[:, None]


class PatchPartition:
    """
    The kept patches of a batch and those that are folded into them, laid out for packed computing. Learning the
    counts is the one synchronisation with the device; everything that works on the same decision shares it.

    Args:
        keep_mask (`torch.BoolTensor` of shape `(B, N)`): The kept patches, at least one per image.

    Raises:
        ValueError: an image of which no patch is kept.
    """

    def __init__(self, keep_mask: torch.Tensor):
        num_patches = keep_mask.shape[-1]
        counts = keep_mask.sum(dim=-1)
        kept = counts.tolist()
        if 0 in kept:
            raise ValueError(
                f"Image {kept.index(0)} keeps no patch: its pixel_values or vision_features are not finite numbers."
            )
        # Where nothing is dropped, all patches are folded in with the same weight, as in PolicyAttend.
        self.all_kept = counts == num_patches
        folded = [num_patches if count == num_patches else num_patches - count for count in kept]
        folded_mask = ~keep_mask | self.all_kept[:, None]
        self.kept = PackedLayout(counts, sum(kept), max(kept))
        self.folded = PackedLayout(folded_mask.sum(dim=-1), sum(folded), max(folded))
        self.kept_index = keep_mask.flatten().logical_not().argsort(stable=True)[: sum(kept)]
        self.folded_index = folded_mask.flatten().logical_not().argsort(stable=True)[: sum(folded)]

    def attends(self) -> tuple["PackedAttend", "PackedAttend", torch.Tensor, torch.Tensor]:
        """
        How kept patches meet kept ones and how they meet the folded ones, followed by the masks of both: kept patches
        see kept ones at or before them in raster order, and all folded ones.
        """
        length, device = self.kept.length, self.all_kept.device
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return (
            PackedAttend(self.kept, self.kept),
            PackedAttend(self.kept, self.folded, uniform_rows=self.all_kept),
            causal & self.kept.mask[:, None],
            self.folded.mask[:, None].expand(-1, length, -1),
        )


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out, for `attn_implementation="eager"`. Returns outputs (B, L, H, D) and weights."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def masked_attend(module, query, key, value, mask: torch.Tensor | None = None, **kwargs):
    """
    Attention over a padded batch, through transformers' attention interface: `eager` or else `sdpa`.

    Args:
        module ([`LavitAttention`]): The attention, for its heads and its implementation.
        query (`torch.Tensor` of shape `(B, Lq, hidden_size)`): Queries.
        key, value (`torch.Tensor` of shape `(B, Lk, hidden_size)`): Keys and values.
        mask (`torch.BoolTensor` of shape `(B, Lq, Lk)`, *optional*): True where a query sees a key.
        kwargs: For transformers' attention, which warns where `output_attentions` is asked of `sdpa`.

    Returns:
        The outputs `(B, Lq, hidden_size)`, and the weights `(B, num_heads, Lq, Lk)` or, with `sdpa`, None.
    """
    # FlashAttention takes no mask of this form, and FlexAttention has nothing to gain on at most a few hundred
    # keys: backbones use them where asked to, these attentions are left to PyTorch's kernels.
    implementation = "eager" if module.config._attn_implementation == "eager" else "sdpa"
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    query, key, value = (module.split_heads(states).transpose(1, 2) for states in (query, key, value))
    mask = None if mask is None else mask[:, None]
    kwargs = kwargs | {"scaling": module.scaling, "is_causal": False}
    outputs, weights = attention(module, query, key, value, mask, **kwargs)
    return outputs.flatten(2), weights


class PackedAttend:
    """
    Attention of packed queries (Tq, d) over packed keys (Tk, d): padded just for the product itself, so that
    projections and MLPs are computed for real tokens only. Its weights are those of the padded batch.

    Args:
        queries, keys (`PackedLayout`): Where the tokens belong.
        uniform_rows (`torch.BoolTensor` of shape `(B,)`, *optional*):
            Rows whose queries weigh all of their keys alike: zero queries do just that.
    """

    def __init__(self, queries: PackedLayout, keys: PackedLayout, uniform_rows: torch.Tensor | None = None):
        self.queries, self.keys = queries, keys
        self.uniform_rows = uniform_rows

    def __call__(self, module, query, key, value, mask: torch.Tensor, **kwargs):
        query, key, value = self.queries.pad(query), self.keys.pad(key), self.keys.pad(value)
        if self.uniform_rows is not None:
            query = query.masked_fill(self.uniform_rows[:, None, None], 0)
        outputs, weights = masked_attend(module, query, key, value, mask, **kwargs)
        return self.queries.pack(outputs), weights


class PolicyAttend:
    """
    Attention whose mask is a policy, 1.0 where a query sees a key and 0.0 elsewhere, with a gradient (DynamicViT's
    masking). The weights, in float32, are `(n + eps / N) / (sum(n) + eps)`, where N is the number of keys and
    `n = exp(score - largest score)` of a key that is seen, 0 of the others. A query that sees no key weighs all of
    them alike.

    Args:
        smoothing (`float`, *optional*, defaults to 0.0):
            The `eps`. With 0.0 this is an exact masked softmax. The authors have 1e-6 and measure scores from the
            largest of all keys: where a key that is not seen leads by far, the weights tend to the uniform ones.
    """

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = smoothing

    def _weigh(self, scores: torch.Tensor, policy: torch.Tensor) -> torch.Tensor:
        """Scores (B, num_heads, Lq, N) and a policy (B, 1, Lq or 1, N), both float32 -> weights."""
        seen = policy > 0.5
        lowest = torch.finfo(scores.dtype).min
        largest = (scores if self.smoothing else scores.masked_fill(~seen, lowest)).amax(dim=-1, keepdim=True)
        scores = scores - largest
        numerators = scores.masked_fill(~seen, -torch.inf).exp()
        eps = self.smoothing or 1.0 - seen.any(dim=-1, keepdim=True).float()
        if policy.requires_grad:
            # To first order a key's weight grows with its policy as `n / sum(n)`, without end where a key that is not
            # seen leads by far. Its gradient is that of what seeing it would change: the weight `n / (sum(n) + n)`.
            total = (numerators + eps / scores.shape[-1]).sum(dim=-1, keepdim=True).detach()
            bounded = total * (scores - total.log()).sigmoid()
            slope = torch.where(seen, numerators, bounded).detach()
            numerators = numerators + (policy - policy.detach()) * slope
        return (numerators + eps / scores.shape[-1]) / (numerators.sum(dim=-1, keepdim=True) + eps)

    def __call__(self, module, query, key, value, policy: torch.Tensor, **kwargs):
        query, key, value = (module.split_heads(states).transpose(1, 2) for states in (query, key, value))
        scores = torch.matmul(query.float() * module.scaling, key.float().transpose(-1, -2))
        weights = self._weigh(scores, policy[:, None].float())
        return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).flatten(2), weights


class LavitAttention(nn.Module):
    """Multi-head attention whose keys come from `context`; `attend` computes it, where `mask` says what is seen."""

    def __init__(self, config, hidden_size: int):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (hidden_size // self.num_heads) ** -0.5
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1))

    def forward(
        self,
        hidden_states: torch.Tensor,
        context: torch.Tensor,
        attend: Attend,
        mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.q_proj(hidden_states), self.k_proj(context), self.v_proj(context)
        outputs, weights = attend(self, query, key, value, mask, **kwargs)
        return self.out_proj(outputs), weights


class LavitMLP(nn.Module):
    def __init__(self, config, hidden_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class LavitBlock(GradientCheckpointingLayer):
    """Self-attention, cross-attention to an unchanging context, MLP; each on a LayerNorm of its input, residual."""

    def __init__(self, config, hidden_size: int):
        super().__init__()
        self.self_attn_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.self_attn = LavitAttention(config, hidden_size)
        self.cross_attn_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.cross_attn = LavitAttention(config, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = LavitMLP(config, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        context: torch.Tensor,
        self_attend: Attend,
        cross_attend: Attend,
        self_mask: torch.Tensor | None = None,
        cross_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        normed = self.self_attn_norm(hidden_states)
        hidden_states = hidden_states + self.self_attn(normed, normed, self_attend, self_mask, **kwargs)[0]
        normed = self.cross_attn_norm(hidden_states)
        hidden_states = hidden_states + self.cross_attn(normed, context, cross_attend, cross_mask, **kwargs)[0]
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class LavitMerger(nn.Module):
    """
    Folds the dropped patches into the kept ones: kept patches see kept ones before them in raster order, and by
    cross-attention all dropped ones.
    """

    def __init__(self, config: LavitVisualTokenizerConfig):
        super().__init__()
        size = config.hidden_size
        self.attention_smoothing = config.attention_smoothing
        self.context_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([LavitBlock(config, size) for _ in range(config.num_merger_layers)])
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(
        self,
        vision_features: torch.Tensor,
        partition: PatchPartition | None = None,
        policy: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Takes one of two paths. The packed path computes the kept positions only. The dense path computes every
        position and carries the policy's gradient to the selector. Both agree at the kept positions, except for the
        configuration's `attention_smoothing`, which the dense path alone applies.

        Args:
            vision_features (`torch.FloatTensor` of shape `(B, N, hidden_size)`): All patches.
            partition ([`PatchPartition`], *optional*): The kept and the dropped patches, for the packed path.
            policy (`torch.FloatTensor` of shape `(B, N)`, *optional*):
                The decision as 0.0 and 1.0, for the dense path.

        Returns:
            `torch.FloatTensor`: on the packed path, the kept patches of all images one after the other,
            `(T, hidden_size)`; on the dense path, `(B, N, hidden_size)`, where the dropped positions mean nothing.
        """
        if policy is None:
            hidden_states, context = (
                vision_features.flatten(0, 1).index_select(0, index)
                for index in (partition.kept_index, partition.folded_index)
            )
            self_attend, cross_attend, self_mask, cross_mask = partition.attends()
        else:
            hidden_states = context = vision_features
            itself = torch.eye(policy.shape[-1], device=policy.device, dtype=policy.dtype)
            before = torch.ones_like(itself).tril(-1)
            # A query also sees itself; at dropped positions, whose outputs are thrown away, too.
            self_mask, cross_mask = before * policy[:, None] + itself, 1 - policy[:, None]
            self_attend = cross_attend = PolicyAttend(self.attention_smoothing)
        context = self.context_norm(context)
        for layer in self.layers:
            hidden_states = layer(hidden_states, context, self_attend, cross_attend, self_mask, cross_mask, **kwargs)
        return self.norm(hidden_states)


class LavitVisualAdapter(nn.Module):
    """Continuous features of the kept patches, for images that are read: a merger of its own and a projection."""

    def __init__(self, config: LavitVisualTokenizerConfig, text_hidden_size: int):
        super().__init__()
        self.merger = LavitMerger(config)
        self.position_embeddings = None
        if config.encode_positions:
            self.position_embeddings = nn.Parameter(torch.empty(config.num_patches, config.hidden_size))
        self.projection = nn.Linear(config.hidden_size, text_hidden_size)

    @torch.no_grad()
    def start_from(self, visual_tokenizer: nn.Module) -> None:
        """Copies the merger and the positions of a trained visual tokenizer."""
        self.merger.load_state_dict(visual_tokenizer.merger.state_dict())
        if self.position_embeddings is not None:
            self.position_embeddings.copy_(visual_tokenizer.quantizer.position_embeddings)

    def forward(self, vision_features: torch.Tensor, partition: PatchPartition) -> torch.Tensor:
        """Features (B, N, d) and the T kept patches among them -> (T, text_hidden_size)."""
        features = self.merger(vision_features, partition)
        if self.position_embeddings is not None:
            features = features + self.position_embeddings[partition.kept_index % vision_features.shape[1]]
        return self.projection(features)


def recorded_outputs(num_hidden_layers_key: str) -> dict[str, OutputRecorder]:
    """The `_can_record_outputs` of a model whose configuration has the number of its blocks under that key."""
    return {
        "hidden_states": OutputRecorder(LavitBlock, num_hidden_layers_key=num_hidden_layers_key),
        "attentions": OutputRecorder(LavitAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(LavitAttention, index=1, layer_name="cross_attn"),
    }
