# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Image expansion: how image placeholders in a batch of sequences become the codes of their images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, logging

from .configuration_lavit import ImageInputs, LavitConfig
from .labels_lavit import IGNORE_INDEX
from .ragged_lavit import find_true, put_at, rows_and_columns


logger = logging.get_logger(__name__)

IMAGE_INPUTS = get_args(ImageInputs)


@dataclass
class LavitSequences(ModelOutput):
    """
    A batch of sequences in which every image placeholder has been replaced by the codes of its image.

    The length L is the length of the input where the input had one placeholder per code. Where it had one placeholder
    per image, the batch has been padded again.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`):
            Token ids, with codes in place of placeholders. Where the input was embeddings, the ids of text are unknown
            and the padding id stands for them.
        attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 at padding.
        position_ids (`torch.LongTensor` of shape `(B, L)`, *optional*): Positions, which do not count padding.
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*): -100 where nothing is predicted.
        image_mask (`torch.BoolTensor` of shape `(B, L)`): True at the positions of images.
        inputs_embeds (`torch.FloatTensor` of shape `(B, L, hidden_size)`, *optional*): Inputs of the language model.
        feature_mask (`torch.BoolTensor` of shape `(B, L)`, *optional*):
            True at the positions of images that enter as features.
        image_features (`torch.FloatTensor` of shape `(T, hidden_size)`, *optional*):
            The features of these images, one image after the other.
        feature_counts (`torch.LongTensor` of shape `(num_images,)`, *optional*):
            The number of features of each of these images.
        image_tokens ([`LavitVisualTokenizerOutput`], *optional*):
            The output of the visual tokenizer for all images, whose vectors a model may read in place of codes.
    """

    input_ids: torch.LongTensor | None = None
    attention_mask: torch.Tensor | None = None
    position_ids: torch.LongTensor | None = None
    labels: torch.LongTensor | None = None
    image_mask: torch.BoolTensor | None = None
    inputs_embeds: torch.FloatTensor | None = None
    feature_mask: torch.BoolTensor | None = None
    image_features: torch.FloatTensor | None = None
    feature_counts: torch.LongTensor | None = None
    image_tokens: ModelOutput | None = None


def choose_features(image_inputs: str | Sequence[str], num_images: int) -> list[int]:
    """
    Returns the indices of the images that enter as features.

    Args:
        image_inputs (`str` or `Sequence[str]`): `"features"` or `"codes"`, once for all images or once per image.
        num_images (`int`): Number of images.

    Raises:
        ValueError: If `image_inputs` contains another word, or not one word for each image.
    """
    for_all = isinstance(image_inputs, str)
    ways = [image_inputs] * num_images if for_all else image_inputs
    for way in [image_inputs] if for_all else image_inputs:
        if way not in IMAGE_INPUTS:
            raise ValueError(f"image_inputs must be 'features' or 'codes', got {way!r}.")
    if len(ways) != num_images:
        raise ValueError(f"image_inputs must have one word for each of {num_images} images, got {len(ways)} words.")
    return [index for index, way in enumerate(ways) if way == "features"]


def check_placeholders(
    num_placeholders: int, num_images: int = 0, num_codes: int = 0, is_expanded: bool = False
) -> None:
    """Raises a `ValueError` unless there is one placeholder for each code or, if not `is_expanded`, for each image."""
    if num_placeholders != num_codes and (is_expanded or num_placeholders != num_images):
        expected = "one placeholder for each code" + ("" if is_expanded else ", or one for each image")
        # trl recognizes truncated placeholders by the first words of the message.
        raise ValueError(
            f"Image features and image tokens do not match: the sequences hold {num_placeholders} image placeholders, "
            f"but {num_images} images with {num_codes} codes in total were given: expected {expected}."
        )


