# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Questions about pictures: the accuracy of short answers."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..visualization import Sample
from .answers import answer_score, normalize_answer
from .metrics import Metric, rate
from .subject import NUM_SAMPLES_SHOWN, EvaluationSettings, Subject, TaskResult


@dataclass(frozen=True)
class AskedQuestion:
    """A question about the picture of row number `row`, its reference answers, and its kind where there are kinds."""

    row: int
    text: str
    references: tuple[str, ...]
    kind: str | None = None


def list_questions(rows: Sequence[dict], settings: EvaluationSettings) -> list[AskedQuestion]:
    """
    The questions of rows, of which each has one or a list of them.

    Raises:
        ValueError: a row whose lists of questions and answers are not equally long.
    """
    questions = []
    for index, row in enumerate(rows):
        texts, answers = row[settings.question_column], row[settings.answer_column]
        kinds = row.get(settings.kind_column)
        if isinstance(texts, str):
            texts, answers, kinds = [texts], [answers], [kinds]
        kinds = kinds or [None] * len(texts)
        if not len(texts) == len(answers) == len(kinds):
            raise ValueError(f"Row {index} has {len(texts)} questions, {len(answers)} answers and {len(kinds)} kinds.")
        for text, answer, kind in zip(texts, answers, kinds, strict=True):
            references = (answer,) if isinstance(answer, str) else tuple(map(_to_text, answer))
            questions.append(AskedQuestion(index, text, references, kind))
    return questions


def _to_text(answer: str | dict) -> str:
    # VQAv2's own files have each answer with who gave it and how sure they were.
    return answer["answer"] if isinstance(answer, dict) else answer


def majority_answers(questions: Sequence[AskedQuestion]) -> list[str | None]:
    """For each question, the commonest answer to those of its kind in all other rows; None where there is none."""
    everywhere: dict[str | None, Counter] = defaultdict(Counter)
    in_row: dict[tuple, Counter] = defaultdict(Counter)
    for question in questions:
        answer = Counter(map(normalize_answer, question.references)).most_common(1)[0][0]
        everywhere[question.kind][answer] += 1
        in_row[question.kind, question.row][answer] += 1
    majority = []
    for question in questions:
        own, counts = in_row[question.kind, question.row], everywhere[question.kind]
        # Among answers equally common the first by name, so that the order of rows does not matter.
        others = sorted(((own[answer] - count, answer) for answer, count in counts.items()))
        majority.append(others[0][1] if others[0][0] < 0 else None)
    return majority


def score_answers(questions: Sequence[AskedQuestion], answers: Sequence[str]) -> dict[str, Metric | None]:
    """
    `accuracy` over all questions, and `accuracy_KIND` over those of each kind. The baseline answers each question with
    the commonest answer of its kind, as learned from the other rows.
    """
    scores = [answer_score(answer, q.references) for q, answer in zip(questions, answers, strict=True)]
    majority = [
        None if answer is None else answer_score(answer, q.references)
        for q, answer in zip(questions, majority_answers(questions), strict=True)
    ]
    metrics = {"accuracy": rate(scores, majority=majority)}
    for kind in sorted({question.kind for question in questions if question.kind is not None}):
        chosen = [index for index, question in enumerate(questions) if question.kind == kind]
        own, common = ([values[index] for index in chosen] for values in (scores, majority))
        metrics[f"accuracy_{kind}"] = rate(own, majority=common)
    return metrics


def evaluate_questions(subject: Subject, rows: Sequence[dict]) -> TaskResult:
    """Asks every question about its picture."""
    questions, samples, answers = list_questions(rows, subject.settings), [], []
    prompt = subject.processor.image_token + subject.processor.vqa_prompt
    for _, batch in subject.batches(questions, "questions"):
        pictures = [subject.picture(rows[question.row], question.row) for question in batch]
        prompts = [prompt.format(question=subject.processor.escape(question.text)) for question in batch]
        written = subject.write(prompts, pictures, subject.settings.max_answer_tokens)
        answers += [text.partition("\n")[0].strip() for text in written]
        for question, picture, answer in zip(batch, pictures, answers[-len(batch) :], strict=True):
            lines = (question.text, f"says: {answer}", f"expected: {question.references[0]}")
            samples.append(Sample((picture,), lines))
        del samples[NUM_SAMPLES_SHOWN:]
    return TaskResult(score_answers(questions, answers), samples)


__all__ = ["AskedQuestion", "evaluate_questions", "list_questions", "majority_answers", "score_answers"]
