# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Labels: which of them the model predicts, and how many there are."""

import torch
from torch import nn

from .configuration_lavit import LavitConfig


IGNORE_INDEX = -100


def mask_labels(
    config: LavitConfig, labels: torch.LongTensor, attention_mask: torch.Tensor | None
) -> torch.LongTensor:
    """
    Removes labels that are never predicted: placeholders, labels at padding, and the label of the first token of a
    row, which only padding may precede. A row then has the same labels alone and in a batch.

    Args:
        config ([`LavitConfig`]): The configuration, for the id of the placeholder.
        labels (`torch.LongTensor` of shape `(B, L)`): -100 where nothing is predicted.
        attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 at padding.

    Returns:
        `torch.LongTensor` of shape `(B, L)`: The labels that are left.
    """
    return mask_unpredicted(labels.masked_fill(labels == config.image_token_id, IGNORE_INDEX), attention_mask)


def mask_unpredicted(labels: torch.LongTensor, attention_mask: torch.Tensor | None) -> torch.LongTensor:
    """Removes the labels (B, L) at padding, and those of tokens that only padding precedes."""
    if attention_mask is None or attention_mask.shape != labels.shape:
        return labels
    real = attention_mask.bool().to(labels.device)
    has_context = nn.functional.pad(real[:, :-1], (1, 0))
    return labels.masked_fill(~(real & has_context), IGNORE_INDEX)


def count_labels(
    labels: torch.LongTensor,
    shift_labels: torch.LongTensor | None = None,
    attention_mask: torch.Tensor | None = None,
) -> torch.LongTensor:
    """
    Counts the labels (B, L) that are predicted, which those of the first column and, with an `attention_mask` (B, L),
    those of [`mask_unpredicted`] are not. If `shift_labels` (B, L) are given, the ids that follow each position, all
    of them are counted.
    """
    if shift_labels is None:
        shift_labels = mask_unpredicted(labels, attention_mask)[:, 1:]
    return shift_labels.ne(IGNORE_INDEX).sum()


def count_items(
    num_items: torch.Tensor | int | None,
    labels: torch.LongTensor,
    shift_labels: torch.LongTensor | None,
    given: tuple[torch.LongTensor, torch.LongTensor | None, torch.Tensor | None],
) -> torch.Tensor:
    """
    Returns the number by which the summed loss of a batch is divided: `num_items`, the number of labels that are given
    in all batches of a step, times the share of this batch's labels that the model predicts once images are expanded.
    The result is the number of labels that the model predicts if the step has one batch, and an approximation of the
    number of those of the step if it has several. Without `num_items`, it is the number of those of the batch.

    Args:
        num_items (`torch.Tensor` or `int`, *optional*): The number of labels of the step.
        labels (`torch.LongTensor` of shape `(B, L)`), shift_labels: The labels that the model predicts.
        given (`tuple`): The labels, `shift_labels` and mask that the model was given.
    """
    num_labels = count_labels(labels, shift_labels).clamp(min=1)  # a batch may have no label
    if num_items is None:
        return num_labels
    is_whole = num_items == count_labels(*given[:2])  # all labels of the step are in this batch
    return torch.where(is_whole, num_labels, num_items * (num_labels / count_labels(*given).clamp(min=1)))
