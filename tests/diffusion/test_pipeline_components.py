# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The pipeline takes the schedulers and components that it can use, and refuses all others by name."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    schedulers,
)
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import is_scipy_available

from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.diffusion import LavitImageDecoderPipeline
from lavit_hf.inference import encode_images

from .test_arguments import draw, generator, image, remake


SCHEDULERS = sorted(
    name
    for name in dir(schedulers)
    if isinstance(value := getattr(schedulers, name), type) and issubclass(value, SchedulerMixin)
)
# They have no default configuration, or none with betas.
NO_CONFIG = {"SchedulerMixin", "AmusedScheduler", "RFD4ProteinaScheduler", "UnCLIPScheduler", "VQDiffusionScheduler"}
# torchsde, which they need, draws their noise by a seed of its own and not by a generator.
TORCHSDE = {"CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"}
USABLE = {
    "CogVideoXDDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
}
if is_scipy_available():  # which LMSDiscreteScheduler needs, and lavit_hf does not
    USABLE.add("LMSDiscreteScheduler")


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in NO_CONFIG | TORCHSDE])
def test_every_scheduler_of_diffusers_works_or_is_refused(highres, codes, name):
    """A scheduler that works gives the same images again, and each image of a batch as if it were alone."""
    settings = {"num_inference_steps": 4}
    scheduler = getattr(schedulers, name).from_config(highres.scheduler.config)
    if name in USABLE:
        pipe = remake(highres, scheduler=scheduler)
        together = draw(pipe, codes[:2], generator=[generator(5), generator(6)], **settings)
        again = draw(pipe, codes[:2], generator=(generator(5), generator(6)), **settings)
        alone = draw(pipe, codes[1], generator=[generator(6)], **settings)
        np.testing.assert_array_equal(together, again)
        np.testing.assert_allclose(together[1], alone[0], atol=5e-5)
    else:
        with pytest.raises(ValueError, match="scheduler"):
            draw(remake(highres, scheduler=scheduler), codes[0], **settings)


