# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sums, means and random numbers over the batches of all processes, which train as one process with all of them."""

from collections.abc import Callable

import torch
from torch import distributed, nn


def process_index_and_count() -> tuple[int, int]:
    """Returns the index of this process and the number of processes that train together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def all_reduce(values: torch.Tensor) -> torch.Tensor:
    """Returns the sum of `values` over all processes, without a gradient if there are several."""
    if process_index_and_count()[1] == 1:
        return values
    values = values.detach().clone()
    distributed.all_reduce(values)
    return values


def batch_mean(
    values: torch.Tensor, weights: torch.Tensor | None = None, over_processes: bool = False
) -> torch.Tensor:
    """
    Computes the weighted mean of `values` in float32.

    With `over_processes`, it is the mean over the batches of all processes, whose sizes may differ. Its gradient is
    such that the average over processes, which distributed training takes, equals the gradient of one process with
    all batches.

    Args:
        values (`torch.FloatTensor` of any shape): Values to average.
        weights (`torch.FloatTensor` of the same shape, *optional*):
            Weights, which get no gradient. By default, all weights are equal.
        over_processes (`bool`, *optional*, defaults to `False`):
            Whether the batches of all processes count. All processes must then call this function.

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
    Returns the slice of this process in the joined batch of all processes, and the size of the joined batch. Processes
    with equal seeds draw random numbers for the joined batch and take their slice, so that the numbers of a row do not
    depend on the number of processes.

    Args:
        batch_size (`int`): The batch size of this process. All processes must call this function.
        device (`torch.device`, *optional*): The device on which processes exchange their batch sizes.
    """
    index, num_processes = process_index_and_count()
    if num_processes == 1:
        return slice(0, batch_size), batch_size
    sizes = torch.zeros(num_processes, dtype=torch.long, device=device)
    sizes[index] = batch_size
    sizes = all_reduce(sizes).tolist()
    start = sum(sizes[:index])
    return slice(start, start + batch_size), sum(sizes)


def method_as_forward(module: nn.Module, name: str) -> Callable:
    """
    Returns the method `name` of `module`. In several processes, the module keeps a wrapper of the method, which under
    FSDP2 gathers the parameters of the module as `forward` does.
    """
    if process_index_and_count()[1] > 1 and name not in vars(module):
        # Imported here, since it takes time. It has no effect on other modules.
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(module, name)
    return getattr(module, name)
