# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions: how near they are to people's, and whether they say what is there."""

from collections.abc import Sequence

from ..data.shapes import parse_caption
from ..visualization import Sample
from .cider import CiderD
from .metrics import Metric, average
from .scenes import judge_all, scene_metrics, to_objects
from .subject import NUM_SAMPLES_SHOWN, Subject, TaskResult, shift


def score_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]], scenes: Sequence[Sequence[dict]] | None = None
) -> dict[str, Metric | None]:
    """
    Args:
        captions (`list[str]`), references (`list[list[str]]`): Of the same pictures.
        scenes (`list`, *optional*): The objects of these pictures, as the column `scene` of the shapes has them.

    Returns:
        `dict[str, Metric]`: `cider` and, with scenes, the rates of [`judge`]. The baseline is each picture with the
        caption of another.
    """
    scorer, unrelated = CiderD(references), shift(captions)
    metrics = {"cider": average(scorer.score(captions), unrelated=scorer.score(unrelated) if unrelated else [])}
    if scenes is not None:
        found = [to_objects(scene) for scene in scenes]
        stated, others = ([parse_caption(caption) for caption in texts] for texts in (captions, unrelated))
        metrics |= scene_metrics(judge_all(stated, found), unrelated=judge_all(others, found))
    return metrics


def evaluate_captions(subject: Subject, rows: Sequence[dict]) -> TaskResult:
    """Captions every picture."""
    captions, references, scenes, samples = [], [], [], []
    for first, batch in subject.batches(rows, "captions"):
        pictures = subject.pictures(batch, first)
        prompts = [subject.processor.image_token] * len(batch)
        written = subject.write(prompts, pictures, subject.settings.max_caption_tokens)
        captions += [text.partition("\n")[0].strip() for text in written]
        references += [subject.captions(row) for row in batch]
        scenes += [row.get("scene") for row in batch]
        samples += [Sample((picture,), (text,)) for picture, text in zip(pictures, written, strict=True)]
        del samples[NUM_SAMPLES_SHOWN:]
    return TaskResult(score_captions(captions, references, scenes if scenes[0] is not None else None), samples)


__all__ = ["evaluate_captions", "score_captions"]