def check_no_placeholder(is_placeholder: torch.BoolTensor) -> Callable[[], None]:
    """
    Raises a `ValueError` if there is a placeholder, on a GPU not before the returned function is called. If the model
    runs before, the GPU has work to do while its count is read.
    """
    count = is_placeholder.sum()
    if count.device.type != "cuda":
        check_placeholders(int(count))
        return lambda: None
    copy = count.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(count.device).record_event()

    def check() -> None:
        copied.synchronize()
        check_placeholders(int(copy))

    return check


def check_no_image_arguments(image_inputs, keep_mask, encoded: BaseModelOutputWithPooling | None) -> None:
    """Raises a `ValueError` for arguments about images if there are no images, or only their features."""
    if keep_mask is not None:
        raise ValueError("keep_mask goes with pixel_values or vision_features, got neither.")
    num_images = 0 if encoded is None else len(encoded.pooler_output)
    if image_inputs is not None and len(choose_features(image_inputs, num_images)) < num_images:
        raise ValueError(f"image_inputs must be 'features' with mm_encoder_outputs, got {image_inputs!r}.")


def check_labels_elsewhere(length: int, image_mask: torch.BoolTensor) -> None:
    """
    Checks a batch of a trainer that counts labels but does not pass them to the model. Raises a `ValueError` if the
    model has expanded sequences of `length` to the length of `image_mask` (B, L). Warns about images otherwise, since
    the model cannot replace their labels.
    """
    reason = "the trainer (label_smoothing_factor or compute_loss_func) compares labels with logits itself"
    if image_mask.shape[1] != length:
        raise ValueError(
            f"Images must have one placeholder for each code where {reason}: the labels have length {length}, the "
            f"logits {image_mask.shape[1]}. See LavitCollator(..., expand_images=True), or give the processor a "
            "visual_tokenizer."
        )
    if image_mask.any():
        logger.warning_once(
            f"The labels of images must be their codes or -100, since {reason}. The model cannot check it. "
            "`LavitModel.expand_images` returns such labels."
        )


