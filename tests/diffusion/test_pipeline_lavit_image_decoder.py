# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback

from lavit_hf.diffusion import ASPECT_RATIOS, LavitImageDecoderPipeline


KINDS = ["lowres", "highres"]


@pytest.fixture(params=KINDS)
def pipe(request, pipes):
    return pipes[request.param]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def draw(pipe, tokens, **kwargs):
    return pipe(tokens, **{"num_inference_steps": 3, "output_type": "np"} | kwargs).images


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# What the authors' code computes


def test_conditions_equal_the_goldens(kind, pipes, goldens, visual_ids):
    prompt_embeds, pooled_prompt_embeds = pipes[kind].encode_image_tokens(visual_ids)
    torch.testing.assert_close(prompt_embeds, goldens[f"{kind}_prompt_embeds"], atol=1e-5, rtol=0)
    if kind == "lowres":
        assert pooled_prompt_embeds is None
    else:
        torch.testing.assert_close(pooled_prompt_embeds, goldens["highres_pooled_prompt_embeds"], atol=1e-5, rtol=0)


def test_images_equal_the_goldens(kind, pipes, goldens, visual_ids):
    images = draw(pipes[kind], visual_ids, num_inference_steps=4, latents=goldens["latents"])
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
    for index, picture in enumerate(codes):
        alone = draw(pipe, picture, latents=goldens["latents"][index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)


def test_all_forms_of_tokens_mean_the_same(lowres, codes, visual_ids):
    picture, ids = codes[2], visual_ids[2]
    forms = [picture, [picture], ids, [ids], tuple(ids), np.array(ids), list(torch.tensor(ids)), torch.tensor(ids)]
    forms += [torch.tensor([ids]), [torch.tensor(ids)], torch.tensor(ids, dtype=torch.int32)]
    expected = lowres.encode_image_tokens(picture, vocabulary_ids=False)[0]
    for form in forms:
        torch.testing.assert_close(lowres.encode_image_tokens(form)[0], expected, atol=0, rtol=0)
    mixed, _ = lowres.encode_image_tokens([codes[0], ids])
    torch.testing.assert_close(mixed[1:], expected, atol=1e-5, rtol=0)


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


# Callbacks


def test_callback_sees_and_replaces_tensors(pipe, codes):
    names = ["latents", "prompt_embeds"] + (["add_text_embeds", "add_time_ids"] if pipe.is_sdxl else [])
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        return {"latents": torch.zeros_like(tensors["latents"])}

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


def test_callback_ends_guidance_or_all(pipe, codes):
    cutoff = (SDXLCFGCutoffCallback if pipe.is_sdxl else SDCFGCutoffCallback)(
        cutoff_step_ratio=None, cutoff_step_index=0
    )
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    guided, cut = (draw(pipe, codes[0], latents=noise, callback_on_step_end=c) for c in (None, cutoff))
    assert np.isfinite(cut).all()
    assert np.abs(guided - cut).max() > 1e-3

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        steps.append(step)
        return tensors

    steps = []
    draw(pipe, codes[0], callback_on_step_end=stop)
    assert steps == [0, 1]


# Errors


def picture(length=5, value=3):
    return [value] * length


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "at least one picture, got none"),
        ("abc", "must be a list, or a tensor of 1 or 2 dimensions, got str"),
        (5, "must be a list, or a tensor of 1 or 2 dimensions, got int"),
        (torch.zeros(1, 1, 1, dtype=torch.long), "got 3 dimensions"),
        (torch.zeros(0, 3, dtype=torch.long), "at least one picture, got none"),
        ([[]], "Picture 0 must have 1 to 64 tokens, got 0"),
        ([picture(), torch.tensor([])], "Picture 1 must have 1 to 64 tokens, got 0"),
        ([picture(), picture(65)], "Picture 1 must have 1 to 64 tokens, got 65"),
        ([picture(), [3, 16384]], "Picture 1 must have only codes 0 to 16383, or only .* got 16384 at position 1"),
        ([3, -1], "Picture 0 .* got -1 at position 1"),
        ([32002, 32001], "ids 32002 to 48385, without .IMG. and ./IMG.; got 32001 at position 1"),
        ([32002, 48386], "got 48386 at position 1"),
        ([[1], [5, 32002]], "Picture 1 .* got 32002 at position 1"),
        ([picture(), 5], r"Picture 1 must be a list of integers, got torch.int64 of shape \(\)"),
        ([1.5, 2.0], "Picture 0 must be a list of integers, got torch.float32"),
        ([True, False], "Picture 0 must be a list of integers, got torch.bool"),
        ([1, None], r"Picture 0 must be a list of integers, got \[1, None\]"),
        ([2**70], "Picture 0 must be a list of integers"),
        ([[[1], [1, 2]]], "Picture 0 must be a list of integers"),
    ],
)
def test_wrong_tokens(lowres, tokens, message):
    with pytest.raises(ValueError, match=message):
        lowres(tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 100}, "height must be a positive multiple of 8, the VAE's scale factor, got 100"),
        ({"width": 0}, "width must be a positive multiple of 8.* got 0"),
        ({"width": 64.0}, "width must be a positive multiple of 8.* got 64.0"),
        ({"num_inference_steps": 0}, "num_inference_steps must be an integer from 1, got 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be an integer from 1, got 0"),
        ({"guidance_scale": 0.5}, "guidance_scale must be a number from 1 .no guidance., got 0.5"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be .* got nan"),
        ({"output_type": "jpeg"}, "output_type must be one of pil, np, pt, latent, got 'jpeg'"),
        ({"latents": torch.zeros(1, 4, 8, 9)}, r"latents must have the shape \(1, 4, 8, 8\), got \(1, 4, 8, 9\)"),
        ({"generator": [generator(), generator()]}, "one generator for each of 1 pictures, got 2"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "must be of latents, prompt_embeds.* got 'noise'"),
    ],
)
def test_wrong_arguments_are_found_before_anything_is_computed(pipe, monkeypatch, arguments, message):
    monkeypatch.setattr(pipe.feature_decoder, "forward", lambda **kwargs: pytest.fail("computed"))
    with pytest.raises(ValueError, match=message):
        pipe(picture(), **arguments)


