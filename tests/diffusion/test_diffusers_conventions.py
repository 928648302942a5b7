# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The checks of the common pipeline tests of diffusers, for both kinds of U-Net. Those tests themselves are neither in
the package nor in its source distribution.
"""

import inspect

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from transformers import AutoProcessor

from lavit_hf.diffusion import LavitImageDecoderPipeline


def draw(pipe, tokens, **kwargs):
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
    return pipe(tokens, **settings | kwargs).images


@pytest.fixture
def copy_of(tmp_path):
    """Saves a pipeline and loads it, so that it can be changed."""

    def load(pipe, **kwargs):
        pipe.save_pretrained(tmp_path)
        return LavitImageDecoderPipeline.from_pretrained(tmp_path, **kwargs)

    return load


def test_the_base_class_of_diffusers_loads_a_folder(pipe, codes, copy_of, tmp_path):
    expected = draw(copy_of(pipe), codes[0])
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded) is LavitImageDecoderPipeline
    np.testing.assert_array_equal(draw(loaded, codes[0]), expected)


# Callbacks


def test_callbacks_are_given_any_of_the_named_tensors(pipe, codes):
    given = []

    def callback(pipe, step, timestep, tensors):
        given.append(list(tensors))
        return tensors

    names = pipe._callback_tensor_inputs
    expected = draw(pipe, codes[0])
    for subset in (names, names[:1], names[1:], []):
        settings = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": subset}
        np.testing.assert_array_equal(draw(pipe, codes[0], **settings), expected)
        assert given[-2:] == [subset, subset]


def test_a_callback_changes_the_latents_of_the_last_step(pipe, codes):
    def callback(pipe, step, timestep, tensors):
        is_last = step == pipe.num_timesteps - 1
        return {"latents": torch.zeros_like(tensors["latents"])} if is_last else tensors

    settings = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": pipe._callback_tensor_inputs}
    assert not draw(pipe, codes[0], output_type="latent", **settings).any()


def test_a_callback_raises_the_guidance_scale(pipe, codes):
    def callback(pipe, step, timestep, tensors):
        pipe._guidance_scale += 1.0
        return tensors

    settings = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": pipe._callback_tensor_inputs}
    assert np.isfinite(draw(pipe, codes[0], guidance_scale=3.0, **settings)).all()
    assert pipe.guidance_scale == 3.0 + pipe.num_timesteps


# Calls


def test_arguments_have_the_names_of_diffusers():
    parameters = inspect.signature(LavitImageDecoderPipeline.__call__).parameters
    names = ["num_inference_steps", "num_images_per_prompt", "generator", "latents", "output_type", "return_dict"]
    assert all(parameters[name].default is not inspect.Parameter.empty for name in names)


def test_output_types_are_one_image(pipe, codes):
    images = {kind: draw(pipe, codes[:2], output_type=kind) for kind in ("pt", "np", "pil")}
    np.testing.assert_array_equal(images["pt"].permute(0, 2, 3, 1), images["np"])
    np.testing.assert_array_equal(np.stack(images["pil"]), (images["np"] * 255).round().astype(np.uint8))


def test_progress_bar(pipe, codes, capsys):
    pipe.set_progress_bar_config(disable=False)
    pipe(codes[0], num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(codes[0], num_inference_steps=3)
    assert not capsys.readouterr().err


# Components


def test_components_are_the_modules_of_the_constructor(pipe):
    assert set(pipe.components) == {"feature_decoder", "scheduler", "unet", "vae"}
    assert not pipe._optional_components


def test_from_pipe_shares_the_components(pipe, codes):
    scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    shared = LavitImageDecoderPipeline.from_pipe(pipe)
    assert all(shared.components[name] is part for name, part in pipe.components.items())
    assert shared.config.visual_token_offset == pipe.config.visual_token_offset
    np.testing.assert_array_equal(draw(shared, codes[0]), draw(pipe, codes[0]))
    changed = LavitImageDecoderPipeline.from_pipe(pipe, scheduler=scheduler, default_guidance_scale=2.0)
    assert changed.scheduler is scheduler
    assert changed.guidance_scale == 2.0


def test_saved_and_loaded_is_the_same(pipe, codes, copy_of):
    np.testing.assert_array_equal(draw(copy_of(pipe), codes[0]), draw(pipe, codes[0]))


def test_variants(pipe, codes, tmp_path):
    expected = draw(pipe, codes[0])
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert len(list(tmp_path.glob("*/*.fp16.safetensors"))) == 3
    loaded = LavitImageDecoderPipeline.from_pretrained(tmp_path, variant="fp16")
    np.testing.assert_array_equal(draw(loaded, codes[0]), expected)
    with pytest.raises(ValueError, match="variant=bf16"):
        LavitImageDecoderPipeline.from_pretrained(tmp_path, variant="bf16")
    with pytest.raises(OSError, match="no file named .*model.safetensors"):
        LavitImageDecoderPipeline.from_pretrained(tmp_path)


# Memory


@pytest.mark.parametrize("change", ["attention", "vae", "casting"])
def test_what_saves_memory_keeps_the_image(pipe, codes, copy_of, change):
    changed, tolerance = copy_of(pipe), 1e-4
    if change == "attention":
        changed.enable_attention_slicing(1)
    elif change == "vae":
        changed.vae.enable_slicing()
        changed.vae.enable_tiling()
    else:
        changed.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
        tolerance = 0.05
    images = draw(changed, codes[:2])
    np.testing.assert_allclose(images, draw(pipe, codes[:2]), atol=tolerance)


# Precision

CASTS = {
    "to": lambda pipe, copy_of, dtype: copy_of(pipe).to(dtype),
    "from_pipe": lambda pipe, copy_of, dtype: LavitImageDecoderPipeline.from_pipe(copy_of(pipe), dtype=dtype),
    "from_pretrained": lambda pipe, copy_of, dtype: copy_of(pipe, dtype=dtype),
    "by component": lambda pipe, copy_of, dtype: copy_of(pipe, dtype={"default": dtype}),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_pipeline_keeps_the_codebook(pipe, codes, copy_of, cast, dtype):
    """Rounded to a half precision, codes would become others' vectors."""
    pipe_in_half: DiffusionPipeline = CASTS[cast](pipe, copy_of, dtype)
    assert {part.dtype for part in (pipe_in_half.unet, pipe_in_half.vae, pipe_in_half.feature_decoder)} == {dtype}
    decoder = pipe_in_half.feature_decoder
    assert decoder.in_proj.weight.dtype == dtype
    assert decoder.codebook.dtype == torch.float32
    assert torch.equal(decoder.codebook, pipe.feature_decoder.codebook)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images, expected = (draw(drawing, codes[:2], latents=latents) for drawing in (pipe_in_half, pipe))
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    assert np.abs(images - expected).mean() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_images_go_back_to_the_processor(converted, pipe, codes, copy_of, dtype):
    """Tensors and arrays in [0, 1], in every dtype, are read as the PIL images of the same drawing."""
    processor = AutoProcessor.from_pretrained(converted)
    drawing = copy_of(pipe, dtype=dtype)
    read = {}
    for kind in ("pil", "pt", "np"):
        images = draw(drawing, codes[:2], output_type=kind)
        assert kind != "pt" or images.dtype == dtype
        read[kind] = processor(images=list(images), text=["<image>"] * 2, return_tensors="pt")["pixel_values"]
    assert torch.equal(read["pt"], read["pil"])
    assert torch.equal(read["np"], read["pil"])
    assert read["pil"].std() > 0.1
