# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Guidance and callbacks: the state of a call, and the changes that are possible while it runs."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback

from lavit_hf.diffusion import LavitImageDecoderPipeline
from lavit_hf.diffusion.latents import decode_latents


def draw(pipe, tokens, **kwargs):
    return pipe(tokens, **{"num_inference_steps": 3, "output_type": "np"} | kwargs).images


def remake(pipe, **settings):
    pipe = LavitImageDecoderPipeline(**pipe.components, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def set_scales(*scales):
    """Returns a callback that sets the guidance scale after each step."""

    def callback(pipe, step, timestep, tensors):
        pipe._guidance_scale = scales[step]
        return {}

    return callback


def noise(count=1):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


# The properties of a pipeline


def test_before_its_first_call(pipe):
    fresh = remake(pipe)
    assert fresh.guidance_scale == (7.0 if pipe.is_sdxl else 5.0)
    assert fresh.do_classifier_free_guidance
    assert fresh.num_timesteps == 0
    assert fresh.interrupt is False
    fresh = remake(pipe, default_guidance_scale=1)
    assert fresh.guidance_scale == 1.0
    assert not fresh.do_classifier_free_guidance


def test_after_a_call(pipe, codes):
    drawn = remake(pipe)
    draw(drawn, codes[0], guidance_scale=2)
    assert (drawn.guidance_scale, drawn.num_timesteps, drawn.interrupt) == (2.0, 3, False)
    draw(drawn, codes[0])
    assert drawn.guidance_scale == remake(pipe).guidance_scale


def test_a_pipeline_names_the_tensors_of_its_kind(pipes):
    assert pipes["lowres"]._callback_tensor_inputs == ["latents", "prompt_embeds"]
    assert pipes["highres"]._callback_tensor_inputs == ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]


# Guidance that changes


def test_changing_scales_equal_diffusers_own_sdxl_pipeline(highres, goldens, codes):
    parts = {name: part for name, part in highres.components.items() if name != "feature_decoder"}
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    stock = StableDiffusionXLPipeline(**parts, **dict.fromkeys(names), add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    prompt_embeds, pooled = highres.encode_image_tokens(codes)
    settings = {"latents": goldens["latents"], "callback_on_step_end": set_scales(2.0, 9.0, 1.5)}
    expected = stock(
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=torch.zeros_like(prompt_embeds),
        negative_pooled_prompt_embeds=torch.zeros_like(pooled),
        guidance_scale=7.0,
        num_inference_steps=3,
        output_type="np",
        **settings,
    ).images
    np.testing.assert_allclose(draw(highres, codes, **settings), expected, atol=1e-5)
    assert np.abs(expected - draw(highres, codes, latents=goldens["latents"])).max() > 1e-3


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 6.0, 6.0), (2.5, 1.0, 4.0)])
def test_changing_scales_keep_images_apart(pipe, goldens, codes, scales):
    """Guidance may end and begin again, without a change of the tensors."""
    callback = set_scales(*scales)
    together = draw(pipe, codes, latents=goldens["latents"], callback_on_step_end=callback)
    for index, image_codes in enumerate(codes):
        latents = goldens["latents"][index : index + 1]
        alone = draw(pipe, image_codes, latents=latents, callback_on_step_end=callback)
        np.testing.assert_allclose(together[index], alone[0], atol=1e-5)


def test_ended_guidance_is_that_of_diffusers_callbacks(pipe, codes):
    cutoff = SDXLCFGCutoffCallback if pipe.is_sdxl else SDCFGCutoffCallback
    cutoff = cutoff(cutoff_step_ratio=None, cutoff_step_index=0)
    guided, cut, ended = (
        draw(pipe, codes[0], latents=noise(), callback_on_step_end=callback)
        for callback in (None, cutoff, set_scales(0.0, 0.0, 0.0))
    )
    np.testing.assert_array_equal(cut, ended)
    assert np.abs(guided - cut).max() > 1e-3
    # Those callbacks keep the last row alone, which would be the condition of the last image for all.
    with pytest.raises(ValueError, match=r"After callback_on_step_end, .* prompt_embeds must have the shape \(2, "):
        draw(pipe, codes[:2], callback_on_step_end=cutoff)


def test_the_padding_of_the_unconditional_branch_is_never_seen(lowres, codes):
    """The released decoder has fewer unconditional embeddings than patches. The zeros after them are masked."""
    stored = lowres.feature_decoder.config.num_unconditional_tokens
    assert 0 < stored < lowres.feature_decoder.config.num_patches

    def replace(positions):
        def callback(pipe, step, timestep, tensors):
            embeds = tensors["prompt_embeds"].clone()
            embeds[:2, positions] = 9.0
            return {"prompt_embeds": embeds}

        return callback

    settings = {"latents": noise(2), "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    expected, padding, embeddings = (
        draw(lowres, codes[:2], callback_on_step_end=callback, **settings)
        for callback in (None, replace(slice(stored, None)), replace(slice(0, stored)))
    )
    np.testing.assert_allclose(padding, expected, atol=1e-5)
    assert np.abs(embeddings - expected).max() > 1e-3


# Callbacks


def test_callback_sees_and_replaces_tensors(pipe, codes):
    names = pipe._callback_tensor_inputs
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        return {"latents": torch.zeros_like(tensors["latents"], dtype=torch.float64)}

    latents = draw(
        pipe,
        codes[:2],
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
    )
    assert [step for step, _ in seen] == [0, 1, 2]
    assert list(seen[0][1]) == names
    assert seen[0][1]["prompt_embeds"][:2] == (4, 64)
    if pipe.is_sdxl:
        assert seen[0][1]["add_time_ids"] == (4, 6)
    assert not latents.any()
    assert latents.dtype == torch.float32


def test_an_interrupted_call_decodes_what_it_has(pipe, codes):
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append(tensors["latents"])
        pipe._interrupt = step == 1
        return {}

    settings = {"latents": noise(2), "num_inference_steps": 4}
    expected = draw(pipe, codes[:2], **settings)
    latents = draw(pipe, codes[:2], callback_on_step_end=stop, output_type="latent", **settings)
    assert pipe.interrupt
    assert len(seen) == 2
    assert torch.equal(latents, seen[-1])
    assert torch.equal(decode_latents(pipe.vae, latents), decode_latents(pipe.vae, seen[-1]))
    np.testing.assert_array_equal(draw(pipe, codes[:2], **settings), expected)
    assert not pipe.interrupt


def test_a_failed_callback_leaves_nothing_behind(pipe, codes):
    def fail(pipe, step, timestep, tensors):
        pipe._guidance_scale = 1.0
        raise KeyboardInterrupt

    expected = draw(pipe, codes[:2], latents=noise(2))
    with pytest.raises(KeyboardInterrupt):
        draw(pipe, codes[:2], latents=noise(2), callback_on_step_end=fail)
    np.testing.assert_array_equal(draw(pipe, codes[:2], latents=noise(2)), expected)
