# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The pipeline refuses wrong arguments by name, and gives finite images for all others."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
)

from lavit_hf.diffusion import LavitImageDecoderPipeline
from lavit_hf.inference import decode_codes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(pipe, tokens, **kwargs):
    settings = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "np"}
    return pipe(tokens, **settings | kwargs).images


def remake(pipe, **changes):
    pipe = LavitImageDecoderPipeline(**pipe.components | changes)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def name_of(value) -> str:
    """The name of a test, without addresses, so that it is the same in all processes."""
    return re.sub(" at 0x[0-9a-f]+", "", str(value))


def image(length=5, code=3):
    return [code] * length


# Tokens


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "at least one image, got none"),
        (None, "must be a list, or a tensor of 1 or 2 dimensions, got NoneType"),
        ("abc", "must be a list, or a tensor of 1 or 2 dimensions, got str"),
        (b"abc", "must be a list, or a tensor of 1 or 2 dimensions, got bytes"),
        (5, "must be a list, or a tensor of 1 or 2 dimensions, got int"),
        ({1, 2}, "must be a list, or a tensor of 1 or 2 dimensions, got set"),
        ({"codes": [1]}, "must be a list, or a tensor of 1 or 2 dimensions, got dict"),
        (iter([1, 2]), "must be a list, or a tensor of 1 or 2 dimensions, got list_iterator"),
        (torch.tensor(5), "must be a list, or a tensor of 1 or 2 dimensions, got 0 dimensions"),
        (torch.zeros(1, 1, 1, dtype=torch.long), "got 3 dimensions"),
        (torch.zeros(0, 3, dtype=torch.long), "at least one image, got none"),
        (torch.zeros(2, 0, dtype=torch.long), "image 0 must have 1 to 64 tokens, got 0"),
        (torch.zeros(3), "image 0 must be a list of integers, got torch.float32"),
        (torch.zeros(3, dtype=torch.complex64), "image 0 must be a list of integers, got torch.complex64"),
        (np.array(["a", "b"]), "image 0 must be a list of integers"),
        (np.array([[1, 2], [3]], dtype=object), "image 0 must be a list of integers"),
        ([[]], "image 0 must have 1 to 64 tokens, got 0"),
        ([image(), torch.tensor([])], "image 1 must have 1 to 64 tokens, got 0"),
        ([image(), image(65)], "image 1 must have 1 to 64 tokens, got 65"),
        ([3, -1], "image 0 must have only tokens from 0 to 16383 .* got -1 at position 1"),
        ([image(), 5], r"image 1 must be a list of integers, got torch.int64 of shape \(\)"),
        ([image(), None], "image 1 must be a list of integers, got None"),
        ([1.5, 2.0], "image 0 must be a list of integers, got torch.float32"),
        ([float("nan")], "image 0 must be a list of integers, got torch.float32"),
        ([True, False], "image 0 must be a list of integers, got torch.bool"),
        ([1, None], r"image 0 must be a list of integers, got \[1, None\]"),
        (["1", "2"], r"image 0 must be a list of integers, got \['1', '2'\]"),
        (["abc"], "image 0 must be a list of integers"),
        ([{}], "image 0 must be a list of integers"),
        ([2**70], "image 0 must be a list of integers"),
        ([[[1], [1, 2]]], "image 0 must be a list of integers"),
    ],
    ids=name_of,
)
def test_wrong_tokens(lowres, tokens, message):
    with pytest.raises(ValueError, match=f"image_tokens.*{message}"):
        lowres(tokens)


