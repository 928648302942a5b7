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
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor

from lavit_hf import (
    LavitImageDecoderPipeline,
)
from lavit_hf.training import (
    LavitImageDecoderForTraining,
    load_stage_one,
    show_image_decoder,
)
from lavit_hf.training.image_decoder_trainer import AVERAGED_WEIGHTS_NAME

from ..guides import ROOT
from ..tiny import NUM_PATCHES
from .small import SIZE, UNET, VAE, make_stage_one, save_visual_tokenizer
from .small_image_decoder import MAP, losses, make_collator, make_decoder, make_images, make_rows, train


SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 8 + 6 * 4,
}


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