def test_overlap_of_codes_and_ids_must_be_decided(lowres):
    pipe = LavitImageDecoderPipeline(**lowres.components, visual_token_offset=100)
    with pytest.raises(ValueError, match="offset 100 and a codebook of 16384 codes, codes and vocabulary ids overlap"):
        pipe.encode_image_tokens([150, 151])
    as_codes, _ = pipe.encode_image_tokens([150, 151], vocabulary_ids=False)
    as_ids, _ = pipe.encode_image_tokens([150, 151], vocabulary_ids=True)
    assert torch.equal(as_codes, lowres.encode_image_tokens([150, 151])[0])
    assert torch.equal(as_ids, lowres.encode_image_tokens([50, 51])[0])
    with pytest.raises(ValueError, match="only vocabulary ids 100 to 16483, .* got 99 at position 0"):
        pipe.encode_image_tokens([99], vocabulary_ids=True)
    codes_only = LavitImageDecoderPipeline(**lowres.components)
    with pytest.raises(ValueError, match="only codes 0 to 16383; got 32002"):
        codes_only.encode_image_tokens([32002])
    with pytest.raises(ValueError, match="vocabulary_ids=True needs a visual_token_offset"):
        codes_only.encode_image_tokens([5], vocabulary_ids=True)


def test_components_must_fit(lowres, highres):
    low, high = lowres.components, highres.components
    with pytest.raises(ValueError, match=r"cross_attention_dim must be sum\(condition_dims\), 64, got 24"):
        LavitImageDecoderPipeline(**low | {"feature_decoder": high["feature_decoder"]})
    with pytest.raises(ValueError, match="visual_token_offset must be None or an integer from 0, got -1"):
        LavitImageDecoderPipeline(**low, visual_token_offset=-1)
    assert isinstance(low["scheduler"], DDIMScheduler)


# Devices


def test_model_offloading_changes_nothing(pipe, codes, tmp_path):
    """With the CPU as the accelerator: the same hooks."""
    pipe.save_pretrained(tmp_path)
    offloaded = LavitImageDecoderPipeline.from_pretrained(tmp_path)
    offloaded.set_progress_bar_config(disable=True)
    offloaded.enable_model_cpu_offload(device="cpu")
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
