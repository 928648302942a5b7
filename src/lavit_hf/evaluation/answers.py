# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Accuracy of short answers, with one reference or the ten of VQAv2 (arXiv 1612.00837)."""

import re
from collections.abc import Sequence


ARTICLES = {"a", "an", "the"}
NUMBERS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}
# So many people answered each question of VQAv2, OK-VQA, TextVQA and VizWiz.
SOFT_ANSWERS = 10


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, numbers up to ten as digits, single spaces."""
    # A comma or stop between digits is part of a number, and an apostrophe of a word; others separate.
    text = re.sub(r"(?<=\d),(?=\d)|['’]", "", text.lower())
    words = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]|_", " ", text).split()
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
