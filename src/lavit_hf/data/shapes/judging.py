# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads scenes from pixels by color and geometry alone. Nothing is learned, so that any drawing can be judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .captions import DescribedObject
from .rendering import SHAPE_AREA, SHAPE_PERIMETER, coverage
from .scenes import COLOR_RGB, COLORS, PLACES, SHAPES, SIZE_RADIUS, ShapeObject, place_at


@dataclass(frozen=True)
class ReadObject:
    """
    An object that was read from an image, with the words of a [`ShapeObject`] for color, size and place. `x`, `y` and
    `radius` are fractions of the side. `error` is the distance of the pixels from the best fitting shape, about the
    mean shift of its edge in radii. `shape` is None if no shape fits, in a malformed drawing.
    """

    shape: str | None
    color: str
    size: str
    place: str
    x: float
    y: float
    radius: float
    error: float


SIDE = 64  # pixels; images are read at this size
MIN_AREA = 10  # pixels; smaller regions are no objects
PADDING = 3  # pixels around a region, for the comparison with shapes
BLURS = (0, 2)  # of edges, in pixels: as rendered, and blurred as decoders blur them
MAX_ERROR = 0.028
MEAN_CHANGE, LARGE_CHANGE, LARGE_CHANGE_SHARE = 6, 20, 0.05  # of a background that is kept
MIN_BACKGROUND = 0.25  # of all pixels; scenes and their edits leave 40% or more
MIN_RADIUS, MAX_RADIUS = 0.075, 0.185


def read_scene(image: Image.Image) -> list[ReadObject]:
    """
    Returns the objects in `image`, which may have any size, in the order of `PLACES`.

    Each connected region of a saturated color is an object if it has 10 pixels at 64 x 64. Its shape is the one whose
    rendering is nearest, if one is near.
    """
    chroma = _center(_chroma(_read_pixels(image)))
    color_ids = _classify(chroma)
    regions = _label_regions(color_ids)
    numbers, areas = np.unique(regions[color_ids >= 0], return_counts=True)
    masks = [regions == number for number in numbers[areas >= MIN_AREA]]
    anything = np.any(masks, 0)
    objects = [_read_region(COLORS[color_ids[mask][0]], chroma, mask, anything & ~mask) for mask in masks]
    return sorted(objects, key=lambda item: PLACES.index(item.place))


def keeps_background(before: Image.Image, after: Image.Image) -> bool:
    """
    Whether an edit has left the background as it was, where no object is or was.

    Compares the pixels, at 64 x 64, that are at least 3 pixels away from every saturated color in both images. They
    are kept if they differ by at most 6 of 255 in the mean, and at most one in twenty differs by more than 20. Fewer
    than a quarter of all pixels are too few to be compared, and count as changed.

    Args:
        before, after (`PIL.Image.Image`): The image before and after the edit.
    """
    pixels = [_read_pixels(image) for image in (before, after)]
    colored = np.any([_classify(_center(_chroma(values))) >= 0 for values in pixels], axis=0)
    for _ in range(PADDING):
        colored = _grown(colored)
    difference = np.abs(pixels[0] - pixels[1]).max(axis=-1)[~colored]
    if difference.size < MIN_BACKGROUND * colored.size:
        return False
    return bool(difference.mean() <= MEAN_CHANGE and (difference > LARGE_CHANGE).mean() <= LARGE_CHANGE_SHARE)


def match_objects(
    described: Sequence[DescribedObject | ShapeObject | dict],
    read: Sequence[ReadObject | DescribedObject | ShapeObject | dict],
    fields: Sequence[str] = ("shape", "color"),
) -> int:
    """
    Counts the `described` objects that are among the `read` ones. Each object that was read matches one at most.

    Objects are [`DescribedObject`], [`ShapeObject`], [`ReadObject`] or dictionaries as in the column `scene` of the
    dataset. Two match if their `fields` (of "shape", "color", "size" and "place") are equal. A field of a description
    that is None matches anything.
    """
    partner: dict[int, int] = {}  # index in `read` -> index in `described`

    def find_partner(index: int, tried: set[int]) -> bool:
        for other, item in enumerate(read):
            if other not in tried and _fits_description(described[index], item, fields):
                tried.add(other)
                if other not in partner or find_partner(partner[other], tried):
                    partner[other] = index
                    return True
        return False

    return sum(find_partner(index, set()) for index in range(len(described)))


def scene_matches(
    described: Sequence[DescribedObject | ShapeObject | dict],
    read: Sequence[ReadObject | DescribedObject | ShapeObject | dict],
    fields: Sequence[str] = ("shape", "color"),
) -> bool:
    """Whether the objects that were `read` are exactly the `described` ones, by the `fields` of [`match_objects`]."""
    return len(described) == len(read) == match_objects(described, read, fields)


def _fits_description(described, read, fields: Sequence[str]) -> bool:
    wanted, seen = (
        [item[field] if isinstance(item, dict) else getattr(item, field) for field in fields]
        for item in (described, read)
    )
    return all(value is None or value == other for value, other in zip(wanted, seen, strict=True))


def _chroma(rgb: np.ndarray) -> np.ndarray:
    """Removes the gray part of colors. This is linear: the chroma of a blend is the blend of the chromas."""
    return rgb - rgb.mean(-1, keepdims=True)


_PALETTE = _chroma(np.array(list(COLOR_RGB.values()), dtype=np.float32))
_STRENGTH = np.linalg.norm(_PALETTE, axis=-1)
_HUES = _PALETTE / _STRENGTH[:, None]


