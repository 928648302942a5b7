# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The interface of schedulers that the pixel decoder needs."""

import inspect
from typing import Any

import torch

from ..modeling.arguments_lavit import check_integer, check_number
from .checks import expect, is_integer


# Without it, they evaluate noise levels above those of training if the first timestep has no signal.
NEED_LEADING = ("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler")


def _has_zero_snr(scheduler: Any) -> bool:
    """Whether the first timestep has no signal at all."""
    return getattr(scheduler.config, "rescale_betas_zero_snr", False)


def check_scheduler(scheduler: Any) -> None:
    """
    Checks a scheduler.

    Raises:
        ValueError: If it lacks the interface of those of Stable Diffusion, like those of flow matching.
    """
    name = type(scheduler).__name__
    expected = "scheduler must be one of the Stable Diffusion pipelines of diffusers, such as DDIMScheduler"
    for attribute in ("init_noise_sigma", "set_timesteps", "scale_model_input", "step"):
        expect(hasattr(scheduler, attribute), f"{expected}; {name} has no {attribute}.")
    # Those of EDM scale what the U-Net sees, and are for U-Nets that were trained so.
    expect(not hasattr(scheduler, "precondition_inputs"), f"{expected}; {name} is for the U-Nets of EDM.")
    most = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
    in_range = is_integer(most) and most >= 1
    expect(in_range, f"scheduler.config.num_train_timesteps must be an integer from 1, {name} has {most!r}.")
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
        ValueError: If `num_inference_steps` is out of its range, or the timesteps do not go from noise to image or are
            not those on which U-Nets are trained.
    """
    name, most = type(scheduler).__name__, scheduler.config.num_train_timesteps
    num_inference_steps = check_integer("num_inference_steps", num_inference_steps, 1, most)
    if name in NEED_LEADING and _has_zero_snr(scheduler):
        spacing = scheduler.config.timestep_spacing
        expect(
            spacing == "leading",
            f"{name} needs timestep_spacing='leading' with rescale_betas_zero_snr, got {spacing!r}: its images are "
            "white otherwise.",
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    first, last, count = scheduler.timesteps[0].item(), scheduler.timesteps[-1].item(), len(scheduler.timesteps)
    expected = "scheduler must go from noise to image"
    expect(first >= last, f"{expected}; the timesteps of {name} ascend, from {first:g} to {last:g}.")
    # Some schedulers count time from 1 to 0, and several steps of the others begin far above 1.
    expect(
        first < most and not first <= 1 < min(count, most),
        f"scheduler must have timesteps from num_train_timesteps - 1, {most - 1}, to 0; with "
        f"num_inference_steps={num_inference_steps} {name} begins at {first:g}.",
    )


def step_options(scheduler: Any, generator: Any, eta: Any) -> dict[str, Any]:
    """
    Returns those of `generator` and `eta` that the `step` of a scheduler takes.

    Raises:
        ValueError: If `eta` is out of its range, or not 0 for a scheduler that does not take one.
    """
    eta = check_number("eta", eta, 0, 1)
    accepted = inspect.signature(scheduler.step).parameters
    name = type(scheduler).__name__
    expect(not eta or "eta" in accepted, f"eta must be 0 with {name}, which has no eta, got {eta!r}.")
    # The first step would make NaN.
    expect(
        eta < 1 or not _has_zero_snr(scheduler),
        f"eta must be below 1 with rescale_betas_zero_snr of {name}, got {eta!r}.",
    )
    return {name: value for name, value in {"generator": generator, "eta": eta}.items() if name in accepted}
