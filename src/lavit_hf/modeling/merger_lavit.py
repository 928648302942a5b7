# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The merger (paper, section 3.1), which folds dropped patches into kept ones, and the block that it shares with the
feature decoder.

The projections and the MLP of a block do not depend on the layout of its input. The attention product does, and is an
argument, an [`Attend`]: over a padded batch ([`masked_attend`]), over packed tokens whose number varies by image
([`PackedAttend`]), or over all positions under a differentiable policy ([`PolicyAttend`]). The mask is an argument of
its own, since both kinds of gradient checkpointing hand gradients to tensor arguments only.
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
from .ragged_lavit import find_true, put_at, rows_and_columns


# Takes (module, query, key, value, mask), where query, key and value have shape (..., hidden_size) and mask has shape
# (B, Lq, Lk). Returns outputs of the shape of query, and the weights (B, num_heads, Lq, Lk) or None.
Attend = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


class PackedLayout:
    """
    Converts between a packed tensor (T, ...), row after row, and a tensor (B, L, ...) that is padded on the right.

    Args:
        counts (`torch.LongTensor` of shape `(B,)`): Number of tokens of each row.
        total (`int`): The sum T of `counts`. It is an argument, since reading it would synchronize with the device.
        length (`int`): The maximum L of `counts`.
    """

    def __init__(self, counts: torch.Tensor, total: int, length: int):
        self.counts = counts
        self.length = length
        rows, columns = rows_and_columns(counts, total)
        self._place = rows * length + columns

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """Turns (T, ...) into (B, L, ...), with zeros at padding."""
        return put_at(packed, self._place, (len(self.counts), self.length))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Turns (B, L, ...) into (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self._place)

    @property
    def mask(self) -> torch.Tensor:
        """The mask (B, L), True at tokens and False at padding."""
        return torch.arange(self.length, device=self.counts.device) < self.counts[:, None]


class PatchPartition:
    """
    The layouts of the kept patches of a batch, and of the patches that are folded into them. Reading the numbers of
    kept patches is the only synchronization with the device, which all users of a partition share.

    Args:
        keep_mask (`torch.BoolTensor` of shape `(B, N)`): The kept patches, at least one of each image.

    Raises:
        ValueError: If no patch of an image is kept.
    """

    def __init__(self, keep_mask: torch.Tensor):
        self.keep_mask = keep_mask
        num_patches = keep_mask.shape[-1]
        counts = keep_mask.sum(dim=-1)
        kept = counts.tolist()
        if 0 in kept:
            raise ValueError(
                f"At least one patch of each image must be kept, but none is kept of image {kept.index(0)}: give "
                "another keep_mask, or pixel_values or vision_features that are finite numbers."
            )
        # If no patch is dropped, all patches are folded in with equal weights, as in `PolicyAttend`.
        self.all_kept = counts == num_patches
        folded = [num_patches if count == num_patches else num_patches - count for count in kept]
        folded_mask = ~keep_mask | self.all_kept[:, None]
        self.kept = PackedLayout(counts, sum(kept), max(kept))
        self.folded = PackedLayout(folded_mask.sum(dim=-1), sum(folded), max(folded))
        self.kept_index, self.folded_index = find_true(keep_mask, sum(kept)), find_true(folded_mask, sum(folded))

    @property
    def positions(self) -> torch.LongTensor:
        """The index (T,) of each kept patch in its image."""
        return self.kept_index % self.keep_mask.shape[-1]

    def attends(self) -> tuple["PackedAttend", "PackedAttend", torch.Tensor, torch.Tensor]:
        """
        Returns the `Attend`s of self-attention and cross-attention, followed by their masks. A kept patch sees the
        kept patches up to itself in raster order, and all folded patches.
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
    """Computes attention step by step, for `attn_implementation="eager"`. Returns outputs (B, L, H, D) and weights."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def masked_attend(module, query, key, value, mask: torch.Tensor | None = None, **kwargs):
    """
    Computes attention over a padded batch through the attention interface of transformers, with `eager` or `sdpa`.

    Args:
        module ([`LavitAttention`]): The attention module, whose heads and implementation are used.
        query (`torch.Tensor` of shape `(B, Lq, hidden_size)`): Queries.
        key, value (`torch.Tensor` of shape `(B, Lk, hidden_size)`): Keys and values.
        mask (`torch.BoolTensor` of shape `(B, Lq, Lk)`, *optional*): True where a query sees a key.
        kwargs: Further arguments of the attention interface.

    Returns:
        The outputs `(B, Lq, hidden_size)`, and the weights `(B, num_heads, Lq, Lk)`, or None with `sdpa`.
    """
    # FlashAttention takes no mask of this form, and FlexAttention gains nothing on at most a few hundred keys. If they
    # are asked for, the backbones use them and these attentions use `sdpa`.
    implementation = "eager" if module.config._attn_implementation == "eager" else "sdpa"
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    query, key, value = (module.split_heads(states).transpose(1, 2) for states in (query, key, value))
    mask = None if mask is None else mask[:, None]
    kwargs = kwargs | {"scaling": module.scaling, "is_causal": False}
    outputs, weights = attention(module, query, key, value, mask, **kwargs)
    return outputs.flatten(2), weights


