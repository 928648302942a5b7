# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Generation of text and pictures with transformers' own `generate`: what may follow what, and guidance whose two
branches share one batched forward."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from .sequence_lavit import append_token, move_padding_left, open_image_start, pad_id


GENERATION_MODES = ("text", "image")


@dataclass(frozen=True)
class LavitDecoding:
    """
    How one call of `generate` decodes, beyond what a `GenerationConfig` says.

    Args:
        generation_mode (`str`): `"text"` or `"image"`.
        guidance_scale (`float`): Above 1, each row has an unconditional twin in the same forward.
    """

    generation_mode: str
    guidance_scale: float

    @property
    def guided(self) -> bool:
        return self.guidance_scale != 1


class LavitGuidanceLogitsProcessor(LogitsProcessor):
    """
    Combines the two branches of classifier-free guidance on log-probabilities: `u + s * (c - u)`.

    It comes before every other processor: on the -inf of a processor the difference is not a number.

    Args:
        guidance_scale (`float`): s.
    """

    def __init__(self, guidance_scale: float):
        self.guidance_scale = guidance_scale

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`scores` (2B, vocab_size), the conditional rows first -> (B, vocab_size)."""
        conditional, unconditional = scores.log_softmax(dim=-1).chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)


class LavitModalityLogitsProcessor(LogitsProcessor):
    """
    Lets only those tokens follow that mode and state of a sequence admit. While a picture is drawn: codes, `[/IMG]`
    after one code at least, and nothing but `[/IMG]` after as many as there are patches. Else: text.

    Args:
        generation_mode (`str`): `"text"` or `"image"`.
        vocab_size (`int`): Width of the scores.
        image_start_token_id, image_end_token_id, visual_token_offset, codebook_size (`int`): As in [`LavitConfig`].
        max_codes (`int`): Most codes of a picture.
        device (`torch.device`): Where the scores live.
    """

    def __init__(
        self,
        generation_mode: str,
        vocab_size: int,
        image_start_token_id: int,
        image_end_token_id: int,
        visual_token_offset: int,
        codebook_size: int,
        max_codes: int,
        device: torch.device | None = None,
    ):
        ids = torch.arange(vocab_size, device=device)
        self.is_code = (ids >= visual_token_offset) & (ids < visual_token_offset + codebook_size)
        self.is_end = ids == image_end_token_id
        # No embedding is there for the placeholder; where the vocabulary has grown past it, it is masked here.
        self.is_text = ~(self.is_code | self.is_end | (ids == image_start_token_id))
        self.is_text &= ids != visual_token_offset + codebook_size
        self.start, self.end, self.max_codes = image_start_token_id, image_end_token_id, max_codes
        self.draws = generation_mode != "text"

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.draws:
            return scores.masked_fill(~self.is_text, -torch.inf)
        start, is_open = open_image_start(input_ids, self.start, self.end)
        num_codes = (input_ids.shape[1] - 1 - start)[:, None]
        inside = (self.is_code & (num_codes < self.max_codes)) | (self.is_end & (num_codes > 0))
        return scores.masked_fill(~torch.where(is_open[:, None], inside, self.is_text), -torch.inf)


class LavitGenerationMixin(GenerationMixin):
    """`generate` for sequences of text and pictures. Sampling, beams, caches and streamers are transformers'."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        generation_mode: str = "text",
        guidance_scale: float | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_inputs: str | Sequence[str] | None = None,
        return_full_text: bool = True,
        **kwargs,
    ):
        """
        Continues sequences with text, or draws one picture per sequence.

        Args:
            inputs or input_ids (`torch.LongTensor` of shape `(B, L)`):
                Prompts, with one placeholder for each picture of `pixel_values`; padded on either side.
            generation_config (`GenerationConfig`, *optional*):
                Instead of the model's own, whose custom entry `image_generation` holds the defaults of drawing.
            logits_processor (`LogitsProcessorList`, *optional*): Further processors, which come last.
            generation_mode (`"text"` or `"image"`, *optional*, defaults to `"text"`):
                `"text"`: no picture ids. `"image"`: codes until `[/IMG]`; `[IMG]` is put where a prompt does not end
                with it.
            guidance_scale (`float`, *optional*):
                Strength of classifier-free guidance while a picture is drawn; 1 is none. Both branches run in one
                forward: the unconditional one sees only from the open `[IMG]` on. Not with beams.
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
            ValueError: an unknown mode; guidance below 1, in text or with beams; bounds that no picture can meet; as
                many placeholders as pictures were expected.
        """
        decoding, generation_config, kwargs = self._resolve_settings(
            generation_mode, guidance_scale, generation_config, kwargs
        )
        if (input_ids := kwargs.pop("input_ids", None)) is not None and inputs is not None:
            raise ValueError("Give either inputs or input_ids.")
        inputs = inputs if input_ids is None else input_ids
        if inputs is not None:
            inputs, kwargs = self._prepare_prompts(inputs, pixel_values, image_inputs, decoding, kwargs)
        elif pixel_values is not None or generation_mode == "image":
            raise ValueError("pixel_values and generation_mode='image' need input_ids.")
        outputs = super().generate(
            inputs, generation_config, logits_processor=logits_processor, decoding=decoding, **kwargs
        )
        if return_full_text or inputs is None:
            return outputs
        if isinstance(outputs, torch.Tensor):
            return outputs[:, inputs.shape[1] :]
        outputs.sequences = outputs.sequences[:, inputs.shape[1] :]
        return outputs

    def _resolve_settings(self, generation_mode, guidance_scale, generation_config, kwargs):
        """The decoding of this call, and `generation_config` and `kwargs` with what its mode sets."""
        if generation_mode not in GENERATION_MODES:
            raise ValueError(f"generation_mode must be one of {GENERATION_MODES}, got {generation_mode!r}.")

        def given(name):
            value = kwargs.get(name)
            return getattr(generation_config, name, None) if value is None else value

        defaults, forced = {}, {}
        if generation_mode == "image":
            defaults = {"max_new_tokens": self.config.num_patches + 1}
            defaults |= {"guidance_scale": self.generation_config.guidance_scale or 1.0}
            defaults |= getattr(self.generation_config, "image_generation", None) or {}
            forced = {"eos_token_id": self.config.image_end_token_id}
            if guidance_scale is None:
                guidance_scale = given("guidance_scale") or defaults["guidance_scale"]
            if given("max_length") is not None:
                del defaults["max_new_tokens"]
            if given("max_new_tokens") is not None and "min_new_tokens" in defaults:
                defaults["min_new_tokens"] = min(defaults["min_new_tokens"], given("max_new_tokens"))
        decoding = LavitDecoding(generation_mode, 1.0 if guidance_scale is None else float(guidance_scale))

        # transformers' own guidance would run the model a second time
        defaults, forced = defaults | {"guidance_scale": 1.0}, forced | {"guidance_scale": 1.0}
        if generation_config is None:
            kwargs = defaults | kwargs | forced
        else:
            generation_config = copy.deepcopy(generation_config)
            generation_config.update(**defaults, defaults_only=True)
            generation_config.update(**forced)
        base = generation_config or self.generation_config
        self._check_settings(decoding, lambda name: kwargs.get(name, getattr(base, name)), kwargs)
        return decoding, generation_config, kwargs

    def _check_settings(self, decoding: LavitDecoding, setting, kwargs) -> None:
        scale, num_patches = decoding.guidance_scale, self.config.num_patches
        if not scale >= 1:
            raise ValueError(f"guidance_scale must be at least 1, got {scale}.")
        if decoding.guided and decoding.generation_mode == "text":
            raise ValueError(f"guidance_scale works on pictures, got {scale} with generation_mode='text'.")
        if decoding.guided and (setting("num_beams") or 1) > 1:
            raise ValueError(f"guidance_scale={scale} does not work with num_beams={setting('num_beams')}.")
        if kwargs.get("negative_prompt_ids") is not None:
            raise ValueError("negative_prompt_ids are not supported: guidance's other branch sees the picture alone.")
        if decoding.generation_mode == "image" and (setting("min_new_tokens") or 0) > num_patches:
            raise ValueError(
                f"min_new_tokens must be at most {num_patches}, the most codes of a picture, "
                f"got {setting('min_new_tokens')}."
            )

    def _prepare_prompts(self, input_ids, pixel_values, image_inputs, decoding: LavitDecoding, kwargs):
        """Real ids, padded on the left, opened by `[IMG]` where a picture is to be drawn; and what pictures add."""
        drawing = decoding.generation_mode == "image"
        attention_mask = kwargs.get("attention_mask")
        if attention_mask is not None and not attention_mask[:, -1].all():
            input_ids, attention_mask = move_padding_left(input_ids, attention_mask)
        if drawing:
            attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            start_id, fill = self.config.image_start_token_id, pad_id(self.config)
            input_ids, attention_mask = append_token(input_ids, attention_mask, start_id, fill)
        kwargs = kwargs | {"attention_mask": attention_mask}
        if pixel_values is None:
            self.model.check_no_placeholder(input_ids)
            return input_ids, kwargs
        if image_inputs is None and drawing:
            image_inputs = "codes"
        sequences = self.model.expand_images(input_ids, pixel_values, attention_mask, image_inputs=image_inputs)
        return sequences.input_ids, kwargs | {
            "attention_mask": sequences.attention_mask,
            "inputs_embeds": sequences.inputs_embeds,
        }

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoding: LavitDecoding | None = None,
        **kwargs,
    ) -> dict:
        """As transformers', but with an unconditional twin behind each row where guidance is asked for."""
        if decoding is not None and decoding.guided:
            start, _ = open_image_start(input_ids, self.config.image_start_token_id, self.config.image_end_token_id)
            # Rows without any picture have nothing to hide, and their twins are not looked at.
            start = start.clamp(min=0)[:, None]
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            visible = torch.arange(attention_mask.shape[1], device=input_ids.device) >= start
            attention_mask = torch.cat([attention_mask, attention_mask * visible])
            if position_ids is not None:
                # The twin counts from its own first token, as if nothing stood before.
                position_ids = position_ids.expand(input_ids.shape[0], -1)
                own = (position_ids - position_ids.gather(1, start)).clamp(min=0)
                position_ids = torch.cat([position_ids, own])
            input_ids = input_ids.repeat(2, 1)
            inputs_embeds = None if inputs_embeds is None else inputs_embeds.repeat(2, 1, 1)
        return super().prepare_inputs_for_generation(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            **kwargs,
        )

    def _get_logits_processor(
        self, generation_config, *args, device=None, model_kwargs=None, **kwargs
    ) -> LogitsProcessorList:
        processors = super()._get_logits_processor(
            generation_config, *args, device=device, model_kwargs=model_kwargs, **kwargs
        )
        decoding = (model_kwargs or {}).get("decoding")
        if decoding is None:
            return processors
        config = self.config
        modality = LavitModalityLogitsProcessor(
            decoding.generation_mode,
            vocab_size=self.get_output_embeddings().weight.shape[0],
            image_start_token_id=config.image_start_token_id,
            image_end_token_id=config.image_end_token_id,
            visual_token_offset=config.visual_token_offset,
            codebook_size=config.codebook_size,
            max_codes=config.num_patches,
            device=device,
        )
        guidance = [LavitGuidanceLogitsProcessor(decoding.guidance_scale)] if decoding.guided else []
        return LogitsProcessorList([*guidance, modality, *processors])
