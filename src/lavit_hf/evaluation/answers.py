# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Accuracy of short answers, with one reference or the ten of VQAv2 (arXiv 1612.00837)."""

import re
from collections.abc import Sequence


ARTICLES = {"a", "an", "the"}
NUMBERS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# So many people answered each question of VQAv2, OK-VQA, TextVQA and VizWiz.
SOFT_ANSWERS = 10


def normalize_answer(text: str) -> str:
    """
    Writes an answer as VQAv2's evaluation compares it: lower case, without punctuation, apostrophes and articles,
    numbers up to ten as digits, single spaces.
    """
    given = " ".join(text.lower().split())
    has_long_number = re.search(r"\d,\d", given) is not None
    text = re.sub("['’]", "", given)
    for mark in PUNCTUATION:
        # A mark that separates nothing vanishes everywhere, and leaves a space otherwise.
        vanishes = has_long_number or f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if vanishes else " ")
    words = re.sub(r"\.(?!\d)", "", text).split()
    return " ".join(DIGITS.get(word, word) for word in words if word not in ARTICLES)


def answer_score(answer: str, references: Sequence[str]) -> float:
    """
    Args:
        answer (`str`): What the model says.
        references (`list[str]`): What people say.

    Returns:
        `float`: With ten references or more, VQAv2's soft accuracy: of each choice of all but one of them
        min(number that agree / 3, 1), and of these the mean. With fewer, 1.0 if one agrees, else 0.0.

    Raises:
        ValueError: no references.
    """
    if not references:
        raise ValueError(f"The answer {answer!r} has no reference.")
    answer = normalize_answer(answer)
    agree = [answer == normalize_answer(reference) for reference in references]
    if len(references) < SOFT_ANSWERS:
        return float(any(agree))
    return sum(min((sum(agree) - one) / 3, 1.0) for one in agree) / len(agree)


__all__ = ["answer_score", "normalize_answer"]
