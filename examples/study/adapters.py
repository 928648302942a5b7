# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Other ways for images to enter the language model, in place of the visual adapter of LaVIT: a projection of patches, as
LLaVA has it, and a resampler with learned queries, as Flamingo has it. The Q-Former of BLIP-2 is a kin of the latter.
"""

import torch
from torch import nn

from lavit_hf import LavitForCausalLM, LavitVisualTokenizer
from lavit_hf.modeling import LavitConfig, LavitVisualTokenizerConfig
from lavit_hf.modeling.merger_lavit import LavitBlock, PatchPartition, masked_attend


POSITIONS_STD = 0.3  # as in the visual adapter of LaVIT, so that no system knows places better than another


def make_mlp(input_size: int, hidden_size: int, output_size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, output_size))


class PatchAdapter(nn.Module):
    """
    The common part of adapters: learned positions, which are added to the features of patches if those of LaVIT have
    them as well.

    Args:
        config ([`LavitVisualTokenizerConfig`]): The configuration of the visual tokenizer.
        text_hidden_size (`int`): The width of the language model.
    """

    def __init__(self, config: LavitVisualTokenizerConfig, text_hidden_size: int):
        super().__init__()
        self.position_embeddings = None
        if config.encode_positions:
            self.position_embeddings = nn.Parameter(
                POSITIONS_STD * torch.randn(config.num_patches, config.hidden_size)
            )

    @torch.no_grad()
    def start_from(self, visual_tokenizer: LavitVisualTokenizer) -> None:
        """Copies the positions of a visual tokenizer, as LaVIT's own adapter does."""
        if self.position_embeddings is not None:
            self.position_embeddings.copy_(visual_tokenizer.quantizer.position_embeddings)

    def add_positions(self, vision_features: torch.Tensor) -> torch.Tensor:
        """Returns vision features (B, N, hidden_size) that tell the places of their patches."""
        return vision_features if self.position_embeddings is None else vision_features + self.position_embeddings


class LinearAdapter(PatchAdapter):
    """Projects each patch that the partition keeps. To read all patches, the visual tokenizer has to keep all."""

    def __init__(self, config: LavitVisualTokenizerConfig, text_hidden_size: int):
        super().__init__(config, text_hidden_size)
        self.projection = self.make_projection(config.hidden_size, text_hidden_size)

    def make_projection(self, hidden_size: int, text_hidden_size: int) -> nn.Module:
        """Makes the module that projects features of patches."""
        return nn.Linear(hidden_size, text_hidden_size)

    def forward(self, vision_features: torch.Tensor, partition: PatchPartition) -> torch.Tensor:
        """Returns features (T, text_hidden_size) of the T kept patches among vision features (B, N, hidden_size)."""
        patches = self.add_positions(vision_features).flatten(0, 1).index_select(0, partition.kept_index)
        return self.projection(patches)


class MlpAdapter(LinearAdapter):
    """Projects each patch by two layers, as LLaVA 1.5 does (arXiv 2310.03744)."""

    def make_projection(self, hidden_size: int, text_hidden_size: int) -> nn.Module:
        return make_mlp(hidden_size, text_hidden_size, text_hidden_size)


class ResamplerAdapter(PatchAdapter):
    """
    Turns all patches into a fixed number of features by learned queries, which attend to each other and to all patches
    (Flamingo, arXiv 2204.14198; BLIP-2, arXiv 2301.12597). It has as many blocks as the merger of LaVIT, of the same
    kind. The number of queries is the `num_codes` of the configuration, so that an image has as many placeholders.

    Args:
        config ([`LavitVisualTokenizerConfig`]): The configuration of the visual tokenizer.
        text_hidden_size (`int`): The width of the language model.

    Raises:
        ValueError: If `num_codes` is None.
    """

    def __init__(self, config: LavitVisualTokenizerConfig, text_hidden_size: int):
        super().__init__(config, text_hidden_size)
        if config.num_codes is None:
            raise ValueError("A resampler needs num_codes, the number of its queries, got None.")
        size = config.hidden_size
        self.queries = nn.Parameter(POSITIONS_STD * torch.randn(config.num_codes, size))
        self.context_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([LavitBlock(config, size) for _ in range(config.num_merger_layers)])
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(size, text_hidden_size)

    def forward(self, vision_features: torch.Tensor, partition: PatchPartition) -> torch.Tensor:
        """Returns features (B * num_codes, text_hidden_size) of vision features (B, N, hidden_size)."""
        context = self.context_norm(self.add_positions(vision_features))
        hidden_states = self.queries.expand(len(context), -1, -1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, context, masked_attend, masked_attend)
        return self.projection(self.norm(hidden_states)).flatten(0, 1)


class AdapterForCausalLM(LavitForCausalLM):
    """
    A language model that reads images through an adapter of `adapter_class`, in place of LaVIT's visual adapter.

    Args:
        config ([`LavitConfig`]): The configuration.
        args: Same as in [`LavitForCausalLM`].
    """

    adapter_class: type[PatchAdapter]

    def __init__(self, config: LavitConfig, *args):
        super().__init__(config, *args)
        adapter = self.adapter_class(config.visual_tokenizer_config, config.text_config.hidden_size)
        self.model.visual_adapter = adapter.apply(self.model._init_weights)  # as new weights of LaVIT's own adapter


class DroppedForCausalLM(LavitForCausalLM):
    """
    Reads the kept patches alone, in place of LaVIT's merger that folds the others into them.

    Args:
        config ([`LavitConfig`]): The configuration.
        args: Same as in [`LavitForCausalLM`].
    """

    def __init__(self, config: LavitConfig, *args):
        super().__init__(config, *args)
        drop_patches(self.model.visual_adapter.merger)


@torch.no_grad()
def drop_patches(merger: nn.Module) -> None:
    """
    Makes a merger fold nothing of the other patches into those that are kept: its cross-attention adds zero, and is
    not trained. The rest of its blocks stays as it is.
    """
    for layer in merger.layers:
        layer.cross_attn.out_proj.weight.zero_()
        layer.cross_attn.out_proj.bias.zero_()
        layer.cross_attn.requires_grad_(False)
        layer.cross_attn_norm.requires_grad_(False)
    merger.context_norm.requires_grad_(False)


class LinearForCausalLM(AdapterForCausalLM):
    """Reads all patches through a linear projection."""

    adapter_class = LinearAdapter


class MlpForCausalLM(AdapterForCausalLM):
    """Reads all patches through two layers."""

    adapter_class = MlpAdapter


class ResamplerForCausalLM(AdapterForCausalLM):
    """Reads the learned queries of a resampler."""

    adapter_class = ResamplerAdapter
