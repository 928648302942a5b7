# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 3: which weights are trained, the conditions of the U-Net, averaged weights, resuming, the script."""

import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from train_vae import VaeForTraining, new_vae, set_scaling_factor
from transformers import TrainingArguments

from lavit_hf import (
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitImageDecoderPipeline,
)
from lavit_hf.processing import new_image_processor
from lavit_hf.training import (
    ImageCollator,
    LavitImageDecoderForTraining,
    LavitImageDecoderTrainer,
    load_stage_one,
    new_image_decoder,
    show_image_decoder,
)
from lavit_hf.training.image_decoder_trainer import AVERAGED_WEIGHTS_NAME

from ..guides import ROOT
from ..tiny import CODEBOOK_SIZE, NUM_PATCHES
from .small import SIZE, UNET, VAE, WIDTH, image_processor, make_stage_one, save_visual_tokenizer


SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 8 + 6 * 4,
}
MAP = {"in_channels": 4 + WIDTH}


def make_decoder(unet=None, scheduler=None, **kwargs) -> LavitImageDecoderForTraining:
    stage_one = make_stage_one()
    pipe = new_image_decoder(
        stage_one,
        UNet2DConditionModel(**(UNET | (unet or {}))),
        AutoencoderKL(**VAE).eval(),
        DDIMScheduler(**(scheduler or {})),
    )
    return LavitImageDecoderForTraining(pipe, stage_one.visual_tokenizer, **kwargs)


def make_images(count: int) -> list[Image.Image]:
    """Makes images of different sizes with patches of colors, so that there is something to learn."""
    rng = np.random.default_rng(0)
    sizes = [(20, 30), (40, 24), (16, 16)]
    colours = rng.integers(0, 255, (count, 2, 2, 3), dtype=np.uint8)
    return [Image.fromarray(colour).resize(sizes[i % 3]) for i, colour in enumerate(colours)]


def make_collator(codes_column: str | None = None) -> ImageCollator:
    processors = {"images": new_image_processor(image_size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3)}
    if codes_column is None:
        processors["pixel_values"] = image_processor()
    return ImageCollator(processors, codes_column=codes_column)


def make_rows(count: int = 8) -> list[dict]:
    return [{"image": image} for image in make_images(count)]


def train(
    decoder, folder, steps=4, resume=None, rows=None, ema_decay=0.9, model_init=None, **kwargs
) -> LavitImageDecoderTrainer:
    settings = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    }
    trainer = LavitImageDecoderTrainer(
        decoder,
        TrainingArguments(str(folder), **(settings | kwargs)),
        ema_decay=ema_decay,
        train_dataset=rows or make_rows(),
        eval_dataset=make_rows(4),
        data_collator=make_collator(),
        model_init=model_init,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@torch.no_grad()
def mean_loss(decoder, draws: int = 20) -> float:
    """Returns the loss of the rows, with the same noise and timesteps at every call."""
    batch = make_collator()(make_rows())
    torch.manual_seed(1)
    return sum(decoder(**batch).loss.item() for _ in range(draws)) / draws


@pytest.mark.parametrize(
    ("unet", "scheduler", "settings"),
    [
        ({}, {}, {}),
        (SDXL, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"snr_gamma": 5.0}),
        (MAP, {}, {}),
    ],
    ids=["sd", "sdxl", "map"],
)
def test_the_loss_falls_and_what_is_frozen_stays(tmp_path, unet, scheduler, settings):
    decoder = make_decoder(unet, scheduler, **settings)
    before = {name: value.clone() for name, value in decoder.named_parameters()}
    buffers = {name: value.clone() for name, value in decoder.named_buffers()}
    loss_before = mean_loss(decoder)
    train(decoder, tmp_path, steps=30, learning_rate=1e-2)
    assert mean_loss(decoder) < 0.9 * loss_before

    moved = {name.rpartition(".")[0] for name, value in decoder.named_parameters() if not value.equal(before[name])}
    heads = ("feature_decoder.condition_projections", "feature_decoder.attention_pool")
    assert all(name.startswith(("unet.", *heads)) for name in moved)
    assert any(name.startswith(heads[0]) for name in moved)
    assert any(name.startswith(heads[1]) for name in moved) == (unet is SDXL)
    for name, value in decoder.named_buffers():
        torch.testing.assert_close(value, buffers[name], rtol=0, atol=0)
    assert not any(part.training for part in (decoder.vae, decoder.visual_tokenizer, decoder.feature_decoder))


def test_the_whole_feature_decoder_can_be_trained(tmp_path):
    decoder = make_decoder(train_feature_decoder=True)
    before = decoder.feature_decoder.queries.detach().clone()
    train(decoder, tmp_path, steps=1)
    assert not decoder.feature_decoder.queries.equal(before)


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


