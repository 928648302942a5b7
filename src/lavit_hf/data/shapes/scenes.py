# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Scenes of one to four colored shapes: their objects, how they are sampled, and their splits."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from random import Random


SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
SPLITS = ("train", "validation", "test")
BACKGROUNDS = ("plain", "gradient", "stripes", "checkerboard", "dots", "noise")
MAX_OBJECTS = 4
# In this share of the scenes of several objects, two or more of them have one shape and color.
ALIKE_SHARE = 0.3
ONE_SIZE_SHARE = 0.7  # of these scenes have them in one size

# Saturated, and more than 30 degrees of OKLab hue apart, so that they differ even if a decoder blurs them.
COLOR_RGB = {
    "red": (222, 36, 44),
    "orange": (248, 136, 18),
    "yellow": (246, 218, 36),
    "green": (44, 168, 66),
    "cyan": (28, 198, 216),
    "blue": (42, 84, 226),
    "purple": (142, 56, 204),
    "pink": (248, 108, 186),
}
COLORS = tuple(COLOR_RGB)
# The labels of pixels in the annotation of a scene.
LABELS = ("background", *(f"{size} {color} {shape}" for size in SIZES for color in COLORS for shape in SHAPES))

# All lengths of a scene are fractions of the side of the image.
SIZE_RADIUS = {"small": 0.1, "large": 0.15}
# The half extents of a shape (left and right, up, down) and how far its corners reach, in radii.
SHAPE_EXTENT = {
    "circle": (1.0, 1.0, 1.0, 1.0),
    "square": (0.87, 0.87, 0.87, 1.23),
    "triangle": (1.04, 1.2, 0.6, 1.2),
    "star": (1.09, 1.15, 0.93, 1.15),
    "cross": (1.0, 1.0, 1.0, 1.07),
    "ring": (1.0, 1.0, 1.0, 1.0),
}
RADIUS_JITTER = 0.006
COLOR_JITTER = 8
CELL_JITTER = 0.085  # of the 1/6 from a cell's center to its border
GAP = 3 / 64
MARGIN = 1 / 64


@dataclass(frozen=True)
class ShapeObject:
    """
    An object: a `shape` of `SHAPES`, a `color` of `COLORS` and a `size` of `SIZES`. `x` (from the left), `y` (from the
    top) and `radius` are fractions of the side of the image. `rgb` is the color of its pixels, which is near the named
    one.
    """

    shape: str
    color: str
    size: str
    x: float
    y: float
    radius: float
    rgb: tuple[int, int, int]

    @property
    def place(self) -> str:
        """The one of `PLACES` that contains the center."""
        return place_at(self.x, self.y)

    @property
    def label(self) -> str:
        """The one of `LABELS` of its pixels."""
        return f"{self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Background:
    """
    A background: a `kind` of `BACKGROUNDS` in two muted colors, `rgb` and `second_rgb`, with a `period` (a fraction of
    the side), an `angle` (radians) and a `seed` of noise. Not every kind uses all of them.
    """

    kind: str
    rgb: tuple[int, int, int]
    second_rgb: tuple[int, int, int]
    period: float
    angle: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """The `objects` on a `background`. Equal scenes have equal images."""

    objects: tuple[ShapeObject, ...]
    background: Background

    @property
    def split(self) -> str:
        """The only split that may have scenes with these (shape, color, size, place), in any order."""
        names = sorted(f"{item.shape} {item.color} {item.size} {item.place}" for item in self.objects)
        bucket = int.from_bytes(hashlib.blake2b(", ".join(names).encode(), digest_size=8).digest()) % 20
        return {0: "validation", 1: "test"}.get(bucket, "train")

    def to_dict(self) -> dict:
        """Returns the scene in plain types, for JSON and `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Scene":
        """Makes the scene of `values` from `to_dict`, which JSON may have changed to lists."""
        objects = tuple(ShapeObject(**{**item, "rgb": tuple(item["rgb"])}) for item in values["objects"])
        background = values["background"]
        colors = {name: tuple(background[name]) for name in ("rgb", "second_rgb")}
        return cls(objects, Background(**{**background, **colors}))


def place_at(x: float, y: float) -> str:
    """Returns the one of `PLACES` around a point in fractions of the side, or the nearest one to a point outside."""
    column, row = (min(max(int(value * 3), 0), 2) for value in (x, y))
    return PLACES[3 * row + column]


def share_side(place: str, other: str) -> bool:
    """Whether someone could call two places by the name of the same side, such as "left" and "top left"."""
    sides = [word for word in place.split() if word in other.split()]
    return bool(sides) and " " not in place


def steps_to_middle(place: str) -> tuple[int, int]:
    """Returns by how many rows and columns a place is beyond the center."""
    row, column = divmod(PLACES.index(place), 3)
    return row - 1, column - 1


def steps_between(first: str, second: str) -> tuple[int, int]:
    """Returns by how many columns (from the left) and rows (from the top) the second place is beyond the first."""
    rows, columns = zip(*(divmod(PLACES.index(place), 3) for place in (first, second)), strict=True)
    return columns[1] - columns[0], rows[1] - rows[0]


def find_relations(first: str, second: str) -> list[str]:
    """
    Returns all of "above", "below", "left of", "right of" and "next to" that clearly hold from a first place to a
    second one. Two of them hold if the places are as many rows as columns apart.
    """
    across, down = steps_between(first, second)
    found = []
    if down and abs(down) >= abs(across):
        found.append("above" if down > 0 else "below")
    if across and abs(across) >= abs(down):
        found.append("left of" if across > 0 else "right of")
    if abs(across) + abs(down) == 1:
        found.append("next to")
    return found


def sample_scene(index: int, split: str = "train", seed: int = 0) -> Scene:
    """
    Samples the scene number `index` of a `split` and a `seed`. The same arguments always give the same scene.

    A scene has 1 to 4 objects, with equal probability. No two of them are in the same of nine places, and they are at
    least 3/64 of the side apart. In three of ten scenes of several objects, two or more have one shape and color, and
    mostly one size. The splits share no set of (shape, color, size, place).

    Raises:
        ValueError: If `split` is none of `SPLITS`, or `index` is negative.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}, expected one of {', '.join(SPLITS)}.")
    if index < 0:
        raise ValueError(f"`index` is {index}, expected 0 or more.")
    rng = scene_rng(index, split, seed, "scene")
    num_objects = rng.randint(1, MAX_OBJECTS)
    background = _sample_background(rng)
    chance = scene_rng(index, split, seed, "alike")
    is_alike, have_one_size = chance.random() < ALIKE_SHARE, chance.random() < ONE_SIZE_SHARE
    num_alike = chance.randint(2, num_objects) if is_alike and num_objects > 1 else 0
    while True:
        objects = _sample_objects(rng, num_objects, num_alike, have_one_size)
        scene = Scene(tuple(objects), background)
        if scene.split == split:
            return scene


