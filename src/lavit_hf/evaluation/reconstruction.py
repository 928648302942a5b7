# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures to tokens and back: what the tokens and the pixel decoder keep."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..data.shapes import read_scene
from ..visualization import Sample
from .fidelity import FrechetScorer
from .metrics import Metric, average
from .pixels import psnr, ssim
from .scenes import judge_all, scene_metrics, to_objects
from .subject import NUM_SAMPLES_SHOWN, Subject, TaskResult, shift


def score_reconstructions(scenes: Sequence[Sequence[dict]], drawn: Sequence[Sequence]) -> dict[str, Metric | None]:
    """The rates of [`judge`] for scenes and what `read_scene` reads off their reconstructions; as in `score_edits`."""
    stated = [to_objects(scene) for scene in scenes]
    return scene_metrics(judge_all(stated, drawn), unrelated=judge_all(stated, shift(drawn)))


def _to_tensor(picture: Image.Image, size: tuple[int, int] | None = None) -> torch.Tensor:
    picture = picture if size in (None, picture.size) else picture.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def evaluate_reconstruction(subject: Subject, rows: Sequence[dict]) -> TaskResult:
    """
    Encodes and decodes every picture: `psnr` (dB) and `ssim` against the picture at the decoder's size, the judge
    where the rows have a column `scene`, and a Fréchet distance where features are given.
    """
    settings, judged = subject.settings, "scene" in rows[0]
    frechet = FrechetScorer(settings.fid_features, subject.model.device) if settings.fid_features else None
    # Of its own picture, of another.
    distances: dict[str, tuple[list[float], list[float]]] = {"psnr": ([], []), "ssim": ([], [])}
    drawn, samples, previous = [], [], None
    for first, batch in subject.batches(rows, "reconstruction"):
        originals = subject.pictures(batch, first)
        codes = [picture.tolist() for picture in subject.encode(originals).split()]
        pictures = subject.decode(codes, first)
        for original, picture in zip(originals, pictures, strict=True):
            pixels, reference = _to_tensor(picture), _to_tensor(original, picture.size)
            for name, measure in (("psnr", psnr), ("ssim", ssim)):
                distances[name][0].append(measure(pixels, reference))
                if previous is not None:
                    distances[name][1].append(measure(pixels, previous))
            previous = reference
        if judged:
            drawn += [read_scene(picture) for picture in pictures]
        if frechet:
            frechet.update(pictures, originals)
        rounds = zip(originals, pictures, codes, strict=True)
        samples += [Sample(tuple(shown), (f"{len(row)} tokens",)) for *shown, row in rounds]
        del samples[NUM_SAMPLES_SHOWN:]
    metrics = {name: average(own, unrelated=others) for name, (own, others) in distances.items()}
    if judged:
        metrics = score_reconstructions([row["scene"] for row in rows], drawn) | metrics
    if frechet:
        metrics |= frechet.compute()
    return TaskResult(metrics, samples)


__all__ = ["evaluate_reconstruction", "score_reconstructions"]
