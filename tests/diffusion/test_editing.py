# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Edits redraw what the tokens change, and keep the rest of the image."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, EulerDiscreteScheduler, HeunDiscreteScheduler, schedulers
from PIL import ExifTags, Image

from lavit_hf import LavitVisualTokenizer, demo_checkpoint
from lavit_hf.data.shapes import read_scene, scene_matches
from lavit_hf.data.shapes.loading import make_row
from lavit_hf.diffusion import LavitImageDecoderPipeline
from lavit_hf.inference import decode_codes, decode_edits, encode_images
from lavit_hf.processing import LavitProcessor, read_image

from .test_arguments import draw, generator, remake
from .test_pipeline_components import NO_CONFIG, USABLE


HALF_STEPS = {"KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"}


@pytest.fixture(scope="module")
def photo():
    """Soft random colors of 32 x 32 pixels."""
    small = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def left():
    """A mask of 32 x 32 pixels whose left half is drawn anew."""
    return Image.fromarray(np.repeat([[255] * 16 + [0] * 16], 32, axis=0).astype(np.uint8))


def latents_of(pipe, tokens, **settings) -> torch.Tensor:
    return draw(pipe, tokens, output_type="latent", **settings)


def test_the_kept_part_is_that_of_the_image(pipe, codes, photo, left):
    settings = {"num_inference_steps": 3, "image": photo, "mask_image": left}
    one, other = (latents_of(pipe, codes[0], generator=generator(seed), **settings) for seed in (0, 1))
    middle = one.shape[-1] // 2
    torch.testing.assert_close(one[..., middle:], other[..., middle:])
    assert (one[..., :middle] - other[..., :middle]).abs().mean() > 0.1
    drawn, pixels = draw(pipe, codes[0], **settings)[0], np.asarray(photo, dtype=np.float32) / 255
    np.testing.assert_allclose(drawn[:, 20:], pixels[:, 20:], atol=1e-4)
    assert np.abs(drawn[:, :12] - pixels[:, :12]).mean() > 0.05


def test_a_white_mask_changes_nothing(pipe, codes, photo):
    settings = {"num_inference_steps": 3, "image": photo, "mask_image": Image.new("L", (32, 32), 255)}
    drawn = draw(pipe, codes[0], generator=generator(), **settings)
    np.testing.assert_array_equal(drawn, draw(pipe, codes[0], generator=generator(), num_inference_steps=3))


@pytest.mark.parametrize("name", sorted(USABLE - NO_CONFIG - HALF_STEPS))
def test_every_scheduler_keeps_the_image(highres, codes, photo, left, name):
    pipe = remake(highres, scheduler=getattr(schedulers, name).from_config(highres.scheduler.config))
    kept = latents_of(pipe, codes[0], num_inference_steps=4, image=photo, mask_image=left)
    with torch.no_grad():
        pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        wanted = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    middle = kept.shape[-1] // 2
    torch.testing.assert_close(kept[..., middle:], wanted[..., middle:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_rows_of_a_batch_do_not_meet(highres, codes, photo, left, scheduler):
    pipe = remake(highres, scheduler=scheduler.from_config(highres.scheduler.config))
    images, masks = [photo, photo.rotate(90)], [left, left.rotate(180)]
    settings = {"num_inference_steps": 3}
    generators = [generator(1), generator(1), generator(2), generator(2)]
    together = draw(
        pipe,
        codes[:2],
        generator=generators,
        num_images_per_prompt=2,
        image=images,
        mask_image=masks,
        **settings,
    )
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        alone = draw(pipe, codes[row], generator=[generator(row + 1)], image=image, mask_image=mask, **settings)
        np.testing.assert_allclose(together[2 * row], alone[0], atol=5e-5)
        np.testing.assert_allclose(together[2 * row + 1], alone[0], atol=5e-5)
    # One image is for all of them.
    drawn = draw(
        pipe, [codes[0]] * 2, generator=[generator(1), generator(2)], image=photo, mask_image=left, **settings
    )
    np.testing.assert_allclose(drawn[0], together[0], atol=5e-5)


def test_other_kinds_of_images(lowres, codes, photo, left):
    """Arrays and tensors in [0, 1], and any size, are what the PIL image is."""
    wanted = draw(lowres, codes[0], generator=generator(), image=photo, mask_image=left)
    array, mask = np.asarray(photo, dtype=np.float32) / 255, np.asarray(left, dtype=np.float32) / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None]
    masks = (mask[..., None], mask > 0, torch.from_numpy(mask)[None, None], torch.from_numpy(mask > 0)[None])
    masks += ((mask * 255).astype(np.uint8), [torch.from_numpy(mask > 0)], left.convert("1"), left.convert("RGB"))
    for image, mask_image in zip((array, tensor) * 4, masks, strict=True):
        drawn = draw(lowres, codes[0], generator=generator(), image=image, mask_image=mask_image)
        np.testing.assert_allclose(drawn, wanted, atol=0.01)  # arrays become 8 bits
    shape = draw(lowres, codes[0], image=photo.resize((50, 20)), mask_image=left.resize((7, 90))).shape
    assert shape == (1, 32, 32, 3)


def test_the_image_is_read_as_for_the_model(lowres, codes, left, tmp_path):
    """Upright, with 8 bits, and transparency over white: the tokens are those of such an image."""
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.rotate(90, expand=True).save(tmp_path / "camera.png", exif=exif)
    grey = Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32))
    clear = upright.convert("RGBA")
    clear.putalpha(left)
    for image in (Image.open(tmp_path / "camera.png"), tmp_path / "camera.png", grey, clear):
        drawn = draw(lowres, codes[0], image=image, mask_image=Image.new("L", (32, 32)))[0]
        np.testing.assert_allclose(drawn, np.asarray(read_image(image)) / 255, atol=1e-4)


