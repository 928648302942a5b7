# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Packing: the sequences of a batch side by side in few rows, so that hardly any padding is computed in training. Rows
of a dataset are not joined to longer sequences. trl calls it `padding_free`.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested

from .configuration_lavit import LavitConfig
from .expansion_lavit import LavitSequences, pad_id
from .freezing_lavit import evaluation_mode
from .guidance_lavit import keeps_state
from .labels_lavit import IGNORE_INDEX, mask_labels
from .ragged_lavit import find_true, put_at


# The layers, by their names in `layer_types` of a configuration, whose masks may keep packed sequences apart.
PACKED_LAYERS = {"full_attention", "sliding_attention"}


@torch.compiler.disable  # the layout of each batch is its own, and would be compiled anew
def pack_sequences(config: LavitConfig, sequences: LavitSequences, in_one_row: bool = False) -> LavitSequences:
    """
    Puts the sequences of a batch side by side into rows as long as the longest of them. Positions begin anew with each
    sequence. By these, transformers keeps sequences apart in attention, if there is neither a mask nor a cache.

    Args:
        config ([`LavitConfig`]): The configuration, for the padding id.
        sequences ([`LavitSequences`]):
            B sequences of length L, with `input_ids` or `inputs_embeds`, padded on either side.
        in_one_row (`bool`, *optional*, defaults to `False`): Whether all sequences go into one row, without padding.

    Returns:
        [`LavitSequences`]: R rows of length M: `position_ids`, and `input_ids`, `labels`, `image_mask` and
        `inputs_embeds` where they were given, in their dtypes. The first token of a sequence has no label. Padding, if
        any, ends a row, as a sequence of its own. All other values are None.

    Raises:
        ValueError: If there is no token.
    """
    given = sequences.input_ids if sequences.inputs_embeds is None else sequences.inputs_embeds
    mask, device = sequences.attention_mask, given.device
    real = torch.ones(given.shape[:2], device=device, dtype=torch.bool) if mask is None else mask.bool()
    lengths = real.sum(dim=1).tolist()  # the host waits for the device once
    total = sum(lengths)
    if not total:
        raise ValueError(f"pack needs tokens, got sequences of shape {tuple(given.shape[:2])} with padding alone.")
    length = total if in_one_row else max(lengths)
    starts, used = fill_rows(lengths, length)
    layout = torch.tensor([*starts, *used]).to(device, non_blocking=True)
    first, num_used = layout.split([len(starts), len(used)])
    rank = real.long().cumsum(dim=1) - 1
    source = find_true(real, total)
    target = (first[:, None] + rank).flatten()[source]
    shape = (len(used), length)

    def move(values: torch.Tensor | None, fill: int) -> torch.Tensor | None:
        if values is None:
            return None
        taken = values.flatten(0, 1)[source.to(values.device)]
        return put_at(taken, target.to(values.device), shape, fill)

    labels = sequences.labels
    if labels is not None:
        labels = mask_labels(config, labels, mask).masked_fill(rank.to(labels.device) <= 0, IGNORE_INDEX)
    padding = torch.arange(length, device=device) - num_used[:, None]
    positions = padding.flatten().index_copy(0, target, rank.flatten()[source]).unflatten(0, shape)
    return LavitSequences(
        input_ids=move(sequences.input_ids, pad_id(config)),
        position_ids=positions,
        labels=move(labels, IGNORE_INDEX),
        image_mask=move(sequences.image_mask, False),
        inputs_embeds=move(sequences.inputs_embeds, 0),
    )


def fill_rows(lengths: list[int], length: int) -> tuple[list[int], list[int]]:
    """
    Places sequences in rows of `length` by first-fit decreasing: the longest first, each in the first row with room.

    Returns:
        The position of the first token of each sequence among those of all rows, and how much of each row is used.
    """
    starts, used = [0] * len(lengths), [0]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, taken in enumerate(used) if taken + lengths[index] <= length), len(used))
        if row == len(used):
            used.append(0)
        starts[index] = row * length + used[row]
        used[row] += lengths[index]
    if len(used) == len(lengths):  # rows keep their order if none is saved
        return [row * length for row in range(len(lengths))], lengths
    return starts, used


def check_packing_arguments(cache, position_ids: torch.Tensor | None, attention_mask, others: dict) -> None:
    """
    Raises a `ValueError` for arguments that describe the rows of a batch, which packing replaces. Among `others` are
    those of the language model by their names, none of which may have a value for each token.
    """
    for name, value in others.items():
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            raise ValueError(f"pack does not move {name}, got a tensor of shape {tuple(value.shape)}.")
    if cache is not None:
        raise ValueError(f"pack goes without a cache, got a {type(cache).__name__}.")
    if position_ids is not None:
        raise ValueError(f"pack makes position_ids itself, got some of shape {tuple(position_ids.shape)}.")
    if attention_mask is not None and not (isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2):
        found = getattr(attention_mask, "shape", type(attention_mask).__name__)
        raise ValueError(f"pack takes an attention_mask of shape (B, L), got {found}.")


def needs_one_row(language_model: PreTrainedModel) -> bool:
    """Returns whether the attention of a language model keeps packed sequences apart in a single row alone."""
    return is_flash_attention_requested(config=language_model.config)


@torch.no_grad()
def supports_packing(model: nn.Module, config: LavitConfig, device: torch.device) -> bool:
    """
    Finds out whether a language model computes packed sequences like separate ones. Layers that keep a state, and
    those whose attention divides a row into blocks, do not, by their names. Whether the others make their mask from
    positions is tried on a few tokens. The trial alone would not do: new weights let through little of a neighbor.

    Args:
        model ([`LavitForCausalLM`], or a module around one that shards or replicates it): The whole model.
        config ([`LavitConfig`]): Its configuration.
        device (`torch.device`): The device of its inputs.
    """
    if {*(getattr(config.text_config, "layer_types", None) or [])} - PACKED_LAYERS or keeps_state(config):
        return False
    ids = torch.linspace(0, config.image_start_token_id - 1, 15).long()
    longest, own, before, other = ids.split([6, 3, 3, 3])

    def losses(*rows: torch.Tensor, pack: bool = False) -> torch.Tensor:
        """Returns the losses of the last two tokens of the last row."""
        size = max(map(len, rows))
        padded = torch.stack([nn.functional.pad(row, (0, size - len(row)), value=pad_id(config)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask, labels = (torch.arange(size) < lengths[:, None]).long(), torch.full_like(padded, IGNORE_INDEX)
        labels[-1, lengths[-1] - 2 : lengths[-1]] = rows[-1][-2:]
        given = {"input_ids": padded, "attention_mask": mask, "labels": labels}
        given = {name: value.to(device) for name, value in given.items()}
        return model(**given, skip_logits=True, pack=pack).token_losses

    with evaluation_mode(model):
        apart = losses(longest, before, own)
        packed, packed_otherwise = (losses(longest, neighbor, own, pack=True) for neighbor in (before, other))
        joined, joined_otherwise = (losses(torch.cat([neighbor, own])) for neighbor in (before, other))
        dtype = model(input_ids=own[None].to(device), use_cache=False).logits.dtype
    # How much a neighbor changes what follows it in one sequence tells how much it would change in another.
    seen, visible = ((a - b).abs().max() for a, b in ((packed, packed_otherwise), (joined, joined_otherwise)))
    # Other shapes may run other kernels, whose results differ by rounding.
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    return bool((seen < 0.1 * visible) & ((packed - apart).abs().max() <= tolerance * apart.abs().max()))
