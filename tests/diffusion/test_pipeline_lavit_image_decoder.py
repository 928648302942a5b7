# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLPipeline,
)

from lavit_hf.diffusion import ASPECT_RATIOS, LavitImageDecoderPipeline


def draw(pipe, tokens, **kwargs):
    return pipe(tokens, **{"num_inference_steps": 3, "output_type": "np"} | kwargs).images


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Equality with the authors' code


def test_conditions_equal_the_goldens(kind, pipes, goldens, visual_ids):
    prompt_embeds, pooled_prompt_embeds = pipes[kind].encode_image_tokens(visual_ids, vocabulary_ids=True)
    torch.testing.assert_close(prompt_embeds, goldens[f"{kind}_prompt_embeds"], atol=1e-5, rtol=0)
    if kind == "lowres":
        assert pooled_prompt_embeds is None
    else:
        torch.testing.assert_close(pooled_prompt_embeds, goldens["highres_pooled_prompt_embeds"], atol=1e-5, rtol=0)


def test_images_equal_the_goldens(kind, pipes, goldens, visual_ids):
    images = draw(pipes[kind], visual_ids, num_inference_steps=4, latents=goldens["latents"], vocabulary_ids=True)
    np.testing.assert_allclose(images, goldens[f"{kind}_image"].numpy(), atol=2e-5, rtol=0)


