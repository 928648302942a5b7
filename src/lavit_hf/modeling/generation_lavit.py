# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Generation of text and pictures with transformers' own `generate`, and guidance whose two branches share one
batched forward."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessorList, TopKLogitsWarper
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_managed_module

from .configuration_lavit import LavitConfig
from .decoding_lavit import LavitDecoding, needs_codes_only, resolve_decoding
from .logits_process_lavit import (
    LavitGuidanceLogitsProcessor,
    LavitModalityLogitsProcessor,
    LavitModalitySettingsLogitsProcessor,
)
from .sequence_lavit import append_token, move_padding_left, open_image_start, pad_id


class LavitGenerationMixin(GenerationMixin):
    """`generate` for sequences of text and pictures. Sampling, beams, caches and streamers are transformers'."""

    config: LavitConfig
    model: nn.Module
    get_input_embeddings: Callable[[], nn.Module]
    get_output_embeddings: Callable[[], nn.Module]

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        generation_mode: str = "text",
        guidance_scale: float | None = None,
        image_generation: dict[str, Any] | None = None,
        max_images: int | None = None,
        first_modality: str | None = None,
        negative_prompt_ids: torch.LongTensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_inputs: str | Sequence[str] | None = None,
        return_full_text: bool = True,
        **kwargs,
    ):
        """
        Continues sequences with text, draws one picture per sequence, or writes text with pictures in it.

        Args:
            inputs or input_ids (`torch.LongTensor` of shape `(B, L)`):
                Prompts, with one placeholder for each picture of `pixel_values`; padded on either side.
            generation_config (`GenerationConfig`, *optional*):
                Instead of the model's own, whose custom entry `image_generation` holds the defaults of drawing.
            logits_processor (`LogitsProcessorList`, *optional*):
                Further processors. What may not follow is -inf in the scores that they get.
            generation_mode (`"text"`, `"image"` or `"interleaved"`, *optional*, defaults to `"text"`):
                `"text"`: no picture ids. `"image"`: codes until `[/IMG]`; `[IMG]` is put where a prompt has not opened
                its picture. `"interleaved"`: text, and pictures in it wherever the model opens one, until text ends. A
                picture is opened only where the largest one would find room, so that none is cut.
            guidance_scale (`float`, *optional*):
                Strength of classifier-free guidance while a picture is drawn; 1 is none. Both branches run in one
                forward: the unconditional one sees only from the open `[IMG]` on. Not with beams.
            negative_prompt_ids (`torch.LongTensor` of shape `(B, N)`, `(1, N)` or `(N,)`, *optional*):
                What the unconditional branch sees before `[IMG]`, padded on either side; with
                `negative_prompt_attention_mask` of the same shape.
            image_generation (`dict`, *optional*):
                Settings of a `GenerationConfig` within pictures, over those that the model was saved with. In
                `"interleaved"` they go before this call's others, which hold in text and where they say nothing;
                `min_new_tokens` and `max_new_tokens` are then the least and the most codes of a picture.
            max_images (`int`, *optional*): Most pictures that `"interleaved"` draws. Default: any number.
            first_modality (`"text"` or `"image"`, *optional*): What `"interleaved"` begins with. Default: either.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`, *optional*):
                The prompts' pictures in reading order.
            image_inputs (`"features"` or `"codes"`, or a list of these words, one per picture, *optional*):
                How they enter. Default: the configuration's for text, `"codes"` for drawing.
            return_full_text (`bool`, *optional*, defaults to `True`):
                Whether the prompt is returned too. It is longer than `input_ids`, by its pictures' codes.
            **kwargs: Everything that `GenerationMixin.generate` takes.

        Returns:
            `torch.LongTensor` of shape `(B * num_return_sequences, L')` or a `ModelOutput`: real ids, the prompt with
            its pictures' codes and then what was generated, or just this.

        Raises:
            ValueError: an unknown mode; guidance below 1, in text or with beams; bounds that no picture can meet; no
                room for a picture; prompts or pictures that the context does not hold; as many placeholders as
                pictures were expected.
        """
        asked = {
            "generation_mode": generation_mode,
            "guidance_scale": guidance_scale,
            "max_images": max_images,
            "first_modality": first_modality,
        }
        decoding, generation_config, kwargs = resolve_decoding(
            self.config, self.generation_config, asked, image_generation, generation_config, kwargs
        )
        if (input_ids := kwargs.pop("input_ids", None)) is not None and inputs is not None:
            raise ValueError("Give either inputs or input_ids.")
        inputs = inputs if input_ids is None else input_ids
        if inputs is not None:
            self._check_context(inputs, decoding)  # before pictures are looked at, and again with their codes
            inputs, kwargs = self._prepare_prompts(inputs, pixel_values, image_inputs, decoding, kwargs)
            self._check_context(inputs, decoding)
            if negative_prompt_ids is not None:
                if not decoding.guided:
                    scale = decoding.guidance_scale
                    raise ValueError(f"negative_prompt_ids need a guidance_scale above 1, got {scale}.")
                inputs, kwargs = self._add_negative_prompts(
                    inputs, negative_prompt_ids, negative_prompt_attention_mask, kwargs
                )
        elif pixel_values is not None or generation_mode != "text":
            raise ValueError(f"pixel_values and generation_mode={generation_mode!r} need input_ids.")
        outputs = super().generate(
            inputs, generation_config, logits_processor=logits_processor, decoding=decoding, **kwargs
        )
        if return_full_text or inputs is None:
            return outputs
        if isinstance(outputs, torch.Tensor):
            return outputs[:, inputs.shape[1] :]
        outputs.sequences = outputs.sequences[:, inputs.shape[1] :]
        return outputs

    def _check_context(self, input_ids: torch.LongTensor, decoding: LavitDecoding) -> None:
        """Raises a ValueError where prompts, or prompts and the pictures asked for, do not fit into the context."""
        longest = getattr(self.config.text_config, "max_position_embeddings", None)
        length, num_images = input_ids.shape[1], decoding.max_images or int(decoding.begins_with_image)
        needed = num_images * (decoding.num_codes[0] + 2) or 1
        if longest is not None and length + needed > longest:
            raise ValueError(
                f"The context holds {longest} positions: prompts of {length} leave no room for "
                f"{f'{num_images} pictures' if num_images else 'anything else'}."
            )

    def _prepare_prompts(self, input_ids, pixel_values, image_inputs, decoding: LavitDecoding, kwargs):
        """Real ids, padded on the left, opened by `[IMG]` where a picture is to be drawn; and what pictures add."""
        attention_mask = kwargs.get("attention_mask")
        if attention_mask is not None and not attention_mask[:, -1].all():
            input_ids, attention_mask = move_padding_left(input_ids, attention_mask)
        if decoding.begins_with_image:
            attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            start_id, fill = self.config.image_start_token_id, pad_id(self.config)
            _, is_open = open_image_start(input_ids, self.config)
            input_ids, attention_mask = append_token(input_ids, attention_mask, start_id, ~is_open, fill)
        kwargs = kwargs | {"attention_mask": attention_mask}
        if pixel_values is None:
            self.model.check_no_placeholder(input_ids)
            return input_ids, kwargs
        if image_inputs is None and decoding.generation_mode == "image":
            image_inputs = "codes"
        sequences = self.model.expand_images(input_ids, pixel_values, attention_mask, image_inputs=image_inputs)
        return sequences.input_ids, kwargs | {
            "attention_mask": sequences.attention_mask,
            "inputs_embeds": sequences.inputs_embeds,
        }

    def _add_negative_prompts(self, input_ids, negative_ids, negative_mask, kwargs):
        """Puts negative prompts where the twins' pictures begin, and prompts further right where those are longer."""
        batch_size = len(input_ids)
        negative_ids = torch.atleast_2d(negative_ids).to(input_ids.device)
        negative_mask = torch.ones_like(negative_ids) if negative_mask is None else torch.atleast_2d(negative_mask)
        negative_mask = negative_mask.to(input_ids.device)
        if len(negative_ids) not in (1, batch_size) or negative_mask.shape != negative_ids.shape:
            raise ValueError(
                f"negative_prompt_ids and their mask must be one row or {batch_size}, one per prompt, "
                f"got {tuple(negative_ids.shape)} and {tuple(negative_mask.shape)}."
            )
        self.model.check_no_placeholder(negative_ids)
        negative_ids, negative_mask = move_padding_left(negative_ids, negative_mask)
        shape = (batch_size, negative_ids.shape[1])
        negative_ids, negative_mask = negative_ids.expand(shape), negative_mask.expand(shape)

        start, is_open = open_image_start(input_ids, self.config)
        behind = torch.where(is_open, start, input_ids.shape[1])
        missing = max(0, shape[1] - int(behind.min()))
        fill = pad_id(self.config)
        attention_mask = kwargs["attention_mask"]
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        input_ids = nn.functional.pad(input_ids, (missing, 0), value=fill)
        attention_mask = nn.functional.pad(attention_mask, (missing, 0))
        columns = (behind + missing)[:, None] + torch.arange(-shape[1], 0, device=input_ids.device)
        twins = {
            "unconditional_ids": input_ids.scatter(1, columns, negative_ids),
            "unconditional_mask": torch.zeros_like(attention_mask).scatter(1, columns, negative_mask),
        }
        if (inputs_embeds := kwargs.get("inputs_embeds")) is not None:
            twins["inputs_embeds"] = nn.functional.pad(inputs_embeds, (0, 0, missing, 0))
        return input_ids, kwargs | {"attention_mask": attention_mask} | twins

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoding: LavitDecoding | None = None,
        unconditional_ids: torch.LongTensor | None = None,
        unconditional_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> dict:
        """As transformers', but with an unconditional twin behind each row where guidance is asked for."""
        if decoding is not None and decoding.codes_only:
            kwargs["codes_only"] = True
        if decoding is not None and decoding.guided:
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            twin_mask = self._twin_mask(input_ids, attention_mask, unconditional_mask)
            attention_mask = torch.cat([attention_mask, twin_mask])
            if position_ids is not None:
                # The twin counts what it sees, as if nothing else stood before.
                own = (twin_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -position_ids.shape[1] :]
                position_ids = torch.cat([position_ids.expand(len(own), -1), own])
            twin_ids = input_ids
            if unconditional_ids is not None:
                prompt_length = unconditional_ids.shape[1]
                twin_ids = torch.cat([unconditional_ids, input_ids[:, prompt_length:]], dim=1)
            if inputs_embeds is not None:
                twin_embeds = inputs_embeds
                if unconditional_ids is not None:
                    negative = self.get_input_embeddings()(unconditional_ids).to(inputs_embeds)
                    twin_embeds = torch.where(unconditional_mask[..., None].bool(), negative, inputs_embeds)
                inputs_embeds = torch.cat([inputs_embeds, twin_embeds])
            input_ids = torch.cat([input_ids, twin_ids])
        return super().prepare_inputs_for_generation(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            **kwargs,
        )

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration: bool = True):
        """As transformers', but what no unconditional twin sees is read in one branch alone."""
        length = self._count_unseen(input_ids, generation_config, model_kwargs)
        if length:
            begun = {"decoding": replace(model_kwargs["decoding"], guidance_scale=1.0)} | {
                name: model_kwargs[name][:, :length]
                for name in ("attention_mask", "position_ids", "inputs_embeds")
                if model_kwargs.get(name) is not None
            }
            inputs = self.prepare_inputs_for_generation(
                input_ids[:, :length], is_first_iteration=is_first_iteration, **model_kwargs | begun
            )
            self(**inputs, return_dict=True)
            # The twins' keys are masked out there: any will do.
            model_kwargs["cache"].batch_select_indices(torch.arange(len(input_ids)).repeat(2))
        return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)

    def _count_unseen(self, input_ids, generation_config, model_kwargs) -> int:
        """How many of the prompts' positions no twin sees. 0 also where the branches have to be read together."""
        decoding, cache = model_kwargs.get("decoding"), model_kwargs.get("cache")
        if decoding is None or not decoding.guided or model_kwargs.get("unconditional_ids") is not None:
            return 0
        if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length():
            return 0
        if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
            return 0  # Others do not just append: their states hold what no mask takes back.
        returned = generation_config.output_hidden_states or generation_config.output_attentions
        # Processes that share weights have to make as many forwards as each other.
        if returned or generation_config.prefill_chunk_size or _shares_weights(self):
            return 0
        start, is_open = open_image_start(input_ids, self.config)
        return int(torch.where(is_open, start, input_ids.shape[1] - 1).min())

    def _twin_mask(self, input_ids, attention_mask, unconditional_mask) -> torch.Tensor:
        """What the unconditional twins see: from their last `[IMG]` on, and a negative prompt, if there is one."""
        length = attention_mask.shape[1]
        start, is_open = open_image_start(input_ids, self.config)
        columns = torch.arange(length, device=input_ids.device)
        if unconditional_mask is None:
            # Rows without any picture have nothing to hide, and their twins are not looked at.
            return attention_mask * (columns >= start.clamp(min=0)[:, None])
        # A picture that the prompt has closed must not be seen by the negative prompt behind it.
        prompt_length = unconditional_mask.shape[1]
        start = torch.where(is_open | (start >= prompt_length), start, prompt_length)
        negative = nn.functional.pad(unconditional_mask, (0, length - prompt_length))
        return torch.where(columns >= start[:, None], attention_mask, negative.to(attention_mask))

    def _get_logits_processor(
        self,
        generation_config,
        input_ids_seq_length: int | None = None,
        logits_processor: LogitsProcessorList | None = None,
        device=None,
        model_kwargs=None,
        **kwargs,
    ) -> LogitsProcessorList:
        decoding: LavitDecoding | None = (model_kwargs or {}).get("decoding")

        def processors(settings: dict, further: LogitsProcessorList | None) -> LogitsProcessorList:
            config = copy.deepcopy(generation_config)
            for name, value in settings.items():
                setattr(config, name, value)
            found = super(LavitGenerationMixin, self)._get_logits_processor(
                config,
                input_ids_seq_length=input_ids_seq_length,
                logits_processor=further,
                device=device,
                model_kwargs=model_kwargs,
                **kwargs,
            )
            # Where the other modality is sampled, the likeliest token alone is what greedy choice leaves.
            is_greedy = generation_config.do_sample and not config.do_sample
            return LogitsProcessorList([*found, TopKLogitsWarper(1)] if is_greedy else found)

        if decoding is None:
            return processors({}, logits_processor)
        if decoding.generation_mode == "interleaved":
            text, image = processors(decoding.text_settings, None), processors(decoding.image_settings, None)
            # One's own come before the temperature, as transformers has it.
            chosen = [*(logits_processor or []), LavitModalitySettingsLogitsProcessor(text, image, self.config)]
        else:
            chosen = processors({}, logits_processor)
        model_kwargs["decoding"] = replace(
            decoding, codes_only=needs_codes_only(decoding, generation_config, chosen, logits_processor)
        )
        modality = LavitModalityLogitsProcessor(
            decoding.generation_mode,
            self.config,
            vocab_size=self.get_output_embeddings().weight.shape[0],
            num_codes=decoding.num_codes,
            prompt_length=input_ids_seq_length,
            max_length=generation_config.max_length,
            max_images=decoding.max_images,
            begin_with_text=decoding.first_modality == "text",
            device=device,
        )
        guidance = [LavitGuidanceLogitsProcessor(decoding.guidance_scale, self.config)] if decoding.guided else []
        return LogitsProcessorList([*guidance, modality, *chosen])


def _shares_weights(model: nn.Module) -> bool:
    """Whether no process has all of a model's weights."""
    return is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
