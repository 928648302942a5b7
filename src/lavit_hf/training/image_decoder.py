# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 3, the pixel decoder: a U-Net learns to draw pictures from what their codes say (arXiv 2309.04669, 3.1)."""

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
from ..diffusion.conditions import append_condition_map, unconditional_embeds
from ..modeling import (
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitVisualTokenizer,
    LavitVisualTokenizerForPreTraining,
)
from ..modeling.distributed_lavit import batch_mean, share_of_batch


PREDICTION_TYPES = ("epsilon", "v_prediction")


def load_stage_one(folder: str | os.PathLike) -> LavitVisualTokenizerForPreTraining:
    """
    The visual tokenizer together with the feature decoder that stage 1 trained with it.

    Raises:
        ValueError: a folder or repository without a feature decoder.
    """
    model, info = LavitVisualTokenizerForPreTraining.from_pretrained(folder, output_loading_info=True)
    missing = sorted(
        name for name in info["missing_keys"] if name.startswith(("visual_tokenizer.", "feature_decoder."))
    )
    if missing:
        raise ValueError(
            f"{os.fspath(folder)!r} must hold what stage 1 trained, tokenizer and feature decoder, "
            f"but it has no {missing[0]}."
        )
    return model.eval()


@torch.no_grad()
def new_image_decoder(
    stage_one: LavitVisualTokenizerForPreTraining,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL | AutoencoderTiny,
    scheduler: SchedulerMixin | None = None,
) -> LavitImageDecoderPipeline:
    """
    A pixel decoder to be trained: stage 1's feature decoder, with new projections to what conditions the U-Net.

    Stage 1 leaves the features' scale free, and U-Nets expect conditions of about unit size: the projections start
    such that conditions have mean 0 and deviation 1 over random codes. Unconditional is all zeros.

    Args:
        stage_one ([`LavitVisualTokenizerForPreTraining`]): A trained one.
        unet (`UNet2DConditionModel`): New or pretrained, of the SD 1.5 or the SDXL kind; its configuration tells the
            widths of the conditions.
        vae (`AutoencoderKL` or `AutoencoderTiny`): A trained one.
        scheduler (`SchedulerMixin`, *optional*): Of training and of inference. Default: DDIM with its own defaults.

    Raises:
        ValueError: components that do not fit each other.
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
    Args:
        loss (`torch.FloatTensor`): Mean squared error of the predicted noise (or velocity), weighted by timestep.
        squared_errors (`torch.FloatTensor` of shape `(B,)`): Of each picture, unweighted.
        timesteps (`torch.LongTensor` of shape `(B,)`): How far each picture was noised.
    """

    loss: torch.FloatTensor | None = None
    squared_errors: torch.FloatTensor | None = None
    timesteps: torch.LongTensor | None = None