def check_attention_mask(attention_mask: torch.Tensor | None, shape: torch.Size, past_length: int = 0) -> None:
    """
    Raises a `ValueError` for an `attention_mask` that does not cover the cache and the input of `shape` (B, L, ...).
    The language model checks masks of 4 dimensions itself.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim == 4:
        return
    expected = (shape[0], past_length + shape[1])
    if attention_mask.shape != expected:
        raise ValueError(f"attention_mask must be of shape {expected}, got {tuple(attention_mask.shape)}.")


def check_labels(labels: torch.LongTensor | None, given: torch.Tensor | None) -> None:
    """Raises a `ValueError` for `labels` that are not one for each token or embedding that is `given` (B, L, ...)."""
    if labels is not None and given is not None and labels.shape != given.shape[:2]:
        shape = tuple(given.shape[:2])
        raise ValueError(f"labels must have the shape of the ids, {shape}, got {tuple(labels.shape)}.")


def expand_placeholders(
    config: LavitConfig,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None,
    labels: torch.LongTensor | None,
    codes: torch.LongTensor,
    num_codes: torch.LongTensor,
    supervise_images: bool = True,
    position_ids: torch.LongTensor | None = None,
    inputs_embeds: torch.FloatTensor | None = None,
    is_expanded: bool = False,
) -> LavitSequences:
    """
    Replaces image placeholders by the codes of their images, in reading order.

    With one placeholder for each code, all lengths stay the same. With one placeholder for each image, a placeholder
    becomes as many positions as its image has codes, and the batch is padded again on the same side as before, or on
    the left, as generation needs it, if it had no padding.

    Args:
        config ([`LavitConfig`]): The configuration, for the ids of the placeholder and the codes.
        input_ids (`torch.LongTensor` of shape `(B, L)`): Token ids with placeholders.
        attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 at padding.
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
            Labels, which move with their ids. The codes of an image are its labels, unless the label of its
            placeholder is -100.
        codes (`torch.LongTensor` of shape `(T,)`): The codes of all images, one image after the other.
        num_codes (`torch.LongTensor` of shape `(num_images,)`): The number of codes of each image.
        supervise_images (`bool`, *optional*, defaults to `True`): Whether the codes of images are labels.
        position_ids (`torch.LongTensor` of shape `(B, L)`, *optional*): Only with one placeholder for each code.
        inputs_embeds (`torch.FloatTensor` of shape `(B, L, hidden_size)`, *optional*):
            Embeddings, which move with their ids.
        is_expanded (`bool`, *optional*, defaults to `False`):
            Whether one placeholder for each code is expected. A single placeholder for an image with several codes,
            which truncation may leave, is then refused.

    Returns:
        [`LavitSequences`]

    Raises:
        ValueError: If the number of placeholders is neither that of the images nor that of their codes, if an image
            does not have as many placeholders as codes side by side, or if `position_ids` are given with one
            placeholder for each image.
    """
    is_padded = attention_mask is not None and attention_mask.ndim == 2
    real = attention_mask.bool() if is_padded else torch.ones_like(input_ids, dtype=torch.bool)
    is_image = (input_ids == config.image_token_id) & real

    # The number of positions that each position becomes with one placeholder per image.
    image_index = is_image.flatten().cumsum(0).sub(1).clamp(min=0, max=len(num_codes)).view_as(is_image)
    repeats = torch.where(is_image, nn.functional.pad(num_codes, (0, 1))[image_index], real.long())
    lengths = repeats.sum(dim=-1)
    codes = codes.to(input_ids.dtype)
    # The position of each code with one placeholder per code.
    places = find_true(is_image, len(codes))
    image_of_code = torch.repeat_interleave(num_codes, output_size=len(codes))
    torn = _is_torn(places, image_of_code, input_ids.shape[1])
    # All numbers that shapes depend on are read from the device in one synchronization.
    facts = [is_image.sum(), lengths.max(), lengths.sum(), torn.any(), (~real[:, 0]).any(), (~real[:, -1]).any()]
    num_placeholders, new_length, total, is_torn, left, right = torch.stack([fact.long() for fact in facts]).tolist()
    check_placeholders(num_placeholders, len(num_codes), len(codes), is_expanded)

    if num_placeholders == len(codes):
        if is_torn:
            raise _count_error(is_image, image_of_code[torn.long().argmax()], num_codes)
        ids = input_ids.masked_scatter(is_image, codes + config.visual_token_offset)
        labels = _label_images(labels, ids, is_image, supervise_images)
        return LavitSequences(ids, attention_mask, position_ids, labels, is_image, inputs_embeds)
    if position_ids is not None or (attention_mask is not None and not is_padded):
        raise ValueError(
            "position_ids and 4D attention masks need one placeholder for each code of an image, got "
            f"{num_placeholders} placeholders for {len(num_codes)} images with {len(codes)} codes."
        )

    move = _Move(repeats, lengths, total, new_length, pads_right=bool(right and not left))
    from_image = move.take(is_image)
    tokens = move.take(input_ids).masked_scatter(from_image, codes + config.visual_token_offset)
    if labels is not None:
        labels = move.put(_label_images(move.take(labels), tokens, from_image, supervise_images), IGNORE_INDEX)
    return LavitSequences(
        input_ids=move.put(tokens, pad_id(config)),
        attention_mask=move.put(torch.ones_like(tokens), 0),
        position_ids=move.put(move.position, 0),
        labels=labels,
        image_mask=move.put(from_image, False),
        inputs_embeds=None if inputs_embeds is None else move.put(move.take(inputs_embeds), 0),
    )


class _Move:
    """
    Moves the tokens of a batch (B, L) to a batch (B, new_length) where some of them are repeated.

    Args:
        repeats (`torch.LongTensor` of shape `(B, L)`): How many tokens each token becomes.
        lengths (`torch.LongTensor` of shape `(B,)`): The number of new tokens of each row.
        total (`int`): The number of new tokens of all rows.
        new_length (`int`): The largest of `lengths`.
        pads_right (`bool`): Whether padding follows the tokens of a row, or precedes them.
    """

    def __init__(self, repeats: torch.Tensor, lengths: torch.Tensor, total: int, new_length: int, pads_right: bool):
        self.shape = (len(repeats), new_length)
        # The old position of each new token, row after row, its position among those of its row, and the new position.
        self.source = torch.repeat_interleave(repeats.flatten(), output_size=total)
        rows, self.position = rows_and_columns(lengths, total)
        padding = torch.zeros_like(lengths) if pads_right else new_length - lengths
        self.target = rows * new_length + padding[rows] + self.position

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Returns values (total, ...) of the new tokens from those (B, L, ...) of the old ones."""
        return values.flatten(0, 1)[self.source]

    def put(self, values: torch.Tensor, fill: int) -> torch.Tensor:
        """Puts values (total, ...) into the new batch (B, new_length, ...), which has `fill` at padding."""
        return put_at(values, self.target, self.shape, fill)


