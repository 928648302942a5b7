# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The selector (paper, section 3.1), which decides which patches of an image are kept."""

from collections.abc import Sequence
from numbers import Real
from typing import get_args

import numpy as np
import torch
from torch import nn
from transformers.activations import ACT2FN

from .arguments_lavit import check_integer, check_number
from .configuration_lavit import LavitVisualTokenizerConfig, Selection
from .distributed_lavit import share_of_batch


Counts = int | Sequence[int] | torch.Tensor
ALIKE = 1e-5  # the most that the scores of patches that look alike differ by other kernels, several times over


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


def select_patches(
    log_probs: torch.Tensor,
    selection: str,
    generator: torch.Generator | None = None,
    num_codes: Counts | None = None,
    max_codes: Counts | None = None,
    keep_scale: float = 1.0,
) -> torch.Tensor:
    """
    Decides which patches are kept, at least one of each image.

    Args:
        log_probs (`torch.FloatTensor` of shape `(B, N, 2)`):
            Log-probabilities of keeping (index 0) and dropping each patch.
        selection (`str`): `"topk"`, `"sample"` or `"argmax"`, see [`LavitVisualTokenizerConfig`].
        generator (`torch.Generator`, *optional*): Random numbers of `"sample"`.
        num_codes, max_codes (`int`, or `list[int]` or `torch.LongTensor` of shape `(B,)`, *optional*), keep_scale:
            Same as in [`LavitVisualTokenizerConfig`], for all images or for each.

    Returns:
        `torch.BoolTensor` of shape `(B, N)`: The kept patches.

    Raises:
        ValueError: If `selection` is unknown, if a number of codes is not 1 to N or not one for each image, if
            `keep_scale` is negative, or if it or `max_codes` is given with `num_codes`.
    """
    if selection not in get_args(Selection):
        raise ValueError(f"selection must be 'topk', 'sample' or 'argmax', got {selection!r}.")
    if selection == "sample":
        log_probs = log_probs + gumbel_noise(log_probs.shape, generator, log_probs.device)
    scores = (log_probs[..., 0] - log_probs[..., 1]).float()
    num_kept = log_probs[..., 0].exp().sum(dim=-1) if selection == "topk" else (scores >= 0).sum(dim=-1)
    if num_codes is None:
        num_kept = (num_kept * check_number("keep_scale", keep_scale, 0)).round().clamp(min=1)
    elif keep_scale != 1:
        raise ValueError(f"num_codes={num_codes!r} does not go with keep_scale={keep_scale!r}: give either.")
    elif max_codes is not None:
        raise ValueError(f"num_codes={num_codes!r} does not go with max_codes={max_codes!r}: give either.")
    else:
        num_kept = _read_counts("num_codes", num_codes, scores)
    if max_codes is not None:
        num_kept = num_kept.minimum(_read_counts("max_codes", max_codes, scores))
    rank = _rank(scores)
    # An image that is not made of numbers keeps nothing, which `PatchPartition` refuses.
    return (rank < num_kept[:, None]) & ~scores.isnan().any(dim=-1, keepdim=True)


def _rank(scores: torch.Tensor) -> torch.Tensor:
    """
    Returns the ranks (B, N) of scores (B, N), from 0 for the highest one. Patches that look alike have equal scores
    but for the rounding of kernels: neighbors in the order of scores that differ by less than `ALIKE` are ranked by
    their places.
    """
    ordered, order = scores.sort(dim=-1, descending=True)
    groups = (ordered[:, :-1] - ordered[:, 1:] > ALIKE).cumsum(dim=-1)
    groups = torch.zeros_like(order).scatter(1, order[:, 1:], groups)
    return groups.argsort(dim=-1, stable=True).argsort(dim=-1)


def _read_counts(name: str, counts: Counts, scores: torch.Tensor) -> torch.Tensor:
    """Returns numbers of codes (B,) like `scores` (B, N), from one number for all images or one for each."""
    num_images, num_patches = scores.shape
    if isinstance(counts, torch.Tensor | np.ndarray) and counts.ndim == 0:
        counts = counts.item()
    if isinstance(counts, Real):
        return scores.new_full((num_images,), check_integer(name, counts, 1, num_patches))
    try:
        given = torch.as_tensor(counts)
    except (TypeError, ValueError, RuntimeError):
        given = scores.new_empty(0)
    if given.shape != (num_images,):
        raise ValueError(f"{name} must be one number, or one for each of {num_images} images, got {counts!r}.")
    for value in given.tolist():
        check_integer(name, value, 1, num_patches)
    return given.to(scores)


def keep_at_least_one(keep_mask: torch.Tensor, keep_scores: torch.Tensor) -> torch.Tensor:
    """Returns `keep_mask` (B, N), to which the patch with the highest score is added for images that keep no patch."""
    likeliest = torch.zeros_like(keep_mask).scatter(1, keep_scores.argmax(dim=-1, keepdim=True), True)
    return keep_mask | (likeliest & ~keep_mask.any(dim=-1, keepdim=True))