class LavitImageDecoderForTraining(nn.Module):
    """
    The components of a pipeline with the loss that trains the U-Net: `|eps - eps_theta(z_t, t, rebuilt features)|^2`,
    or of the velocity, as the scheduler's `prediction_type` says. Conditions are dropped at random in favour of
    exactly what stands for them in the pipeline's unconditional branch.

    U-Net and the feature decoder's projections are trained; VAE, tokenizer and, unless asked for, the feature decoder
    are frozen and stay in evaluation mode. The state dict holds just what is trained.

    Args:
        pipeline ([`LavitImageDecoderPipeline`]): What is trained, and draws with the weights as they are.
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*): Needed where the data has no codes.
        condition_dropout (`float`): Probability that a picture's conditions are dropped; 0.1 for guidance to work.
        snr_gamma (`float`, *optional*):
            Weighs timesteps by min(SNR, gamma) (Hang et al., arXiv 2303.09556; theirs is 5). Default: all alike.
        train_feature_decoder (`bool`): Whether the feature decoder's blocks are trained as well.

    Raises:
        ValueError: a value out of its range; a scheduler that noises otherwise than by betas, or predicts neither
            noise nor velocity; a tokenizer with another codebook than the feature decoder's.
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
        # The pipeline's scheduler may be any solver of the same process; this one noises.
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

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """By name, what is not frozen."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def train(self, mode: bool = True):
        """What is frozen stays in evaluation mode."""
        super().train(mode)
        for module in (self.vae, self.visual_tokenizer, self.feature_decoder):
            if module is not None:
                module.eval()
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """What `TrainingArguments.activation_checkpointing` asks for: less memory for more time in the U-Net."""
        if activation_checkpointing_kwargs or every_n_layers != 1 or offload:
            raise ValueError(
                "diffusers checkpoints all blocks in its own way: activation_checkpointing_kwargs must be empty, got "
                f"{activation_checkpointing_kwargs} with every_n_layers={every_n_layers}, offload={offload}."
            )
        self.unet.enable_gradient_checkpointing()

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w) of about unit deviation, float32."""
        # The VAE of SDXL overflows in float16, and its config says so.
        overflows = torch.get_autocast_dtype(images.device.type) == torch.float16 and self.vae.config.force_upcast
        autocast = torch.is_autocast_enabled(images.device.type) and not overflows
        with torch.autocast(images.device.type, enabled=autocast):
            encoded = self.vae.encode(images.to(self.vae.dtype))
        if isinstance(self.vae, AutoencoderTiny):
            return encoded.latents.float()
        posterior = encoded.latent_dist
        latents = posterior.mean
        if self.training:
            latents = latents + posterior.std * self._noise(latents)
        return latents.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def encode_pictures(self, pixel_values: torch.Tensor) -> tuple[torch.LongTensor, torch.BoolTensor]:
        """
        Pixels (B, 3, S, S) as the tokenizer takes them -> codes (B, L), padded, and their mask (B, L).
        """
        if self.visual_tokenizer is None:
            raise ValueError("Without a visual_tokenizer, codes must be given; got pixel_values alone.")
        outputs = self.visual_tokenizer.tokenize_images(pixel_values)
        layout = outputs.partition.kept
        return layout.pad(outputs.codes), layout.mask

    def list_codes(self, batch: dict[str, torch.Tensor]) -> list[torch.LongTensor]:
        """Each picture's codes, of a batch as `forward` takes it. From pixels, see [`~.encode_pictures`]."""
        if "codes" in batch:
            codes, mask = batch["codes"], batch["attention_mask"].bool()
        else:
            codes, mask = self.encode_pictures(batch["pixel_values"].to(self.device))
        return [picture[known] for picture, known in zip(codes, mask, strict=True)]

    def encode_conditions(
        self, codes: torch.LongTensor, attention_mask: torch.Tensor, dropped: torch.BoolTensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        What the U-Net is told of pictures, of which some (`dropped`, (B,)) are to be drawn without being told.

        Returns:
            `encoder_hidden_states` (B, num_patches, cross_attention_dim), `encoder_attention_mask` (B, num_patches)
            or None where all is seen, and of the SDXL kind the pooled conditions (B, pooled_condition_dim).
        """
        outputs = self.feature_decoder(codes=codes, attention_mask=attention_mask)
        conditions, pooled = outputs.prompt_embeds, None
        unconditional = unconditional_embeds(self.feature_decoder, conditions)
        conditions = torch.where(dropped[:, None, None], unconditional, conditions)
        if self.pipeline.is_sdxl:
            pooled = outputs.pooled_prompt_embeds.masked_fill(dropped[:, None], 0)
        mask = None
        stored, num_patches = self.feature_decoder.config.num_unconditional_tokens, conditions.shape[1]
        if stored not in (0, num_patches):
            mask = torch.ones(conditions.shape[:2], device=conditions.device, dtype=conditions.dtype)
            mask[:, stored:] = (~dropped[:, None]).to(mask.dtype)
        return conditions, mask, pooled

    def forward(
        self,
        images: torch.FloatTensor,
        pixel_values: torch.FloatTensor | None = None,
        codes: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> LavitImageDecoderOutput:
        """
        Noise, timesteps and dropped conditions come from torch's generator, other ones in each process. In evaluation
        mode they are always the same, with timesteps spread evenly over the batch and nothing dropped.

        Args:
            images (`torch.FloatTensor` of shape `(B, 3, H, W)`): What is to be drawn, in [-1, 1].
            pixel_values (`torch.FloatTensor` of shape `(B, 3, S, S)`, *optional*): The same for the tokenizer.
            codes (`torch.LongTensor` of shape `(B, L)`, *optional*): Instead of `pixel_values`, padded on the right.
            attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 1 for codes, 0 for padding.

        Returns:
            [`LavitImageDecoderOutput`]

        Raises:
            ValueError: neither or both of pixels and codes; pixels where there is no tokenizer.
        """
        if (pixel_values is None) == (codes is None):
            raise ValueError("Give either pixel_values or codes.")
        if codes is None:
            codes, attention_mask = self.encode_pictures(pixel_values)
        latents = self.encode_images(images)
        noise, timesteps, dropped = self._draw(latents)
        noisy_latents = self.noise_scheduler.add_noise(latents, noise, timesteps)
        conditions, mask, pooled = self.encode_conditions(codes, attention_mask, dropped)
        added = None
        if pooled is not None:
            height, width = images.shape[-2:]
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=images.device)
            added = {"text_embeds": pooled, "time_ids": time_ids.expand(len(images), -1)}
        # On a CPU the fused attention's backward takes several times as long as that of plain products. What is
        # computed again for the backward is outside of this, and has to be what it was.
        is_plain = latents.device.type == "cpu" and not self.unet.is_gradient_checkpointing
        with sdpa_kernel(SDPBackend.MATH) if is_plain else nullcontext():
            predicted = self.unet(
                append_condition_map(noisy_latents.to(self.unet.dtype), conditions, self.unet.config.in_channels),
                timesteps,
                encoder_hidden_states=conditions,
                encoder_attention_mask=mask,
                added_cond_kwargs=added,
            ).sample
        target = noise
        if self.noise_scheduler.config.prediction_type == "v_prediction":
            target = self.noise_scheduler.get_velocity(latents, noise, timesteps)
        squared_errors = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        loss = batch_mean(squared_errors * self._weights(timesteps), over_processes=self.training)
        return LavitImageDecoderOutput(loss=loss, squared_errors=squared_errors.detach(), timesteps=timesteps)

    def _draw(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.LongTensor, torch.BoolTensor]:
        """Noise like the latents (B, C, h, w), timesteps (B,), and whose conditions are dropped (B,)."""
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
    if visual_tokenizer is None:
        return
    codebook, expected = visual_tokenizer.quantizer.codebook, pipeline.feature_decoder.codebook
    if codebook.shape != expected.shape or not torch.equal(codebook.to(expected), expected):
        raise ValueError(
            f"The tokenizer's codebook, {tuple(codebook.shape)}, must be that of the feature decoder, "
            f"{tuple(expected.shape)}, with the same values."
        )


__all__ = [
    "LavitImageDecoderForTraining",
    "LavitImageDecoderOutput",
    "load_stage_one",
    "new_image_decoder",
]
