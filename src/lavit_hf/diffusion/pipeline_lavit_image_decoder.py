# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pixels from a picture's codes: a diffusion U-Net conditioned on rebuilt vision features (arXiv 2309.04669)."""

import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from ..modeling.configuration_lavit import LavitFeatureDecoderConfig
from ..modeling.modeling_lavit_feature_decoder import LavitFeatureDecoder
from .image_tokens import ImageTokens, to_codes
from .loading import OwnFilesPipeline


# Height and width in pixels of what the released high-resolution decoder was trained on.
ASPECT_RATIOS = {
    "1:1": (1024, 1024),
    "4:3": (896, 1152),
    "3:2": (832, 1216),
    "16:9": (768, 1344),
    "2:3": (1216, 832),
    "3:4": (1152, 896),
}

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class LavitImageDecoderPipeline(OwnFilesPipeline):
    r"""
    Draws pictures from their codes. One class for both kinds of U-Net, told apart by the U-Net's config: that of
    SDXL (`addition_embed_type="text_time"`), which is also given a pooled condition and the size, and that of SD 1.5.
    Either may take more channels than latents have (`in_channels` of both together): then it is given the conditions
    of its cross-attention a second time, as a map behind the latents, each patch's at its place. The release does not.

    Args:
        feature_decoder ([`LavitFeatureDecoder`]): From codes to what conditions the U-Net.
        unet (`UNet2DConditionModel`): Predicts the noise in the latents.
        vae (`AutoencoderKL`): From latents to pixels. Its `enable_tiling` and `enable_slicing` save memory.
        scheduler (`SchedulerMixin`): Any of diffusers; the release uses DDIM.
        visual_token_offset (`int`, *optional*):
            The vocabulary id of code 0 (32002 in the release), so that a language model's ids are understood as well.
        default_num_inference_steps (`int`, *optional*), default_guidance_scale (`float`, *optional*):
            What a call takes that says nothing of them. Default: the release's, see `__call__`.

    Raises:
        ValueError: components that do not fit each other.

    Example:

    ```python
    pipe = LavitImageDecoderPipeline.from_pretrained(path, dtype=torch.float16).to("cuda")
    height, width = ASPECT_RATIOS["3:2"]
    picture = pipe(codes, height=height, width=width).images[0]
    ```
    """

    feature_decoder: LavitFeatureDecoder
    # diffusers' own annotations know neither the fields of configurations nor what schedulers do.
    unet: Any
    vae: Any
    scheduler: Any
    config: Any

    model_cpu_offload_seq = "feature_decoder->unet->vae"
    # Sequential offloading leaves no values in a buffer outside of forward, and the stored unconditional embeddings
    # are read there.
    _exclude_from_cpu_offload = ["feature_decoder"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]

    def __init__(
        self,
        feature_decoder: LavitFeatureDecoder,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | AutoencoderTiny,
        scheduler: SchedulerMixin,
        visual_token_offset: int | None = None,
        default_num_inference_steps: int | None = None,
        default_guidance_scale: float | None = None,
    ):
        super().__init__()
        _check_components(feature_decoder.config, unet.config, vae.config)
        if visual_token_offset is not None and not (_is_int(visual_token_offset) and visual_token_offset >= 0):
            raise ValueError(f"visual_token_offset must be None or an integer from 0, got {visual_token_offset!r}.")
        self.register_modules(feature_decoder=feature_decoder, unet=unet, vae=vae, scheduler=scheduler)
        self.register_to_config(
            visual_token_offset=visual_token_offset,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
        )
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @property
    def is_sdxl(self) -> bool:
        """Whether the U-Net is of the SDXL kind."""
        return self.unet.config.addition_embed_type == "text_time"

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels that the U-Net was made for."""
        size = self.unet.config.sample_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    @property
    def guidance_scale(self) -> float:
        """Of the running call. Callbacks may end the guidance by setting `_guidance_scale`, as diffusers' own do."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the running call is guided, and computes an unconditional row for each of the others."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """How many steps the running call takes."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """A callback sets `_interrupt` to end the denoising early."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image_tokens: ImageTokens,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        vocabulary_ids: bool | None = None,
    ) -> ImagePipelineOutput:
        r"""
        Args:
            image_tokens (`list[int]`, `list[list[int]]`, `torch.Tensor` or a list of them):
                One picture's tokens, or those of several pictures, whose numbers may differ; 1 to `num_patches`
                tokens each, without `[IMG]` and `[/IMG]`. Codes, or vocabulary ids: see `vocabulary_ids`.
            height, width (`int`, *optional*):
                In pixels, multiples of the VAE's scale factor. Default: the U-Net's sample size times that factor.
                [`ASPECT_RATIOS`] lists the sizes of the released high-resolution decoder.
            num_inference_steps (`int`, *optional*):
                Default: the pipeline's; if it has none, 25 for the SDXL kind, else 50, as in the release.
            guidance_scale (`float`, *optional*):
                At least 1, where 1 means no guidance and half of the work. Default: the pipeline's; if it has none,
                7.0 for the SDXL kind, else 5.0.
            num_images_per_prompt (`int`, *optional*, defaults to 1): Pictures drawn from each picture's tokens.
            eta (`float`, *optional*, defaults to 0.0):
                How much noise DDIM adds in each step (its paper's eta); of no meaning to other schedulers.
            generator (`torch.Generator` or a list of them, *optional*):
                Makes the noise reproducible. A list has one generator for each picture drawn.
            latents (`torch.Tensor` of shape `(B, C, height / scale factor, width / scale factor)`, *optional*):
                Standard normal noise to start from, B the number of pictures drawn. Default: drawn here.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`: a list of PIL images; `"np"`: `(B, height, width, 3)`, `"pt"`: `(B, 3, height, width)`, both
                in [0, 1]; `"latent"`: the latents before the VAE.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an output class or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, tensors)` after each step. It returns the tensors to replace.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*):
                The tensors it is given: `latents`, `prompt_embeds` and, of the SDXL kind, `add_text_embeds` and
                `add_time_ids`. Under guidance the unconditional rows of the last three stand before the others.
            vocabulary_ids (`bool`, *optional*):
                Whether `image_tokens` are vocabulary ids (`visual_token_offset` + code) or codes. By default the
                values tell; without a `visual_token_offset` they are codes. It must be said where codes and ids
                overlap, that is where `visual_token_offset` is less than the codebook's size.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple of just these: the `num_images_per_prompt` drawings of the
            first picture, then those of the second, and so on.

        Raises:
            ValueError: any argument out of its range, named with its value, before anything is computed.
        """
        # 0. Defaults
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        height = self.default_size[0] if height is None else height
        width = self.default_size[1] if width is None else width
        if num_inference_steps is None:
            num_inference_steps = self.config.default_num_inference_steps or (25 if self.is_sdxl else 50)
        if guidance_scale is None:
            guidance_scale = self.config.default_guidance_scale or (7.0 if self.is_sdxl else 5.0)

        # 1. Check inputs
        codes = self._to_codes(image_tokens, vocabulary_ids)
        self.check_inputs(height, width, num_inference_steps, guidance_scale, num_images_per_prompt, output_type)
        self._check_callback_tensor_inputs(callback_on_step_end_tensor_inputs)
        shape = self._latents_shape(len(codes) * num_images_per_prompt, height, width)
        _check_noise(shape, generator, latents)
        self._guidance_scale = guidance_scale
        self._interrupt = False

        # 2. Encode the codes
        prompt_embeds, pooled_prompt_embeds = self._encode_codes(codes)

        # 3. Prepare everything that changes from step to step, or that a callback may change
        tensors = self._prepare_conditions(prompt_embeds, pooled_prompt_embeds, height, width, num_images_per_prompt)
        encoder_attention_mask = self._prepare_encoder_attention_mask(shape[0])
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        tensors["latents"] = self.prepare_latents(shape, generator, latents)

        # 4. Denoise
        latents = self._denoise(
            tensors,
            encoder_attention_mask,
            self._prepare_extra_step_kwargs(generator, eta),
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )

        # 5. Decode the latents
        if output_type == "latent":
            images = latents
        else:
            images = self.image_processor.postprocess(self._decode_latents(latents), output_type=output_type)

        # 6. Offload all models
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def encode_image_tokens(
        self, image_tokens: ImageTokens, vocabulary_ids: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        What the U-Net is told about the pictures.

        Args:
            image_tokens, vocabulary_ids: As in `__call__`.

        Returns:
            `prompt_embeds` of shape `(B, num_patches, cross_attention_dim)` and, of the SDXL kind, pooled ones of
            shape `(B, pooled_condition_dim)`, else `None`; in the feature decoder's dtype.

        Raises:
            ValueError: `image_tokens` that are no pictures, by index and value.
        """
        return self._encode_codes(self._to_codes(image_tokens, vocabulary_ids))

    def check_inputs(self, height, width, num_inference_steps, guidance_scale, num_images_per_prompt, output_type):
        """Raises a `ValueError` that names the first that is out of its range; arguments as of [`__call__`]."""
        for name, value in (("height", height), ("width", width)):
            if not _is_int(value) or value <= 0 or value % self.vae_scale_factor:
                raise ValueError(
                    f"{name} must be a positive multiple of {self.vae_scale_factor}, the VAE's scale factor, "
                    f"got {value!r}."
                )
        counts = {"num_inference_steps": num_inference_steps, "num_images_per_prompt": num_images_per_prompt}
        for name, value in counts.items():
            if not _is_int(value) or value < 1:
                raise ValueError(f"{name} must be an integer from 1, got {value!r}.")
        if not isinstance(guidance_scale, Real) or not guidance_scale >= 1:
            raise ValueError(f"guidance_scale must be a number from 1 (no guidance), got {guidance_scale!r}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")

    def _check_callback_tensor_inputs(self, names: Sequence[str]) -> None:
        known = self._callback_tensor_inputs if self.is_sdxl else self._callback_tensor_inputs[:2]
        for name in names:
            if name not in known:
                raise ValueError(f"callback_on_step_end_tensor_inputs must be of {', '.join(known)}, got {name!r}.")

    def _to_codes(self, image_tokens: ImageTokens, vocabulary_ids: bool | None) -> list[torch.LongTensor]:
        config = self.feature_decoder.config
        offset = self.config.visual_token_offset
        return to_codes(image_tokens, config.codebook_size, config.num_patches, offset, vocabulary_ids)

    def _encode_codes(self, codes: list[torch.LongTensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        device = get_module_execution_device(self.feature_decoder)
        lengths = torch.tensor([len(picture) for picture in codes])
        padded = pad_sequence(codes, batch_first=True)
        attention_mask = torch.arange(padded.shape[1]) < lengths[:, None]
        outputs = self.feature_decoder(codes=padded.to(device), attention_mask=attention_mask.to(device))
        return outputs.prompt_embeds, outputs.pooled_prompt_embeds if self.is_sdxl else None

    def _prepare_conditions(
        self, prompt_embeds, pooled_prompt_embeds, height: int, width: int, num_images_per_prompt: int
    ) -> dict[str, torch.Tensor]:
        """The U-Net's conditions by the names that callbacks use, the unconditional rows (if any) first."""
        device, dtype = self._execution_device, self.unet.dtype
        prompt_embeds = prompt_embeds.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
        guided = self.do_classifier_free_guidance
        conditions = {"prompt_embeds": prompt_embeds}
        if guided:
            conditions["prompt_embeds"] = torch.cat([self._unconditional_embeds(prompt_embeds), prompt_embeds])
        if self.is_sdxl:
            pooled = pooled_prompt_embeds.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
            conditions["add_text_embeds"] = torch.cat([torch.zeros_like(pooled), pooled]) if guided else pooled
            # Original size, top left corner of the crop, target size; in float32, as bfloat16 rounds sizes.
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=device)
            conditions["add_time_ids"] = time_ids.repeat(len(conditions["prompt_embeds"]), 1)
        return conditions

    def _unconditional_embeds(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Zeros in the shape of `prompt_embeds`, and first in them the stored embeddings, where there are some."""
        unconditional = torch.zeros_like(prompt_embeds)
        stored = self.feature_decoder.config.num_unconditional_tokens
        if stored:
            unconditional[:, :stored] = self.feature_decoder.unconditional_embeds.to(unconditional)
        return unconditional

    def _prepare_encoder_attention_mask(self, batch_size: int) -> torch.Tensor | None:
        """(2 B, num_patches), 0 for the zeros after the stored unconditional embeddings; `None` where all are seen."""
        stored, num_patches = (
            getattr(self.feature_decoder.config, name) for name in ("num_unconditional_tokens", "num_patches")
        )
        if not self.do_classifier_free_guidance or stored in (0, num_patches):
            return None
        mask = torch.ones(2 * batch_size, num_patches, device=self._execution_device, dtype=self.unet.dtype)
        mask[:batch_size, stored:] = 0
        return mask

    def _latents_shape(self, batch_size: int, height: int, width: int) -> tuple[int, int, int, int]:
        factor = self.vae_scale_factor
        return batch_size, self.vae.config.latent_channels, height // factor, width // factor

    def prepare_latents(self, shape: tuple[int, ...], generator, latents: torch.Tensor | None = None) -> torch.Tensor:
        """Standard normal `latents`, or new ones of `shape` by `generator`, as strong as the scheduler starts with."""
        device, dtype = self._execution_device, self.unet.dtype
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def _prepare_extra_step_kwargs(self, generator, eta: float) -> dict[str, Any]:
        """Of these two, what this scheduler's step takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in {"generator": generator, "eta": eta}.items() if name in accepted}

    def _denoise(self, tensors, encoder_attention_mask, extra_step_kwargs, callback, callback_names) -> torch.Tensor:
        """All steps of the scheduler on `tensors["latents"]`, under the conditions that are the other tensors."""
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)  # spares the scheduler a look-up on the device
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    break
                latents = tensors["latents"]
                noise = self._predict_noise(timestep, tensors, encoder_attention_mask)
                stepped = self.scheduler.step(noise, timestep, latents, **extra_step_kwargs, return_dict=False)[0]
                tensors["latents"] = stepped.to(latents.dtype)
                if callback is not None:
                    tensors |= callback(self, step, timestep, {name: tensors[name] for name in callback_names})
                progress_bar.update()
        return tensors["latents"]

    def _predict_noise(self, timestep, tensors: dict[str, torch.Tensor], encoder_attention_mask) -> torch.Tensor:
        """The noise in the latents, both branches of the guidance in one call of the U-Net."""
        guided = self.do_classifier_free_guidance
        latents = torch.cat([tensors["latents"]] * 2) if guided else tensors["latents"]
        added = None
        if self.is_sdxl:
            added = {"text_embeds": tensors["add_text_embeds"], "time_ids": tensors["add_time_ids"]}
        noise = self.unet(
            self._add_condition_map(self.scheduler.scale_model_input(latents, timestep), tensors["prompt_embeds"]),
            timestep,
            encoder_hidden_states=tensors["prompt_embeds"],
            encoder_attention_mask=encoder_attention_mask if guided else None,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        if not guided:
            return noise
        unconditional, conditional = noise.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _add_condition_map(self, latents: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Behind the channels of latents (B, C, h, w), where the U-Net takes more, each patch's conditions."""
        if self.unet.config.in_channels == latents.shape[1]:
            return latents
        side = math.isqrt(self.feature_decoder.config.num_patches)
        maps = prompt_embeds.transpose(1, 2).unflatten(-1, (side, side))
        return torch.cat([latents, nn.functional.interpolate(maps, latents.shape[-2:]).to(latents.dtype)], dim=1)

    def _decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, 3, height, width) in about [-1, 1]."""
        # The VAE of SDXL overflows in float16, and its config says so.
        upcast = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        if upcast:
            self.vae.to(torch.float32)
        try:
            latents = latents.to(get_module_execution_device(self.vae), self.vae.dtype)
            return self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        finally:
            if upcast:
                self.vae.to(torch.float16)


def _is_int(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_noise(shape: tuple[int, ...], generator, latents) -> None:
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ValueError(f"generator must have one generator for each of {shape[0]} pictures, got {len(generator)}.")
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents must have the shape {shape}, got {tuple(latents.shape)}.")


def _check_components(decoder: LavitFeatureDecoderConfig, unet: Any, vae: Any) -> None:
    """Of their configurations."""
    kind = unet.addition_embed_type
    if kind not in (None, "text_time"):
        raise ValueError(f"unet.config.addition_embed_type must be None or 'text_time', got {kind!r}.")
    width, given = unet.cross_attention_dim, sum(decoder.condition_dims or [])
    if any(dim != given for dim in (width if isinstance(width, (tuple, list)) else [width])):
        raise ValueError(f"unet.config.cross_attention_dim must be sum(condition_dims), {given}, got {width}.")
    if kind == "text_time":
        width = unet.projection_class_embeddings_input_dim
        expected = (decoder.pooled_condition_dim or 0) + 6 * unet.addition_time_embed_dim
        if not decoder.pooled_condition_dim or width != expected:
            raise ValueError(
                "unet.config.projection_class_embeddings_input_dim must be the feature decoder's pooled_condition_dim "
                f"({decoder.pooled_condition_dim}) and 6 times unet.config.addition_time_embed_dim, got {width}."
            )
    latent_channels, in_channels = vae.latent_channels, unet.in_channels
    if in_channels not in (latent_channels, latent_channels + given):
        raise ValueError(
            f"unet.config.in_channels must be the VAE's latent_channels, {latent_channels}, or with a map of the "
            f"conditions {latent_channels + given}, got {in_channels}."
        )
    if in_channels > latent_channels and decoder.num_unconditional_tokens:
        raise ValueError(
            "A map of the conditions has no place for stored unconditional embeddings: num_unconditional_tokens must "
            f"be 0, got {decoder.num_unconditional_tokens}."
        )
    if decoder.num_unconditional_tokens > decoder.num_patches:
        raise ValueError(
            f"num_unconditional_tokens must be at most num_patches, {decoder.num_patches}, "
            f"got {decoder.num_unconditional_tokens}."
        )
