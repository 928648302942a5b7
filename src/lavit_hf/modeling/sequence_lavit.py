# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""One sequence of text and pictures: placeholders become as many positions as their picture has codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_lavit import LavitConfig


IGNORE_INDEX = -100
IMAGE_INPUTS = ("features", "codes")


@dataclass
class LavitSequences(ModelOutput):
    """
    A batch whose placeholders have been replaced by picture codes, padded anew to length L.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`): Real ids, those of the codes included.
        attention_mask (`torch.LongTensor` of shape `(B, L)`): 0 at padding.
        position_ids (`torch.LongTensor` of shape `(B, L)`): Counted without padding.
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*): -100 where there is no label.
        image_mask (`torch.BoolTensor` of shape `(B, L)`): True at the positions that replaced a placeholder.
        inputs_embeds (`torch.FloatTensor` of shape `(B, L, hidden_size)`, *optional*): What the model reads there.
    """

    input_ids: torch.LongTensor | None = None
    attention_mask: torch.LongTensor | None = None
    position_ids: torch.LongTensor | None = None
    labels: torch.LongTensor | None = None
    image_mask: torch.BoolTensor | None = None
    inputs_embeds: torch.FloatTensor | None = None


def count_error(num_placeholders: int, num_images: int) -> ValueError:
    return ValueError(
        f"The sequences hold {num_placeholders} picture placeholders, but {num_images} pictures were given."
    )


def choose_features(image_inputs: str | Sequence[str], num_images: int) -> list[int]:
    """
    The indices of those pictures that enter as features.

    Args:
        image_inputs (`str` or `Sequence[str]`): `"features"` or `"codes"`, for all pictures or for each.
        num_images (`int`): How many there are.

    Raises:
        ValueError: another word, or not one for each picture.
    """
    for_all = isinstance(image_inputs, str)
    for way in [image_inputs] if for_all else image_inputs:
        if way not in IMAGE_INPUTS:
            raise ValueError(f"image_inputs must be 'features' or 'codes', got {way!r}.")
    ways = [image_inputs] * num_images if for_all else image_inputs
    if len(ways) != num_images:
        raise ValueError(f"image_inputs must say it for each of {num_images} pictures, got {len(ways)} words.")
    return [index for index, way in enumerate(ways) if way == "features"]


