# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pixels from the codes of an image: a diffusion U-Net conditioned on rebuilt vision features (arXiv 2309.04669)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch.nn.utils.rnn import pad_sequence

from ..modeling.modeling_lavit_feature_decoder import LavitFeatureDecoder
from . import checks
from .conditions import append_condition_map, guidance_attention_mask, prepare_conditions
from .image_tokens import ImageTokens, to_codes
from .loading import OwnFilesPipeline
from .schedulers import check_scheduler, set_timesteps, step_options


# Height and width in pixels of what the released high-resolution decoder was trained on.
ASPECT_RATIOS = {
    "1:1": (1024, 1024),
    "4:3": (896, 1152),
    "3:2": (832, 1216),
    "16:9": (768, 1344),
    "2:3": (1216, 832),
    "3:4": (1152, 896),
}


class LavitImageDecoderPipeline(OwnFilesPipeline):
    r"""
    Draws images from their codes. One class for both kinds of U-Net, told apart by the U-Net's config: that of SDXL
    (`addition_embed_type="text_time"`), which is also given a pooled condition and the size, and that of SD 1.5.
    Either may take more channels than latents have (`in_channels` is then the sum of both widths): it is given the
    conditions of its cross-attention a second time, as a map behind the latents, each patch's condition at its place.
    The released U-Nets take no such map.

    Args:
        feature_decoder ([`LavitFeatureDecoder`]): Makes the conditions of the U-Net from codes.
        unet (`UNet2DConditionModel`): Predicts the noise in the latents.
        vae (`AutoencoderKL` or `AutoencoderTiny`):
            Decodes latents to pixels. Its `enable_tiling` and `enable_slicing` save memory.
        scheduler (`SchedulerMixin`):
            Any scheduler that diffusers' Stable Diffusion pipelines take; the release uses DDIM.
        visual_token_offset (`int`, *optional*):
            The vocabulary id of code 0 (32002 in the release). A call with `vocabulary_ids=True` needs it.
        default_num_inference_steps (`int`, *optional*):
            The `num_inference_steps` of a call that gives none. Default: that of the release, see `__call__`.
        default_guidance_scale (`float`, *optional*):
            The `guidance_scale` of a call that gives none. Default: that of the release, see `__call__`.

    Raises:
        ValueError: components that do not fit each other, or an argument out of its range.

    Example:

    ```python
    pipe = LavitImageDecoderPipeline.from_pretrained(path, dtype=torch.float16).to("cuda")
    height, width = ASPECT_RATIOS["3:2"]
    image = pipe(codes, height=height, width=width).images[0]
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
    # The names under which the callbacks of diffusers find and change the state of a call.
    _guidance_scale: float | None = None
    _num_timesteps = 0
    _interrupt = False

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
        checks.check_components(feature_decoder, unet, vae)
        check_scheduler(scheduler)
        self.register_modules(feature_decoder=feature_decoder, unet=unet, vae=vae, scheduler=scheduler)
        if visual_token_offset is not None:
            visual_token_offset = checks.check_integer("visual_token_offset", visual_token_offset, 0)
        if default_num_inference_steps is not None:
            most = self.scheduler.config.num_train_timesteps
            steps = checks.check_integer("default_num_inference_steps", default_num_inference_steps, 1, most)
            default_num_inference_steps = steps
        if default_guidance_scale is not None:
            default_guidance_scale = checks.check_guidance_scale("default_guidance_scale", default_guidance_scale)
        self.register_to_config(
            visual_token_offset=visual_token_offset,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
        )
        self.image_processor = VaeImageProcessor()  # only its postprocess, for which no scale factor matters

    @property
    def is_sdxl(self) -> bool:
        """Whether the U-Net is of the SDXL kind."""
        return self.unet.config.addition_embed_type == "text_time"

    @property
    def vae_scale_factor(self) -> int:
        """How many pixels along a side become one latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def default_size(self) -> tuple[int, int]:
        """
        Height and width in pixels that the U-Net was made for.

        Raises:
            ValueError: a U-Net whose config does not say.
        """
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError("Pass height and width: unet.config.sample_size is None, which gives no default.")
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    @property
    def _callback_tensor_inputs(self) -> list[str]:
        names = ["latents", "prompt_embeds"]
        return names + ["add_text_embeds", "add_time_ids"] if self.is_sdxl else names

    @property
    def guidance_scale(self) -> float:
        """
        The scale of the running call, else of the last one, else the default. A callback changes it by setting
        `_guidance_scale`, as diffusers' own callbacks do; at 1 or below there is no more guidance.
        """
        return self._default_guidance_scale if self._guidance_scale is None else self._guidance_scale

    @property
    def _default_guidance_scale(self) -> float:
        default = self.config.default_guidance_scale
        return (7.0 if self.is_sdxl else 5.0) if default is None else default

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether there is guidance at `guidance_scale`, which needs an unconditional row for each image."""
        return self.guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """The number of timesteps of the running call, else of the last one, else 0."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """
        Whether denoising ends early. A callback sets `_interrupt`; the images are then decoded from the latents as
        they are. Each call begins with `False`.
        """
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
        vocabulary_ids: bool = False,
    ) -> ImagePipelineOutput:
        r"""
        Draws images from their codes.

        Args:
            image_tokens (`list[int]`, `list[list[int]]`, `torch.Tensor` or a list of them):
                The tokens of one image, or those of several images, whose numbers may differ; 1 to `num_patches`
                tokens each, without `[IMG]` and `[/IMG]`. They are codes unless `vocabulary_ids=True`.
            height, width (`int`, *optional*):
                In pixels, multiples of the VAE's scale factor. Default: the U-Net's sample size times that factor.
                [`ASPECT_RATIOS`] lists the sizes of the released high-resolution decoder.
            num_inference_steps (`int`, *optional*):
                At most the scheduler's `num_train_timesteps`. Default: that of the pipeline's config, else that of the
                release: 25 for the SDXL kind, 50 for the other.
            guidance_scale (`float`, *optional*):
                At least 1, where 1 means no guidance and half of the work. Default: that of the pipeline's config,
                else that of the release: 7.0 for the SDXL kind, 5.0 for the other.
            num_images_per_prompt (`int`, *optional*, defaults to 1): The number of drawings of each image.
            eta (`float`, *optional*, defaults to 0.0):
                How much noise DDIM adds in each step, 0 to 1 (eta of its paper). Other schedulers refuse another
                value than 0, unless their `step` knows an `eta` as well.
            generator (`torch.Generator` or a list of them, *optional*):
                Makes the noise reproducible. A list has one generator for each image drawn, and then an image does not
                depend on the others of its call.
            latents (`torch.Tensor` of shape `(B, C, height / scale factor, width / scale factor)`, *optional*):
                Standard normal noise to start from, where B is the number of images drawn. Default: drawn by
                `generator`.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`: a list of PIL images; `"np"`: `(B, height, width, 3)`, `"pt"`: `(B, 3, height, width)`, both
                in [0, 1]; `"latent"`: the latents before the VAE.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an output class or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, tensors)` after each step. It returns a dictionary of the
                tensors to replace, which may be empty.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*):
                The tensors that the callback is given: `latents`, `prompt_embeds` and, for the SDXL kind,
                `add_text_embeds` and `add_time_ids`. In a call with guidance the unconditional rows of the last three
                stand before the others. Callbacks of diffusers' own name their tensors themselves.
            vocabulary_ids (`bool`, *optional*, defaults to `False`):
                Whether `image_tokens` are vocabulary ids (`visual_token_offset` + code) instead of codes.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple of just these: the `num_images_per_prompt` drawings of the
            first image, then those of the second, and so on.

        Raises:
            ValueError: any argument out of its range, named with its value, before anything is computed; a callback's
                return value that is no dictionary of tensors of the known names and shapes; an image that comes out
                as NaN or infinity, since the scale or the dtype overflows.
        """
        # 0. Defaults
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if height is None or width is None:
            default_height, default_width = self.default_size
            height = default_height if height is None else height
            width = default_width if width is None else width
        if num_inference_steps is None:
            num_inference_steps = self.config.default_num_inference_steps or (25 if self.is_sdxl else 50)
        if guidance_scale is None:
            guidance_scale = self._default_guidance_scale

        # 1. Check inputs, and the components, which may have been replaced
        checks.check_components(self.feature_decoder, self.unet, self.vae)
        check_scheduler(self.scheduler)
        codes = self._to_codes(image_tokens, vocabulary_ids)
        num_images_per_prompt = checks.check_integer("num_images_per_prompt", num_images_per_prompt, 1)
        num_images = len(codes) * num_images_per_prompt
        height, width = checks.check_size(height, width, self.vae_scale_factor, num_images)
        guidance_scale = checks.check_guidance_scale("guidance_scale", guidance_scale)
        shape = self._latents_shape(num_images, height, width)
        checks.check_noise(shape, generator, latents)
        checks.check_output_type(output_type)
        checks.check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        generator = list(generator) if isinstance(generator, tuple) else generator
        kwargs = step_options(self.scheduler, generator, eta)
        set_timesteps(self.scheduler, num_inference_steps, self._execution_device)
        self._guidance_scale = guidance_scale
        self._interrupt = False

        # 2. Encode the codes
        prompt_embeds, pooled = self._encode_codes(codes)

        # 3. Prepare everything that changes from step to step, or that a callback may change
        prompt_embeds = self._to_unet(prompt_embeds, num_images_per_prompt)
        pooled = None if pooled is None else self._to_unet(pooled, num_images_per_prompt)
        guided = self.do_classifier_free_guidance
        tensors = prepare_conditions(self.feature_decoder, prompt_embeds, pooled, (height, width), guided)
        tensors["latents"] = self.prepare_latents(shape, generator, latents)

        # 4. Denoise
        latents = self._denoise(tensors, kwargs, callback_on_step_end, callback_on_step_end_tensor_inputs)
        checks.check_finite(latents, "unet", self.guidance_scale)

        # 5. Decode the latents
        images = latents
        if output_type != "latent":
            pixels = self._decode_latents(latents)
            checks.check_finite(pixels, "vae", self.guidance_scale)
            images = self.image_processor.postprocess(pixels, output_type=output_type)

        # 6. Offload all models
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def encode_image_tokens(
        self, image_tokens: ImageTokens, vocabulary_ids: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Computes the conditions that the U-Net is given.

        Args:
            image_tokens, vocabulary_ids: As in `__call__`.

        Returns:
            `prompt_embeds` of shape `(B, num_patches, cross_attention_dim)` and, for the SDXL kind, pooled ones of
            shape `(B, pooled_condition_dim)`, else `None`; in the feature decoder's dtype.

        Raises:
            ValueError: `image_tokens` that are not the tokens of images, by index and value.
        """
        return self._encode_codes(self._to_codes(image_tokens, vocabulary_ids))

    def _to_codes(self, image_tokens: ImageTokens, vocabulary_ids: bool) -> list[torch.LongTensor]:
        config = self.feature_decoder.config
        offset = self.config.visual_token_offset
        return to_codes(image_tokens, config.codebook_size, config.num_patches, offset, vocabulary_ids)

    def _encode_codes(self, codes: list[torch.LongTensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        device = get_module_execution_device(self.feature_decoder)
        lengths = torch.tensor([len(image_codes) for image_codes in codes])
        padded = pad_sequence(codes, batch_first=True)
        attention_mask = torch.arange(padded.shape[1]) < lengths[:, None]
        outputs = self.feature_decoder(codes=padded.to(device), attention_mask=attention_mask.to(device))
        return outputs.prompt_embeds, outputs.pooled_prompt_embeds if self.is_sdxl else None

    def _to_unet(self, conditions: torch.Tensor, num_images_per_prompt: int) -> torch.Tensor:
        """(B, ...) -> (B * num_images_per_prompt, ...), in the U-Net's dtype and on its device."""
        return conditions.to(self._execution_device, self.unet.dtype).repeat_interleave(num_images_per_prompt, dim=0)

    def _latents_shape(self, batch_size: int, height: int, width: int) -> tuple[int, int, int, int]:
        factor = self.vae_scale_factor
        return batch_size, self.vae.config.latent_channels, height // factor, width // factor

    def prepare_latents(self, shape: tuple[int, ...], generator, latents: torch.Tensor | None = None) -> torch.Tensor:
        """Standard normal `latents`, or new ones of `shape` by `generator`, as strong as the scheduler starts with."""
        device, dtype = self._execution_device, self.unet.dtype
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def _denoise(self, tensors, extra_step_kwargs, callback, callback_names) -> torch.Tensor:
        """All steps of the scheduler on `tensors["latents"]`, under the conditions that are the other tensors."""
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        mask = guidance_attention_mask(self.feature_decoder.config, tensors["latents"])
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)  # spares the scheduler a look-up on the device
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    break
                latents = tensors["latents"]
                noise = self._predict_noise(timestep, tensors, mask)
                stepped = self.scheduler.step(noise, timestep, latents, **extra_step_kwargs, return_dict=False)[0]
                tensors["latents"] = stepped.to(latents.dtype)
                if callback is not None:
                    outputs = callback(self, step, timestep, {name: tensors[name] for name in callback_names})
                    checks.check_callback_outputs(outputs, tensors, self._guidance_scale)
                    tensors |= {name: tensor.to(tensors[name]) for name, tensor in outputs.items()}
                progress_bar.update()
        return tensors["latents"]

    def _predict_noise(self, timestep, tensors: dict[str, torch.Tensor], encoder_attention_mask) -> torch.Tensor:
        """The noise in the latents, both branches of the guidance in one call of the U-Net."""
        guided = self.do_classifier_free_guidance
        latents = torch.cat([tensors["latents"]] * 2) if guided else tensors["latents"]
        latents = self.scheduler.scale_model_input(latents, timestep)
        # Where a callback has ended the guidance, the unconditional rows before the others may still be there.
        conditions = {name: tensor[-len(latents) :] for name, tensor in tensors.items() if name != "latents"}
        added = None
        if self.is_sdxl:
            added = {"text_embeds": conditions["add_text_embeds"], "time_ids": conditions["add_time_ids"]}
        noise = self.unet(
            append_condition_map(latents, conditions["prompt_embeds"], self.unet.config.in_channels),
            timestep,
            encoder_hidden_states=conditions["prompt_embeds"],
            encoder_attention_mask=encoder_attention_mask if guided else None,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        if not guided:
            return noise
        unconditional, conditional = noise.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, 3, height, width) in about [-1, 1]."""
        # The VAE of SDXL overflows in float16, and its config says so.
        upcast = self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast")
        if upcast:
            self.vae.to(torch.float32)
        try:
            latents = latents.to(get_module_execution_device(self.vae), self.vae.dtype)
            return self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        finally:
            if upcast:
                self.vae.to(torch.float16)
