# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 3, the pixel decoder: a U-Net learns to draw images from their codes (arXiv 2309.04669, section 3.1)."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler, DDPMScheduler, SchedulerMixin
from diffusers.training_utils import compute_snr
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import ModelOutput

from ..diffusion import LavitImageDecoderPipeline
from ..diffusion.conditions import apply_unet, guidance_attention_mask, prepare_conditions
from ..diffusion.image_tokens import pad_codes
from ..diffusion.latents import encode_pixels
from ..modeling import (
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitVisualTokenizer,
    LavitVisualTokenizerForPreTraining,
)
from ..modeling.codebook_lavit import check_same_codebook
from ..modeling.distributed_lavit import batch_mean, share_of_batch
from ..modeling.pretrained_lavit import check_none_missing


PREDICTION_TYPES = ("epsilon", "v_prediction")


def load_stage_one(folder: str | os.PathLike) -> LavitVisualTokenizerForPreTraining:
    """
    Loads the visual tokenizer together with the feature decoder that stage 1 trained with it, from `folder`, which may
    be a repository.

    Args:
        folder (`str` or `os.PathLike`): The folder or repository of stage 1.

    Returns:
        [`LavitVisualTokenizerForPreTraining`]: The model, in evaluation mode.

    Raises:
        ValueError: If the folder or repository has no feature decoder.
    """
    model, info = LavitVisualTokenizerForPreTraining.from_pretrained(folder, output_loading_info=True)
    parts = ("visual_tokenizer.", "feature_decoder.")
    check_none_missing("stage 1", sorted(name for name in info["missing_keys"] if name.startswith(parts)))
    return model.eval()


