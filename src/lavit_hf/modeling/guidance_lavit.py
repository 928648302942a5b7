# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Classifier-free guidance while an image is drawn (arXiv 2309.04669, section 3.3), with both branches in one batch.

Rows 0 to B - 1 of a guided forward are the sequences. Rows B to 2B - 1 are their unconditional branches: the same
tokens, which attend only to the open image, from its `[IMG]` on, and to a negative prompt if there is one. Outside an
image, the guidance scale of a row is 1, so that the result is its conditional branch. Before its first `[IMG]`, an
unconditional branch sees nothing of the prompt but the negative prompt.

`generate` calls `start_branches` once. In each step, `prepare_inputs_for_generation` appends the branches to the
inputs of the model, whose forward combines their logits by `combine_branches`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, LinearAttentionCacheLayerMixin
from transformers.generation import GenerationMixin

from .configuration_lavit import LavitConfig
from .distributed_lavit import process_index_and_count
from .expansion_lavit import check_placeholders, find_images, move_padding_left, open_image_start, pad_id


def check_guidance(guidance_scale: float, generation_mode: str, settings: Mapping[str, Any], config: LavitConfig):
    """Raises a `ValueError` that names the setting or the language model with which guidance does not work."""
    if generation_mode == "text":
        raise ValueError(f"guidance_scale works on images, got {guidance_scale} with generation_mode='text'.")
    refused = ["assistant_model", "inputs_embeds"]
    if (settings.get("num_beams") or 1) > 1:
        refused.append("num_beams")
    if generation_mode == "interleaved":
        refused.append("prompt_lookup_num_tokens")
    if keeps_state(config):
        if generation_mode == "interleaved":
            raise ValueError(
                f"guidance_scale={guidance_scale} does not work in interleaved generation with "
                f"{config.text_config.model_type}, whose layers keep a state of all that they have seen: the "
                "unconditional branch cannot begin at an [IMG]."
            )
        # Such layers read a single token even if the mask hides it from the unconditional branch.
        refused += ["prefill_chunk_size", "cache"]
    if "static" in str(settings.get("cache_implementation")):
        refused.append("prefill_chunk_size")
    for name in refused:
        if (value := settings.get(name)) is not None:
            shown = f"{name}={value}" if isinstance(value, int) else name
            model = f" with a language model of type {config.text_config.model_type!r}" if keeps_state(config) else ""
            raise ValueError(
                f"guidance_scale={guidance_scale} does not work with {shown} in generation_mode={generation_mode!r}"
                f"{model}: guidance_scale=1 turns guidance off."
            )


