# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Reading of prompts: texts with one placeholder for each image, in which special tokens are either meant or typed.

A developer means the special tokens that a prompt holds. A person who types `<image>` or `[IMG]` into a question means
the text. Typed tokens are marked by `mark_control_tokens` of transformers, whose tokenizers then read them as text.
"""

import re
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import mark_control_tokens

from .tokenization_lavit import CODE_TOKEN


MARK_START = mark_control_tokens("x", re.compile("x"))[0]  # the character before a typed token


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    """Returns the pattern of the names of all special tokens."""
    names = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, names), CODE_TOKEN]))


def mark_messages(messages: Any, pattern: re.Pattern) -> Any:
    """Marks the special tokens in the texts of messages, but not in the addresses of their images."""
    if isinstance(messages, list | tuple):
        return [mark_messages(part, pattern) for part in messages]
    if isinstance(messages, dict):
        kind = messages.get("type", "text")
        if "role" not in messages:
            if kind not in ("text", "image"):
                raise ValueError(f"A message has parts of the types text and image, got {kind!r}.")
            if kind == "text" and not isinstance(text := messages.get("text"), str):
                raise ValueError(f"A part of the type text needs a string as its 'text', got {text!r}.")
        texts = {name: mark_messages(messages[name], pattern) for name in ("content", "text") if name in messages}
        return {**messages, **texts}
    return mark_control_tokens(messages, pattern)


def check_texts(text: str | list[str]) -> list[str]:
    """
    Returns the texts of a batch as a list.

    Raises:
        ValueError: If `text` is neither a string nor a list of strings, or is not valid Unicode.
    """
    texts = [text] if isinstance(text, str) else text
    if not (isinstance(texts, list | tuple) and texts and all(isinstance(sample, str) for sample in texts)):
        raise ValueError(f"text must be a string or a non-empty list of strings, got {str(text)[:100]!r}.")
    for index, sample in enumerate(texts):
        if surrogate := re.search("[\ud800-\udfff]", sample):
            raise ValueError(
                f"Text {index} has a lone surrogate, {surrogate[0]!r}, at position {surrogate.start()}: it is no "
                "valid Unicode."
            )
    return list(texts)


def find_placeholders(texts: list[str], images: list, tokenizer: PreTrainedTokenizerBase) -> list[re.Match]:
    """
    Finds the placeholder of each image.

    Args:
        texts (`list[str]`): Texts.
        images (`list`): A flat list of all images, or one list of images for each text.
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer with LaVIT's vocabulary.

    Returns:
        `list[re.Match]`: The placeholders of all texts in order. Groups 1 and 2 match `[IMG]` and `[/IMG]`, where they
        stand around the placeholder.

    Raises:
        ValueError: If the numbers of placeholders and images differ.
    """
    names = (tokenizer.image_start_token, tokenizer.image_token, tokenizer.image_end_token)
    start, image, end = map(re.escape, names)
    found = [[*re.finditer(f"({start})?(?<!{MARK_START}){image}({end})?", sample)] for sample in texts]
    expected: int | list[int] = [len(matches) for matches in found]
    given: int | list[int] = [len(part) if isinstance(part, list) else 1 for part in images]
    if not any(isinstance(part, list) for part in images):
        expected, given = sum(expected), sum(given)
    if given != expected:
        raise ValueError(
            f"The texts have {expected} {tokenizer.image_token} placeholders, but {given} images were given."
        )
    return [match for matches in found for match in matches]
