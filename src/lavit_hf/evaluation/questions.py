# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Questions about images: the accuracy of short answers, as in VQAv2 (arXiv 1612.00837)."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.shapes import conclude
from ..data.texts import read_questions
from .metrics import Metric, rate
from .scenes import is_scene
from .subject import Subject


ARTICLES = {"a", "an", "the"}
NUMBERS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
SOFT_ANSWERS = 10  # the number of people who answered each question of VQAv2, OK-VQA, TextVQA and VizWiz


@dataclass(frozen=True)
class Question:
    """
    A question about the image of a row.

    Args:
        row (`int`): The number of the row.
        text (`str`): The question.
        references (`tuple[str, ...]`): Its right answers.
        kind (`str`, *optional*): The kind of the question.
        has_reasons (`bool`, *optional*, defaults to `False`): Whether answers may begin with their reasons.
    """

    row: int
    text: str
    references: tuple[str, ...]
    kind: str | None = None
    has_reasons: bool = False


def normalize_answer(text: str) -> str:
    """
    Writes an answer as the evaluation of VQAv2 compares it: in lower case, without punctuation, apostrophes and
    articles, with numbers up to ten as digits and single spaces. An answer of articles alone, such as "A", keeps them,
    and one of marks alone is compared as it is.
    """
    given = " ".join(text.lower().split())
    has_long_number = re.search(r"\d,\d", given) is not None
    text = re.sub("['’]", "", given)
    for mark in PUNCTUATION:
        # A mark beside a space is removed everywhere in the answer. Other marks separate words.
        is_removed = has_long_number or f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if is_removed else " ")
    words = re.sub(r"\.(?!\d)", "", text).split()
    words = [word for word in words if word not in ARTICLES] or words
    return " ".join(DIGITS.get(word, word) for word in words) or given


def answer_score(answer: str, references: Sequence[str]) -> float:
    """
    Scores an answer from 0 to 1.

    Args:
        answer (`str`): The answer of the model.
        references (`list[str]`): The answers of people. With ten or more, the score is the soft accuracy of VQAv2: the
            mean of min(number that agree / 3, 1) over all choices of all but one of them. With fewer, it is 1.0 if
            any of them agrees.

    Raises:
        ValueError: If there are no references.
    """
    if not references:
        raise ValueError(f"The answer {answer!r} has no reference.")
    agree = [normalize_answer(answer) == normalize_answer(reference) for reference in references]
    if len(references) < SOFT_ANSWERS:
        return float(any(agree))
    return sum(min((sum(agree) - one) / 3, 1.0) for one in agree) / len(agree)


def list_questions(rows: Sequence[dict]) -> list[Question]:
    """
    Lists the questions of rows. A row has one question with its answers, or lists of these. Answers about shapes may
    begin with reasons, of which only the conclusion is kept.

    Raises:
        ValueError: As in [`read_questions`], or if there are more kinds than questions or less.
    """
    questions = []
    for index, row in enumerate(rows):
        asked, kinds = read_questions(row, "questions", "answers"), row.get("question_kinds")
        kinds = [kinds] if isinstance(kinds, str) else kinds or [None] * len(asked)
        if len(kinds) != len(asked):
            raise ValueError(f"Row {index} has {len(asked)} questions and {len(kinds)} kinds.")
        has_reasons = is_scene(row.get("scene"))
        for (text, references), kind in zip(asked, kinds, strict=True):
            if has_reasons:
                references = list(map(conclude, references))
            questions.append(Question(index, text, tuple(references), kind, has_reasons))
    return questions


def majority_answers(questions: Sequence[Question]) -> list[str | None]:
    """Returns the commonest answer to the questions of the same kind in all other rows, or `None` if there is none."""
    everywhere: dict[str | None, Counter] = defaultdict(Counter)
    in_row: dict[tuple, Counter] = defaultdict(Counter)
    for question in questions:
        answer = Counter(map(normalize_answer, question.references)).most_common(1)[0][0]
        everywhere[question.kind][answer] += 1
        in_row[question.kind, question.row][answer] += 1
    counts = [everywhere[question.kind] - in_row[question.kind, question.row] for question in questions]
    # Among equally common answers the first one by name, so that the order of rows does not matter.
    return [min(count, key=lambda answer: (-count[answer], answer), default=None) for count in counts]


def score_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Metric | None]:
    """
    Computes `accuracy` over all questions, and `accuracy_KIND` over those of each kind. The baseline is the score of
    [`majority_answers`].
    """
    usual = majority_answers(questions)
    cases: dict[str, list[tuple[int, float, float | None]]] = defaultdict(list)
    for question, answer, other in zip(questions, answers, usual, strict=True):
        baseline = None if other is None else answer_score(other, question.references)
        case = question.row, answer_score(answer, question.references), baseline
        for name in ["accuracy"] if question.kind is None else ["accuracy", f"accuracy_{question.kind}"]:
            cases[name].append(case)
    metrics = {}
    for name in sorted(cases):
        rows, scores, majority = zip(*cases[name], strict=True)
        metrics[name] = rate(scores, groups=rows, majority=majority)  # questions about one image are not independent
    return metrics


def evaluate_questions(subject: Subject, rows: Sequence[dict]) -> dict[str, Metric | None]:
    """Asks each question about the image of its row."""
    questions, answers = list_questions(rows), []
    for _, batch in subject.batches(questions, "questions"):
        images = [image for q in batch for image in subject.read_images([rows[q.row]], q.row)]
        written = subject.answer((question.text for question in batch), images)
        answers += [conclude(text) if q.has_reasons else text for q, text in zip(batch, written, strict=True)]
        cases = zip(batch, written, strict=True)
        subject.show(images, lines=(f"{q.text}\nsays: {text}\nexpected: {q.references[0]}" for q, text in cases))
    return score_answers(questions, answers)
