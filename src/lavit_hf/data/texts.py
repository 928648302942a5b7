# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Texts in the rows of a dataset: one text or several, numbers, and the answers of VQAv2."""

import math
from random import Random
from typing import Any

import numpy as np


def read_texts(value: Any, column: str) -> list[str]:
    """
    Returns the texts of a value. Blank texts and missing ones are left out.

    Args:
        value: A text or a number, `{"answer": ...}` with one of these, as in the files of VQAv2, or a list of these.
        column (`str`): The name of the column, for errors.

    Raises:
        ValueError: If there is no text, or a value of another type.
    """
    if not (texts := list(_iter_texts(value, column))):
        raise ValueError(f"column {column!r} needs a text, got {value!r}.")
    return texts


def _iter_texts(value: Any, column: str):
    if isinstance(value, dict) and "answer" in value:
        value = value["answer"]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        for part in value:
            yield from _iter_texts(part, column)
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        if math.isfinite(value):  # a missing number may be NaN
            yield str(int(value) if float(value).is_integer() else value)
    elif isinstance(value, str):
        if value.strip():
            yield value
    elif value is not None:
        raise ValueError(
            f"column {column!r} must hold texts, numbers or lists of these, got {value!r} of type "
            f"{type(value).__name__}."
        )


def one_of(value: Any, column: str, rng: Random) -> str:
    """
    Returns one of the texts of a value, by `rng` if there are several.

    Args and errors: Same as in [`read_texts`].
    """
    texts = read_texts(value, column)
    return rng.choice(texts) if isinstance(value, list | tuple | np.ndarray) else texts[0]


def read_questions(row: dict, questions_column: str, answers_column: str) -> list[tuple[str, list[str]]]:
    """
    Returns the questions of a row, each with its answers.

    Args:
        row (`dict`): A row with one question and its answers, or with lists of these.
        questions_column, answers_column (`str`): The names of their columns.

    Raises:
        ValueError: If a question is no text, if it has no answer, or if there are more answers than questions or less.
    """
    questions, answers = (
        value.tolist() if isinstance(value, np.ndarray) else value
        for value in (row[questions_column], row[answers_column])
    )
    if isinstance(questions, str):
        questions, answers = [questions], [answers]
    if not isinstance(questions, list | tuple) or not all(
        isinstance(question, str) and question.strip() for question in questions
    ):
        raise ValueError(f"column {questions_column!r} must hold questions, got {questions!r}.")
    if not isinstance(answers, list | tuple) or len(answers) != len(questions):
        raise ValueError(
            f"column {answers_column!r} must hold as many answers as there are questions, got {answers!r} for "
            f"{questions!r}."
        )
    return [(text, read_texts(given, answers_column)) for text, given in zip(questions, answers, strict=True)]