@pytest.mark.parametrize(
    ("tokens", "vocabulary_ids", "value", "position"),
    [
        ([3, 16384], False, 16384, 1),
        ([32002], False, 32002, 0),
        ([5, 32002], False, 32002, 1),
        ([5], True, 5, 0),
        ([32002, 32001], True, 32001, 1),
        ([32002, 48386], True, 48386, 1),
        ([32002, 5], True, 5, 1),
    ],
)
def test_the_caller_says_what_tokens_are(lowres, tokens, vocabulary_ids, value, position):
    first = 32002 if vocabulary_ids else 0
    expected = f"tokens from {first} to {first + 16383} with vocabulary_ids={vocabulary_ids}, got {value} at position"
    with pytest.raises(ValueError, match=f"{expected} {position}"):
        lowres.encode_image_tokens(tokens, vocabulary_ids=vocabulary_ids)


def test_values_never_tell_whether_tokens_are_vocabulary_ids(lowres):
    """With ranges that overlap, each value is a code as well as a vocabulary id."""
    pipe = LavitImageDecoderPipeline(**lowres.components, visual_token_offset=100)
    as_codes, _ = pipe.encode_image_tokens([150, 151])
    as_ids, _ = pipe.encode_image_tokens([150, 151], vocabulary_ids=True)
    assert torch.equal(as_codes, lowres.encode_image_tokens([150, 151])[0])
    assert torch.equal(as_ids, lowres.encode_image_tokens([50, 51])[0])
    codes_only = LavitImageDecoderPipeline(**lowres.components)
    with pytest.raises(ValueError, match="tokens from 0 to 16383 with vocabulary_ids=False, got 32002"):
        codes_only.encode_image_tokens([32002])
    with pytest.raises(ValueError, match="vocabulary_ids=True needs a visual_token_offset"):
        codes_only.encode_image_tokens([5], vocabulary_ids=True)
    for value in (None, "yes", 1):
        with pytest.raises(ValueError, match=f"vocabulary_ids must be True or False, got {value!r}"):
            pipe.encode_image_tokens([5], vocabulary_ids=value)


# Numbers

HOSTILE = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": -float("inf"),
    "-1": -1,
    "0": 0,
    "half": 0.5,
    "2.5": 2.5,
    "8.0": 8.0,
    "7/2": Fraction(7, 2),
    "True": True,
    "string": "2",
    "complex": 2j,
    "list": [2],
    "tensor": torch.tensor(2.0),
    "float32": np.float32(1.5),
    "int8": np.int8(8),
    "float32 nan": np.float32("nan"),
    "2**31": 2**31,
    "2**70": 2**70,
    "2**2000": 2**2000,
    "1e30": 1e30,
    "1e308": 1e308,
}
# The values that are no mistakes. Scales among them do not overflow.
SENSIBLE = {
    "height": {"int8"},
    "width": {"int8"},
    "num_inference_steps": {"int8"},
    "num_images_per_prompt": {"int8"},
    "guidance_scale": {"2.5", "8.0", "7/2", "float32", "int8", "2**31", "2**70"},
    "eta": {"0", "half"},
}


@pytest.mark.parametrize("value", HOSTILE, ids=name_of)
@pytest.mark.parametrize("argument", SENSIBLE)
def test_a_number_is_refused_by_name_or_gives_finite_images(pipe, argument, value):
    if value in SENSIBLE[argument]:
        images = draw(pipe, image(), **{argument: HOSTILE[value]})
        assert np.isfinite(images).all()
        sides = [HOSTILE[value] if argument == side else 32 for side in ("height", "width")]
        assert images.shape == (HOSTILE[value] if argument == "num_images_per_prompt" else 1, *sides, 3)
    else:
        with pytest.raises(ValueError, match=argument):
            draw(pipe, image(), **{argument: HOSTILE[value]})


INIT = {
    "visual_token_offset": {"0", "int8"},
    "default_num_inference_steps": {"int8"},
    "default_guidance_scale": {"2.5", "8.0", "7/2", "float32", "int8", "2**31", "2**70", "1e30", "1e308"},
}


