# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Generation of text and images by transformers' own `generate`."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.generation import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.utils.deprecation import deprecate_kwarg

from .distributed_lavit import method_as_forward
from .expansion_lavit import LavitSequences, check_no_image_arguments
from .generation_settings_lavit import LavitGenerationConfig, LavitGenerationSettings
from .grammar_lavit import LavitGrammarLogitsProcessor, LavitStopStringCriteria
from .guidance_lavit import LavitGuidanceMixin, start_branches
from .prompts_lavit import (
    CalledAsGiven,
    LavitPrompts,
    StreamedAsGiven,
    check_context,
    check_prompts,
    continue_prompts,
    infer_attention_mask,
    read_prompts,
)


class LavitGenerationMixin(LavitGuidanceMixin):
    """`generate` for sequences of text and images. Sampling, beams, caches and streamers are those of transformers."""

    model: nn.Module
    device: torch.device
    generation_config: GenerationConfig

    def adjust_generation_fn(self, *args, **kwargs) -> None:
        """Same as in `GenerationMixin`, which loads a `GenerationConfig` of its own class."""
        super().adjust_generation_fn(*args, **kwargs)
        self.generation_config = LavitGenerationConfig.from_dict(self.generation_config.to_dict())

    @torch.no_grad()
    @deprecate_kwarg("past_key_values", "6.0.0", new_name="cache")
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], list[int]] | None = None,
        *,
        streamer: BaseStreamer | None = None,
        generation_mode: str = "text",
        guidance_scale: float | None = None,
        image_generation: dict[str, Any] | GenerationConfig | None = None,
        max_images: int | None = None,
        first_modality: str | None = None,
        negative_prompt_ids: torch.LongTensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        vision_features: torch.FloatTensor | None = None,
        keep_mask: torch.BoolTensor | None = None,
        image_inputs: str | Sequence[str] | None = None,
        return_full_text: bool = True,
        return_prompt_codes: bool = False,
        **kwargs,
    ):
        """
        Continues sequences with text, draws one image per sequence, or writes text with images in it.

        Args:
            inputs or input_ids (`torch.LongTensor` of shape `(B, L)`):
                Prompts, padded on either side. They have one placeholder for each image, or one for each of its codes.
            generation_config (`GenerationConfig`, *optional*):
                Settings that override those of the model, for example a [`LavitGenerationConfig`].
            logits_processor (`LogitsProcessorList`, *optional*):
                Processors that are called after the grammar, with scores of -inf for tokens that may not follow.
                They and `stopping_criteria` are added to those of the settings.
            stopping_criteria, prefix_allowed_tokens_fn, streamer: Same as in `GenerationMixin.generate`.
            generation_mode (`"text"`, `"image"` or `"interleaved"`, *optional*, defaults to `"text"`):
                `"text"` generates text alone. `"image"` generates `[IMG]`, unless the prompt ends in an open image,
                then codes and `[/IMG]`. `"interleaved"` generates text, with images where the model opens one, until
                the text ends. The model may open an image only if the largest image has room, so that none is cut.
            guidance_scale (`float`, *optional*):
                Strength of classifier-free guidance while an image is drawn, 1 for none. Both branches run in one
                forward, and the unconditional branch sees only what follows the open `[IMG]`. Guidance does not work
                with beams.
            image_generation (`dict` or `GenerationConfig`, *optional*):
                Settings inside images, which override those that are saved with the model, and in `"interleaved"`
                mode also those in `kwargs`. In `"image"` mode, settings in `kwargs` and `generation_config` override
                them. `min_new_tokens` and `max_new_tokens` are the smallest and the largest number of codes of an
                image.
            max_images (`int`, *optional*):
                Largest number of images in `"interleaved"` mode. By default, there is no limit.
            first_modality (`"text"` or `"image"`, *optional*):
                The modality that `"interleaved"` mode generates first. By default, the model decides.
            negative_prompt_ids (`torch.LongTensor` of shape `(B, N)`, `(1, N)` or `(N,)`, *optional*):
                Prompts of the unconditional branch, which precede its `[IMG]`, padded on either side.
            negative_prompt_attention_mask (`torch.Tensor` of the same shape, *optional*): 0 at their padding.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`, *optional*):
                Images of the prompts in reading order.
            vision_features, keep_mask: Same as in [`LavitForCausalLM.forward`].
            image_inputs (`"features"` or `"codes"`, or a list with one of these words per image, *optional*):
                How images enter. By default, `"codes"` in `"image"` mode, and otherwise as the configuration says.
            return_full_text (`bool`, *optional*, defaults to `True`): Whether the result begins with the prompts.
            return_prompt_codes (`bool`, *optional*, defaults to `False`):
                Whether the prompts in the result have the codes of their images instead of placeholders. They are
                then padded on the left, and may be longer than the given prompts.
            **kwargs:
                Same arguments as `GenerationMixin.generate`. `stop_strings` are looked for in text, and not in the
                names of codes.

        Returns:
            `torch.LongTensor` of shape `(B * num_return_sequences, L + new tokens)` or a `ModelOutput`: exactly the
            given ids, followed by new tokens. `max_length` counts the ids as they were given. Under guidance, the
            returned cache has twice the rows, and `logits` are the combined log-probabilities of both branches.

        Raises:
            ValueError: If a value is out of its range, if settings exclude each other, if an image, the prompts or
                their images do not fit into the context, if a prompt of text is empty, or if the number of
                placeholders is neither that of the images nor that of their codes.
        """
        if (input_ids := kwargs.pop("input_ids", None)) is not None:
            if inputs is not None:
                raise ValueError("Give either inputs or input_ids.")
            inputs = input_ids
        images = {"pixel_values": pixel_values, "vision_features": vision_features, "keep_mask": keep_mask}
        if pixel_values is None and vision_features is None:
            images = {}
        if inputs is None and (images or generation_mode != "text"):
            raise ValueError(f"Images and generation_mode={generation_mode!r} need input_ids.")
        if not images:
            encoded = (kwargs.get("mm_encoder_outputs") or {}).get("image")
            check_no_image_arguments(image_inputs, keep_mask, encoded)

        # 1. Decide which settings hold.
        embeds = kwargs.get("inputs_embeds")
        prompt_length = inputs.shape[-1] if inputs is not None else 0 if embeds is None else embeds.shape[-2]
        settings = LavitGenerationSettings(
            self.config,
            self.generation_config,
            generation_config,
            kwargs,
            prompt_length,
            generation_mode,
            guidance_scale,
            image_generation,
            max_images,
            first_modality,
        )
        self._check_settings(settings, negative_prompt_ids)
        kwargs = settings.arguments | {"stopping_criteria": stopping_criteria, "streamer": streamer}
        kwargs["prefix_allowed_tokens_fn"] = prefix_allowed_tokens_fn
        if features := kwargs.get("mm_encoder_outputs"):
            # transformers writes into these outputs where it repeats rows, and they may be read again.
            kwargs["mm_encoder_outputs"] = {name: copy.copy(each) for name, each in features.items()}
        if inputs is None:
            processors = self._processors(settings, 0, logits_processor)
            return super().generate(logits_processor=processors, **kwargs)

        # 2. Read the prompts: put images into them, and move padding to the left.
        prompts = self._read_prompts(inputs, images, image_inputs, settings, kwargs)

        # 3. Add the unconditional branches of guidance.
        if settings.guided:
            prompts.input_ids, prompts.attention_mask, branches = start_branches(
                self.config,
                prompts.input_ids,
                prompts.attention_mask,
                negative_prompt_ids,
                negative_prompt_attention_mask,
            )
            kwargs |= branches | {"image_guidance_scale": settings.guidance_scale}

        # 4. Generate, and put the given prompts back.
        logits_processor, kwargs = self._show_as_given(prompts, logits_processor, kwargs)
        self._stop_at_text(kwargs)
        outputs = super().generate(
            prompts.input_ids,
            logits_processor=self._processors(
                settings, prompts.length, logits_processor, prompts.attention_mask.eq(0).sum(dim=-1)
            ),
            attention_mask=prompts.attention_mask,
            **kwargs,
        )
        beginning = prompts.coded if return_prompt_codes else prompts.given
        beginning = beginning if return_full_text else beginning[:, :0]
        if isinstance(outputs, torch.Tensor):
            return prompts.put_back(outputs, beginning)
        outputs.sequences = prompts.put_back(outputs.sequences, beginning)
        return outputs

    def _check_settings(self, settings: LavitGenerationSettings, negative_prompt_ids: torch.LongTensor | None) -> None:
        """Raises a `ValueError` for settings that this model, or its device, cannot have."""
        if settings.guided and self._has_virtual_tokens:
            raise ValueError(f"guidance_scale must be 1 with prompt learning of peft, got {settings.guidance_scale}.")
        if negative_prompt_ids is not None and not settings.guided:
            raise ValueError(f"negative_prompt_ids need a guidance_scale above 1, got {settings.guidance_scale}.")
        implementation = settings.explicit.get("cache_implementation") or ""
        if implementation.startswith("offloaded") and self.device.type == "cpu":
            raise ValueError(f"cache_implementation={implementation!r} needs a GPU to offload from, got a CPU.")

    def _read_prompts(
        self,
        input_ids: torch.LongTensor,
        images: dict[str, torch.Tensor | None],
        image_inputs: str | Sequence[str] | None,
        settings: LavitGenerationSettings,
        kwargs: dict[str, Any],
    ) -> LavitPrompts:
        """
        Puts images into prompts and moves padding to the left, unless a cache holds the beginning of the prompts.
        Takes their mask out of `kwargs`, the arguments of `GenerationMixin.generate`, and puts the features of images
        in.
        """
        check_prompts(self.config, input_ids)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = infer_attention_mask(input_ids, settings)
        attention_mask = attention_mask.to(input_ids.device, torch.long)
        check_context(self.config, attention_mask, settings)  # before images are expanded
        cache = kwargs.get("cache")
        if cache is not None and cache.get_seq_length() > 0:
            prompts = continue_prompts(self.config, input_ids, attention_mask, cache, bool(images), settings)
        else:
            if images and kwargs.get("inputs_embeds") is not None:
                raise ValueError("Images go with input_ids, and not with inputs_embeds.")
            if image_inputs is None and settings.generation_mode == "image":
                image_inputs = "codes"
            expand_images = None
            if images:
                given = images | {"image_inputs": image_inputs}
                expand_images = partial(method_as_forward(self, "_expand_images"), embed=False, **given)
            features = kwargs.pop("mm_encoder_outputs", None)
            prompts = read_prompts(self.config, input_ids, attention_mask, expand_images, features, settings)
        check_context(self.config, prompts.attention_mask, settings)
        reads_features = prompts.features is not None
        if reads_features:
            kwargs["mm_encoder_outputs"] = prompts.features
        assistant = kwargs.get("assistant_model")
        if isinstance(assistant, LavitGenerationMixin) and (settings.generation_mode != "text" or reads_features):
            # transformers tells an assistant neither what is to be generated, nor the features of images.
            raise ValueError(
                "assistant_model must be a plain language model of the same vocabulary if images are read as "
                f"features, or drawn, got {type(assistant).__name__}."
            )
        return prompts

    def _expand_images(self, *args, **kwargs) -> LavitSequences:
        return self.model.expand_images(*args, **kwargs)

    def _processors(
        self,
        settings: LavitGenerationSettings,
        prompt_length: int,
        logits_processor: LogitsProcessorList | None,
        padding: torch.LongTensor | None = None,
    ) -> LogitsProcessorList:
        """Returns the grammar, the processors of the user, and the sampling of text and images if it differs."""
        grammar = LavitGrammarLogitsProcessor(settings, self.config, prompt_length, padding)
        return LogitsProcessorList([grammar, *(logits_processor or []), *settings.sampling])

    def _show_as_given(
        self, prompts: LavitPrompts, logits_processor: LogitsProcessorList | None, kwargs: dict[str, Any]
    ) -> tuple[LogitsProcessorList, dict[str, Any]]:
        """Wraps all that the user has passed to `generate`, so that it sees the prompts as they were given."""
        # These are always wrapped. transformers lets them replace those of settings that have the same type, and
        # whether they do must not depend on the other prompts of a batch.
        processors = LogitsProcessorList(CalledAsGiven(each, prompts) for each in logits_processor or [])
        criteria = StoppingCriteriaList(CalledAsGiven(each, prompts) for each in kwargs["stopping_criteria"] or [])
        kwargs = kwargs | {"stopping_criteria": criteria}
        if prompts.are_as_given:
            return processors, kwargs
        if moved := [name for name in ("position_ids", "inputs_embeds") if kwargs.get(name) is not None]:
            raise ValueError(
                f"{moved[0]} must be given with prompts that are read as they are: padded on the left, with one "
                "placeholder for each code of an image, and no shorter than a negative prompt."
            )
        if (allowed := kwargs["prefix_allowed_tokens_fn"]) is not None:

            def allowed_as_given(batch_id: int, row: torch.Tensor) -> list[int]:
                given = prompts.given[batch_id : batch_id + 1]
                return allowed(batch_id, prompts.put_back(row[None], given)[0])

            kwargs["prefix_allowed_tokens_fn"] = allowed_as_given
        if kwargs["streamer"] is not None:
            kwargs["streamer"] = StreamedAsGiven(kwargs["streamer"], prompts)
        return processors, kwargs

    def _stop_at_text(self, kwargs: dict[str, Any]) -> None:
        """Puts a criterion that does not see the names of codes in the place of `stop_strings`."""
        stop_strings = kwargs.get("stop_strings", self.generation_config.stop_strings)
        if stop_strings and kwargs.get("tokenizer") is not None:  # otherwise, transformers asks for the tokenizer
            criterion = LavitStopStringCriteria(kwargs["tokenizer"], stop_strings, self.config)
            kwargs["stopping_criteria"].append(criterion)
            kwargs["stop_strings"] = None

    def init_continuous_batching(self, *args, **kwargs):
        """Raises a `ValueError`, since requests of continuous batching have neither images nor a grammar."""
        raise ValueError(f"{type(self).__name__} does not work with continuous batching: use `generate`.")