def test_resuming_goes_on_where_it_stood(tmp_path):
    whole = train(make_decoder(), tmp_path / "whole", steps=6)
    train(make_decoder(), tmp_path / "half", steps=6, save_strategy="steps", save_steps=3)
    checkpoint = tmp_path / "half" / "checkpoint-3"
    assert (checkpoint / AVERAGED_WEIGHTS_NAME).is_file()
    resumed = train(make_decoder(), tmp_path / "half", steps=6, resume=str(checkpoint))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-4)
    for average, expected in zip(resumed.average.shadow_params, whole.average.shadow_params, strict=True):
        torch.testing.assert_close(average, expected, rtol=0, atol=1e-5)


def test_checkpoints_hold_what_is_trained_and_folders_the_average(tmp_path):
    decoder = make_decoder()
    trainer = train(decoder, tmp_path / "run", steps=3, save_strategy="steps", save_steps=3)
    assert all(name.startswith(("unet.", "feature_decoder.condition_")) for name in decoder.state_dict())
    raw = decoder.unet.conv_in.weight.detach().clone()
    trainer.save_model(str(tmp_path / "saved"))
    torch.testing.assert_close(decoder.unet.conv_in.weight, raw, rtol=0, atol=0)

    pipe = LavitImageDecoderPipeline.from_pretrained(tmp_path / "saved")
    pipe.set_progress_bar_config(disable=True)
    names = [name for name, parameter in decoder.named_parameters() if parameter.requires_grad]
    average = dict(zip(names, trainer.average.shadow_params, strict=True))
    torch.testing.assert_close(pipe.unet.conv_in.weight, average["unet.conv_in.weight"], rtol=0, atol=0)
    projection = pipe.feature_decoder.condition_projections[0].weight
    torch.testing.assert_close(projection, average["feature_decoder.condition_projections.0.weight"], rtol=0, atol=0)
    assert not pipe.unet.conv_in.weight.equal(raw)

    # The sheet shows exactly what the loaded pipeline draws.
    batch = make_collator()(make_rows(3))
    codes = decoder.eval().list_codes(batch)
    with trainer.averaged_weights():
        sheet = show_image_decoder(decoder, batch["images"], codes, num_inference_steps=2)
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    sheet = np.asarray(sheet)
    windows = {
        sheet[top : top + SIZE, left : left + SIZE].tobytes()
        for top in range(len(sheet) - SIZE)
        for left in range(sheet.shape[1] - SIZE)
    }
    assert all(np.asarray(image).tobytes() in windows for image in pipe(codes, **options).images)


def test_evaluations_are_of_the_average_and_leave_the_weights(tmp_path):
    trainer = train(make_decoder(), tmp_path, steps=2, ema_decay=0.0)
    first, again = (trainer.evaluate()["eval_loss"] for _ in range(2))
    assert first == again
    for parameter in trainer.average.shadow_params:
        parameter.zero_()
    weights = {name: weight.clone() for name, weight in trainer.decoder.trained_parameters().items()}
    rows = trainer.eval_dataset
    measured = trainer.evaluate({"one": rows, "other": rows}) | trainer.predict(rows).metrics
    # A U-Net of zeros predicts no noise.
    for name in ("eval_one_loss", "eval_other_loss", "test_loss"):
        assert measured[name] == pytest.approx(1.0, abs=0.1)
    for name, weight in trainer.decoder.trained_parameters().items():
        assert torch.equal(weight, weights[name])


def test_each_training_may_have_a_new_model(tmp_path):
    """With `model_init`, the average is that of the model in training."""
    trainer = train(None, tmp_path, steps=2, model_init=lambda: make_decoder())
    trainer.train()
    assert trainer.decoder is trainer.model
    assert trainer.average.optimization_step == 2
    weights = [weight.clone() for weight in trainer.decoder.trained_parameters().values()]
    with trainer.averaged_weights():
        averaged = [weight.clone() for weight in trainer.decoder.trained_parameters().values()]
    assert not all(torch.equal(*pair) for pair in zip(weights, averaged, strict=True))


def test_accumulating_and_bfloat16(tmp_path):
    rows = make_rows(8)
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "bf16": True}
    trainer = train(make_decoder(), tmp_path, steps=2, rows=rows, **options)
    assert all(np.isfinite(losses(trainer)))
    assert losses(trainer)[0] == pytest.approx(1.0, abs=0.5)


