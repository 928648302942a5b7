# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The transformer block that merger and feature decoder share, and the ways its attentions see their keys.

A block computes projections and MLPs on whatever layout its input has. How queries meet keys is passed in as an
[`Attend`]: over a padded batch ([`MaskedAttend`]), over packed tokens of variable number ([`PackedAttend`]), or over
every position under a differentiable policy ([`PolicyAttend`]).
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


# (module, query, key, value), all of shape (..., hidden_size) -> the queries' outputs in the same shape
Attend = Callable[["LavitAttention", torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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
    Which patches of a batch are kept and which are folded into them, laid out for packed computing. Learning the
    counts is the one synchronisation with the device; everything that works on the same decision shares it.

    Args:
        keep_mask (`torch.BoolTensor` of shape `(B, N)`): The kept patches, at least one per picture.
    """

    def __init__(self, keep_mask: torch.Tensor):
        num_patches = keep_mask.shape[-1]
        counts = keep_mask.sum(dim=-1)
        kept = counts.tolist()
        # Where nothing is dropped, all patches are there to be folded in, all with the same weight: so the policy's
        # softmax, with which the merger was trained, has it.
        self.all_kept = counts == num_patches
        folded = [num_patches if count == num_patches else num_patches - count for count in kept]
        folded_mask = ~keep_mask | self.all_kept[:, None]
        self.kept = PackedLayout(counts, sum(kept), max(kept))
        self.folded = PackedLayout(folded_mask.sum(dim=-1), sum(folded), max(folded))
        self.kept_index = keep_mask.flatten().logical_not().argsort(stable=True)[: sum(kept)]
        self.folded_index = folded_mask.flatten().logical_not().argsort(stable=True)[: sum(folded)]

    def attends(self) -> tuple["PackedAttend", "PackedAttend"]:
        """How kept patches see kept ones (causally, in raster order), and how they see the folded ones."""
        length, device = self.kept.length, self.all_kept.device
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        self_attend = PackedAttend(self.kept, self.kept, causal & self.kept.mask[:, None])
        folded_mask = self.folded.mask[:, None].expand(-1, length, -1)
        return self_attend, PackedAttend(self.kept, self.folded, folded_mask, uniform_rows=self.all_kept)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out, for `attn_implementation="eager"`. Returns outputs (B, L, H, D) and weights."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MaskedAttend:
    """
    Attention over a padded batch, through transformers' attention interface: `eager` or else `sdpa`.

    Args:
        mask (`torch.BoolTensor` of shape `(B, Lq, Lk)` or `None`): True where a query sees a key.
    """

    def __init__(self, mask: torch.Tensor | None = None):
        self.mask = None if mask is None else mask[:, None]

    def __call__(self, module, query, key, value):
        # FlashAttention takes no mask of this form, and FlexAttention has nothing to gain on at most a few hundred
        # keys: backbones use them where asked to, these attentions are left to PyTorch's kernels.
        implementation = "eager" if module.config._attn_implementation == "eager" else "sdpa"
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        query, key, value = (module.split_heads(states).transpose(1, 2) for states in (query, key, value))
        outputs, _ = attention(module, query, key, value, self.mask, scaling=module.scaling, is_causal=False)
        return outputs.flatten(2)


class PackedAttend:
    """
    Attention of packed queries (Tq, d) over packed keys (Tk, d): padded just for the product itself, so that
    projections and MLPs are computed for real tokens only.

    Args:
        queries, keys (`PackedLayout`): Where the tokens belong.
        mask (`torch.BoolTensor` of shape `(B, Lq, Lk)`): True where a query sees a key.
        uniform_rows (`torch.BoolTensor` of shape `(B,)`, *optional*):
            Rows whose queries weigh all of their keys alike: zero queries do just that.
    """

    def __init__(self, queries: PackedLayout, keys: PackedLayout, mask: torch.Tensor, uniform_rows=None):
        self.queries, self.keys = queries, keys
        self.masked = MaskedAttend(mask)
        self.uniform_rows = uniform_rows

    def __call__(self, module, query, key, value):
        query, key, value = self.queries.pad(query), self.keys.pad(key), self.keys.pad(value)
        if self.uniform_rows is not None:
            query = query.masked_fill(self.uniform_rows[:, None, None], 0)
        return self.queries.pack(self.masked(module, query, key, value))


class PolicyAttend:
    """
    Attention in which a policy multiplies the softmax's numerators, as LaVIT's merger was trained (DynamicViT's
    masking): `(exp(a - max a) * policy + eps / N) / (sum(exp(a - max a) * policy) + eps)`, in float32. It carries the
    gradient of the policy, and is uniform where the policy allows no key at all.

    Args:
        policy (`torch.FloatTensor` of shape `(B, Lq or 1, N)`): 1 where a query sees a key, else 0.
        eps (`float`): As the authors have it by default. The smaller, the less shows through of keys that are not
            seen where these lead by far.
    """

    def __init__(self, policy: torch.Tensor, eps: float = 1e-6):
        self.policy = policy[:, None].float()
        self.eps = eps

    def _bounded(self, numerators: torch.Tensor) -> torch.Tensor:
        """
        The policy, with the gradient of a key that is not seen bounded by what seeing it would change: to first order
        its weight grows as `numerator / sum`, without end where it is the key that a query looks for, while in truth
        it arrives at `numerator / (sum + numerator)`.
        """
        if not self.policy.requires_grad:
            return self.policy
        policy = self.policy.detach()
        seen = (numerators * policy).sum(dim=-1, keepdim=True) + self.eps
        share = seen / (seen + numerators * (1 - policy))
        return policy + (self.policy - policy) * share

    def __call__(self, module, query, key, value):
        query, key, value = (module.split_heads(states).transpose(1, 2) for states in (query, key, value))
        scores = torch.matmul(query.float() * module.scaling, key.float().transpose(-1, -2))
        numerators = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        weights = numerators * self._bounded(numerators.detach())
        weights = (weights + self.eps / key.shape[-2]) / (weights.sum(dim=-1, keepdim=True) + self.eps)
        return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).flatten(2)


class LavitAttention(nn.Module):
    """Multi-head attention whose keys come from `context`, and whose queries see them as `attend` says."""

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

    def forward(self, hidden_states: torch.Tensor, context: torch.Tensor, attend: Attend) -> torch.Tensor:
        query, key, value = self.q_proj(hidden_states), self.k_proj(context), self.v_proj(context)
        return self.out_proj(attend(self, query, key, value))


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
        self, hidden_states: torch.Tensor, context: torch.Tensor, self_attend: Attend, cross_attend: Attend
    ) -> torch.Tensor:
        normed = self.self_attn_norm(hidden_states)
        hidden_states = hidden_states + self.self_attn(normed, normed, self_attend)
        hidden_states = hidden_states + self.cross_attn(self.cross_attn_norm(hidden_states), context, cross_attend)
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))
