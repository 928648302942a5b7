# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Generation of text and images by transformers' own `generate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_lavit import LavitConfig
from .decoding_lavit import LavitDecoding, keeps_state, resolve_decoding
from .expansion_lavit import (
    check_attention_mask,
    check_no_image_arguments,
    check_placeholders,
    move_padding_left,
    open_image_start,
    pad_id,
)
from .grammar_lavit import LavitGrammarLogitsProcessor, LavitModalityLogitsProcessor, warpers
from .guidance_lavit import add_negative_prompts, branch_inputs, start_branches


@dataclass
class _Prompts:
    """
    Prompts as they were given, and as the model reads them: images expanded, padded on the left.

    Args:
        given (`torch.LongTensor` of shape `(B, L)`): The ids that the result begins with.
        input_ids, attention_mask (`torch.Tensor` of shape `(B, L')`): Inputs of the model.
        length (`int`): L', or 0 where the prompts are empty and `input_ids` is the `[IMG]` of the drawings.
        coded (`torch.LongTensor` of shape `(B, L')`): The same with the codes of all images.
        features (`dict`, *optional*): The features of images, in the form in which transformers hands them on.
    """

    given: torch.LongTensor
    input_ids: torch.LongTensor
    attention_mask: torch.Tensor
    length: int
    coded: torch.LongTensor
    features: dict[str, Any] | None = None

    @property
    def is_as_given(self) -> bool:
        return self.input_ids.shape == self.given.shape and torch.equal(self.input_ids, self.given)

    def put_back(self, input_ids: torch.LongTensor, prompt: torch.LongTensor) -> torch.LongTensor:
        """Replaces what the model read at the beginning of `input_ids` (N * B, ...) by `prompt` (B, ...)."""
        prompt = prompt.repeat_interleave(len(input_ids) // len(prompt), dim=0).to(input_ids.device)
        return torch.cat([prompt, input_ids[:, self.length :]], dim=1)


class _CalledAsGiven:
    """A user's logits processor or stopping criterion, which is shown the prompts as they were given."""

    def __init__(self, function: Callable, prompts: _Prompts):
        self._function, self._prompts = function, prompts

    def __call__(self, input_ids, scores):
        return self._function(self._prompts.put_back(input_ids, self._prompts.given), scores)

    def __getattr__(self, name: str):
        return getattr(self._function, name)


class _StreamedAsGiven(BaseStreamer):
    """A user's streamer, which is shown the prompts as they were given."""

    def __init__(self, streamer: BaseStreamer, prompts: _Prompts):
        self._streamer, self._prompts, self._is_prompt = streamer, prompts, True

    def put(self, value):
        if self._is_prompt:
            value, self._is_prompt = self._prompts.put_back(value, self._prompts.given), False
        self._streamer.put(value)

    def end(self):
        self._streamer.end()


class LavitGenerationMixin(GenerationMixin):
    """`generate` for sequences of text and images. Sampling, beams, caches and streamers are transformers'."""

    config: LavitConfig
    model: nn.Module
    device: torch.device
    get_output_embeddings: Callable[[], nn.Module]

    @torch.no_grad()
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
                Prompts, padded on either side, with placeholders for the images: one for each image, or one for each
                of its codes.
            generation_config (`GenerationConfig`, *optional*):
                Overrides the model's own, whose custom entry `image_generation` holds the defaults of drawing.
            logits_processor (`LogitsProcessorList`, *optional*):
                Further processors. The scores that they get are -inf for tokens that may not follow.
            stopping_criteria, prefix_allowed_tokens_fn, streamer: Same as in `GenerationMixin.generate`.
            generation_mode (`"text"`, `"image"` or `"interleaved"`, *optional*, defaults to `"text"`):
                `"text"`: text alone. `"image"`: `[IMG]`, unless the prompt has opened its image, then codes and
                `[/IMG]`. `"interleaved"`: text, and images wherever the model opens one, until text ends. An image is
                opened only where the most codes have room, so that no image is cut.
            guidance_scale (`float`, *optional*):
                Strength of classifier-free guidance while an image is drawn; 1 is none. Both branches run in one
                forward: the unconditional one sees only from the open `[IMG]` on. Not with beams.
            image_generation (`dict` or `GenerationConfig`, *optional*):
                Settings of sampling inside images, over those that the model was saved with. `min_new_tokens` and
                `max_new_tokens` are the least and the most codes of an image.
            max_images (`int`, *optional*): Most images of `"interleaved"`. Default: any number.
            first_modality (`"text"` or `"image"`, *optional*): First modality of `"interleaved"`. Default: either.
            negative_prompt_ids (`torch.LongTensor` of shape `(B, N)`, `(1, N)` or `(N,)`, *optional*):
                Prompts of the unconditional branch before `[IMG]`, padded on either side; with
                `negative_prompt_attention_mask` of the same shape.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, image_size, image_size)`, *optional*):
                Images of the prompts in reading order.
            vision_features, keep_mask: Same as in [`LavitForCausalLM.forward`].
            image_inputs (`"features"` or `"codes"`, or a list of these words, one per image, *optional*):
                How images enter. Default: the configuration's for text, `"codes"` for drawing.
            return_full_text (`bool`, *optional*, defaults to `True`): Whether the result begins with the prompts.
            return_prompt_codes (`bool`, *optional*, defaults to `False`):
                Whether the prompts in the result have the codes of their images in place of placeholders. They are
                then padded on the left, and as long as their images need it.
            **kwargs: Same as in `GenerationMixin.generate`.

        Returns:
            `torch.LongTensor` of shape `(B * num_return_sequences, L + new tokens)` or a `ModelOutput`: exactly the
            ids that were given, and then new tokens. `max_length` counts the ids as given. Under guidance, the cache
            has twice the rows, and `logits` are the combined log-probabilities of both branches.

        Raises:
            ValueError: a value out of its range; settings that exclude each other; no room for an image; prompts or
                images that the context does not hold; an empty prompt for text; placeholders that fit no images.
        """
        if (input_ids := kwargs.pop("input_ids", None)) is not None and inputs is not None:
            raise ValueError("Give either inputs or input_ids.")
        inputs = inputs if input_ids is None else input_ids
        images = {"pixel_values": pixel_values, "vision_features": vision_features, "keep_mask": keep_mask}
        has_images = pixel_values is not None or vision_features is not None
        decoding, kwargs = resolve_decoding(
            self.config,
            self.generation_config,
            generation_config,
            kwargs,
            0 if inputs is None else inputs.shape[-1],
            generation_mode=generation_mode,
            guidance_scale=guidance_scale,
            image_generation=image_generation,
            max_images=max_images,
            first_modality=first_modality,
        )
        if decoding.guided and self._has_virtual_tokens:
            raise ValueError(f"guidance_scale must be 1 with prompt learning of peft, got {decoding.guidance_scale}.")
        if negative_prompt_ids is not None and not decoding.guided:
            raise ValueError(f"negative_prompt_ids need a guidance_scale above 1, got {decoding.guidance_scale}.")
        implementation = kwargs.get("cache_implementation") or self.generation_config.cache_implementation or ""
        if implementation.startswith("offloaded") and self.device.type == "cpu":
            raise ValueError(f"cache_implementation={implementation!r} needs a GPU to offload from, got a CPU.")
        if not has_images:
            encoded = (kwargs.get("mm_encoder_outputs") or {}).get("image")
            check_no_image_arguments(image_inputs, keep_mask, encoded)
        further = {"stopping_criteria": stopping_criteria, "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn}
        if streamer is not None:
            further["streamer"] = streamer
        if inputs is None:
            if has_images or generation_mode != "text":
                raise ValueError(f"Images and generation_mode={generation_mode!r} need input_ids.")
            embeds = kwargs.get("inputs_embeds")
            processors = self._processors(
                0, decoding, logits_processor, self.device if embeds is None else embeds.device
            )
            return super().generate(logits_processor=processors, **further, **kwargs)

        self._check_prompts(inputs, decoding)
        cache = kwargs.get("cache")
        if cache is not None and cache.get_seq_length() > 0:
            prompts = self._continue_prompts(inputs, cache, has_images, decoding, kwargs)
        else:
            if has_images and kwargs.get("inputs_embeds") is not None:
                raise ValueError("Images go with input_ids, and not with inputs_embeds.")
            prompts = self._read_prompts(inputs, images if has_images else None, image_inputs, decoding, kwargs)
        self._check_context(prompts.input_ids.shape[1], decoding)
        if decoding.guided:
            kwargs |= self._add_branches(prompts, decoding, negative_prompt_ids, negative_prompt_attention_mask)
        if prompts.features is not None:
            kwargs["mm_encoder_outputs"] = prompts.features
        is_lavit = isinstance(kwargs.get("assistant_model"), LavitGenerationMixin)
        if is_lavit and (generation_mode != "text" or prompts.features is not None):
            # transformers tells an assistant neither what is to be generated, nor the features of images.
            raise ValueError(
                "assistant_model must be a plain language model of the same vocabulary where images are read as "
                f"features, or drawn, got {type(kwargs['assistant_model']).__name__}."
            )
        if inputs.shape[1] == 0:
            if kwargs["max_new_tokens"] == 1:
                raise ValueError("max_new_tokens must be at least 2 to draw from empty prompts, got 1.")
            kwargs["max_new_tokens"] -= 1  # the [IMG] that stands for empty prompts
        if not prompts.is_as_given:
            if moved := [name for name in ("position_ids", "inputs_embeds") if kwargs.get(name) is not None]:
                raise ValueError(
                    f"{moved[0]} must be given with prompts that are read as they are: padded on the left, with one "
                    "placeholder for each code of an image, and no shorter than a negative prompt."
                )
            logits_processor, further = self._show_as_given(prompts, logits_processor, further)
        outputs = super().generate(
            prompts.input_ids,
            logits_processor=self._processors(prompts.length, decoding, logits_processor, inputs.device),
            attention_mask=prompts.attention_mask,
            **further,
            **kwargs,
        )
        beginning = prompts.coded if return_prompt_codes else prompts.given
        beginning = beginning if return_full_text else beginning[:, :0]
        if isinstance(outputs, torch.Tensor):
            return prompts.put_back(outputs, beginning)
        outputs.sequences = prompts.put_back(outputs.sequences, beginning)
        return outputs

    def _check_prompts(self, input_ids: torch.LongTensor, decoding: LavitDecoding) -> None:
        """Raises a `ValueError` for prompts that are no ids of this model, or too long before images are expanded."""
        vocab_size = self.config.text_config.vocab_size
        if input_ids.ndim != 2 or input_ids.is_floating_point() or len(input_ids) == 0:
            raise ValueError(
                f"input_ids must be integers of shape (B, L), got {input_ids.dtype} of {tuple(input_ids.shape)}."
            )
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocab_size:
            raise ValueError(
                f"input_ids must be from 0 to {vocab_size - 1}, got {int(input_ids.min())} to {int(input_ids.max())}."
            )
        self._check_context(input_ids.shape[1], decoding)

    def _check_context(self, length: int, decoding: LavitDecoding) -> None:
        """Raises a `ValueError` where prompts, or prompts and the images asked for, do not fit into the context."""
        longest = getattr(self.config.text_config, "max_position_embeddings", None)
        num_images = decoding.max_images or int(decoding.first_modality == "image")
        needed = num_images * (decoding.num_codes[0] + 2) or 1
        if longest is not None and length + needed > longest:
            raise ValueError(
                f"The context holds {longest} positions: prompts of {length} leave no room for "
                f"{f'{num_images} images' if num_images else 'anything else'}."
            )

    def _attention_mask(self, input_ids: torch.LongTensor, kwargs: dict[str, Any]) -> torch.Tensor:
        """The mask that was given, or else the one that transformers infers from padding."""
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is not None:
            return attention_mask.to(input_ids.device, torch.long)
        own = self.generation_config
        pad, eos = (kwargs.get(name, getattr(own, name)) for name in ("pad_token_id", "eos_token_id"))
        if pad is None or pad == eos or (isinstance(eos, list) and pad in eos):
            return torch.ones_like(input_ids)
        return input_ids.ne(pad).long()

    def _read_prompts(self, given, images, image_inputs, decoding: LavitDecoding, kwargs) -> _Prompts:
        """Prompts with their images expanded. Images that enter as codes are codes, others stay placeholders."""
        attention_mask = self._attention_mask(given, kwargs)
        if attention_mask.ndim != 2:
            raise ValueError(f"attention_mask must be of shape (B, L), got {tuple(attention_mask.shape)}.")
        check_attention_mask(attention_mask, given.shape)
        self._check_not_empty(attention_mask, decoding)
        input_ids = given
        if given.shape[1] == 0:
            input_ids = given.new_full((len(given), 1), self.config.image_start_token_id)
            attention_mask = torch.ones_like(input_ids)
        elif not attention_mask[:, -1].all():
            input_ids, attention_mask = move_padding_left(given, attention_mask)
        if images is None:
            coded, features = input_ids, kwargs.pop("mm_encoder_outputs", None)
            if features is None:
                check_placeholders(int(input_ids.eq(self.config.image_token_id).sum()))
        else:
            if image_inputs is None and decoding.generation_mode == "image":
                image_inputs = "codes"
            sequences = self.model.expand_images(
                input_ids, attention_mask=attention_mask, image_inputs=image_inputs, **images
            )
            coded = input_ids = sequences.input_ids
            attention_mask, features = sequences.attention_mask, None
            if sequences.feature_mask is not None:
                input_ids = coded.masked_fill(sequences.feature_mask, self.config.image_token_id)
                parts = sequences.image_features.split(sequences.feature_counts.tolist())
                features = {"image": BaseModelOutputWithPooling(pooler_output=list(parts))}
        start, is_open = open_image_start(input_ids, self.config)
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        goes_on = (columns > start[:, None]) & is_open[:, None]
        if (goes_on & (input_ids == self.config.image_token_id)).any():
            raise ValueError(
                "An image that is to go on, behind an [IMG] without [/IMG], must enter as codes: pass "
                "image_inputs='codes'."
            )
        length = input_ids.shape[1] if given.shape[1] else 0
        return _Prompts(given, input_ids, attention_mask, length, coded[:, :length] if not length else coded, features)

    def _check_not_empty(self, attention_mask: torch.Tensor, decoding: LavitDecoding) -> None:
        """Raises a `ValueError` for prompts without a token, from which only drawings can start."""
        if decoding.first_modality == "image":
            return
        is_empty = ~attention_mask.bool().any(dim=-1)
        if is_empty.any():
            raise ValueError(
                f"Prompt {int(is_empty.long().argmax())} is empty: text needs at least one token to start from."
            )

    def _continue_prompts(
        self, input_ids, cache: Cache, has_images: bool, decoding: LavitDecoding, kwargs: dict[str, Any]
    ) -> _Prompts:
        """Prompts whose beginning the model has read already, into `cache`."""
        past, length = cache.get_seq_length(), input_ids.shape[1]
        attention_mask = self._attention_mask(input_ids, kwargs)
        is_whole = attention_mask.shape[-1] == length
        # A placeholder does not tell how many positions its image has in the cache.
        if has_images or (is_whole and length <= past) or input_ids.eq(self.config.image_token_id).any():
            raise ValueError(
                f"cache holds {past} positions, and input_ids must be those and further ones without images, got "
                f"{length} ids: sequences with images go on from the result of `return_prompt_codes=True`."
            )
        check_attention_mask(attention_mask, input_ids.shape, 0 if is_whole else past)
        if (attention_mask.diff(dim=-1) < 0).any():
            raise ValueError("attention_mask must have its zeros on the left where a cache goes on, as the cache has.")
        keys = getattr(cache.layers[0], "keys", None)
        num_rows = len(input_ids) * (2 if decoding.guided else 1)
        if keys is not None and len(keys) != num_rows or decoding.guided and not is_whole:
            raise ValueError(
                f"cache must hold {num_rows} rows of {len(input_ids)} whole prompts with guidance_scale="
                f"{decoding.guidance_scale}, got {'' if keys is None else len(keys)} rows."
            )
        return _Prompts(input_ids, input_ids, attention_mask, length, input_ids)

    def _add_branches(self, prompts: _Prompts, decoding: LavitDecoding, negative_ids, negative_mask) -> dict[str, Any]:
        """The arguments of guidance. Longer negative prompts move the prompts to the right."""
        if negative_ids is None:
            if prompts.input_ids.shape[1] == 1 and keeps_state(self.config):
                # Such layers read a single token even where the mask hides it.
                prompts.input_ids = nn.functional.pad(prompts.input_ids, (1, 0), value=pad_id(self.config))
                prompts.attention_mask = nn.functional.pad(prompts.attention_mask, (1, 0))
                prompts.length += 1
            branches = start_branches(prompts.input_ids, self.config)
            return branches | {"image_guidance_scale": decoding.guidance_scale}
        batch_size, device = len(prompts.input_ids), prompts.input_ids.device
        negative_ids = torch.atleast_2d(negative_ids).to(device)
        negative_mask = torch.ones_like(negative_ids) if negative_mask is None else torch.atleast_2d(negative_mask)
        if len(negative_ids) not in (1, batch_size) or negative_mask.shape != negative_ids.shape:
            raise ValueError(
                f"negative_prompt_ids and their mask must be one row or {batch_size}, one per prompt, "
                f"got {tuple(negative_ids.shape)} and {tuple(negative_mask.shape)}."
            )
        check_placeholders(int(negative_ids.eq(self.config.image_token_id).sum()))
        negative_ids, negative_mask = move_padding_left(negative_ids, negative_mask.to(device))
        shape = (batch_size, negative_ids.shape[1])
        width = prompts.input_ids.shape[1]
        prompts.input_ids, prompts.attention_mask, branches = add_negative_prompts(
            prompts.input_ids,
            prompts.attention_mask,
            negative_ids.expand(shape),
            negative_mask.expand(shape),
            self.config,
        )
        prompts.length += prompts.input_ids.shape[1] - width
        return branches | {"image_guidance_scale": decoding.guidance_scale}

    def _show_as_given(self, prompts: _Prompts, logits_processor, further: dict[str, Any]):
        """Wraps what users pass to `generate` so that it sees the prompts as they were given."""
        logits_processor = LogitsProcessorList(_CalledAsGiven(each, prompts) for each in logits_processor or [])
        criteria = [_CalledAsGiven(each, prompts) for each in further["stopping_criteria"] or []]
        further = further | {"stopping_criteria": StoppingCriteriaList(criteria)}
        if (allowed := further["prefix_allowed_tokens_fn"]) is not None:

            def allowed_as_given(batch_id: int, row: torch.Tensor) -> list[int]:
                given = prompts.given[batch_id : batch_id + 1]
                return allowed(batch_id, prompts.put_back(row[None], given)[0])

            further["prefix_allowed_tokens_fn"] = allowed_as_given
        if "streamer" in further:
            further["streamer"] = _StreamedAsGiven(further["streamer"], prompts)
        return logits_processor, further

    def _processors(
        self, prompt_length: int, decoding: LavitDecoding, logits_processor, device: torch.device
    ) -> LogitsProcessorList:
        """The grammar, what the user passes, and the sampling of text and images where it differs."""
        grammar = LavitGrammarLogitsProcessor(
            decoding.generation_mode,
            self.config,
            vocab_size=self.get_output_embeddings().weight.shape[0],
            num_codes=decoding.num_codes,
            prompt_length=prompt_length,
            max_length=prompt_length + decoding.max_new_tokens,
            max_images=decoding.max_images,
            first_modality=decoding.first_modality,
            min_new_tokens=decoding.min_new_tokens if decoding.generation_mode == "image" else 0,
            device=device,
        )
        sampling = []
        if decoding.sampling is not None:
            text, image = warpers(decoding.sampling["text"]), warpers(decoding.sampling["image"])
            sampling.append(LavitModalityLogitsProcessor(text, image, self.config))
        return LogitsProcessorList([grammar, *(logits_processor or []), *sampling])

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        unconditional_ids: torch.LongTensor | None = None,
        unconditional_mask: torch.Tensor | None = None,
        unconditional_start: torch.LongTensor | None = None,
        **kwargs,
    ) -> dict:
        """Same as in `GenerationMixin`, with the unconditional branches of guidance appended to the rows."""
        for name in ("tokenizer", "assistant_tokenizer"):
            kwargs.pop(name, None)  # transformers hands them on from the arguments of `generate` to every forward
        guided_positions = None
        if unconditional_ids is not None:
            if attention_mask is None:
                # transformers drops a mask of ones. A chunk of the prompts continues what the cache holds.
                past = cache.get_seq_length() if cache is not None and next_sequence_length is None else 0
                attention_mask = torch.ones_like(input_ids[:, :1]).expand(-1, past + input_ids.shape[1])
            branches = branch_inputs(
                input_ids,
                attention_mask,
                position_ids,
                unconditional_ids,
                unconditional_mask,
                unconditional_start,
                self.config,
            )
            input_ids, attention_mask = branches["input_ids"], branches["attention_mask"]
            position_ids, guided_positions = branches["position_ids"], branches["guided_positions"]
            if next_sequence_length is not None:
                guided_positions = guided_positions[:, -next_sequence_length:]
            # The strides of a view grow with the sequence, and a compiled forward would be compiled anew.
            guided_positions = guided_positions.clone(memory_format=torch.contiguous_format)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if guided_positions is not None:
            model_inputs["guided_positions"] = guided_positions.to(input_ids.device)
        if self._has_virtual_tokens:
            # peft looks for the cache under its former name. Without one, it inserts the virtual tokens at every step.
            cache = model_inputs.pop("cache", None)
            model_inputs["past_key_values"] = cache if model_inputs.get("use_cache", True) else None
        return model_inputs

    def init_continuous_batching(self, *args, **kwargs):
        """Raises a `ValueError`, since requests of continuous batching have neither images nor a grammar."""
        raise ValueError(f"{type(self).__name__} does not work with continuous batching: use `generate`.")

    @property
    def _has_virtual_tokens(self) -> bool:
        """Whether `generate` runs under prompt learning of peft, which then replaces this model's method."""
        return "prepare_inputs_for_generation" in vars(self)
