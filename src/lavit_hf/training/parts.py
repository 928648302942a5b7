# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The parts of sequences, pieces of text and images, and the values of rows that they are made from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data.code_files import codes_column


@dataclass(frozen=True)
class TextPart:
    """
    A piece of text in a sequence.

    Args:
        text (`str`): The text.
        supervised (`bool`, *optional*, defaults to `True`): Whether it is a label.
        ends_turn (`bool`, *optional*, defaults to `False`):
            Whether the turn of the model ends with it. The label of the token that follows, in a text that is no label
            otherwise, is then the end-of-sequence token.
    """

    text: str
    supervised: bool = True
    ends_turn: bool = False


@dataclass(frozen=True)
class ImagePart:
    """
    An image in a sequence.

    Args:
        image: A `PIL.Image.Image`, or another image that `read_image` takes. None where there are codes.
        codes (`list[int]`, *optional*): The codes of the image, from 0 to codebook size - 1, where they are known.
        image_input (`str`, *optional*, defaults to `"codes"`):
            `"features"` or `"codes"`, as in [`LavitForCausalLM.forward`].
        supervised (`bool`, *optional*, defaults to `True`): Whether the codes of the image are labels.
        in_drawing_prompt (`bool`, *optional*, defaults to `False`):
            Whether the image is part of the prompt of a drawing, where the processor may leave out its markers.
    """

    image: Any = None
    codes: Sequence[int] | None = None
    image_input: str = "codes"
    supervised: bool = True
    in_drawing_prompt: bool = False


Part = TextPart | ImagePart


def needs_pixels(part: ImagePart) -> bool:
    """Whether the image `part` enters the model as pixels, since it enters as features or its codes are not known."""
    return part.codes is None or part.image_input != "codes"


def has_any(row: dict, columns: set[str]) -> bool:
    """
    Whether a row has a value in one of some columns.

    Args:
        row (`dict`): A row of a dataset.
        columns (`set[str]`): The names of the columns, which the row need not have.
    """
    return any(has_content(row.get(column)) for column in columns)


def has_content(value: Any) -> bool:
    """
    Whether a value is neither missing nor a blank text. A list of texts needs one that is not blank.

    Args:
        value: The value of a column.
    """
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list) and value and isinstance(value[0], str | None):
        return any(map(has_content, value))
    return value not in (None, [])


def is_supervised(entry: dict, default: bool) -> bool:
    """
    Returns whether a text or an image of a row is a label, by its `entry` or by `default`. `datasets` fills keys that
    an entry lacks with None.
    """
    value = entry.get("supervised")
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f"supervised must be True or False, got {value!r}.")
    return value


def image_part(row: dict, column: str, image_input: str = "codes", **kwargs) -> ImagePart:
    """
    Returns the image in a `column` of a `row`, which enters as `image_input` says, without its pixels if its codes
    alone enter the model. `kwargs` are other arguments of [`ImagePart`].
    """
    part = ImagePart(row.get(column), row.get(codes_column(column)) or None, image_input, **kwargs)
    return part if needs_pixels(part) else replace(part, image=None)
