# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Classifier-free guidance while an image is drawn (arXiv 2309.04669, section 3.3), with both branches in one batch.

Rows 0 to B - 1 of a guided forward are the sequences. Rows B to 2B - 1 are their unconditional branches: the same
tokens, which attend only to the open image, from its `[IMG]` on, and to a negative prompt where there is one.
"""

import torch
from torch import nn

from .configuration_lavit import LavitConfig
from .expansion_lavit import open_image_start, pad_id


def start_branches(input_ids: torch.LongTensor, config: LavitConfig) -> dict[str, torch.Tensor]:
    """
    Prepares the unconditional branches of prompts (B, L).

    Returns:
        `dict` of what `branch_inputs` needs of the prompts: `unconditional_ids` (B, L), `unconditional_mask` (B, L),
        which is 1 at a negative prompt, and `unconditional_start` (B,), the position of the open `[IMG]`, or L in
        rows without an open image. The unconditional branch of these sees nothing of the prompt: layers that keep a
        state, such as Mamba's, cannot forget it when an `[IMG]` follows.
    """
    start, is_open = open_image_start(input_ids, config)
    return {
        # Nothing sees the images of the prompt, whose features belong to the conditional branch alone.
        "unconditional_ids": input_ids.masked_fill(input_ids == config.image_token_id, pad_id(config)),
        "unconditional_mask": torch.zeros_like(input_ids),
        "unconditional_start": torch.where(is_open, start, input_ids.shape[1]),
    }


def add_negative_prompts(
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor,
    negative_ids: torch.LongTensor,
    negative_mask: torch.Tensor,
    config: LavitConfig,
) -> tuple[torch.LongTensor, torch.Tensor, dict[str, torch.Tensor]]:
    """
    Puts negative prompts (B, N), padded on the left, before the open images of the unconditional branches.

    Returns:
        The prompts and their mask, with more padding on the left where a negative prompt is longer, and what
        [`start_branches`] returns.
    """
    start, is_open = open_image_start(input_ids, config)
    behind = torch.where(is_open, start, input_ids.shape[1])
    missing = max(0, negative_ids.shape[1] - int(behind.min()))
    input_ids = nn.functional.pad(input_ids, (missing, 0), value=pad_id(config))
    attention_mask = nn.functional.pad(attention_mask, (missing, 0))
    columns = (behind + missing)[:, None] + torch.arange(-negative_ids.shape[1], 0, device=input_ids.device)
    branches = start_branches(input_ids, config)
    branches["unconditional_ids"] = branches["unconditional_ids"].scatter(1, columns, negative_ids)
    branches["unconditional_mask"] = branches["unconditional_mask"].scatter(1, columns, negative_mask.long())
    # Without an open image, the branch sees the negative prompt and what is generated.
    branches["unconditional_start"] = behind + missing
    return input_ids, attention_mask, branches


def branch_inputs(
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor,
    position_ids: torch.LongTensor | None,
    unconditional_ids: torch.LongTensor,
    unconditional_mask: torch.Tensor,
    unconditional_start: torch.LongTensor,
    config: LavitConfig,
) -> dict[str, torch.Tensor | None]:
    """
    Appends the unconditional branches to the inputs of one forward.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`):
            The sequences so far, or a chunk of the prompts, of which the mask then covers all positions so far.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 at padding, for all S positions so far.
        position_ids (`torch.LongTensor` of shape `(B, L)` or `(B, S)`, *optional*): Positions of the sequences.
        unconditional_ids, unconditional_mask, unconditional_start: Outputs of [`start_branches`].

    Returns:
        `dict` with `input_ids`, `attention_mask` and `position_ids` of twice the rows, and
        `guided_positions` (B, L) bool, True at the positions after which an open image goes on.
    """
    length, prompt_length = attention_mask.shape[1], unconditional_ids.shape[1]
    start = unconditional_start
    if length > prompt_length:
        guided_positions = image_is_open(input_ids, config)
        newest, _ = open_image_start(input_ids, config)
        start = torch.where(newest >= prompt_length, newest, start)
        branch_ids = torch.cat([unconditional_ids, input_ids[:, prompt_length:]], dim=1)
    else:
        # A chunk may lack the [IMG] of its image. The scores after the last token of the prompt are all that is used.
        is_open = start < prompt_length
        guided_positions = is_open[:, None].expand_as(input_ids)
        branch_ids = unconditional_ids[:, length - input_ids.shape[1] : length]
    columns = torch.arange(length, device=input_ids.device)
    negative = nn.functional.pad(unconditional_mask, (0, max(0, length - prompt_length)))[:, :length]
    branch_mask = torch.where(columns >= start[:, None], attention_mask, negative.to(attention_mask))
    if position_ids is not None:
        # The unconditional branch counts what it sees, as if nothing else stood before.
        own = (branch_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -position_ids.shape[1] :]
        position_ids = torch.cat([position_ids.expand(len(own), -1), own])
    return {
        "input_ids": torch.cat([input_ids, branch_ids]),
        "attention_mask": torch.cat([attention_mask, branch_mask]),
        "position_ids": position_ids,
        "guided_positions": guided_positions,
    }


def image_is_open(input_ids: torch.LongTensor, config: LavitConfig) -> torch.BoolTensor:
    """(B, L) bool for ids (B, L), True where the last `[IMG]` so far is not closed by a `[/IMG]`."""
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    last_start = positions.where(input_ids.eq(config.image_start_token_id), -1).cummax(dim=-1).values
    last_end = positions.where(input_ids.eq(config.image_end_token_id), -1).cummax(dim=-1).values
    return last_start > last_end


def combine_branches(
    logits: torch.FloatTensor, guidance_scale: float, guided_positions: torch.BoolTensor
) -> torch.FloatTensor:
    """
    Combines both branches on log-probabilities, `u + s * (c - u)`, in the positions of an open image. Elsewhere the
    result is the conditional branch.

    Args:
        logits (`torch.FloatTensor` of shape `(2B, L, vocab_size)`): The conditional rows first.
        guidance_scale (`float`): s.
        guided_positions (`torch.BoolTensor` of shape `(B, K)`): For at least the last L positions.

    Returns:
        `torch.FloatTensor` of shape `(B, L, vocab_size)`, float32 log-probabilities that do not add up to 1.
    """
    conditional, unconditional = logits.float().log_softmax(dim=-1).chunk(2)
    guided = unconditional + guidance_scale * (conditional - unconditional)
    return torch.where(guided_positions[:, -logits.shape[1] :, None], guided, conditional)
