# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Images that the model draws from captions, from instructions, and from the codes of an image."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ..data.shapes import keeps_background, parse_caption, read_scene
from ..data.texts import read_texts
from ..visualization import name_tokens
from .metrics import Metric, average, rate, shift
from .scenes import judge, scene_metrics
from .subject import Subject


MAX_PSNR = 100.0  # of equal images, since the mean over images needs a number
SSIM_BORDER = 5  # half the width of a window


def psnr(images: torch.Tensor, references: torch.Tensor) -> list[float]:
    """
    Computes the peak signal-to-noise ratio in dB. Equal images have 100 dB.

    Args:
        images, references (`torch.FloatTensor` of shape `(B, 3, height, width)`): Images in [0, 1].
    """
    values = peak_signal_noise_ratio(images, references, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=MAX_PSNR).tolist()


def ssim(images: torch.Tensor, references: torch.Tensor) -> list[float]:
    """
    Computes the structural similarity (Wang et al. 2004), the mean over the windows that lie within the image.

    Args:
        images, references (`torch.FloatTensor` of shape `(B, 3, height, width)`): Images in [0, 1].

    Raises:
        ValueError: If the images are smaller than a window.
    """
    if min(images.shape[-2:]) <= 2 * SSIM_BORDER:
        size = tuple(images.shape[-2:])
        raise ValueError(f"ssim needs images of at least {2 * SSIM_BORDER + 1} pixels a side, got {size}.")
    _, windows = structural_similarity_index_measure(images, references, data_range=1.0, return_full_image=True)
    inside = slice(SSIM_BORDER, -SSIM_BORDER)
    return windows[..., inside, inside].mean(dim=(1, 2, 3)).tolist()


def score_edits(
    scenes: Sequence[Sequence[dict]],
    drawn: Sequence,
    unedited: Sequence,
    kinds: Sequence[str] = (),
    kept: Sequence[bool] = (),
    kept_by_chance: Sequence[bool] = (),
) -> dict[str, Metric | None]:
    """
    Scores edited images.

    Args:
        scenes (`list[list[dict]]`): The objects of the edited scenes, as in the column `edited_scene` of the shapes.
        drawn, unedited (`list`): The objects that `read_scene` finds in each result, and in each image before.
        kinds (`list[str]`, *optional*): The kind of each edit.
        kept (`list[bool]`, *optional*): Whether each result has the background of its image.
        kept_by_chance (`list[bool]`, *optional*): Whether each result has the background of another image.

    Returns:
        `dict[str, Metric]`: The judgements of [`scene_metrics`], `everything_KIND` for each kind of edit, and
        `background`, the share of backgrounds that are kept.
    """
    metrics = scene_metrics(scenes, drawn, unedited=unedited)
    for kind in sorted(set(kinds)):
        cases = zip(scenes, drawn, kinds, strict=True)
        metrics[f"everything_{kind}"] = rate([judge(*case)["everything"] for *case, other in cases if other == kind])
    return metrics | {"background": rate(kept, unrelated=kept_by_chance)}


def evaluate_drawing(subject: Subject, rows: Sequence[dict]) -> dict[str, Metric | None]:
    """
    Draws the first caption of each row. `num_codes` is the mean number of codes of a drawing. The judge needs a column
    `scene`, the CLIP score and `fid` do not.
    """
    cases: defaultdict[str, list] = defaultdict(list)
    for first, batch in subject.batches(rows, "drawing"):
        texts = [read_texts(row["caption"], "caption")[0] for row in batch]
        images = subject.draw(texts, first)
        if "scene" in batch[0]:
            cases["stated"] += map(parse_caption, texts)
            cases["found"] += map(read_scene, images)
        if subject.clip:
            subject.clip.update(images, texts)
        if subject.frechet:
            subject.frechet.update(images, subject.read_images(batch, first))
        subject.show(images, lines=texts)
    metrics = scene_metrics(**cases) if cases else {}
    metrics["num_codes"] = average(subject.drawn_codes)
    for scorer in (subject.clip, subject.frechet):
        metrics |= scorer.compute() if scorer else {}
    return metrics


def evaluate_edits(subject: Subject, rows: Sequence[dict]) -> dict[str, Metric | None]:
    """Draws the instruction of each row, with its image before it in the prompt."""
    cases: defaultdict[str, list] = defaultdict(list)
    for first, batch in subject.batches(rows, "edits"):
        before, wanted = (subject.read_images(batch, first, column) for column in ("image", "edited_image"))
        texts = [read_texts(row["instruction"], "instruction")[0] for row in batch]
        images = subject.draw(texts, first, before)
        cases["scenes"] += [row["edited_scene"] for row in batch]
        cases["kinds"] += [row["edit_kind"] for row in batch if "edit_kind" in row]
        cases["drawn"] += map(read_scene, images)
        cases["unedited"] += map(read_scene, before)
        cases["kept"] += map(keeps_background, before, images)
        cases["kept_by_chance"] += map(keeps_background, shift(before), images)
        subject.show(before, images, wanted, lines=[f"{text}\nbefore, drawn, wanted" for text in texts])
    return score_edits(**cases)


def evaluate_reconstruction(subject: Subject, rows: Sequence[dict]) -> dict[str, Metric | None]:
    """
    Encodes and decodes the image of each row. `psnr` and `ssim` compare at the size of the pixel decoder; the judge
    needs a column `scene`.
    """
    cases: defaultdict[str, list] = defaultdict(list)
    similarities: dict[str, defaultdict[str, list]] = {"psnr": defaultdict(list), "ssim": defaultdict(list)}
    previous: list[torch.Tensor] = []
    for first, batch in subject.batches(rows, "reconstruction"):
        originals = subject.read_images(batch, first)
        codes = [image_codes.tolist() for image_codes in subject.encode(originals).split()]
        images = subject.decode(codes, first)
        pixels, references = (_to_pixels(side, images[0].size) for side in (images, originals))
        others = torch.cat([*previous, references[:-1]])  # the image before each one, except the very first
        for measure in (psnr, ssim):
            values = similarities[measure.__name__]
            values["values"] += measure(pixels, references)
            values["unrelated"] += measure(pixels[-len(others) :], others) if len(others) else []
        previous = [references[-1:]]
        if "scene" in batch[0]:
            cases["stated"] += [row["scene"] for row in batch]
            cases["found"] += map(read_scene, images)
        if subject.frechet:
            subject.frechet.update(images, originals)
        subject.show(originals, images, lines=[name_tokens(len(image_codes)) for image_codes in codes])
    metrics = scene_metrics(**cases) if cases else {}
    metrics |= {name: average(**values) for name, values in similarities.items()}
    return metrics | (subject.frechet.compute() if subject.frechet else {})


def _to_pixels(images: Sequence[Image.Image], size: tuple[int, int]) -> torch.Tensor:
    """Converts images to (B, 3, height, width) in [0, 1]."""
    pixels = np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