def keeps_state(config: LavitConfig) -> bool:
    """Returns whether layers of the language model keep a state of all that they have seen, such as Mamba's."""
    layers = DynamicCache(config=config.text_config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def start_branches(
    config: LavitConfig,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor,
    negative_ids: torch.LongTensor | None = None,
    negative_mask: torch.Tensor | None = None,
) -> tuple[torch.LongTensor, torch.Tensor, dict[str, torch.Tensor]]:
    """
    Prepares the unconditional branches of prompts. Negative prompts stand before the open images of the branches.

    Args:
        config ([`LavitConfig`]): Configuration of the model.
        input_ids, attention_mask (`torch.Tensor` of shape `(B, L)`): Prompts, padded on the left.
        negative_ids (`torch.LongTensor` of shape `(B, N)`, `(1, N)` or `(N,)`, *optional*), negative_mask:
            Negative prompts, padded on either side, and their mask.

    Returns:
        The prompts and their mask, with more padding on the left if a negative prompt is longer, and arguments of
        [`append_branches`]: `unconditional_ids` (B, L); `unconditional_mask` (B, L), which is 1 at negative prompts;
        `unconditional_start` (B,), the position of the open `[IMG]`, or L in rows without an open image. Without an
        open image, the branch sees only the negative prompt, since layers that keep a state could not remove the
        prompt from it at a later `[IMG]`.

    Raises:
        ValueError: If negative prompts are no tensor, if there is neither one nor one for each prompt, or if one has
            a placeholder.
    """
    if not isinstance(negative_ids, torch.Tensor | None):
        raise ValueError(f"negative_prompt_ids must be a tensor of ids, got {negative_ids!r}.")
    negative_ids = torch.atleast_2d(input_ids[:, :0] if negative_ids is None else negative_ids).to(input_ids.device)
    negative_mask = torch.ones_like(negative_ids) if negative_mask is None else torch.atleast_2d(negative_mask)
    if len(negative_ids) not in (1, len(input_ids)) or negative_mask.shape != negative_ids.shape:
        raise ValueError(
            f"negative_prompt_ids and their mask must be one row or {len(input_ids)}, one per prompt, "
            f"got {tuple(negative_ids.shape)} and {tuple(negative_mask.shape)}."
        )
    check_placeholders(int(negative_ids.eq(config.image_token_id).sum()))
    negative_ids, negative_mask = move_padding_left(negative_ids, negative_mask.to(input_ids.device, torch.long))

    start, is_open = open_image_start(input_ids, config)
    start = torch.where(is_open, start, input_ids.shape[1])
    length = negative_ids.shape[1]
    # Layers that keep a state read a single token even if the mask hides it.
    missing = max(length - int(start.min()), (2 if keeps_state(config) else 1) - input_ids.shape[1], 0)
    input_ids = nn.functional.pad(input_ids, (missing, 0), value=pad_id(config))
    attention_mask = nn.functional.pad(attention_mask, (missing, 0))
    start = start + missing
    columns = start[:, None] + torch.arange(-length, 0, device=input_ids.device)
    # The features of images belong to the conditional branch alone.
    unconditional_ids = input_ids.masked_fill(input_ids == config.image_token_id, pad_id(config))
    return (
        input_ids,
        attention_mask,
        {
            "unconditional_ids": unconditional_ids.scatter(1, columns, negative_ids.expand(columns.shape)),
            "unconditional_mask": torch.zeros_like(input_ids).scatter(1, columns, negative_mask.expand(columns.shape)),
            "unconditional_start": start,
        },
    )


def append_branches(
    config: LavitConfig,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor,
    position_ids: torch.LongTensor | None,
    unconditional_ids: torch.LongTensor,
    unconditional_mask: torch.Tensor,
    unconditional_start: torch.LongTensor,
) -> tuple[torch.LongTensor, torch.Tensor, torch.LongTensor | None, torch.BoolTensor]:
    """
    Appends the unconditional branches to the inputs of one forward.

    Args:
        config ([`LavitConfig`]): Configuration of the model.
        input_ids (`torch.LongTensor` of shape `(B, L)`):
            The sequences so far, or a chunk of the prompts, in which case the mask covers all positions so far.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 at padding, for all S positions so far.
        position_ids (`torch.LongTensor` of shape `(B, L)` or `(B, S)`, *optional*): Positions of the sequences.
        unconditional_ids, unconditional_mask, unconditional_start: Outputs of [`start_branches`].

    Returns:
        Ids, mask and positions of twice the rows, and (B, L) bool, True where an image is open.
    """
    length, prompt_length = attention_mask.shape[1], unconditional_ids.shape[1]
    start = unconditional_start
    if length > prompt_length:
        # The mask of a process whose sequences have ended grows with those of the other processes, its ids do not.
        input_ids = nn.functional.pad(input_ids, (0, length - input_ids.shape[1]), value=pad_id(config))
        newest, is_open = find_images(input_ids, config)
        start = torch.where(newest[:, -1] >= prompt_length, newest[:, -1], start)
        branch_ids = torch.cat([unconditional_ids, input_ids[:, prompt_length:]], dim=1)
    else:
        # A chunk may lack the [IMG] of its image. Only the scores behind the last token of the prompt are used.
        is_open = (start < prompt_length)[:, None].expand_as(input_ids)
        branch_ids = unconditional_ids[:, length - input_ids.shape[1] : length]
    columns = torch.arange(length, device=input_ids.device)
    negative = nn.functional.pad(unconditional_mask, (0, max(0, length - prompt_length)))[:, :length]
    branch_mask = torch.where(columns >= start[:, None], attention_mask, negative.to(attention_mask))
    if position_ids is not None:
        # The positions of the unconditional branch count the tokens that it sees.
        own = (branch_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -position_ids.shape[1] :]
        position_ids = torch.cat([position_ids.expand(len(own), -1), own])
    return torch.cat([input_ids, branch_ids]), torch.cat([attention_mask, branch_mask]), position_ids, is_open


def combine_branches(logits: torch.FloatTensor, guidance_scale: torch.FloatTensor) -> torch.FloatTensor:
    """
    Combines the log-probabilities of both branches as `u + s * (c - u)`. Where the scale is 1, the result is the
    conditional branch.

    Args:
        logits (`torch.FloatTensor` of shape `(2B, L, vocab_size)`): The conditional rows first.
        guidance_scale (`torch.FloatTensor` of shape `(B, K)`): The scale s of at least the last L positions.

    Returns:
        `torch.FloatTensor` of shape `(B, L, vocab_size)`: Log-probabilities in float32 that do not add up to 1.
    """
    conditional, unconditional = logits.float().log_softmax(dim=-1).chunk(2)
    scale = guidance_scale[:, -logits.shape[1] :, None].to(logits.device)
    return torch.where(scale == 1, conditional, unconditional + scale * (conditional - unconditional))


class LavitGuidanceMixin(GenerationMixin):
    """The inputs of each step of generation, with the unconditional branches of guidance appended to the rows."""

    config: LavitConfig

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        image_guidance_scale: float | None = None,
        unconditional_ids: torch.LongTensor | None = None,
        unconditional_mask: torch.Tensor | None = None,
        unconditional_start: torch.LongTensor | None = None,
        **kwargs,
    ) -> dict:
        """
        Same arguments as `GenerationMixin.prepare_inputs_for_generation`, plus `image_guidance_scale`, and the outputs
        of [`start_branches`].
        """
        for name in ("tokenizer", "assistant_tokenizer"):
            kwargs.pop(name, None)  # transformers hands them on from the arguments of `generate` to every forward
        if image_guidance_scale is not None:
            if attention_mask is None:
                # transformers drops a mask of ones. A chunk of the prompts continues what the cache holds, as does a
                # process whose sequences have ended while those of others have not.
                length = input_ids.shape[1]
                if cache is not None and (next_sequence_length is None or process_index_and_count()[1] > 1):
                    length = int(cache.get_seq_length()) + (next_sequence_length or length)
                attention_mask = torch.ones_like(input_ids[:, :1]).expand(-1, length)
            input_ids, attention_mask, position_ids, is_open = append_branches(
                self.config,
                input_ids,
                attention_mask,
                position_ids,
                unconditional_ids,
                unconditional_mask,
                unconditional_start,
            )
            is_open = is_open[:, -(next_sequence_length or 0) :]
            kwargs["image_guidance_scale"] = torch.where(is_open, image_guidance_scale, 1.0)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if self._has_virtual_tokens:
            # peft looks for the cache under its former name. Without one, it inserts the virtual tokens at every step.
            cache = model_inputs.pop("cache", None)
            model_inputs["past_key_values"] = cache if model_inputs.get("use_cache", True) else None
        return model_inputs

    @property
    def _has_virtual_tokens(self) -> bool:
        """Whether `generate` runs under prompt learning of peft, which then replaces a method of this model."""
        return "prepare_inputs_for_generation" in vars(self)