class PackedAttend:
    """
    Computes attention of packed queries (Tq, d) over packed keys (Tk, d). Only the product is computed on padded
    tensors, so that projections and MLPs see no padding. The returned weights are those of the padded batch.

    Args:
        queries ([`PackedLayout`]): The layout of the queries.
        keys ([`PackedLayout`]): The layout of the keys.
        uniform_rows (`torch.BoolTensor` of shape `(B,)`, *optional*):
            Rows whose queries weigh all keys equally. Their queries are set to zero.
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
    Computes attention whose mask is a policy with a gradient, 1.0 where a query sees a key and 0.0 elsewhere, as in
    DynamicViT (arXiv 2106.02034). The float32 weights are `(n + eps / N) / (sum(n) + eps)`, where N is the number of
    keys, and n is `exp(score - largest score)` for a visible key and 0 for other keys. A query that sees no key weighs
    all keys equally.

    Args:
        smoothing (`float`, *optional*, defaults to 0.0):
            The `eps`. With 0.0, the weights are an exact masked softmax. The authors use 1e-6, and the largest score
            of all keys: the weights approach uniform ones if the score of an invisible key is far larger than others.
    """

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = smoothing

    def _weigh(self, scores: torch.Tensor, policy: torch.Tensor) -> torch.Tensor:
        """Returns the weights of float32 scores (B, num_heads, Lq, N) under a float32 policy (B, 1, Lq or 1, N)."""
        seen = policy > 0.5
        lowest = torch.finfo(scores.dtype).min
        largest = (scores if self.smoothing else scores.masked_fill(~seen, lowest)).amax(dim=-1, keepdim=True)
        scores = scores - largest
        numerators = scores.masked_fill(~seen, -torch.inf).exp()
        eps = self.smoothing or 1.0 - seen.any(dim=-1, keepdim=True).float()
        if policy.requires_grad:
            # The first-order change of a key's weight with its policy, `n / sum(n)`, is unbounded if the score of an
            # invisible key is far larger than others. The gradient uses the weight that the key would have if it were
            # visible, `n / (sum(n) + n)`.
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
    """Multi-head attention with keys and values from `context`. The product is computed by `attend` under `mask`."""

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
    """Self-attention, cross-attention to a constant context, and an MLP, each with a LayerNorm and a residual."""

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
    Folds the dropped patches into the kept ones. Self-attention shows a kept patch the kept patches up to itself in
    raster order, and cross-attention shows it all dropped patches.
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
        Takes one of two paths. The packed path computes only the kept positions. The dense path computes all positions
        and carries the gradient of the policy to the selector. Both agree at the kept positions, apart from the
        `attention_smoothing` of the configuration, which only the dense path applies.

        Args:
            vision_features (`torch.FloatTensor` of shape `(B, N, hidden_size)`): All patches.
            partition ([`PatchPartition`], *optional*): The kept and the dropped patches, for the packed path.
            policy (`torch.FloatTensor` of shape `(B, N)`, *optional*):
                The decision of the selector as 0.0 and 1.0, for the dense path.

        Returns:
            `torch.FloatTensor`: The kept patches of all images, one image after the other, of shape
            `(T, hidden_size)` on the packed path. On the dense path, all patches of shape `(B, N, hidden_size)`, of
            which those at dropped positions are to be ignored.
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
            # Every query sees itself, also at dropped positions, whose outputs are ignored.
            self_mask, cross_mask = before * policy[:, None] + itself, 1 - policy[:, None]
            self_attend = cross_attend = PolicyAttend(self.attention_smoothing)
        context = self.context_norm(context)
        for layer in self.layers:
            hidden_states = layer(hidden_states, context, self_attend, cross_attend, self_mask, cross_mask, **kwargs)
        return self.norm(hidden_states)


class LavitVisualAdapter(nn.Module):
    """Computes the features with which images enter the language model, by a merger of its own and a projection."""

    def __init__(self, config: LavitVisualTokenizerConfig, text_hidden_size: int):
        super().__init__()
        self.merger = LavitMerger(config)
        self.position_embeddings = None
        if config.encode_positions:
            self.position_embeddings = nn.Parameter(torch.empty(config.num_patches, config.hidden_size))
        self.projection = nn.Linear(config.hidden_size, text_hidden_size)

    @torch.no_grad()
    def start_from(self, visual_tokenizer: nn.Module) -> None:
        """Copies the weights of the merger and the positions of a visual tokenizer."""
        self.merger.load_state_dict(visual_tokenizer.merger.state_dict())
        if self.position_embeddings is not None:
            self.position_embeddings.copy_(visual_tokenizer.quantizer.position_embeddings)

    def forward(self, vision_features: torch.Tensor, partition: PatchPartition) -> torch.Tensor:
        """Returns features (T, text_hidden_size) of the T kept patches among vision features (B, N, hidden_size)."""
        features = self.merger(vision_features, partition)
        if self.position_embeddings is not None:
            features = features + self.position_embeddings[partition.positions]
        return self.projection(features)


def read_blank(adapter: nn.Module, config: LavitVisualTokenizerConfig) -> torch.Tensor:
    """Returns the features (1, text_hidden_size) that an adapter reads in an image of which one patch is kept."""
    weight = next(adapter.parameters())
    first = torch.arange(config.num_patches, device=weight.device)[None] == 0
    return adapter(weight.new_zeros(1, config.num_patches, config.hidden_size), PatchPartition(first))


def recorded_outputs(num_hidden_layers_key: str) -> dict[str, OutputRecorder]:
    """Returns the `_can_record_outputs` of a model whose configuration has its number of blocks under this key."""
    return {
        "hidden_states": OutputRecorder(LavitBlock, num_hidden_layers_key=num_hidden_layers_key),
        "attentions": OutputRecorder(LavitAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(LavitAttention, index=1, layer_name="cross_attn"),
    }
