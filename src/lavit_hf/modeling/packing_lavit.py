# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Packing: sequences of a batch side by side in few rows, so that hardly any padding is computed in training."""

import torch
from transformers import PreTrainedModel

from .configuration_lavit import LavitConfig
from .expansion_lavit import IGNORE_INDEX, LavitSequences, mask_labels, pad_id
from .freezing_lavit import evaluation_mode


def pack_sequences(config: LavitConfig, sequences: LavitSequences, in_one_row: bool = False) -> LavitSequences:
    """
    Puts the sequences of a batch side by side into rows as long as the longest of them. Positions begin anew with each
    sequence. By these, transformers keeps sequences apart in attention, if there is neither a mask nor a cache.

    Args:
        config ([`LavitConfig`]): The configuration, for the padding id.
        sequences ([`LavitSequences`]):
            B sequences of length L, with `input_ids` or `inputs_embeds`, padded on either side.
        in_one_row (`bool`, *optional*, defaults to `False`):
            Whether all sequences go into one row, without any padding, as FlashAttention needs it.

    Returns:
        [`LavitSequences`]: R rows of length M, without a mask. The first token of a sequence has no label. Padding, if
        any, ends a row, as a sequence of its own. Features of images are not returned.
    """
    given = sequences.input_ids if sequences.inputs_embeds is None else sequences.inputs_embeds
    mask = sequences.attention_mask
    real = torch.ones(given.shape[:2], device=given.device, dtype=torch.bool) if mask is None else mask.bool()
    sizes = real.sum(dim=1)
    lengths = sizes.tolist()  # the host waits for the device once
    total, length = sum(lengths), max(lengths)
    if in_one_row:
        length = total
    rows, columns, used = _fill_rows(lengths, length)
    starts = torch.tensor(rows, device=given.device) * length + torch.tensor(columns, device=given.device)
    rank = real.long().cumsum(dim=1) - 1
    # Stable sorting finds the real tokens without another synchronization.
    source = real.flatten().logical_not().argsort(stable=True)[:total]
    target = (starts[:, None] + rank).flatten()[source]
    shape = (len(used), length)

    def move(values: torch.Tensor | None, fill: int) -> torch.Tensor | None:
        if values is None:
            return None
        packed, values = values.new_full((shape[0] * shape[1], *values.shape[2:]), fill), values.flatten(0, 1)
        taken = values[source.to(values.device)]
        return packed.index_copy(0, target.to(values.device), taken).unflatten(0, shape)

    labels = sequences.labels
    if labels is not None:
        labels = mask_labels(config, labels, mask).masked_fill(rank.to(labels.device) <= 0, IGNORE_INDEX)
    padding = torch.arange(length, device=given.device) - torch.tensor(used, device=given.device)[:, None]
    positions = padding.flatten().index_copy(0, target, rank.flatten()[source]).unflatten(0, shape)
    return LavitSequences(
        input_ids=move(sequences.input_ids, pad_id(config)),
        position_ids=positions,
        labels=move(labels, IGNORE_INDEX),
        image_mask=move(sequences.image_mask, False),
        inputs_embeds=move(sequences.inputs_embeds, 0),
    )


def check_no_layout(cache, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> None:
    """Raises a `ValueError` for arguments that describe the rows of a batch, which packing replaces."""
    if cache is not None or position_ids is not None or getattr(attention_mask, "ndim", 2) != 2:
        raise ValueError("pack goes neither with a cache, nor with position_ids or an attention_mask of 4 dimensions.")


def _fill_rows(lengths: list[int], length: int) -> tuple[list[int], list[int], list[int]]:
    """
    Puts the longest sequences first, each into the first row of `length` that has room.

    Returns:
        The row and the first column of each sequence, and how much of each row is used.
    """
    rows, columns, used = [0] * len(lengths), [0] * len(lengths), [0]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, taken in enumerate(used) if taken + lengths[index] <= length), len(used))
        if row == len(used):
            used.append(0)
        rows[index], columns[index] = row, used[row]
        used[row] += lengths[index]
    return rows, columns, used


def packs_in_one_row(language_model: PreTrainedModel) -> bool:
    """Returns whether the attention of a language model tells packed sequences apart in a single row alone."""
    return "flash_attention" in (language_model.config._attn_implementation or "")


@torch.no_grad()
def keeps_sequences_apart(language_model: PreTrainedModel) -> bool:
    """
    Finds out on a few tokens whether a language model computes packed sequences like separate ones. Models with
    recurrent layers, and those that do not make their mask from positions, do not.

    Args:
        language_model (`PreTrainedModel`): A language model without a head.
    """
    embeddings = language_model.get_input_embeddings()
    num_ids, device = language_model.config.get_text_config().vocab_size, language_model.device
    ids = torch.linspace(0, num_ids - 1, 10, device=device).long()
    first, other, last = embeddings(ids[None]).split([3, 3, 4], dim=1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=device)
    with evaluation_mode(language_model):
        after_first, after_other = (
            language_model(
                inputs_embeds=torch.cat([before, last], dim=1), position_ids=positions, use_cache=False
            ).last_hidden_state[:, 3:]
            for before in (first, other)
        )
        alone = language_model(inputs_embeds=last, use_cache=False).last_hidden_state
    scale = alone.float().abs().max()
    # What a mask hides has no effect at all, or that of another order of summation. Alone, other kernels may run.
    tolerance = 1e-3 if alone.dtype == torch.float32 else 5e-2
    sees = (after_first - after_other).float().abs().max() > 1e-4 * scale
    differs = (after_first - alone).float().abs().max() > tolerance * scale
    return not bool(sees | differs)
