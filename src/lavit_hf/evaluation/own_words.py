# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts, questions and edits in words that people wrote by hand."""

from collections.abc import Sequence

from ..data.shapes import OwnWords, conclude, load_own_words, read_scene, render_scene
from .metrics import Metric, rate
from .questions import answer_score
from .subject import Subject


def evaluate_own_words(subject: Subject, rows: Sequence[dict]) -> dict[str, Metric | None]:
    """
    Draws, answers and edits by the texts of `load_own_words`, or as many of them as there are rows. Returns the share
    that is `right`, and that of each kind, `right_KIND`.
    """
    cases = load_own_words()
    if len(rows) < len(cases):
        cases = [cases[index * len(cases) // len(rows)] for index in range(len(rows))]
    outcomes: dict[str, list[bool]] = {}
    for kind, run in {"drawing": _draw, "question": _answer, "edit": _edit}.items():
        chosen = [case for case in cases if case.kind == kind]
        for first, batch in subject.batches(chosen, f"own words: {kind}"):
            outcomes.setdefault(kind, []).extend(run(subject, batch, first))
    right = {f"right_{kind}": rate(values) for kind, values in outcomes.items()}
    return {"right": rate([value for values in outcomes.values() for value in values]), **right}


def _draw(subject: Subject, batch: Sequence[OwnWords], first: int) -> list[bool]:
    images = subject.draw([case.text for case in batch], first)
    right = [case.is_drawn(read_scene(image)) for case, image in zip(batch, images, strict=True)]
    subject.show(images, lines=(_line(case, is_right) for case, is_right in zip(batch, right, strict=True)))
    return right


def _answer(subject: Subject, batch: Sequence[OwnWords], first: int) -> list[bool]:
    images = [render_scene(case.scene) for case in batch if case.scene is not None]
    written = subject.answer((case.text for case in batch), images)
    # The answers are alternatives, and not the opinions of several people.
    return [
        any(answer_score(conclude(text), [answer]) == 1 for answer in case.answers)
        for text, case in zip(written, batch, strict=True)
    ]


def _edit(subject: Subject, batch: Sequence[OwnWords], first: int) -> list[bool]:
    before = [render_scene(case.scene) for case in batch if case.scene is not None]
    images = subject.draw([case.text for case in batch], first, before)
    return [case.is_drawn(read_scene(image)) for case, image in zip(batch, images, strict=True)]


def _line(case: OwnWords, is_right: bool) -> str:
    return case.text if is_right else f"{case.text}\n(wrong)"
