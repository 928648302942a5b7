# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The selector (paper, section 3.1), which decides which patches of an image are kept."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_lavit import LavitVisualTokenizerConfig
from .distributed_lavit import share_of_batch


class LavitSelector(nn.Module):
    """Predicts the probability of keeping each patch from the patch itself and the mean of all patches."""

    def __init__(self, config: LavitVisualTokenizerConfig):
        super().__init__()
        size = config.hidden_size
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.in_proj = nn.Linear(size, size)
        self.fc1 = nn.Linear(size, size // 2)
        self.fc2 = nn.Linear(size // 2, size // 4)
        self.out_proj = nn.Linear(size // 4, 2)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        """Returns float32 log-probabilities (B, N, 2) of keeping (0) and dropping (1) patches (B, N, hidden_size)."""
        hidden_states = self.activation(self.in_proj(self.norm(vision_features)))
        own, shared = hidden_states.chunk(2, dim=-1)
        shared = shared.mean(dim=1, keepdim=True).expand_as(own)
        hidden_states = self.activation(self.fc1(torch.cat([own, shared], dim=-1)))
        logits = self.out_proj(self.activation(self.fc2(hidden_states)))
        return logits.log_softmax(dim=-1, dtype=torch.float32)


def gumbel_noise(shape: torch.Size, generator: torch.Generator | None = None, device=None) -> torch.Tensor:
    """Draws float32 Gumbel noise on the device of the generator, so that a seed of the CPU gives the same on a GPU."""
    exponential = torch.empty(shape, device=generator.device if generator is not None else device)
    return -exponential.exponential_(generator=generator).log().to(device)


def sample_policy(log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    Samples the decision (B, N) of training, 1.0 for kept patches and 0.0 for others, with the gradient of its
    relaxation (Gumbel-softmax, Jang et al., arXiv 1611.01144). At least one patch of each image is kept.
    """
    rows, total = share_of_batch(len(log_probs), log_probs.device)
    noise = gumbel_noise((total, *log_probs.shape[1:]), device=log_probs.device)[rows]
    probs = ((log_probs + noise) / temperature).softmax(dim=-1)[..., 0]
    keep_mask = keep_at_least_one(probs > 0.5, log_probs[..., 0])
    return probs + (keep_mask.to(probs.dtype) - probs).detach()


def select_patches(log_probs: torch.Tensor, selection: str, generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Decides which patches are kept, at least one of each image.

    Args:
        log_probs (`torch.FloatTensor` of shape `(B, N, 2)`):
            Log-probabilities of keeping (index 0) and dropping each patch.
        selection (`str`): `"topk"`, `"sample"` or `"argmax"`, see [`LavitVisualTokenizerConfig`].
        generator (`torch.Generator`, *optional*): Random numbers of `"sample"`.

    Returns:
        `torch.BoolTensor` of shape `(B, N)`: The kept patches.

    Raises:
        ValueError: If `selection` is unknown.
    """
    keep_scores = log_probs[..., 0]
    if selection == "topk":
        num_kept = keep_scores.exp().sum(dim=-1).round().clamp(min=1)
        rank = keep_scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return rank < num_kept[:, None]
    if selection == "sample":
        log_probs = log_probs + gumbel_noise(log_probs.shape, generator, log_probs.device)
    elif selection != "argmax":
        raise ValueError(f"selection must be 'topk', 'sample' or 'argmax', got {selection!r}.")
    return keep_at_least_one(log_probs[..., 0] >= log_probs[..., 1], keep_scores)


def keep_at_least_one(keep_mask: torch.Tensor, keep_scores: torch.Tensor) -> torch.Tensor:
    """Returns `keep_mask` (B, N), to which the patch with the highest score is added for images that keep no patch."""
    likeliest = nn.functional.one_hot(keep_scores.argmax(dim=-1), keep_scores.shape[-1]).bool()
    return keep_mask | (likeliest & ~keep_mask.any(dim=-1, keepdim=True))