def _read_pixels(image: Image.Image) -> np.ndarray:
    """Returns the RGB values (64, 64, 3) of an image of any size."""
    image = image.convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def _center(chroma: np.ndarray) -> np.ndarray:
    """Removes the tint of the background, with which objects blend at their edges, from all colors."""
    muted = _classify(chroma) < 0
    return chroma - np.median(chroma[muted], axis=0) if muted.any() else chroma


def _classify(chroma: np.ndarray) -> np.ndarray:
    """Returns the nearest hue of each pixel, an index of `COLORS`, or -1 if it has less than half of that color."""
    along = chroma @ _HUES.T
    color_ids = along.argmax(-1)
    strength = np.take_along_axis(along, color_ids[..., None], -1)[..., 0]
    return np.where(strength > _STRENGTH[color_ids] / 2, color_ids, -1)


def _label_regions(color_ids: np.ndarray) -> np.ndarray:
    """Numbers the regions of one color, which may be connected by corners."""
    regions = np.arange(color_ids.size).reshape(color_ids.shape)
    pairs = [
        (np.s_[1:, :], np.s_[:-1, :]),
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[1:, 1:], np.s_[:-1, :-1]),
        (np.s_[1:, :-1], np.s_[:-1, 1:]),
    ]
    same = [(color_ids[one] == color_ids[other]) & (color_ids[one] >= 0) for one, other in pairs]
    # The least number spreads to neighbors until nothing changes.
    while True:
        before = regions.copy()
        for (one, other), joined in zip(pairs, same, strict=True):
            least = np.where(joined, np.minimum(regions[one], regions[other]), color_ids.size)
            regions[one] = np.minimum(regions[one], least)
            regions[other] = np.minimum(regions[other], least)
        if (regions == before).all():
            return regions


def _read_region(color: str, chroma: np.ndarray, mask: np.ndarray, others: np.ndarray) -> ReadObject:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = max(rows[0] - PADDING, 0), max(columns[0] - PADDING, 0)
    window = np.s_[top : rows[-1] + PADDING + 1, left : columns[-1] + PADDING + 1]
    mask, others = mask[window], _grown(others)[window]
    along = chroma[window] @ _HUES[COLORS.index(color)]
    alpha = along / np.quantile(along[mask], 0.75)
    alpha[others & ~mask] = 0
    shape, (x, y, radius), error = _fit_shape(alpha)
    x, y, radius = ((start + value) / SIDE for start, value in zip((left, top, 0), (x, y, radius), strict=True))
    size = min(SIZE_RADIUS, key=lambda name: abs(SIZE_RADIUS[name] - radius))
    if error > MAX_ERROR or not MIN_RADIUS <= radius <= MAX_RADIUS:
        shape = None
    return ReadObject(shape, color, size, place_at(x, y), x, y, radius, error)


def _grown(mask: np.ndarray) -> np.ndarray:
    """Returns `mask` with the pixels next to it."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[row : row + height, column : column + width] for row in range(3) for column in range(3)], 0)


def _fit_shape(alpha: np.ndarray) -> tuple[str, list[float], float]:
    """Returns the best fitting shape, its [x, y, radius] in pixels, and its error. `alpha` (H, W) is saturation."""
    weights = np.where(alpha > 0.2, np.minimum(alpha, 1), 0)
    area = weights.sum()
    x, y = (weights.sum(axis) @ (np.arange(alpha.shape[1 - axis]) + 0.5) / area for axis in (0, 1))
    starts = []
    for shape in SHAPES:
        guess = np.array([[x, y, math.sqrt(area / SHAPE_AREA[shape])]])
        starts += [(*_best_of(alpha, shape, guess, blur), shape, blur) for blur in BLURS]
    results = []
    for error, found, shape, blur in sorted(starts, key=lambda start: start[0])[:3]:
        for step in (0.6, 0.3, 0.3, 0.15):
            error, found = _best_of(alpha, shape, found + step * _NEIGHBORS, blur)
        results.append((error, found, shape))
    error, found, shape = min(results, key=lambda result: result[0])
    return shape, found.tolist(), float(error)


# No step, or a step of x, y or the radius.
_NEIGHBORS = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])


def _best_of(alpha: np.ndarray, shape: str, candidates: np.ndarray, blur: int) -> tuple[float, np.ndarray]:
    """Returns the least error among candidates (K, 3) of x, y and radius in pixels, and the candidate that has it."""
    x, y, radius = candidates.astype(np.float32).T[:, :, None, None]
    dx = np.arange(alpha.shape[1], dtype=np.float32) + 0.5 - x
    dy = np.arange(alpha.shape[0], dtype=np.float32)[:, None] + 0.5 - y
    template = coverage(shape, dx, dy, radius)
    for _ in range(blur):
        template = _blurred(template)
    axes = (-1, -2)
    strength = (alpha * template).sum(axes, keepdims=True) / (template * template).sum(axes, keepdims=True)
    # Squares reduce noise, and a pixel that is completely wrong still counts as 1.
    errors = np.square(alpha / np.clip(strength, 0.8, 1.2) - template).sum(axes)
    # Relative to the radius, so that large and small shapes may deviate alike.
    errors = errors / (SHAPE_PERIMETER[shape] * candidates[:, 2] ** 2)
    return errors.min(), candidates[errors.argmin()]


def _blurred(template: np.ndarray) -> np.ndarray:
    """Blurs (K, H, W) along both axes with the weights 1 2 1."""
    across = template / 2
    across[:, :, 1:] += template[:, :, :-1] / 4
    across[:, :, :-1] += template[:, :, 1:] / 4
    blurred = across / 2
    blurred[:, 1:] += across[:, :-1] / 4
    blurred[:, :-1] += across[:, 1:] / 4
    return blurred
