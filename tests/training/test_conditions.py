# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 3: the conditions of the U-Net, the loss of a step, and the scale of latents."""

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
)
from train_vae import VaeForTraining, new_vae, set_scaling_factor

from lavit_hf import (
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitImageDecoderPipeline,
)
from lavit_hf.training import (
    LavitImageDecoderForTraining,
)

from ..tiny import CODEBOOK_SIZE, NUM_PATCHES
from .small import SIZE, VAE, make_stage_one
from .small_image_decoder import MAP, make_collator, make_decoder, make_rows


def test_new_conditions_have_unit_size():
    decoder = make_decoder()
    codes = torch.randint(CODEBOOK_SIZE, (256, 5))
    conditions = decoder.feature_decoder(codes=codes).prompt_embeds
    assert conditions.std().item() == pytest.approx(1, abs=0.3)
    assert conditions.mean().abs().item() < 0.3


def _watch(unet) -> list[dict]:
    calls = []
    unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs | {"sample": args[0]}), with_kwargs=True
    )
    return calls


@pytest.mark.parametrize("kind", ["lowres", "highres"])
def test_conditions_are_those_of_the_pipeline(kind, converted):
    """This holds for both branches of guidance, with the stored embeddings of SD 1.5 and the zeros of SDXL."""
    subfolder = "lowres_decoder" if kind == "lowres" else None
    pipe = LavitImageDecoderPipeline.from_pretrained(converted, subfolder=subfolder)
    pipe.set_progress_bar_config(disable=True)
    height, width = pipe.default_size
    codes = [[1, 2, 3, 4, 5], [6, 7, 8]]
    calls = _watch(pipe.unet)
    pipe(codes, num_inference_steps=1, guidance_scale=2.0)
    decoder = LavitImageDecoderForTraining(pipe)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(image) for image in codes], batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor([[len(image)] for image in codes])
    dropped = torch.tensor([True, True, False, False])
    conditions = decoder.encode_conditions(padded.repeat(2, 1), mask.repeat(2, 1), dropped, (height, width))

    told = calls[0]
    torch.testing.assert_close(conditions["prompt_embeds"], told["encoder_hidden_states"])
    if kind == "lowres":
        torch.testing.assert_close(conditions["attention_mask"], told["encoder_attention_mask"], rtol=0, atol=0)
    else:
        assert "attention_mask" not in conditions
        assert told["encoder_attention_mask"] is None
        torch.testing.assert_close(conditions["add_text_embeds"], told["added_cond_kwargs"]["text_embeds"])
        decoder.train()(torch.zeros(2, 3, height, width), codes=padded, attention_mask=mask)
        time_ids = calls[-1]["added_cond_kwargs"]["time_ids"]
        torch.testing.assert_close(time_ids, told["added_cond_kwargs"]["time_ids"][:2], rtol=0, atol=0)