def _label_images(labels, ids, is_image, supervise_images: bool):
    """Returns labels that have the codes of `ids` at the positions of images, or -100 if images are not supervised."""
    if labels is None:
        return None
    image_labels = ids if supervise_images else torch.full_like(ids, IGNORE_INDEX)
    return torch.where(is_image & (labels != IGNORE_INDEX), image_labels, labels)


def _is_torn(places: torch.Tensor, image_of_code: torch.Tensor, length: int) -> torch.Tensor:
    """
    Returns a mask (T - 1,), True where two successive codes of an image are not side by side in one row. It is shorter
    if the batch has less than T positions.
    """
    side_by_side = (places.diff() == 1) & (places[1:] % length != 0)
    same_image = image_of_code[: len(places)].diff() == 0
    return same_image & ~side_by_side


def _count_error(is_image: torch.Tensor, image: torch.Tensor, num_codes: torch.Tensor) -> ValueError:
    """Returns the error for an image whose placeholders are fewer than its codes."""
    index = int(image)
    before, own = int(num_codes[:index].sum()), int(num_codes[index])
    columns = is_image.flatten().nonzero().flatten()[before : before + own]
    breaks = ((columns.diff() != 1) | (columns[1:] % is_image.shape[1] == 0)).nonzero()
    return ValueError(
        f"Image {index} has {own} codes, but {int(breaks[0]) + 1} placeholders stand for it: expected one placeholder "
        "for each code."
    )


def pad_id(config: LavitConfig) -> int:
    """Returns the padding id of the language model, or 0 if it has none."""
    pad_token_id = getattr(config.text_config, "pad_token_id", None)
    return 0 if pad_token_id is None or pad_token_id < 0 else pad_token_id


def move_padding_left(
    input_ids: torch.LongTensor, attention_mask: torch.Tensor
) -> tuple[torch.LongTensor, torch.Tensor]:
    """Moves the padding of each row of ids and mask (B, L) to the left of its tokens."""
    order = attention_mask.bool().long().argsort(dim=-1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def open_image_start(input_ids: torch.LongTensor, config: LavitConfig) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """
    Finds where the last image of each sequence begins, and whether it is still open.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`): Sequences.
        config ([`LavitConfig`]): The configuration, for the ids of `[IMG]` and `[/IMG]`.

    Returns:
        The position (B,) of the last `[IMG]` of each row, or -1 if there is none, and a mask (B,) that is True if no
        `[/IMG]` follows it.
    """
    if input_ids.shape[1] == 0:
        start = input_ids.new_full((len(input_ids),), -1)
        return start, torch.zeros_like(start, dtype=torch.bool)
    start, is_open = find_images(input_ids, config)
    return start[:, -1], is_open[:, -1]


def find_images(input_ids: torch.LongTensor, config: LavitConfig) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """
    Returns, for each of the ids (B, L), the position of the last `[IMG]` so far, or -1, and True if no `[/IMG]` has
    closed it.
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    last_start = positions.where(input_ids.eq(config.image_start_token_id), -1).cummax(dim=-1).values
    last_end = positions.where(input_ids.eq(config.image_end_token_id), -1).cummax(dim=-1).values
    return last_start, last_start > last_end
