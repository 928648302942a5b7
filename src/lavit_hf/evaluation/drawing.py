# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Drawings from captions: whether they show what the caption says."""

from collections.abc import Sequence

from ..data.shapes import parse_caption, read_scene
from ..visualization import Sample
from .fidelity import ClipScorer, FrechetScorer
from .metrics import Metric
from .scenes import judge_all, scene_metrics
from .subject import NUM_SAMPLES_SHOWN, Subject, TaskResult, shift


def score_drawings(captions: Sequence[str], drawn: Sequence[Sequence]) -> dict[str, Metric | None]:
    """
    Args:
        captions (`list[str]`): What was to be drawn.
        drawn (`list`): What `read_scene` reads off each drawing.

    Returns:
        `dict[str, Metric]`: The rates of [`judge`]. The baseline is each caption with the drawing of another.
    """
    stated = [parse_caption(caption) for caption in captions]
    return scene_metrics(judge_all(stated, drawn), unrelated=judge_all(stated, shift(drawn)))


def evaluate_drawing(subject: Subject, rows: Sequence[dict]) -> TaskResult:
    """Draws every (first) caption. The judge needs a column `scene`; CLIP score and Fréchet distance need none."""
    settings, device = subject.settings, subject.model.device
    clip = ClipScorer(settings.clip_model, device) if settings.clip_model else None
    frechet = FrechetScorer(settings.fid_features, device) if settings.fid_features else None
    captions, drawn, samples = [], [], []
    judged = "scene" in rows[0]
    for first, batch in subject.batches(rows, "drawing"):
        prompts = [subject.captions(row)[0] for row in batch]
        pictures = subject.draw([subject.processor.escape(prompt) for prompt in prompts], first)
        captions += prompts
        if judged:
            drawn += [read_scene(picture) for picture in pictures]
        if clip:
            clip.update(pictures, prompts)
        if frechet:
            frechet.update(pictures, subject.pictures(batch, first))
        samples += [Sample((picture,), (text,)) for picture, text in zip(pictures, prompts, strict=True)]
        del samples[NUM_SAMPLES_SHOWN:]
    metrics = score_drawings(captions, drawn) if judged else {}
    for scorer in (clip, frechet):
        if scorer:
            metrics |= scorer.compute()
    return TaskResult(metrics, samples)


__all__ = ["evaluate_drawing", "score_drawings"]