def test_equals_diffusers_own_sdxl_pipeline(highres, goldens, codes):
    parts = {name: part for name, part in highres.components.items() if name != "feature_decoder"}
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    stock = StableDiffusionXLPipeline(**parts, **dict.fromkeys(names), add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    prompt_embeds, pooled = highres.encode_image_tokens(codes)
    expected = stock(
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=torch.zeros_like(prompt_embeds),
        negative_pooled_prompt_embeds=torch.zeros_like(pooled),
        latents=goldens["latents"],
        guidance_scale=7.0,
        num_inference_steps=3,
        output_type="np",
    ).images
    np.testing.assert_allclose(draw(highres, codes, latents=goldens["latents"]), expected, atol=1e-5)


# Invariants


def test_batch_equals_single(pipe, goldens, codes):
    together = draw(pipe, codes, latents=goldens["latents"])
    for index, image in enumerate(codes):
        alone = draw(pipe, image, latents=goldens["latents"][index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)


@pytest.mark.parametrize("vocabulary_ids", [False, True])
def test_all_forms_of_tokens_mean_the_same(lowres, codes, visual_ids, vocabulary_ids):
    tokens = (visual_ids if vocabulary_ids else codes)[2]
    forms = [tokens, [tokens], tuple(tokens), np.array(tokens), list(torch.tensor(tokens)), torch.tensor(tokens)]
    forms += [torch.tensor([tokens]), [torch.tensor(tokens)], torch.tensor(tokens, dtype=torch.int32)]
    expected = lowres.encode_image_tokens(codes[2])[0]
    for form in forms:
        embeds, _ = lowres.encode_image_tokens(form, vocabulary_ids=vocabulary_ids)
        torch.testing.assert_close(embeds, expected, atol=0, rtol=0)


def test_no_guidance_is_one_branch(pipe, goldens, codes, monkeypatch):
    rows = []
    forward = type(pipe.unet).forward

    def counted(unet, sample, *args, **kwargs):
        rows.append((len(sample), kwargs["encoder_attention_mask"]))
        return forward(unet, sample, *args, **kwargs)

    monkeypatch.setattr(type(pipe.unet), "forward", counted)
    unguided = draw(pipe, codes, latents=goldens["latents"], guidance_scale=1)
    assert rows == [(4, None)] * 3
    barely = draw(pipe, codes, latents=goldens["latents"], guidance_scale=1 + 1e-6)
    assert [count for count, _ in rows[3:]] == [8] * 3
    np.testing.assert_allclose(unguided, barely, atol=1e-4)


def test_generators_reproduce_the_noise(pipe, codes):
    first = draw(pipe, codes[:2], generator=generator())
    np.testing.assert_array_equal(first, draw(pipe, codes[:2], generator=generator()))
    assert np.abs(first - draw(pipe, codes[:2], generator=generator(1))).max() > 1e-2
    listed = draw(pipe, codes[:2], generator=[generator(5), generator(6)])
    alone = draw(pipe, codes[1], generator=generator(6))
    np.testing.assert_allclose(listed[1], alone[0], atol=1e-5)


def test_no_image_depends_on_its_neighbours(pipe, codes):
    """With codes of different lengths, several drawings and noise in every step, each image is as if it were alone."""
    lengths = [3, 24, 11]
    batch = [image_codes[:length] for image_codes, length in zip(codes, lengths, strict=False)]
    settings = {"num_images_per_prompt": 2, "eta": 1.0}
    together = draw(pipe, batch, generator=[generator(seed) for seed in range(6)], **settings)
    for index, image_codes in enumerate(batch):
        alone = draw(pipe, image_codes, generator=[generator(2 * index), generator(2 * index + 1)], **settings)
        np.testing.assert_allclose(together[2 * index : 2 * index + 2], alone, atol=1e-5)
        assert np.abs(alone[0] - alone[1]).max() > 1e-2


def test_given_latents_stay_as_they_are_in_every_dtype(pipe, codes):
    latents = torch.randn(1, 4, 8, 8, generator=generator()).bfloat16()
    expected = draw(pipe, codes[0], latents=latents.float())
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        given = latents.to(dtype)
        np.testing.assert_array_equal(draw(pipe, codes[0], latents=given), expected)
        assert torch.equal(given, latents.to(dtype))


def test_an_image_has_the_size_that_its_vae_makes(lowres, codes):
    """A VAE that replaces another one may have another scale factor."""
    pipe = LavitImageDecoderPipeline(**lowres.components)
    pipe.set_progress_bar_config(disable=True)
    config = dict(lowres.vae.config)
    for name in ("block_out_channels", "down_block_types", "up_block_types"):
        config[name] = config[name][:2]
    pipe.vae = AutoencoderKL.from_config(config)
    assert pipe.vae_scale_factor == 2
    assert draw(pipe, codes[0]).shape == (1, 16, 16, 3)
    assert draw(pipe, codes[0], height=12, width=20).shape == (1, 12, 20, 3)
    assert draw(pipe, codes[0], output_type="latent").shape == (1, 4, 8, 8)


def test_several_images_per_prompt(pipe, goldens, codes):
    images = draw(pipe, codes[:2], num_images_per_prompt=2, latents=goldens["latents"])
    expected = draw(pipe, [codes[0], codes[0], codes[1], codes[1]], latents=goldens["latents"])
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_output_types_and_sizes(pipe, codes):
    options = {"height": 40, "width": 72, "num_inference_steps": 1}
    pil = pipe(codes[0], generator=generator(), **options).images[0]
    assert pil.size == (72, 40)
    images, latents = (
        pipe(codes[0], generator=generator(), output_type=t, **options).images for t in ("pt", "latent")
    )
    assert images.shape == (1, 3, 40, 72)
    assert latents.shape == (1, 4, 5, 9)
    np.testing.assert_array_equal(np.asarray(pil), (images[0].permute(1, 2, 0).numpy() * 255).round())
    (tupled,) = pipe(codes[0], return_dict=False, generator=generator(), output_type="pt", **options)
    assert torch.equal(tupled, images)
    assert pipe(codes[0], num_inference_steps=1).images[0].size == (64, 64)
    assert all(side % 64 == 0 for size in ASPECT_RATIOS.values() for side in size)


def test_defaults_are_those_of_the_release(kind, pipes, goldens, codes):
    scale, steps = {"lowres": (5.0, 50), "highres": (7.0, 25)}[kind]
    pipe, latents = pipes[kind], goldens["latents"][:1]
    counted = []
    images = pipe(
        codes[0],
        latents=latents,
        output_type="np",
        callback_on_step_end=lambda pipe, step, timestep, tensors: counted.append(pipe.num_timesteps) or {},
    ).images
    assert counted == [steps] * steps
    expected = draw(pipe, codes[0], latents=latents, num_inference_steps=steps, guidance_scale=scale)
    np.testing.assert_array_equal(images, expected)


def test_own_defaults_travel(lowres, codes, tmp_path):
    settings = {"default_num_inference_steps": 3, "default_guidance_scale": 2.0}
    LavitImageDecoderPipeline(**lowres.components, **settings).save_pretrained(tmp_path)
    pipe = LavitImageDecoderPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    pipe(codes[0])
    assert (pipe.num_timesteps, pipe.guidance_scale) == (3, 2.0)


SCHEDULERS = [
    (EulerDiscreteScheduler, {}),
    (EulerAncestralDiscreteScheduler, {}),
    (HeunDiscreteScheduler, {}),
    (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
]


@pytest.mark.parametrize(("scheduler", "options"), SCHEDULERS, ids=lambda value: getattr(value, "__name__", ""))
def test_schedulers_can_be_swapped(pipe, codes, scheduler, options):
    swapped = LavitImageDecoderPipeline(**pipe.components | {"scheduler": _like(pipe, scheduler, **options)})
    swapped.set_progress_bar_config(disable=True)
    images = draw(swapped, codes[0], generator=generator(), num_inference_steps=8)
    ddim = draw(pipe, codes[0], generator=generator(), num_inference_steps=8)
    assert np.isfinite(images).all()
    if scheduler is EulerDiscreteScheduler:  # of first order and deterministic, as DDIM is
        assert np.abs(images - ddim).mean() < 0.02
    np.testing.assert_array_equal(images, draw(swapped, codes[0], generator=generator(), num_inference_steps=8))


def _like(pipe, scheduler, **options):
    return scheduler.from_config(pipe.scheduler.config, **options)


def test_eta_adds_noise(pipe, codes):
    latents = torch.randn(1, 4, 8, 8, generator=generator())
    noisy = [draw(pipe, codes[0], latents=latents, eta=1.0, generator=generator(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-2


# Devices


@pytest.mark.parametrize(
    ("move", "options"),
    [
        ("enable_model_cpu_offload", {"device": "cpu"}),
        ("enable_group_offload", {"onload_device": torch.device("cpu"), "offload_type": "leaf_level"}),
    ],
    ids=["model", "group"],
)
def test_offloading_changes_nothing(pipe, codes, tmp_path, move, options):
    """With the CPU as the accelerator, offloading uses the same hooks."""
    pipe.save_pretrained(tmp_path)
    offloaded = LavitImageDecoderPipeline.from_pretrained(tmp_path)
    offloaded.set_progress_bar_config(disable=True)
    getattr(offloaded, move)(**options)
    for _ in range(2):
        images = draw(offloaded, codes[:2], generator=generator())
        np.testing.assert_array_equal(images, draw(pipe, codes[:2], generator=generator()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator, and there is none")
@pytest.mark.parametrize("move", ["to", "enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_accelerator_equals_cpu(pipe, codes, tmp_path, move):
    pipe.save_pretrained(tmp_path)
    moved = LavitImageDecoderPipeline.from_pretrained(tmp_path)
    moved.set_progress_bar_config(disable=True)
    getattr(moved, move)(device="cuda")
    for _ in range(2):
        images = draw(moved, codes[:2], generator=generator())
        np.testing.assert_allclose(images, draw(pipe, codes[:2], generator=generator()), atol=1e-2)
