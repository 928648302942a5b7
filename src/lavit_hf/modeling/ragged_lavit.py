# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of different lengths: the positions of their tokens in a batch, found without waiting for the device."""

import torch


def find_true(mask: torch.Tensor, count: int) -> torch.LongTensor:
    """
    Returns the positions of True in a mask, as `mask.flatten().nonzero()` does after waiting for the device.

    Args:
        mask (`torch.BoolTensor` of any shape): The mask.
        count (`int`): The number of True in it. With a larger number, positions of False follow.

    Returns:
        `torch.LongTensor` of shape `(count,)`: Positions in the flat mask, in ascending order.
    """
    return mask.flatten().logical_not().argsort(stable=True)[:count]


def rows_and_columns(counts: torch.LongTensor, total: int) -> tuple[torch.LongTensor, torch.LongTensor]:
    """
    Returns the row of each token of ragged rows, and its place in the row.

    Args:
        counts (`torch.LongTensor` of shape `(B,)`): The number of tokens of each row.
        total (`int`): The sum T of `counts`. It is an argument, since reading it would wait for the device.

    Returns:
        `tuple(torch.LongTensor, torch.LongTensor)`, each of shape `(T,)`.
    """
    rows = torch.repeat_interleave(counts, output_size=total)
    return rows, torch.arange(total, device=counts.device) - (counts.cumsum(0) - counts)[rows]


def put_at(values: torch.Tensor, positions: torch.LongTensor, shape: tuple[int, int], fill: int = 0) -> torch.Tensor:
    """
    Puts the tokens of all rows at their positions in a batch.

    Args:
        values (`torch.Tensor` of shape `(T, ...)`): The tokens, row after row.
        positions (`torch.LongTensor` of shape `(T,)`): The position of each token in the flat batch.
        shape (`tuple[int, int]`): The number B and the length L of the rows of the batch.
        fill (`int`, *optional*, defaults to 0): The value of all other positions.

    Returns:
        `torch.Tensor` of shape `(B, L, ...)`.
    """
    placed = values.new_full((shape[0] * shape[1], *values.shape[1:]), fill)
    return placed.index_copy(0, positions, values).unflatten(0, shape)