@pytest.mark.parametrize("eta", [0.5, 0.99, 1.0])
@pytest.mark.parametrize("is_zero", [True, False])
def test_noise_of_ddim_at_a_zero_terminal_snr(highres, codes, eta, is_zero):
    settings = {"rescale_betas_zero_snr": is_zero, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    pipe = remake(highres, scheduler=schedulers.DDIMScheduler.from_config(highres.scheduler.config, **settings))
    if eta == 1 and is_zero:
        with pytest.raises(
            ValueError, match="eta must be below 1 where the first timestep has no signal, as with this DDIM"
        ):
            draw(pipe, codes[0], num_inference_steps=3, eta=eta)
    else:
        assert np.isfinite(draw(pipe, codes[0], num_inference_steps=3, eta=eta)).all()


def test_all_noise_of_ddim_where_it_begins_with_a_signal(demo):
    """The scheduler of the model that ships has no signal at timestep 999, and some at 960."""
    pipe = remake(demo[2], scheduler=schedulers.DDIMScheduler.from_config(demo[2].scheduler.config))
    pipe.scheduler.register_to_config(timestep_spacing="leading")
    assert np.isfinite(draw(pipe, [1] * 8, num_inference_steps=25, eta=1.0, height=64, width=64)).all()


@pytest.fixture(scope="module")
def trained(demo):
    """Codes of a scene, and the image that the scheduler of the model draws of them."""
    model, processor, pipe = demo
    [codes] = encode_images(model.model.visual_tokenizer, processor, [render_scene(sample_scene(6, "test"))]).split()
    return codes, draw(pipe, codes, num_inference_steps=10, generator=generator(), height=64, width=64)


class OwnHeunScheduler(schedulers.HeunDiscreteScheduler):
    """A subclass, which has another name."""


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", [*(getattr(schedulers, name) for name in sorted(USABLE)), OwnHeunScheduler])
def test_schedulers_draw_what_the_model_was_trained_for(kind, spacing, demo, trained, monkeypatch):
    """
    The model that ships was trained without a signal in its first timestep, where some schedulers draw white or noise.
    A scheduler that is made anew does not have the fields of the scheduler of the model.
    """
    (codes, expected), pipe = trained, demo[2]
    settings = pipe.scheduler.config | {"timestep_spacing": spacing}
    anew = {name: settings[name] for name in inspect.signature(kind).parameters if name in settings}
    for scheduler in (kind.from_config(settings), kind(**anew)):
        monkeypatch.setattr(pipe, "scheduler", scheduler)
        settings = {"num_inference_steps": 10, "generator": generator(), "height": 64, "width": 64}
        if spacing != "leading" and issubclass(kind, (HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler)):
            with pytest.raises(ValueError, match=f"{kind.__name__} must begin at .*, got 20291.*'{spacing}'"):
                draw(pipe, codes, **settings)
        else:
            assert np.abs(draw(pipe, codes, **settings) - expected).mean() < 0.1


def test_usable_schedulers_are_those_of_diffusers():
    assert set(SCHEDULERS) >= USABLE


def test_a_scheduler_is_checked_where_it_is_swapped(lowres, monkeypatch):
    pipe = remake(lowres)
    pipe.scheduler = schedulers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no init_noise_sigma"):
        draw(pipe, image())
    pipe.scheduler = EulerDiscreteScheduler.from_config(lowres.scheduler.config)
    with pytest.raises(ValueError, match="eta must be 0 with EulerDiscreteScheduler, which has no eta, got 0.5"):
        draw(pipe, image(), eta=0.5)
    pipe.scheduler = DDIMScheduler.from_config(lowres.scheduler.config, steps_offset=1)
    with pytest.raises(ValueError, match="num_inference_steps=1000 DDIMScheduler begins at 1000"):
        draw(pipe, image(), num_inference_steps=1000)


# Components


def test_components_must_fit(lowres, highres):
    low, high = lowres.components, highres.components
    with pytest.raises(ValueError, match=r"cross_attention_dim must be sum\(condition_dims\), 64, got 24"):
        LavitImageDecoderPipeline(**low | {"feature_decoder": high["feature_decoder"]})
    for name in ("feature_decoder", "unet", "vae"):
        for part in (None, torch.nn.Linear(1, 1)):
            with pytest.raises(ValueError, match=f"{name} must be a model whose config has .*; {type(part).__name__}"):
                LavitImageDecoderPipeline(**low | {name: part})
    with pytest.raises(ValueError, match="unet must be .*; UNet2DModel has no addition_embed_type"):
        LavitImageDecoderPipeline(
            **low
            | {
                "unet": UNet2DModel(
                    block_out_channels=(32,), down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"]
                )
            }
        )
    with pytest.raises(ValueError, match="scheduler must be .*; NoneType has no init_noise_sigma"):
        LavitImageDecoderPipeline(**low | {"scheduler": None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 8}, "unet.config.out_channels must be the VAE's latent_channels, 4, got 8"),
        ({"time_cond_proj_dim": 8}, "unet.config.time_cond_proj_dim must be None, got 8"),
        ({"num_class_embeds": 8}, "unet.config.num_class_embeds must be None, got 8"),
        ({"class_embed_type": "timestep"}, "unet.config.class_embed_type must be None, got 'timestep'"),
    ],
)
def test_a_unet_that_expects_more_is_refused(lowres, changes, message):
    unet = UNet2DConditionModel.from_config(dict(lowres.unet.config) | changes)
    with pytest.raises(ValueError, match=message):
        LavitImageDecoderPipeline(**lowres.components | {"unet": unet})


@pytest.mark.parametrize(
    "changes", [{"shift_factor": 0.1}, {"latents_mean": [0.1] * 4, "latents_std": [0.5] * 4}], ids=str
)
def test_a_vae_with_another_normalization_is_refused(lowres, changes):
    vae = AutoencoderKL.from_config(dict(lowres.vae.config) | changes)
    with pytest.raises(ValueError, match=f"vae.config.{next(iter(changes))} must be None or 0, got"):
        LavitImageDecoderPipeline(**lowres.components | {"vae": vae})


def test_components_are_checked_where_they_are_swapped(lowres, highres):
    pipe = remake(lowres)
    pipe.unet = highres.unet
    with pytest.raises(ValueError, match="cross_attention_dim"):
        draw(pipe, image())


def test_a_unet_without_a_size_needs_one(lowres):
    unet = UNet2DConditionModel.from_config(dict(lowres.unet.config) | {"sample_size": None})
    pipe = remake(lowres, unet=unet)
    assert draw(pipe, image()).shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="Pass height and width: unet.config.sample_size is None"):
        pipe(image(), height=32)
