# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Edits by instruction, drawn from a picture and text: whether the result is the edited scene."""

from collections.abc import Sequence

from ..data.shapes import read_scene
from ..visualization import Sample
from .metrics import Metric, rate
from .scenes import judge_all, scene_metrics, to_objects
from .subject import NUM_SAMPLES_SHOWN, Subject, TaskResult, shift


def score_edits(
    scenes: Sequence[Sequence[dict]],
    drawn: Sequence[Sequence],
    unedited: Sequence[Sequence],
    kinds: Sequence[str] | None = None,
) -> dict[str, Metric | None]:
    """
    Args:
        scenes (`list`): The objects of the edited scenes, as the column `edited_scene` of the shapes has them.
        drawn, unedited (`list`): What `read_scene` reads off each result, and off each picture before.
        kinds (`list[str]`, *optional*): What sort of edit each is.

    Returns:
        `dict[str, Metric]`: The rates of [`judge`], and `everything_KIND` over each kind. The baselines: the picture
        returned as it was, and the result of another row.
    """
    stated = [to_objects(scene) for scene in scenes]
    own, before, others = (judge_all(stated, found) for found in (drawn, unedited, shift(drawn)))
    metrics = scene_metrics(own, unedited=before, unrelated=others)
    for kind in sorted(set(kinds or ())):
        right = [outcome["everything"] for outcome, other in zip(own, kinds, strict=True) if other == kind]
        metrics[f"everything_{kind}"] = rate(right)
    return metrics


def evaluate_edits(subject: Subject, rows: Sequence[dict]) -> TaskResult:
    """Follows the instruction of every row, after its picture in the prompt."""
    drawn, unedited, samples = [], [], []
    for first, batch in subject.batches(rows, "edits"):
        before, wanted = (subject.pictures(batch, first, column) for column in (None, "edited_image"))
        prompts = [subject.processor.image_token + subject.processor.escape(row["instruction"]) for row in batch]
        pictures = subject.draw(prompts, first, before)
        drawn += [read_scene(picture) for picture in pictures]
        unedited += [read_scene(picture) for picture in before]
        rounds = zip(before, pictures, wanted, batch, strict=True)
        samples += [Sample(tuple(shown), (row["instruction"], "before, drawn, wanted")) for *shown, row in rounds]
        del samples[NUM_SAMPLES_SHOWN:]
    kinds = [row["edit_kind"] for row in rows] if "edit_kind" in rows[0] else None
    return TaskResult(score_edits([row["edited_scene"] for row in rows], drawn, unedited, kinds), samples)


__all__ = ["evaluate_edits", "score_edits"]
