# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions: their similarity to references, and whether they describe the scene."""

from collections.abc import Sequence

from ..data.shapes import parse_caption
from ..data.texts import read_texts
from ..processing.chat_lavit import TURN_END
from .cider import cider_d
from .metrics import Metric, average, shift
from .scenes import scene_metrics
from .subject import Subject


def score_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]], scenes: Sequence[Sequence[dict]] | None = None
) -> dict[str, Metric | None]:
    """
    Scores captions.

    Args:
        captions (`list[str]`): The caption of each image.
        references (`list[list[str]]`): The references of each image.
        scenes (`list[list[dict]]`, *optional*): The objects in each image, as in the column `scene` of the shapes.

    Returns:
        `dict[str, Metric]`: `cider` and, with scenes, the judgements of [`scene_metrics`].
    """
    unrelated = shift(captions)
    baseline = cider_d(unrelated, references) if unrelated else []
    metrics = {"cider": average(cider_d(captions, references), unrelated=baseline)}
    if scenes:
        metrics |= scene_metrics([parse_caption(caption) for caption in captions], scenes)
    return metrics


def evaluate_captions(subject: Subject, rows: Sequence[dict]) -> dict[str, Metric | None]:
    """Captions the image of each row."""
    captions, references, scenes = [], [], []
    for first, batch in subject.batches(rows, "captions"):
        images = subject.read_images(batch, first)
        texts = subject.write([""] * len(batch), images, subject.settings.max_caption_tokens)
        captions += [text.partition(TURN_END)[0].strip() for text in texts]
        references += [read_texts(row["caption"], "caption") for row in batch]
        scenes += [row["scene"] for row in batch if "scene" in row]
        subject.show(images, lines=texts)
    return score_captions(captions, references, scenes)
