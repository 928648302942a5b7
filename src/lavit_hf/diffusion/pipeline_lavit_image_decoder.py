# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The pixel decoder: a diffusion U-Net, conditioned on vision features rebuilt from codes (arXiv 2309.04669)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.models import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ..modeling.arguments_lavit import check_integer, check_number
from ..modeling.modeling_lavit_feature_decoder import LavitFeatureDecoder
from . import checks
from .checks import expect
from .conditions import apply_unet, guidance_attention_mask, prepare_conditions
from .editing import CHANGE_THRESHOLD, KeptImage, find_changes, read_kept_image
from .image_tokens import ImageTokens, pad_codes, to_codes
from .latents import decode_latents
from .loading import LavitPipelineFiles
from .schedulers import check_scheduler, set_timesteps, step_options


# Height and width in pixels of the images on which the released high-resolution decoder was trained.
ASPECT_RATIOS = {
    "1:1": (1024, 1024),
    "4:3": (896, 1152),
    "3:2": (832, 1216),
    "16:9": (768, 1344),
    "2:3": (1216, 832),
    "3:4": (1152, 896),
}


class LavitImageDecoderPipeline(LavitPipelineFiles):
    r"""
    A pipeline that draws images from their codes, by a U-Net of the SD 1.5 or of the SDXL kind. The configuration of
    the U-Net tells its kind: with `addition_embed_type="text_time"` (SDXL) it also takes a pooled condition and the
    image size. If its `in_channels` are the channels of latents and conditions together, it takes the conditions of
    its cross-attention a second time, as a map behind the latents. The released U-Nets take no such map.

    Args:
        feature_decoder ([`LavitFeatureDecoder`]): Computes the conditions of the U-Net from codes.
        unet (`UNet2DConditionModel`): Predicts the noise in the latents.
        vae (`AutoencoderKL` or `AutoencoderTiny`):
            Decodes latents to pixels. Its `enable_tiling` and `enable_slicing` save memory.
        scheduler (`SchedulerMixin`):
            Any scheduler of the Stable Diffusion pipelines of diffusers. The release uses DDIM.
        visual_token_offset (`int`, *optional*):
            The vocabulary id of code 0 (32002 in the release). A call with `vocabulary_ids=True` needs it.
        default_num_inference_steps (`int`, *optional*):
            The default of `num_inference_steps`. Default: that of the release, see `__call__`.
        default_guidance_scale (`float`, *optional*):
            The default of `guidance_scale`. Default: that of the release, see `__call__`.

    Raises:
        ValueError: If the components do not fit each other, or an argument is out of its range.

    Example:

    ```python
    pipe = LavitImageDecoderPipeline.from_pretrained(path, dtype=torch.float16).to("cuda")
    height, width = ASPECT_RATIOS["3:2"]
    image = pipe(codes, height=height, width=width).images[0]
    ```
    """

    feature_decoder: LavitFeatureDecoder
    # The annotations of diffusers know neither the fields of configurations nor the methods of schedulers.
    unet: Any
    vae: Any
    scheduler: Any
    config: Any

    model_cpu_offload_seq = "feature_decoder->unet->vae"
    # Sequential offloading leaves no values in buffers outside of forward, where the stored unconditional embeddings
    # are read.
    _exclude_from_cpu_offload = ["feature_decoder"]
    # Callbacks of diffusers find and change the state of a call under these names.
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
        most = self.scheduler.config.num_train_timesteps
        self.register_to_config(
            visual_token_offset=_check_optional(
                check_integer, "visual_token_offset", visual_token_offset, 0, checks.LARGEST_INT32
            ),
            default_num_inference_steps=_check_optional(
                check_integer, "default_num_inference_steps", default_num_inference_steps, 1, most
            ),
            default_guidance_scale=_check_optional(check_number, "default_guidance_scale", default_guidance_scale, 1),
        )
        self.image_processor = VaeImageProcessor()  # its postprocess needs no scale factor

    @property
    def is_sdxl(self) -> bool:
        """Whether the U-Net is of the SDXL kind."""
        return self.unet.config.addition_embed_type == "text_time"

    @property
    def vae_scale_factor(self) -> int:
        """The number of pixels along a side for each latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def default_size(self) -> tuple[int, int]:
        """
        Height and width in pixels for which the U-Net was made.

        Raises:
            ValueError: If the configuration of the U-Net does not tell.
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
    def _defaults(self) -> tuple[int, float]:
        """The default number of steps and guidance scale."""
        steps, scale = (25, 7.0) if self.is_sdxl else (50, 5.0)
        return self.config.default_num_inference_steps or steps, self.config.default_guidance_scale or scale

    @property
    def guidance_scale(self) -> float:
        """
        The guidance scale of the running or the last call, or else the default. A callback changes it by setting
        `_guidance_scale`, as those of diffusers do. At 1 or below there is no more guidance.
        """
        return self._defaults[1] if self._guidance_scale is None else self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether there is guidance, which needs an unconditional row for each image."""
        return self.guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """The number of timesteps of the running or the last call, or else 0."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """
        Whether denoising ends early. A callback sets `_interrupt`, and the images are then decoded from the latents as
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
        image: Any = None,
        mask_image: PipelineImageInput | None = None,
    ) -> ImagePipelineOutput:
        r"""
        Draws images from their codes.

        Args:
            image_tokens (`list[int]`, `list[list[int]]`, `torch.Tensor` or a list of them):
                The tokens of one image, or those of several images, whose numbers may differ: 1 to `num_patches`
                tokens each, without `[IMG]` and `[/IMG]`. They are codes unless `vocabulary_ids=True`.
            height, width (`int`, *optional*):
                The size of the images in pixels, multiples of the VAE's scale factor. Default: the U-Net's sample size
                times that factor. [`ASPECT_RATIOS`] lists the sizes of the released high-resolution decoder.
            num_inference_steps (`int`, *optional*):
                The number of denoising steps, at most the scheduler's `num_train_timesteps`. Default:
                `default_num_inference_steps`, or else that of the release: 25 for the SDXL kind, 50 for the other.
            guidance_scale (`float`, *optional*):
                The guidance scale, at least 1. At 1 there is no guidance and half of the computation. Default:
                `default_guidance_scale`, or else that of the release: 7.0 for the SDXL kind, 5.0 for the other.
            num_images_per_prompt (`int`, *optional*, defaults to 1): The number of drawings of each image.
            eta (`float`, *optional*, defaults to 0.0):
                The noise that DDIM adds in each step, 0 to 1 (eta of its paper), below 1 where the first timestep has
                no signal. It must be 0 with a scheduler whose `step` has no `eta`.
            generator (`torch.Generator` or a list of them, *optional*):
                The generator of the noise. With a list of one generator for each image that is drawn, no image depends
                on the others of its call.
            latents (`torch.Tensor` of shape `(B, C, height / scale factor, width / scale factor)`, *optional*):
                Standard normal noise to start from, where B is the number of images that are drawn. Default: drawn by
                `generator`.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`: a list of PIL images; `"np"`: `(B, height, width, 3)`, `"pt"`: `(B, 3, height, width)`, both
                in [0, 1]; `"latent"`: the latents before the VAE.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an output class or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, tensors)` after each step. It returns a dictionary of the
                tensors to replace, which may be empty.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*):
                The tensors for the callback: `latents`, `prompt_embeds` and, for the SDXL kind, `add_text_embeds` and
                `add_time_ids`. With guidance, the unconditional rows of the last three precede the others. Callbacks
                of diffusers name their tensors themselves.
            vocabulary_ids (`bool`, *optional*, defaults to `False`):
                Whether `image_tokens` are vocabulary ids (`visual_token_offset` + code) instead of codes.
            image (an image as [`read_image`] takes it, or a list of them, *optional*):
                One image, or one for each in `image_tokens`, of which a part is kept, as in pipelines for inpainting.
            mask_image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them, *optional*):
                White where `image` is drawn anew, black where it is kept; see
                [`~LavitImageDecoderPipeline.generate_mask`].

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple of them: the `num_images_per_prompt` drawings of the first
            image, then those of the second, and so on.

        Raises:
            ValueError: If an argument is out of its range, before anything is computed; if a callback does not return
                a dictionary of tensors with known names and shapes; if an image becomes NaN or infinity, since the
                guidance scale or the dtype overflows.
        """
        # 1. Check the inputs, and the components, which may have been replaced
        checks.check_components(self.feature_decoder, self.unet, self.vae)
        check_scheduler(self.scheduler)
        offset = self.config.visual_token_offset
        codes = to_codes(image_tokens, self.feature_decoder.config, offset, vocabulary_ids)
        num_images_per_prompt = check_integer("num_images_per_prompt", num_images_per_prompt, 1, checks.LARGEST_INT32)
        num_images = len(codes) * num_images_per_prompt
        if height is None or width is None:
            default_height, default_width = self.default_size
            height = default_height if height is None else height
            width = default_width if width is None else width
        factor = self.vae_scale_factor
        height, width = checks.check_size(height, width, factor, num_images)
        shape = (num_images, self.vae.config.latent_channels, height // factor, width // factor)
        checks.check_noise(shape, generator, latents)
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        names = callback_on_step_end_tensor_inputs
        checks.check_output(output_type, callback_on_step_end, names, self._callback_tensor_inputs)
        steps, scale = self._defaults
        scale = check_number("guidance_scale", scale if guidance_scale is None else guidance_scale, 1)
        generator = list(generator) if isinstance(generator, tuple) else generator
        kept = read_kept_image(image, mask_image, len(codes), (height, width), shape[2:], self.scheduler)
        device, dtype = self._execution_device, self.unet.dtype
        set_timesteps(self.scheduler, steps if num_inference_steps is None else num_inference_steps, device)
        step_kwargs = step_options(self.scheduler, generator, eta)
        self._guidance_scale, self._interrupt = scale, False

        # 2. Compute the conditions
        prompt_embeds, pooled = (
            None if part is None else part.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
            for part in self.encode_image_tokens(codes)
        )
        guided = self.do_classifier_free_guidance
        tensors = prepare_conditions(self.feature_decoder, prompt_embeds, pooled, (height, width), guided)

        # 3. Prepare the latents
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        latents = latents.to(device, dtype)
        kept_image = None if kept is None else KeptImage.encode(self.vae, *kept, latents)
        tensors["latents"] = latents * self.scheduler.init_noise_sigma

        # 4. Denoise
        latents = self._denoise(tensors, step_kwargs, callback_on_step_end, names, kept_image)
        checks.check_finite(latents, "unet", self.guidance_scale)

        # 5. Decode the latents
        images = latents
        if output_type != "latent":
            pixels = decode_latents(self.vae, latents.to(device))
            checks.check_finite(pixels, "vae", self.guidance_scale)
            pixels = pixels if kept_image is None else kept_image.paste(pixels)
            images = self.image_processor.postprocess(pixels, output_type=output_type)

        self.maybe_free_model_hooks()  # offloads all models
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def encode_image_tokens(
        self, image_tokens: ImageTokens, vocabulary_ids: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Computes the conditions of the U-Net.

        Args:
            image_tokens, vocabulary_ids: Same as in `__call__`.

        Returns:
            `prompt_embeds` of shape `(B, num_patches, cross_attention_dim)`, and the pooled conditions of shape
            `(B, pooled_condition_dim)` for the SDXL kind, or else `None`; in the dtype of the feature decoder.

        Raises:
            ValueError: If `image_tokens` are not the tokens of images.
        """
        offset, device = self.config.visual_token_offset, self._execution_device
        codes = to_codes(image_tokens, self.feature_decoder.config, offset, vocabulary_ids)
        padded, attention_mask = pad_codes(codes)
        outputs = self.feature_decoder(codes=padded.to(device), attention_mask=attention_mask.to(device))
        return outputs.prompt_embeds, outputs.pooled_prompt_embeds if self.is_sdxl else None

    @torch.no_grad()
    def generate_mask(
        self,
        source_tokens: ImageTokens,
        target_tokens: ImageTokens,
        threshold: float = CHANGE_THRESHOLD,
        vocabulary_ids: bool = False,
    ) -> torch.Tensor:
        """
        Finds where images differ by their tokens.

        Args:
            source_tokens, target_tokens: Image tokens as in `__call__`, of images before and after edits.
            threshold (`float`, *optional*, defaults to 0.6):
                The squared difference of the conditions of a changed patch, relative to their variance.
            vocabulary_ids (`bool`, *optional*, defaults to `False`): Same as in `__call__`.

        Returns:
            `torch.FloatTensor` of shape `(B, 1, h, w)`: the `mask_image` of a call with `target_tokens`. It is 1 at
            changed patches and half a patch around them, and 0 elsewhere.

        Raises:
            ValueError: If the tokens are not those of as many images, or `threshold` is negative or not finite.
        """
        config, offset = self.feature_decoder.config, self.config.visual_token_offset
        source = to_codes(source_tokens, config, offset, vocabulary_ids, "source_tokens")
        target = to_codes(target_tokens, config, offset, vocabulary_ids, "target_tokens")
        counts = f"{len(source)} and {len(target)}"
        expect(len(source) == len(target), f"source_tokens and target_tokens must be of as many images, got {counts}.")
        # Padded together, equal codes have equal conditions.
        before, after = self.encode_image_tokens(source + target)[0].chunk(2)
        return find_changes(before, after, threshold)

    def _denoise(self, tensors, step_kwargs, callback, callback_names, kept: KeptImage | None) -> torch.Tensor:
        """Runs all steps of the scheduler on `tensors["latents"]`. The other tensors are the conditions."""
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        mask = guidance_attention_mask(self.feature_decoder.config, tensors["latents"])
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)  # otherwise the scheduler looks the timestep up, which synchronizes
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    break
                latents = tensors["latents"]
                noise = self._predict_noise(timestep, tensors, mask)
                stepped = self.scheduler.step(noise, timestep, latents, **step_kwargs, return_dict=False)[0]
                stepped = stepped if kept is None else kept.put_back(self.scheduler, stepped, step)
                tensors["latents"] = stepped.to(latents.dtype)
                if callback is not None:
                    outputs = callback(self, step, timestep, {name: tensors[name] for name in callback_names})
                    checks.check_callback_outputs(outputs, tensors, self._guidance_scale)
                    tensors |= {name: tensor.to(tensors[name]) for name, tensor in outputs.items()}
                progress_bar.update()
        return tensors["latents"]

    def _predict_noise(self, timestep, tensors: dict[str, torch.Tensor], attention_mask) -> torch.Tensor:
        """Predicts the noise in the latents, with both branches of guidance in one call of the U-Net."""
        guided = self.do_classifier_free_guidance
        latents = torch.cat([tensors["latents"]] * 2) if guided else tensors["latents"]
        latents = self.scheduler.scale_model_input(latents, timestep)
        # If a callback has ended the guidance, the unconditional rows before the others may still be there.
        conditions = {name: tensor[-len(latents) :] for name, tensor in tensors.items() if name != "latents"}
        noise = apply_unet(self.unet, latents, timestep, conditions, attention_mask if guided else None)
        if not guided:
            return noise
        unconditional, conditional = noise.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)


def _check_optional(check: Callable, name: str, value: Any, *limits: float) -> Any:
    return None if value is None else check(name, value, *limits)