@pytest.mark.parametrize("value", HOSTILE, ids=name_of)
@pytest.mark.parametrize("argument", INIT)
def test_a_number_of_the_pipeline_is_refused_by_name_or_saved(lowres, tmp_path, argument, value):
    given = {argument: HOSTILE[value]}
    if value in INIT[argument]:
        pipe = LavitImageDecoderPipeline(**lowres.components, **given)
        pipe.save_config(tmp_path)
        saved = LavitImageDecoderPipeline.load_config(tmp_path)[argument]
        assert saved == HOSTILE[value]
    else:
        with pytest.raises(ValueError, match=argument):
            LavitImageDecoderPipeline(**lowres.components, **given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 100}, "height must be a positive multiple of 8, the VAE's scale factor, got 100"),
        ({"width": 0}, "width must be a positive multiple of 8.* got 0"),
        ({"width": 64.0}, "width must be a positive multiple of 8.* got 64.0"),
        (
            {"height": 2**20, "width": 2**20},
            "height, width and .* at most 2147483647 .* got 1 images of 3 x 1048576 x",
        ),
        ({"num_inference_steps": 0}, "num_inference_steps must be an integer from 1 to 1000, got 0"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be an integer from 1 to 1000, got 1001"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be an integer from 1 to 2147483647, got 0"),
        ({"num_images_per_prompt": 10**7}, "num_images_per_prompt .* got 10000000 images of 3 x 64 x 64"),
        ({"guidance_scale": 0.5}, "guidance_scale must be a finite number of at least 1, got 0.5"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be .* got nan"),
        ({"eta": 5}, "eta must be a finite number from 0 to 1, got 5"),
        ({"output_type": "jpeg"}, "output_type must be one of pil, np, pt, latent, got 'jpeg'"),
        ({"output_type": None}, "output_type must be one of pil, np, pt, latent, got None"),
        ({"output_type": ["pil"]}, r"output_type must be one of pil, np, pt, latent, got \['pil'\]"),
        ({"latents": "x"}, r"latents must be a torch.Tensor of shape \(1, 4, 8, 8\), got str"),
        ({"latents": np.zeros((1, 4, 8, 8))}, "latents must be a torch.Tensor .* got ndarray"),
        ({"latents": torch.zeros(1, 4, 8, 9)}, r"latents must have the shape \(1, 4, 8, 8\), got \(1, 4, 8, 9\)"),
        ({"latents": torch.zeros(4, 8, 8)}, r"latents must have the shape \(1, 4, 8, 8\), got \(4, 8, 8\)"),
        ({"latents": torch.zeros(1, 4, 8, 8).long()}, "latents must have a floating point dtype, got torch.int64"),
        ({"latents": torch.zeros(1, 4, 8, 8).cfloat()}, "latents must have a floating point dtype, got torch.complex"),
        ({"latents": torch.full((1, 4, 8, 8), torch.nan)}, "latents must be finite, got NaN or infinity"),
        ({"latents": torch.full((1, 4, 8, 8), torch.inf)}, "latents must be finite, got NaN or infinity"),
        ({"generator": 7}, "generator must be a torch.Generator or a list of them, got 7"),
        ({"generator": [7]}, "generator must be a torch.Generator or a list of them, got 7"),
        ({"generator": [None]}, "generator must be a torch.Generator or a list of them, got None"),
        ({"generator": []}, "one generator for each of 1 images, got 0"),
        ({"generator": [generator(), generator()]}, "one generator for each of 1 images, got 2"),
        ({"generator": (generator(), generator())}, "one generator for each of 1 images, got 2"),
        ({"callback_on_step_end": 7}, "callback_on_step_end must be callable, got 7"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "must be of latents, prompt_embeds.* got 'noise'"),
        ({"callback_on_step_end_tensor_inputs": "latents"}, "tensor_inputs must be a list of names, got 'latents'"),
        ({"callback_on_step_end_tensor_inputs": None}, "tensor_inputs must be a list of names, got None"),
        ({"callback_on_step_end_tensor_inputs": [7]}, "must be of latents, prompt_embeds.* got 7"),
    ],
    ids=name_of,
)
def test_wrong_arguments_are_found_before_anything_is_computed(pipe, monkeypatch, arguments, message):
    monkeypatch.setattr(pipe.feature_decoder, "forward", lambda **kwargs: pytest.fail("computed"))
    with pytest.raises(ValueError, match=message):
        pipe(image(), **arguments)


