# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The pixel decoder's own VAE, where no pretrained one fits: its objective, and the scale of its latents."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import AutoencoderKL
from diffusers.utils import make_image_grid
from PIL import Image
from torch import nn
from transformers import TrainingArguments
from transformers.utils import ModelOutput

from ..modeling.distributed_lavit import batch_mean, share_of_batch
from .trainer import LavitTrainer


# Of the squared error in the loss, beside the absolute: alone, that neglects the colours of what is small.
SQUARED_ERROR_WEIGHT = 5.0
# What a new VAE's latents begin with as the logarithm of their noise's variance: noise as strong as the latents
# themselves, the usual start, takes long to be unlearned.
START_LOG_VARIANCE = -6.0


@torch.no_grad()
def new_autoencoder(**config) -> AutoencoderKL:
    """
    A new `AutoencoderKL` to be trained, whose latents begin with little noise.

    Args:
        config: Fields of `AutoencoderKL`; `sample_size` is the side of the pictures it is for.
    """
    vae = AutoencoderKL(**config)
    # The second half of these channels are the logarithms.
    last = vae.quant_conv if vae.quant_conv is not None else vae.encoder.conv_out
    last.bias[vae.config.latent_channels :] = START_LOG_VARIANCE
    last.weight[vae.config.latent_channels :] *= 0.1
    return vae


@dataclass
class AutoencoderOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor`): The weighted sum of the two below.
        reconstruction_loss (`torch.FloatTensor`): Mean absolute and squared error of pixels in [-1, 1].
        kl_loss (`torch.FloatTensor`): Mean over the latents' elements, in nats.
        psnr (`torch.FloatTensor`): Mean over pictures, in dB.
        reconstructions (`torch.FloatTensor` of shape `(B, 3, H, W)`): In about [-1, 1].
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    kl_loss: torch.FloatTensor | None = None
    psnr: torch.FloatTensor | None = None
    reconstructions: torch.FloatTensor | None = None


class AutoencoderForTraining(nn.Module):
    """
    Trains an `AutoencoderKL` to give pictures back: absolute and squared error, and a weak pull of the latents to a
    standard normal (Rombach et al., arXiv 2112.10752, without their perceptual and adversarial losses).

    Args:
        vae (`AutoencoderKL`): What is trained; save it with its own `save_pretrained`.
        kl_weight (`float`): Of the pull.
    """

    def __init__(self, vae: AutoencoderKL, kl_weight: float = 1e-6):
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight

    def forward(self, pixel_values: torch.FloatTensor) -> AutoencoderOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, H, W)`):
                Pictures in [-1, 1], H and W multiples of the VAE's scale factor.

        Returns:
            [`AutoencoderOutput`]. Latents are sampled while training; in evaluation mode they are the means.
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
        return AutoencoderOutput(
            loss=reconstruction_loss + self.kl_weight * kl_loss,
            reconstruction_loss=reconstruction_loss,
            kl_loss=kl_loss,
            psnr=10 * (4 / squared_error.clamp(min=1e-10)).log10().mean(),
            reconstructions=reconstructions,
        )


class AutoencoderTrainer(LavitTrainer):
    """
    Trains an [`AutoencoderForTraining`]. `save_model` saves the VAE itself, as `AutoencoderKL.from_pretrained` loads
    it; checkpoints hold what is needed to go on.
    """

    def __init__(self, model: AutoencoderForTraining, args: TrainingArguments, **kwargs):
        super().__init__(model, args, **kwargs)
        self.vae = model.vae

    def measure(self, outputs: AutoencoderOutput) -> dict[str, torch.Tensor]:
        return {name: outputs[name] for name in ("reconstruction_loss", "kl_loss", "psnr")}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
        elif self.args.should_save:
            self.vae.save_pretrained(output_dir or self.args.output_dir)


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, batches: Iterable[torch.Tensor]) -> float:
    """
    Sets the VAE's `scaling_factor` to that which gives its latents a standard deviation of 1, as diffusion expects.

    Args:
        vae (`AutoencoderKL`): Its configuration is changed.
        batches (`Iterable[torch.FloatTensor]`): Pictures in [-1, 1], `(B, 3, H, W)`, on any device.

    Returns:
        `float`: The factor.
    """
    latents = [vae.encode(batch.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu() for batch in batches]
    scaling_factor = round(1 / torch.cat(latents).std().item(), 5)
    vae.register_to_config(scaling_factor=scaling_factor)
    return scaling_factor


@torch.no_grad()
def show_autoencoder(model: AutoencoderForTraining, pixel_values: torch.Tensor) -> Image.Image:
    """A sheet of pictures (B, 3, H, W) in [-1, 1], and below each what the VAE, in evaluation mode, gives back."""
    pixel_values = pixel_values.to(model.vae.device)
    pair = torch.cat([pixel_values, model(pixel_values).reconstructions])
    pictures = VaeImageProcessor().postprocess(pair, output_type="pil")
    return make_image_grid(pictures, rows=2, cols=len(pixel_values))


__all__ = ["AutoencoderForTraining", "AutoencoderTrainer", "new_autoencoder", "set_scaling_factor", "show_autoencoder"]
