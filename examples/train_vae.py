# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a VAE on images alone, in whose latents the pixel decoder draws. It is only needed where no pretrained VAE fits:
those of Stable Diffusion fit photographs.

    python examples/train_vae.py examples/recipes/shapes/vae.yaml
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import AutoencoderKL
from PIL import Image
from torch import nn
from transformers import TrainingArguments, set_seed

from lavit_hf.processing import new_image_processor
from lavit_hf.training import (
    DataArguments,
    ImageCollator,
    LavitTrainer,
    SamplesCallback,
    batch_mean,
    last_checkpoint,
    parse_recipe,
    read_fields,
    run_script,
    share_of_batch,
    spread_rows,
    write_model_card,
)
from lavit_hf.visualization import Sample, draw_sheet


# The weight of the squared error beside the absolute error, which alone neglects the colors of small objects.
SQUARED_ERROR_WEIGHT = 5.0
# The logarithm of the noise's variance at the start. The usual start, noise as strong as the latents, takes long to
# be unlearned.
START_LOG_VARIANCE = -6.0
NUM_SCALED_IMAGES = 1024  # images whose latents give the scaling factor


@dataclass
class ModelArguments:
    config: str = field(
        default="{}", metadata={"help": "JSON with fields of AutoencoderKL; sample_size is the side of the images."}
    )
    kl_weight: float = field(
        default=1e-6, metadata={"help": "The weight of the loss that pulls latents to a standard normal distribution."}
    )
    num_sample_images: int = field(default=8, metadata={"help": "The number of images in samples/."})


@torch.no_grad()
def new_vae(**config) -> AutoencoderKL:
    """Makes a new VAE whose latents have little noise, from the fields of its configuration."""
    vae = AutoencoderKL(**config)
    # The second half of these channels are the logarithms.
    last = vae.quant_conv if vae.quant_conv is not None else vae.encoder.conv_out
    last.bias[vae.config.latent_channels :] = START_LOG_VARIANCE
    last.weight[vae.config.latent_channels :] *= 0.1
    return vae


class VaeForTraining(nn.Module):
    """
    A VAE with its loss: the absolute and squared error of the reconstruction, and a weak pull of the latents to a
    standard normal distribution (Rombach et al., arXiv 2112.10752, without their perceptual and adversarial losses).

    Args:
        vae (`AutoencoderKL`): The model to train.
        kl_weight (`float`, *optional*, defaults to 1e-6): The weight of the pull.
    """

    def __init__(self, vae: AutoencoderKL, kl_weight: float = 1e-6):
        super().__init__()
        self.vae, self.kl_weight = vae, kl_weight

    def forward(self, pixel_values: torch.FloatTensor) -> dict[str, torch.Tensor]:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, H, W)`): Images in [-1, 1].

        Returns:
            `dict[str, torch.Tensor]`: `loss`, its parts `reconstruction_loss` and `kl_loss`, and `psnr` in dB, all of
            shape `()`; `reconstructions` (B, 3, H, W). Latents are sampled in training, and means in evaluation mode.
        """
        posterior = self.vae.encode(pixel_values).latent_dist
        latents = posterior.mean
        if self.training:
            rows, total = share_of_batch(len(latents), latents.device)
            noise = torch.randn(total, *latents.shape[1:], device=latents.device)[rows]
            latents = latents + posterior.std * noise.to(latents.dtype)
        reconstructions = self.vae.decode(latents).sample.float()
        error = reconstructions - pixel_values
        errors = error.abs() + SQUARED_ERROR_WEIGHT * error.square()
        reconstruction_loss = batch_mean(errors, over_processes=self.training)
        kl_loss = batch_mean(posterior.kl() / latents[0].numel(), over_processes=self.training)
        squared_error = (reconstructions.detach().clamp(-1, 1) - pixel_values).square().mean((1, 2, 3))
        return {
            "loss": reconstruction_loss + self.kl_weight * kl_loss,
            "reconstruction_loss": reconstruction_loss,
            "kl_loss": kl_loss,
            "psnr": 10 * (4 / squared_error.clamp(min=1e-10)).log10().mean(),
            "reconstructions": reconstructions,
        }


class VaeTrainer(LavitTrainer):
    """Logs the parts of the loss."""

    def measure(self, outputs) -> dict[str, torch.Tensor]:
        return {name: outputs[name] for name in ("reconstruction_loss", "kl_loss", "psnr")}


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, batches: Iterable[torch.Tensor]) -> float:
    """
    Sets the `scaling_factor` of a VAE such that its latents have a standard deviation of 1, as diffusion expects.

    Args:
        vae (`AutoencoderKL`): The VAE, whose configuration is changed.
        batches (`Iterable[torch.FloatTensor]`): Images in [-1, 1], `(B, 3, H, W)`, on any device.

    Returns:
        `float`: The factor.
    """
    latents = [vae.encode(batch.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu() for batch in batches]
    scaling_factor = round(1 / torch.cat(latents).std().item(), 5)
    vae.register_to_config(scaling_factor=scaling_factor)
    return scaling_factor


@torch.no_grad()
def show_vae(model: VaeForTraining, pixel_values: torch.Tensor) -> Image.Image:
    """Draws a sheet of images (B, 3, H, W) in [-1, 1], and beside each of them its reconstruction."""
    pixel_values = pixel_values.to(model.vae.device)
    pair = pixel_values, model(pixel_values)["reconstructions"]
    rows = (VaeImageProcessor().postprocess(images, output_type="pil") for images in pair)
    samples = [Sample(images, ()) for images in zip(*rows, strict=True)]
    return draw_sheet(samples, pixel_values.shape[-1], titles=("image", "rebuilt"))


def main():
    model_args, data, args = parse_recipe(ModelArguments, DataArguments, TrainingArguments)
    checkpoint = last_checkpoint(args, model_args, data)  # before time is spent
    set_seed(args.seed)
    vae = new_vae(**read_fields("config", model_args.config))
    model = VaeForTraining(vae, model_args.kl_weight)
    processor = new_image_processor(image_size=vae.config.sample_size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    collator = ImageCollator({"pixel_values": processor}, data.image_column)
    train_rows, eval_rows = data.load_images(args.seed)

    samples = collator(spread_rows(eval_rows or train_rows, model_args.num_sample_images))["pixel_values"]
    trainer = VaeTrainer(
        model,
        args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=collator,
        callbacks=[SamplesCallback(lambda: show_vae(model, samples))],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if eval_rows is not None:
        trainer.evaluate()
    batches = islice(trainer.get_train_dataloader(), -(-NUM_SCALED_IMAGES // args.train_batch_size))
    factor = set_scaling_factor(vae, (batch["pixel_values"] for batch in batches))
    trainer.save_state()
    if trainer.is_world_process_zero():
        vae.save_pretrained(args.output_dir)
        write_model_card(
            args.output_dir,
            title="VAE",
            description=f"Encodes images as latents and decodes them, for a pixel decoder. Scaling factor: {factor}.",
            usage="from diffusers import AutoencoderKL\n\nvae = AutoencoderKL.from_pretrained(path)",
            library_name="diffusers",
            dataset=data,
            trainer=trainer,
        )


if __name__ == "__main__":
    run_script(main)