@pytest.mark.parametrize("bf16", [False, True])
def test_activation_checkpointing_is_the_same(tmp_path, bf16):
    runs = [
        train(make_decoder(condition_dropout=0.0), tmp_path, bf16=bf16, activation_checkpointing=checkpointing)
        for checkpointing in (False, True)
    ]
    assert runs[1].decoder.unet.is_gradient_checkpointing
    np.testing.assert_allclose(losses(runs[0]), losses(runs[1]), rtol=2e-2 if bf16 else 1e-4)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="condition_dropout must be in .* got 1.5"):
        make_decoder(condition_dropout=1.5)
    with pytest.raises(ValueError, match="prediction_type"):
        make_decoder(scheduler={"prediction_type": "sample"})
    with pytest.raises(ValueError, match="v_prediction"):
        make_decoder(scheduler={"rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match="ema_decay"):
        train(make_decoder(), tmp_path, ema_decay=1.0)
    decoder = make_decoder()
    pipe = decoder.pipeline
    pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        LavitImageDecoderForTraining(pipe)
    other = make_stage_one().visual_tokenizer
    other.quantizer.codebook.mul_(-1)
    pipe.register_modules(scheduler=DDIMScheduler())
    with pytest.raises(ValueError, match="codebook"):
        LavitImageDecoderForTraining(pipe, other)
    decoder.visual_tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="The files of stage 1 lack"):
        load_stage_one(tmp_path / "tokenizer")


@pytest.mark.parametrize("by", ["push_to_hub", "save_model"])
def test_the_averaged_pipeline_is_what_is_uploaded(tmp_path, monkeypatch, by):
    """`Trainer.push_to_hub` saves the model by `save_model` without a folder, as an internal call."""
    trainer = train(make_decoder(), tmp_path / "out", save_strategy="no", push_to_hub=False)
    monkeypatch.setattr(trainer.args, "push_to_hub", True)
    monkeypatch.setattr(trainer, "create_model_card", lambda **kwargs: None)
    uploaded = []

    def upload_folder(folder_path, **kwargs):
        uploaded.append({str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*.*")})

    monkeypatch.setattr("transformers.trainer.hf_api", lambda: SimpleNamespace(upload_folder=upload_folder))
    trainer.hub_model_id = "me/decoder"
    getattr(trainer, by)()
    assert len(uploaded) == 1
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= uploaded[0]
    assert not {"model.safetensors", "averaged_weights.pt"} & uploaded[0]


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


def write_photographs(folder: Path) -> None:
    folder.mkdir()
    for index, image in enumerate(make_images(6)):
        mode = ["RGB", "L", "RGBA", "P", "CMYK", "LA"][index]
        image.convert(mode).save(folder / f"{index}.{'jpg' if mode == 'CMYK' else 'png'}")


def test_the_scripts_run_on_a_folder_of_images(tmp_path, monkeypatch):
    images, tokenizer, vae, out = (tmp_path / name for name in ("images", "tokenizer", "vae", "out"))
    write_photographs(images)
    save_visual_tokenizer(tokenizer)
    shared = {
        "dataset_name": "imagefolder",
        "data_dir": str(images),
        "eval_split": "train[:2]",
        "max_steps": 3,
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "num_sample_images": 2,
        "report_to": "none",
        "use_cpu": True,
    }
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in VAE.items()}
    unet = {name: list(value) if isinstance(value, tuple) else value for name, value in UNET.items()}
    recipes = {
        "train_vae": {"config": config, "output_dir": str(vae)},
        "train_image_decoder": {
            "visual_tokenizer": str(tokenizer),
            "vae": str(vae),
            "unet": unet,
            "scheduler": {"prediction_type": "v_prediction"},
            "num_inference_steps": 2,
            "output_dir": str(out),
        },
    }
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, recipe in recipes.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(shared | recipe))
        monkeypatch.setattr(sys, "argv", [f"examples/{name}.py", str(path)])
        runpy.run_path(ROOT / "examples" / f"{name}.py", run_name="__main__")
        folder = Path(recipe["output_dir"])
        for left in ("README.md", "samples/step-0000002.png", "checkpoint-3"):
            assert (folder / left).exists(), left
        assert "eval loss" in (folder / "README.md").read_text()

    assert AutoencoderKL.load_config(vae)["scaling_factor"] != 0.18215
    pipe = LavitImageDecoderPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe([1, 2, 3], num_inference_steps=2).images[0].size == (SIZE, SIZE)
    assert pipe.feature_decoder.config.num_patches == NUM_PATCHES

    # The same command resumes from its last checkpoint. Another attention takes the same steps.
    weights, kinds = pipe.unet.conv_in.weight, []
    path.write_text(yaml.safe_dump(shared | recipe | {"attn_implementation": "eager"}))
    choose = UNet2DConditionModel.set_attn_processor

    def record(self, processor):
        kinds.append(type(processor))
        choose(self, processor)

    monkeypatch.setattr(UNet2DConditionModel, "set_attn_processor", record)
    shutil.rmtree(out / "checkpoint-3")
    shutil.rmtree(out / "unet")
    runpy.run_path(ROOT / "examples" / f"{name}.py", run_name="__main__")
    again = UNet2DConditionModel.from_pretrained(out / "unet").conv_in.weight
    torch.testing.assert_close(again, weights, rtol=0, atol=1e-5)
    assert kinds == [AttnProcessor]