def expand_placeholders(
    config: LavitConfig,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None,
    labels: torch.LongTensor | None,
    codes: torch.LongTensor,
    num_codes: torch.LongTensor,
    supervise_images: bool,
) -> LavitSequences:
    """
    Replaces each placeholder by the codes of its picture and pads anew, on the side on which the batch was padded (on
    the left where it was not padded at all, as generation needs it).

    Args:
        config ([`LavitConfig`]): Names the placeholder and the codes' ids.
        input_ids (`torch.LongTensor` of shape `(B, L)`): One placeholder per picture, pictures in reading order.
        attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 at padding.
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
            Moved along. A picture's codes are its labels, unless its placeholder's label is -100.
        codes (`torch.LongTensor` of shape `(T,)`), num_codes (`torch.LongTensor` of shape `(num_images,)`):
            The pictures' codes, one picture after the other, and how many each has.
        supervise_images (`bool`): Whether codes are labels at all.

    Raises:
        ValueError: the number of placeholders is not the number of pictures.
    """
    batch_size, length = input_ids.shape
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    is_image = (input_ids == config.image_token_id) & real

    # How many positions each of the old ones becomes: none for padding, one for text, its codes for a picture.
    image_index = is_image.flatten().cumsum(0).sub(1).clamp(min=0, max=len(num_codes)).view_as(is_image)
    # Placeholders beyond the last picture find a count of none, and are refused below.
    repeats = torch.where(is_image, nn.functional.pad(num_codes, (0, 1))[image_index], real.long())
    lengths = repeats.sum(dim=-1)
    facts = [is_image.sum(), lengths.max(), lengths.sum(), (~real[:, 0]).any(), (~real[:, -1]).any()]
    num_placeholders, new_length, total, left, right = torch.stack([fact.long() for fact in facts]).tolist()
    if num_placeholders != len(num_codes):
        raise count_error(num_placeholders, len(num_codes))

    # From the old position of each new token, one row after the other, to its place in the new batch.
    source = torch.repeat_interleave(repeats.flatten(), output_size=total)
    row = source.div(length, rounding_mode="floor")
    position = torch.arange(total, device=source.device) - (lengths.cumsum(0) - lengths)[row]
    padding = torch.zeros_like(lengths) if right and not left else new_length - lengths
    target = row * new_length + padding[row] + position

    from_image = is_image.flatten()[source]
    tokens = input_ids.flatten()[source].masked_scatter(from_image, codes + config.visual_token_offset)

    def place(values: torch.Tensor, fill: int) -> torch.Tensor:
        placed = values.new_full((batch_size * new_length,), fill)
        return placed.scatter(0, target, values).view(batch_size, new_length)

    if labels is not None:
        labels = labels.flatten()[source]
        image_labels = tokens if supervise_images else torch.full_like(tokens, IGNORE_INDEX)
        labels = place(torch.where(from_image & (labels != IGNORE_INDEX), image_labels, labels), IGNORE_INDEX)
    return LavitSequences(
        # Any id serves at padding, which nothing sees: this one has an embedding in every vocabulary.
        input_ids=place(tokens, pad_id(config)),
        attention_mask=place(torch.ones_like(tokens), 0),
        position_ids=place(position, 0),
        labels=labels,
        image_mask=place(from_image, False),
    )


def pad_id(config: LavitConfig) -> int:
    """The id that stands at padding: the text model's, or 0."""
    pad_token_id = getattr(config.text_config, "pad_token_id", None)
    return 0 if pad_token_id is None or pad_token_id < 0 else pad_token_id


def move_padding_left(
    input_ids: torch.LongTensor, attention_mask: torch.Tensor
) -> tuple[torch.LongTensor, torch.Tensor]:
    """Both (B, L) with each row's padding moved before its tokens, whose order stays."""
    order = attention_mask.bool().long().argsort(dim=-1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def append_token(
    input_ids: torch.LongTensor, attention_mask: torch.Tensor, token_id: int, missing: torch.BoolTensor, fill: int
) -> tuple[torch.LongTensor, torch.Tensor]:
    """`token_id` at the end of those left-padded rows (B, L) where it is `missing` (B,); `fill` at new padding."""
    missing = missing[:, None]
    if not missing.any():
        return input_ids, attention_mask
    padding, unseen = torch.full_like(missing, fill, dtype=input_ids.dtype), torch.zeros_like(attention_mask[:, :1])
    token, seen = torch.full_like(padding, token_id), torch.ones_like(unseen)
    appended = torch.cat([input_ids, token], dim=1), torch.cat([attention_mask, seen], dim=1)
    as_is = torch.cat([padding, input_ids], dim=1), torch.cat([unseen, attention_mask], dim=1)
    return torch.where(missing, appended[0], as_is[0]), torch.where(missing, appended[1], as_is[1])


def open_image_start(input_ids: torch.LongTensor, config: LavitConfig) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """
    Where the last picture of each sequence begins, and whether it is still open.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`): Sequences.
        config ([`LavitConfig`]): The ids of `[IMG]` and `[/IMG]`.

    Returns:
        Positions (B,) int64 of each row's last `[IMG]`, -1 where there is none; (B,) bool, True where no `[/IMG]`
        follows it.
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    last_start = positions.where(input_ids.eq(config.image_start_token_id), -1).amax(dim=-1)
    last_end = positions.where(input_ids.eq(config.image_end_token_id), -1).amax(dim=-1)
    return last_start, last_start > last_end