def test_tiny_vae(lowres, codes, photo, left):
    vae = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    kept = latents_of(remake(lowres, vae=vae), codes[0], num_inference_steps=2, image=photo, mask_image=left)
    with torch.no_grad():
        pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        wanted = vae.encode(pixels).latents
    torch.testing.assert_close(kept[..., 2:], wanted[..., 2:], atol=1e-4, rtol=1e-4)


def test_refused(lowres, codes, photo, left):
    def refused(message: str, **arguments):
        with pytest.raises(ValueError, match=message):
            draw(lowres, codes[:2], **arguments)

    refused("image and mask_image must be given together", image=[photo] * 2)
    refused("image and mask_image must be given together", mask_image=[left] * 2)
    refused(
        "image must have one image, or one for each of 2 in image_tokens, got 3",
        image=[photo] * 3,
        mask_image=[left] * 2,
    )
    refused("image must have one image, or one for each of 2 .* got 0", image=[], mask_image=[left] * 2)
    refused("image 1.*floating.*0, 1", image=[photo, np.asarray(photo, dtype=np.float32)], mask_image=left)
    refused("image 0.*NaN", image=torch.full((2, 3, 32, 32), torch.nan), mask_image=left)
    refused(r"mask_image 0 must have one channel, got \(3, 8, 8\)", image=photo, mask_image=torch.ones(1, 3, 8, 8))
    refused("mask_image must have one image, .* got 0", image=photo, mask_image=[])
    refused("mask_image 0 must be a PIL image, an array or a tensor, got str", image=photo, mask_image="mask.png")
    for mode in ("RGBA", "LA", "I;16", "I", "F", "P"):
        refused(f"mask_image 0 must have the mode 1, L or RGB, got {mode}", image=photo, mask_image=left.convert(mode))
    for mask in (np.full((8, 8), 255.0), np.full((8, 8), np.nan), -np.ones((8, 8)), np.ones((8, 8), dtype=np.int64)):
        refused(r"mask_image 0 must be bool, uint8, or floating in \[0, 1\]", image=photo, mask_image=mask)
    for name in sorted(HALF_STEPS):
        pipe = remake(lowres, scheduler=getattr(schedulers, name).from_config(lowres.scheduler.config))
        with pytest.raises(ValueError, match=f"image and mask_image do not work with {name}"):
            draw(pipe, codes[0], image=photo, mask_image=left)
    for threshold in (-1, float("nan"), float("inf"), np.float32("inf"), "x"):
        with pytest.raises(ValueError, match="threshold must be a finite number of at least 0"):
            lowres.generate_mask(codes[0], codes[1], threshold=threshold)
    with pytest.raises(ValueError, match="source_tokens and target_tokens must be of as many images, got 1 and 2"):
        lowres.generate_mask(codes[0], codes[:2])
    for source, target, name in (([], [1], "source_tokens"), ([1], [99999], "target_tokens"), ("a", [1], "source_t")):
        with pytest.raises(ValueError, match=f"^{name}"):
            lowres.generate_mask(source, target)
    with pytest.raises(ValueError, match="images must be a list of 1 images"):
        decode_edits(lowres, photo, [codes[0]], [codes[1]])


def test_mask_of_tokens(pipe, codes):
    same = pipe.generate_mask(codes, codes)
    side = 2 * round(pipe.feature_decoder.config.num_patches**0.5)
    assert same.shape == (len(codes), 1, side, side)
    assert not same.any()
    # Equal codes change nothing, whatever else is in the batch.
    longer = [*codes[0], *codes[0]][: pipe.feature_decoder.config.num_patches]
    assert not pipe.generate_mask([codes[0], codes[1]], [codes[0], longer], threshold=0)[0].any()
    # The weights are random, so that the codes hardly change what the places of patches give.
    masks = [pipe.generate_mask(codes, codes[::-1], threshold=threshold) for threshold in (0.1, 0.01, 0)]
    assert all((less <= more).all() for less, more in pairwise(masks))
    assert masks[1].any()
    assert masks[2].all()
    assert set(torch.cat(masks).unique().tolist()) <= {0.0, 1.0}


def test_an_edit_of_the_small_model_keeps_background_and_objects():
    """The tokens are those of the edited image, so that only the pixel decoder is tested."""
    path = demo_checkpoint()
    row = make_row(1, "test")
    images = [row["image"], row["edited_image"]]
    processor, tokenizer = LavitProcessor.from_pretrained(path), LavitVisualTokenizer.from_pretrained(path)
    pipe = LavitImageDecoderPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    source, target = (codes.tolist() for codes in encode_images(tokenizer, processor, images).split())
    [edited] = decode_edits(pipe, images[:1], [source], [target])
    assert scene_matches(row["edited_scene"], read_scene(edited))
    [plain] = decode_codes(pipe, [target])
    mask = torch.nn.functional.interpolate(pipe.generate_mask([source], [target]), (64, 64))[0, 0].bool().numpy()
    before, kept, drawn = (np.asarray(image, dtype=np.float32)[~mask] for image in (images[0], edited, plain))
    assert 0.05 < mask.mean() < 0.6
    assert np.abs(kept - before).mean() < 1 < np.abs(drawn - before).mean()
