# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of diffusers' schedulers that the pipeline needs, and what it refuses of them."""

import inspect
from typing import Any

import torch

from .checks import check_integer, check_number, is_integer


def check_scheduler(scheduler: Any) -> None:
    """
    Raises:
        ValueError: a scheduler without the interface of those of Stable Diffusion, such as those of flow matching.
    """
    name = type(scheduler).__name__
    for attribute in ("init_noise_sigma", "set_timesteps", "scale_model_input", "step"):
        if not hasattr(scheduler, attribute):
            raise ValueError(
                "scheduler must be one of those that diffusers' Stable Diffusion pipelines take, such as "
                f"DDIMScheduler; {name} has no {attribute}."
            )
    most = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
    if not is_integer(most) or most < 1:
        raise ValueError(f"scheduler.config.num_train_timesteps must be an integer from 1, {name} has {most!r}.")
    try:
        inspect.signature(scheduler.step).bind("model_output", "timestep", "sample", return_dict=False)
    except TypeError as error:
        raise ValueError(
            f"scheduler.step must need only model_output, timestep and sample, that of {name} does not: {error}."
        ) from error


def set_timesteps(scheduler: Any, num_inference_steps: int, device: torch.device) -> None:
    """
    Sets the timesteps of a call.

    Raises:
        ValueError: `num_inference_steps` out of its range; a scheduler whose timesteps do not go from noise to image,
            or are not those for which U-Nets are trained.
    """
    name, most = type(scheduler).__name__, scheduler.config.num_train_timesteps
    num_inference_steps = check_integer("num_inference_steps", num_inference_steps, 1, most)
    scheduler.set_timesteps(num_inference_steps, device=device)
    first, last, count = scheduler.timesteps[0].item(), scheduler.timesteps[-1].item(), len(scheduler.timesteps)
    if first < last:
        raise ValueError(
            f"scheduler must go from noise to image; the timesteps of {name} ascend, from {first:g} to {last:g}."
        )
    # Some schedulers count time from 1 to 0, and several steps of the others begin far above 1.
    if first >= most or first <= 1 < min(count, most):
        raise ValueError(
            f"scheduler must have timesteps from num_train_timesteps - 1, {most - 1}, to 0; with "
            f"num_inference_steps={num_inference_steps} {name} begins at {first:g}."
        )


def step_options(scheduler: Any, generator: Any, eta: Any) -> dict[str, Any]:
    """
    Returns:
        `dict`: Those of `generator` and `eta` that the scheduler's `step` takes.

    Raises:
        ValueError: an `eta` out of its range, or another than 0 for a scheduler that does not take one.
    """
    eta = check_number("eta", eta, 0, 1, "from 0 to 1")
    accepted = inspect.signature(scheduler.step).parameters
    if eta and "eta" not in accepted:
        raise ValueError(f"eta must be 0 with {type(scheduler).__name__}, which has no eta, got {eta!r}.")
    return {name: value for name, value in {"generator": generator, "eta": eta}.items() if name in accepted}
