# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Several processes train as one with the whole batch does: sums, means and random draws over all of their batches."""

import torch
from torch import distributed


def process_index_and_count() -> tuple[int, int]:
    """The index of this process among those that train together, and their number."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def all_reduce(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values`, of any shape, over all processes, without a gradient; with one process, `values`."""
    if process_index_and_count()[1] == 1:
        return values
    values = values.detach().clone()
    distributed.all_reduce(values)
    return values


def batch_mean(
    values: torch.Tensor, weights: torch.Tensor | None = None, over_processes: bool = False
) -> torch.Tensor:
    """
    The weighted mean of `values`, in float32.

    Over processes it is the mean over all of their batches, whose sizes may differ, and the gradient is such that the
    average of all processes' gradients, which distributed training takes, is that of one process with the whole batch.

    Args:
        values (`torch.FloatTensor` of any shape): Values to average.
        weights (`torch.FloatTensor` of the same shape, *optional*): Weights without a gradient. Default: all alike.
        over_processes (`bool`, *optional*, defaults to `False`):
            Whether the batch is that of all processes, which must then all call this function.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    values = values.float()
    weights = torch.ones_like(values) if weights is None else weights.detach().float()
    share, total = (values * weights).sum(), weights.sum()
    _, num_processes = process_index_and_count()
    if not over_processes or num_processes == 1:
        return share / total
    share = share * (num_processes / all_reduce(total))
    return share + (all_reduce(share) / num_processes - share).detach()


def share_of_batch(batch_size: int, device: torch.device | None = None) -> tuple[slice, int]:
    """
    Returns the rows of this process in the batch of all processes, and the number of rows of that batch. All
    processes, which are seeded alike, draw random numbers for the whole batch and take their rows: the numbers of a
    row do not depend on how many processes share the batch.

    Args:
        batch_size (`int`): The rows of this process. Every process must call this function.
        device (`torch.device`, *optional*): Where the processes exchange their numbers of rows.
    """
    index, num_processes = process_index_and_count()
    if num_processes == 1:
        return slice(0, batch_size), batch_size
    sizes = torch.zeros(num_processes, dtype=torch.long, device=device)
    sizes[index] = batch_size
    sizes = all_reduce(sizes).tolist()
    start = sum(sizes[:index])
    return slice(start, start + batch_size), sum(sizes)