def test_a_map_puts_each_patch_in_its_place():
    decoder = make_decoder(MAP, condition_dropout=0.0)
    pipe, codes = decoder.pipeline, [[1, 2, 3, 4, 5], [6, 7, 8]]
    side, channels = int(NUM_PATCHES**0.5), decoder.vae.config.latent_channels
    pipe.set_progress_bar_config(disable=True)
    calls = _watch(pipe.unet)
    pipe(codes, num_inference_steps=1, guidance_scale=2.0, height=2 * SIZE)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(image) for image in codes], batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor([[len(image)] for image in codes])
    decoder.train()(torch.zeros(2, 3, 2 * SIZE, SIZE), codes=padded, attention_mask=mask)

    drawing, training = (call["sample"][:, channels:] for call in calls)
    assert not drawing[:2].any()  # the unconditional branch
    torch.testing.assert_close(drawing[2:], training)
    height, width = training.shape[-2:]
    for y, x in ((0, 0), (height - 1, 0), (height // 2, width - 1)):
        patch = y * side // height * side + x * side // width
        torch.testing.assert_close(training[..., y, x], calls[1]["encoder_hidden_states"][:, patch])


def test_a_map_needs_its_channels():
    with pytest.raises(ValueError, match="latent_channels, 4, or with a map of the conditions 20, got 7"):
        make_decoder({"in_channels": 7})
    pipe = make_decoder(MAP).pipeline
    config = pipe.feature_decoder.config.to_dict() | {"num_unconditional_tokens": 4}
    feature_decoder = LavitFeatureDecoder(LavitFeatureDecoderConfig(**config))
    with pytest.raises(ValueError, match="num_unconditional_tokens must be 0, got 4"):
        LavitImageDecoderPipeline(**pipe.components | {"feature_decoder": feature_decoder})


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_has_no_loss(prediction_type):
    """The target of the U-Net leads DDIM from the noisy latents back to the latents."""
    decoder = make_decoder(scheduler={"prediction_type": prediction_type, "clip_sample": False}).eval()
    batch = make_collator()(make_rows(4))
    latents = decoder.encode_latents(batch["images"])
    calls = _watch(decoder.unet)
    scheduler = decoder.pipeline.scheduler
    scheduler.set_timesteps(1000)

    def predict(*args, **kwargs):
        noisy, timesteps = args[0], args[1]
        alphas = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = (noisy - alphas.sqrt() * latents) / (1 - alphas).sqrt()
        velocity = alphas.sqrt() * noise - (1 - alphas).sqrt() * latents
        sample = noise if prediction_type == "epsilon" else velocity
        for i, timestep in enumerate(timesteps):
            back = scheduler.step(sample[i], timestep, noisy[i]).pred_original_sample
            torch.testing.assert_close(back, latents[i], rtol=1e-2, atol=1e-2)
        return (sample,)

    decoder.unet.forward = predict
    output = decoder(**batch)
    assert output.loss.item() < 1e-6
    assert output.timesteps.tolist() == [125, 375, 625, 875]
    assert len(calls) == 1


def test_from_codes_is_from_pixels():
    decoder = make_decoder().eval()
    rows = make_rows(4)
    batch = make_collator()(rows)
    codes = decoder.visual_tokenizer(batch["pixel_values"]).split()
    assert len({len(image) for image in codes}) > 1
    rows = [row | {"image_codes": image.tolist()} for row, image in zip(rows, codes, strict=True)]
    coded = make_collator(codes_column="image_codes")(rows)
    assert "pixel_values" not in coded
    decoder.visual_tokenizer = None
    from_codes = decoder(**coded).loss
    with pytest.raises(ValueError, match="visual_tokenizer"):
        decoder(**batch)
    decoder.visual_tokenizer = make_stage_one().visual_tokenizer
    torch.testing.assert_close(decoder(**batch).loss, from_codes, rtol=0, atol=0)


def test_conditions_are_dropped_as_often_as_asked():
    decoder = make_decoder(condition_dropout=0.25).train()
    _, timesteps, dropped = decoder._draw(torch.zeros(4000, 1, 1, 1))
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (timesteps.min(), timesteps.max()) == (0, 999)


def test_latents_of_a_tiny_vae_are_scaled():
    decoder, images = make_decoder(), make_collator()(make_rows(2))["images"]
    widths, blocks = (8, 8), (1, 1)
    decoder.vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
        scaling_factor=0.5,
    )
    torch.testing.assert_close(decoder.encode_latents(images), 0.5 * decoder.vae.encode(images).latents)


def test_latents_have_unit_deviation_after_scaling():
    torch.manual_seed(0)
    vae = new_vae(**VAE).eval()
    images = make_collator()(make_rows(8))["images"]
    factor = set_scaling_factor(vae, [images[:4], images[4:]])
    assert factor == vae.config.scaling_factor
    assert vae.encode(images).latent_dist.std.max() < 0.1
    assert (vae.encode(images).latent_dist.mode() * factor).std().item() == pytest.approx(1, abs=1e-3)
    output = VaeForTraining(vae, kl_weight=0.5)(images)
    torch.testing.assert_close(output["loss"], output["reconstruction_loss"] + 0.5 * output["kl_loss"])