def test_codes_of_one_image_are_no_list_of_images(lowres):
    for codes in ([1, 2, 3], torch.tensor([1, 2, 3])):
        with pytest.raises(ValueError, match="codes must be a list with the codes of each image, got .*1, 2, 3"):
            decode_codes(lowres, codes)
    with pytest.raises(ValueError, match="num_images_per_prompt must be 1, got 2: repeat the codes"):
        decode_codes(lowres, [[1, 2, 3]], num_images_per_prompt=2)
    settings = {"num_inference_steps": 1, "height": 32, "width": 32, "num_images_per_prompt": 1}
    for codes in ([[1, 2, 3]], torch.tensor([[1, 2, 3]]), [np.array([1, 2, 3])]):
        assert len(decode_codes(lowres, codes, **settings)) == 1


def test_an_image_that_overflows_is_refused(pipe):
    """A scale that no float32 can hold, and a VAE in a dtype that is too small for its weights."""
    with pytest.raises(ValueError, match=r"Image 0 .* NaN or infinity in the unet: choose a smaller guidance_scale"):
        draw(pipe, image(), guidance_scale=1e308, output_type="latent")
    vae = AutoencoderKL.from_config(pipe.vae.config)
    vae.load_state_dict(pipe.vae.state_dict())
    vae.decoder.conv_out.bias.data.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"Image 0 .* NaN or infinity in the vae: .* or a dtype of larger range"):
        draw(remake(pipe, vae=vae), image())


# Callbacks


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "callback_on_step_end must return a dictionary of the tensors to replace, got None"),
        (torch.zeros(1, 4, 4, 4), "callback_on_step_end must return a dictionary"),
        ({"latent": torch.zeros(1, 4, 4, 4)}, "callback_on_step_end must return tensors of .*, got 'latent'"),
        ({"latents": None}, "callback_on_step_end must return a tensor as latents, got None"),
        ({"latents": torch.zeros(4, 4, 4)}, r"latents must have the shape \(1, 4, 4, 4\), got \(4, 4, 4\)"),
        ({"latents": torch.tensor(0.0)}, r"latents must have the shape \(1, 4, 4, 4\), got \(\)"),
        ({"latents": torch.full((1, 4, 4, 4), torch.nan)}, "Image 0 has become NaN or infinity"),
        ({"prompt_embeds": torch.zeros(3, 64, 64)}, r"guidance_scale=.*, prompt_embeds must have the shape \(2, 64,"),
    ],
    ids=name_of,
)
def test_a_callback_returns_a_dictionary_of_tensors(pipe, outputs, message):
    with pytest.raises(ValueError, match=message):
        draw(pipe, image(), num_inference_steps=2, callback_on_step_end=lambda *args: outputs)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, None, "2"])
def test_a_callback_cannot_set_a_senseless_guidance_scale(pipe, scale):
    def callback(pipe, step, timestep, tensors):
        pipe._guidance_scale = scale
        return {}

    expected = "callback_on_step_end: guidance_scale must be a finite number of at least 0, got"
    with pytest.raises(ValueError, match=expected):
        draw(pipe, image(), num_inference_steps=2, callback_on_step_end=callback)


def test_a_call_without_unconditional_rows_cannot_become_guided(pipe):
    def callback(pipe, step, timestep, tensors):
        pipe._guidance_scale = 3.0
        return {}

    with pytest.raises(
        ValueError, match=r"with guidance_scale=3.0, prompt_embeds must have the shape \(2, .* got \(1,"
    ):
        draw(pipe, image(), guidance_scale=1, num_inference_steps=2, callback_on_step_end=callback)
