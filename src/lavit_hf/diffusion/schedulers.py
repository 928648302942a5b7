# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The interface of schedulers that the pixel decoder needs."""

import inspect
from typing import Any

import torch
from diffusers import HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler

from ..modeling.arguments_lavit import check_integer, check_number
from .checks import expect, is_integer


# They draw white images if the noise of their first timestep is far above that of training, as without any signal.
NEED_SIGNAL = (HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler)
MAX_SIGMA = 1000.0


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
    scheduler.set_timesteps(num_inference_steps, device=device)
    if isinstance(scheduler, NEED_SIGNAL):
        sigma = scheduler.sigmas[0].item()
        expect(
            sigma <= MAX_SIGMA,
            f"{name} must begin at a noise level of {MAX_SIGMA:g} or less, got {sigma:g} with timestep_spacing="
            f"{scheduler.config.timestep_spacing!r}: its images are white otherwise. 'leading' begins lower.",
        )
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
    Returns those of `generator` and `eta` that the `step` of a scheduler takes, whose timesteps are set.

    Raises:
        ValueError: If `eta` is out of its range, or not 0 for a scheduler that does not take one.
    """
    eta = check_number("eta", eta, 0, 1)
    accepted = inspect.signature(scheduler.step).parameters
    name = type(scheduler).__name__
    expect(not eta or "eta" in accepted, f"eta must be 0 with {name}, which has no eta, got {eta!r}.")
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if eta == 1 and alphas is not None:
        expect(
            alphas[int(scheduler.timesteps[0])] > 0,
            f"eta must be below 1 where the first timestep has no signal, as with this {name}, got {eta!r}: the first "
            "step would make NaN.",
        )
    return {name: value for name, value in {"generator": generator, "eta": eta}.items() if name in accepted}