def scene_rng(index: int, split: str, seed: int, purpose: str) -> Random:
    """Returns the random generator of a row, with another stream for each `purpose`."""
    return Random(f"{purpose}/{split}/{seed}/{index}")


def sample_object(rng: Random, shape: str, color: str, size: str, place: str, others: Iterable[ShapeObject]):
    """Samples an object in a place, apart from `others`. Returns None if [`place_object`] finds no room."""
    item = ShapeObject(shape, color, size, 0.5, 0.5, sample_radius(rng, size), sample_paint(rng, color))
    return place_object(rng, item, place, others)


def place_object(rng: Random, item: ShapeObject, place: str, others: Iterable[ShapeObject]) -> ShapeObject | None:
    """Moves `item` near the middle of a place, where it [`fits`]. Returns None if 20 trials find no room."""
    side, up, down, _ = (extent * item.radius + MARGIN for extent in SHAPE_EXTENT[item.shape])
    row, column = divmod(PLACES.index(place), 3)
    middle_x, middle_y = (column + 0.5) / 3, (row + 0.5) / 3
    bounds_x = max(middle_x - CELL_JITTER, side), min(middle_x + CELL_JITTER, 1 - side)
    bounds_y = max(middle_y - CELL_JITTER, up), min(middle_y + CELL_JITTER, 1 - down)
    for _ in range(20):
        placed = replace(item, x=rng.uniform(*bounds_x), y=rng.uniform(*bounds_y))
        if fits(placed, others):
            return placed
    return None


def fits(item: ShapeObject, others: Iterable[ShapeObject]) -> bool:
    """Whether an object is completely in the image, and at least 3/64 of the side away from each of `others`."""
    side, up, down, _ = (extent * item.radius + MARGIN for extent in SHAPE_EXTENT[item.shape])
    inside = side <= item.x <= 1 - side and up <= item.y <= 1 - down
    return inside and all(object_gap(item, other) >= GAP for other in others)


def sample_radius(rng: Random, size: str) -> float:
    """Samples a radius near that of the named size."""
    return SIZE_RADIUS[size] + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER)


def sample_paint(rng: Random, color: str) -> tuple[int, int, int]:
    """Samples an RGB color near the named one."""
    values = [value + rng.randint(-COLOR_JITTER, COLOR_JITTER) for value in COLOR_RGB[color]]
    return tuple(min(max(value, 0), 255) for value in values)


def object_gap(first: ShapeObject, second: ShapeObject) -> float:
    """Returns a lower bound of the gap between two objects, by their boxes and circles around them. If it is negative,
    they may touch."""
    (left, up, down, reach), (other_side, other_up, other_down, other_reach) = (
        tuple(extent * item.radius for extent in SHAPE_EXTENT[item.shape]) for item in (first, second)
    )
    circles = math.hypot(first.x - second.x, first.y - second.y) - reach - other_reach
    across = abs(first.x - second.x) - left - other_side
    below = second.y - first.y - down - other_up
    above = first.y - second.y - up - other_down
    return max(circles, across, below, above)


def _sample_objects(rng: Random, num_objects: int, num_alike: int, have_one_size: bool) -> list[ShapeObject]:
    while True:
        names = rng.sample([(shape, color) for shape in SHAPES for color in COLORS], num_objects)
        names[:num_alike] = names[:1] * num_alike
        objects: list[ShapeObject] = []
        for (shape, color), place in zip(names, rng.sample(PLACES, num_objects), strict=True):
            size = rng.choice(SIZES)
            if 0 < len(objects) < num_alike and have_one_size:
                size = objects[0].size
            item = sample_object(rng, shape, color, size, place, objects)
            if item is None:
                break
            objects.append(item)
        else:
            return objects


def _sample_background(rng: Random) -> Background:
    lightness, contrast = rng.uniform(50, 236), rng.uniform(12, 40) * rng.choice((-1, 1))
    tint = [rng.uniform(-8, 8) for _ in range(3)]
    other_tint = [value + rng.uniform(-4, 4) for value in tint]
    if not 24 <= lightness + contrast <= 240:
        contrast = -contrast
    return Background(
        kind=rng.choice(("plain", *BACKGROUNDS)),  # plain backgrounds are twice as frequent as others
        rgb=tuple(round(lightness + value) for value in tint),
        second_rgb=tuple(round(lightness + contrast + value) for value in other_tint),
        period=rng.uniform(0.14, 0.3),
        angle=rng.uniform(0, 2 * math.pi),
        seed=rng.getrandbits(32),
    )