@torch.no_grad()
def new_image_decoder(
    stage_one: LavitVisualTokenizerForPreTraining,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL | AutoencoderTiny,
    scheduler: SchedulerMixin | None = None,
) -> LavitImageDecoderPipeline:
    """
    Makes a pixel decoder to train: the feature decoder of stage 1 with new projections to the conditions of the U-Net.

    Stage 1 leaves the scale of the features free, and U-Nets expect conditions of about unit size. The projections
    therefore start such that the conditions have mean 0 and standard deviation 1 over random codes. The conditions of
    the unconditional branch are zeros.

    Args:
        stage_one ([`LavitVisualTokenizerForPreTraining`]): The trained model of stage 1.
        unet (`UNet2DConditionModel`):
            A new or pretrained U-Net of the SD 1.5 or the SDXL kind. Its configuration has the widths of the
            conditions.
        vae (`AutoencoderKL` or `AutoencoderTiny`): A trained VAE.
        scheduler (`SchedulerMixin`, *optional*): The scheduler of training and inference. Default: `DDIMScheduler()`.

    Returns:
        [`LavitImageDecoderPipeline`]: The pixel decoder.

    Raises:
        ValueError: If the components do not fit each other.
    """
    unet_config: Any = unet.config
    width, pooled = unet_config.cross_attention_dim, None
    if unet_config.addition_embed_type == "text_time":
        pooled = unet_config.projection_class_embeddings_input_dim - 6 * unet_config.addition_time_embed_dim
    config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(
        stage_one.config,
        condition_dims=[width if isinstance(width, int) else width[0]],
        pooled_condition_dim=pooled,
    )
    feature_decoder = LavitFeatureDecoder(config).eval()
    feature_decoder.load_state_dict(stage_one.feature_decoder.state_dict(), strict=False)

    codes = torch.randint(config.codebook_size, (64, max(1, config.num_patches // 3)))
    std, mean = torch.std_mean(feature_decoder(codes=codes).features.flatten(0, 1), dim=0)
    for projection in feature_decoder.condition_projections:
        projection.weight.normal_(std=std.square().sum().rsqrt().item())
        projection.bias.copy_(-projection.weight @ mean)
    return LavitImageDecoderPipeline(feature_decoder, unet, vae, scheduler or DDIMScheduler())


@dataclass
class LavitImageDecoderOutput(ModelOutput):
    """
    Output of [`LavitImageDecoderForTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            The mean squared error of the predicted noise or velocity, weighted by timestep.
        timesteps (`torch.LongTensor` of shape `(B,)`): The timestep at which each image was noised.
    """

    loss: torch.FloatTensor | None = None
    timesteps: torch.LongTensor | None = None


class LavitImageDecoderForTraining(nn.Module):
    """
    The components of a pipeline with the loss that trains the U-Net: `|eps - eps_theta(z_t, t, rebuilt features)|^2`,
    or that of the velocity, depending on the `prediction_type` of the scheduler. At random, the conditions of an image
    are replaced by those of the unconditional branch of the pipeline.

    The U-Net and the projections of the feature decoder are trained. VAE, visual tokenizer and, by default, the rest
    of the feature decoder are frozen and stay in evaluation mode. The state dict has the trained parameters only.

    Args:
        pipeline ([`LavitImageDecoderPipeline`]): The components to train. It draws with the current weights.
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*): Needed if the data has no codes.
        condition_dropout (`float`, *optional*, defaults to 0.1):
            The probability that the conditions of an image are replaced, for classifier-free guidance.
        snr_gamma (`float`, *optional*):
            Weighs timesteps by min(SNR, gamma) (Hang et al., arXiv 2303.09556, where it is 5). Default: no weights.
        train_feature_decoder (`bool`, *optional*, defaults to `False`): Whether to train the whole feature decoder.

    Raises:
        ValueError: If a value is out of its range; if the scheduler does not noise by betas, or predicts neither noise
            nor velocity; if the codebook of the visual tokenizer is not that of the feature decoder.
    """

    def __init__(
        self,
        pipeline: LavitImageDecoderPipeline,
        visual_tokenizer: LavitVisualTokenizer | None = None,
        condition_dropout: float = 0.1,
        snr_gamma: float | None = None,
        train_feature_decoder: bool = False,
    ):
        super().__init__()
        _check_settings(pipeline, visual_tokenizer, condition_dropout, snr_gamma)
        self.pipeline = pipeline
        self.feature_decoder, self.unet, self.vae = pipeline.feature_decoder, pipeline.unet, pipeline.vae
        self.visual_tokenizer = visual_tokenizer
        # The scheduler of the pipeline may be any solver of the same process. This one adds noise.
        self.noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.condition_dropout = condition_dropout
        self.snr_gamma = snr_gamma

        self.requires_grad_(False)
        self.unet.requires_grad_(True)
        self.feature_decoder.condition_projections.requires_grad_(True)
        if pipeline.is_sdxl:
            self.feature_decoder.attention_pool.requires_grad_(True)
        if train_feature_decoder:
            self.feature_decoder.requires_grad_(True)
        self.register_state_dict_post_hook(_keep_trained)
        self.register_load_state_dict_post_hook(_expect_trained)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters that are not frozen, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def train(self, mode: bool = True):
        """Same as `torch.nn.Module.train`, except that frozen components stay in evaluation mode."""
        super().train(mode)
        for module in (self.vae, self.visual_tokenizer, self.feature_decoder):
            if module is not None:
                module.eval()
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """
        Enables `TrainingArguments.activation_checkpointing` in the U-Net: less memory for more time.

        Same arguments as `PreTrainedModel.activation_checkpointing_enable`.

        Raises:
            ValueError: If an argument has another value than its default.
        """
        if activation_checkpointing_kwargs or every_n_layers != 1 or offload:
            raise ValueError(
                "diffusers checkpoints all blocks in its own way: activation_checkpointing_kwargs must be empty, got "
                f"{activation_checkpointing_kwargs} with every_n_layers={every_n_layers}, offload={offload}."
            )
        self.unet.enable_gradient_checkpointing()

    @torch.no_grad()
    def encode_latents(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes `images` (B, 3, H, W) in [-1, 1] as latents (B, C, h, w) of about unit deviation, float32."""
        return encode_pixels(self.vae, images, self._noise if self.training else None).float()

    @torch.no_grad()
    def list_codes(self, batch: dict[str, torch.Tensor]) -> list[torch.LongTensor]:
        """Returns the codes of each image in `batch`, which `forward` takes, computed where the batch has none."""
        if "codes" in batch:
            mask = batch["attention_mask"].bool()
            return [codes[is_code] for codes, is_code in zip(batch["codes"], mask, strict=True)]
        if self.visual_tokenizer is None:
            raise ValueError("Without a visual_tokenizer, codes must be given; got pixel_values alone.")
        return list(self.visual_tokenizer.tokenize_images(batch["pixel_values"].to(self.unet.device)).split())

    def encode_conditions(
        self,
        codes: torch.LongTensor,
        attention_mask: torch.Tensor,
        dropped: torch.BoolTensor,
        size: tuple[int, int],
    ) -> dict[str, torch.Tensor]:
        """
        Makes the conditions of the U-Net.

        Args:
            codes (`torch.LongTensor` of shape `(B, L)`): Codes, padded on the right.
            attention_mask (`torch.Tensor` of shape `(B, L)`): 1 for codes, 0 for padding.
            dropped (`torch.BoolTensor` of shape `(B,)`):
                The images that get the conditions of the unconditional branch.
            size (`tuple[int, int]`): Height and width of the images in pixels.

        Returns:
            `dict[str, torch.Tensor]`: `prompt_embeds` (B, num_patches, cross_attention_dim); `attention_mask`
            (B, num_patches), unless everything is attended to; for the SDXL kind `add_text_embeds`
            (B, pooled_condition_dim) and `add_time_ids` (B, 6).
        """
        outputs = self.feature_decoder(codes=codes, attention_mask=attention_mask)
        pooled = outputs.pooled_prompt_embeds if self.pipeline.is_sdxl else None
        # An unconditional row for each image, then a conditional one, as in the pipeline.
        rows = prepare_conditions(self.feature_decoder, outputs.prompt_embeds, pooled, size, guided=True)
        mask = guidance_attention_mask(self.feature_decoder.config, outputs.prompt_embeds)
        rows |= {} if mask is None else {"attention_mask": mask}
        conditions = {}
        for name, values in rows.items():
            unconditional, conditional = values.chunk(2)
            conditions[name] = torch.where(dropped.view(-1, *[1] * (values.ndim - 1)), unconditional, conditional)
        return conditions

    def forward(
        self,
        images: torch.FloatTensor,
        pixel_values: torch.FloatTensor | None = None,
        codes: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> LavitImageDecoderOutput:
        """
        Computes the loss. Noise, timesteps and dropped conditions come from the random generator of torch, and differ
        between processes. In evaluation mode they are always the same, with timesteps spread evenly over the batch and
        no dropped conditions.

        Args:
            images (`torch.FloatTensor` of shape `(B, 3, H, W)`): The images to draw, in [-1, 1].
            pixel_values (`torch.FloatTensor` of shape `(B, 3, S, S)`, *optional*):
                The same images as the visual tokenizer takes them.
            codes (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Their codes, in place of `pixel_values`, padded on the right.
            attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 1 for codes, 0 for padding.

        Returns:
            [`LavitImageDecoderOutput`]

        Raises:
            ValueError: If neither or both of `pixel_values` and `codes` are given, or `pixel_values` without a visual
                tokenizer.
        """
        if codes is None and pixel_values is not None:
            codes, attention_mask = pad_codes(self.list_codes({"pixel_values": pixel_values}))
        elif codes is None or pixel_values is not None:
            raise ValueError("Give either pixel_values or codes.")
        latents = self.encode_latents(images)
        noise, timesteps, dropped = self._draw(latents)
        noisy_latents = self.noise_scheduler.add_noise(latents, noise, timesteps).to(self.unet.dtype)
        conditions = self.encode_conditions(codes, attention_mask, dropped, images.shape[-2:])
        # On a CPU, the backward of fused attention takes several times as long as that of plain products. Activation
        # checkpointing computes the forward again outside this context, where the attention has to be the same.
        is_plain = latents.device.type == "cpu" and not self.unet.is_gradient_checkpointing
        with sdpa_kernel(SDPBackend.MATH) if is_plain else nullcontext():
            predicted = apply_unet(self.unet, noisy_latents, timesteps, conditions, conditions.get("attention_mask"))
        target = noise
        if self.noise_scheduler.config.prediction_type == "v_prediction":
            target = self.noise_scheduler.get_velocity(latents, noise, timesteps)
        squared_errors = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        loss = batch_mean(squared_errors * self._weights(timesteps), over_processes=self.training)
        return LavitImageDecoderOutput(loss=loss, timesteps=timesteps)

    def _draw(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.LongTensor, torch.BoolTensor]:
        """Draws noise like the latents (B, C, h, w), timesteps (B,), and the images without conditions (B,)."""
        batch_size, device = latents.shape[0], latents.device
        num_timesteps = self.noise_scheduler.config.num_train_timesteps
        if not self.training:
            noise = torch.randn(latents.shape, generator=torch.Generator(device).manual_seed(0), device=device)
            timesteps = (torch.arange(batch_size, device=device) + 0.5) / batch_size * num_timesteps
            return noise, timesteps.long(), torch.zeros(batch_size, dtype=torch.bool, device=device)
        rows, total = share_of_batch(batch_size, device)
        timesteps = torch.randint(num_timesteps, (total,), device=device)[rows]
        dropped = torch.rand(total, device=device)[rows] < self.condition_dropout
        return self._noise(latents), timesteps, dropped

    def _noise(self, latents: torch.Tensor) -> torch.Tensor:
        rows, total = share_of_batch(len(latents), latents.device)
        return torch.randn(total, *latents.shape[1:], device=latents.device)[rows]

    def _weights(self, timesteps: torch.LongTensor) -> torch.Tensor:
        if self.snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = compute_snr(self.noise_scheduler, timesteps)
        velocity = self.noise_scheduler.config.prediction_type == "v_prediction"
        return snr.clamp(max=self.snr_gamma) / (snr + 1 if velocity else snr)


def _keep_trained(module: LavitImageDecoderForTraining, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    trained = {prefix + name for name in module.trained_parameters()}
    for name in [name for name in state_dict if name.startswith(prefix) and name not in trained]:
        del state_dict[name]


def _expect_trained(module: LavitImageDecoderForTraining, incompatible_keys) -> None:
    trained = module.trained_parameters()
    incompatible_keys.missing_keys[:] = [name for name in incompatible_keys.missing_keys if name in trained]


def _check_settings(pipeline, visual_tokenizer, condition_dropout: float, snr_gamma: float | None) -> None:
    if not 0 <= condition_dropout <= 1:
        raise ValueError(f"condition_dropout must be in [0, 1], got {condition_dropout}.")
    if snr_gamma is not None and snr_gamma <= 0:
        raise ValueError(f"snr_gamma must be positive, got {snr_gamma}.")
    scheduler = pipeline.scheduler.config
    if "beta_schedule" not in scheduler or scheduler.get("prediction_type") not in PREDICTION_TYPES:
        raise ValueError(
            f"The scheduler must have a beta_schedule and a prediction_type of {', '.join(PREDICTION_TYPES)}; got "
            f"{type(pipeline.scheduler).__name__} with prediction_type {scheduler.get('prediction_type')!r}."
        )
    if scheduler.get("rescale_betas_zero_snr") and scheduler["prediction_type"] == "epsilon":
        raise ValueError("With rescale_betas_zero_snr, prediction_type must be 'v_prediction', got 'epsilon'.")
    if visual_tokenizer is not None:
        check_same_codebook(visual_tokenizer, pipeline.feature_decoder)
