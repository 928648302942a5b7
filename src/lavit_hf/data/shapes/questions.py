# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Questions about a scene with answers of one or two words."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .captions import NUMBERS, PLURALS, DescribedObject, name_object, phrase_place
from .scenes import COLORS, PLACES, SHAPES, Scene, ShapeObject


@dataclass(frozen=True)
class Question:
    """The text of a question, its answer, and its kind, one of `QUESTION_KINDS`."""

    text: str
    answer: str
    kind: str


def ask_questions(scene: Scene, rng: Random, num_questions: int = 6) -> list[Question]:
    """
    Asks `num_questions` questions of different kinds about a scene, which `rng` draws, in random order. A single
    object has no question of the kind "relation". The answers yes and no are equally likely, and a "no" often asks for
    something that is there in part.
    """
    kinds = list(QUESTION_KINDS)
    rng.shuffle(kinds)
    questions = (QUESTION_KINDS[kind](scene, rng) for kind in kinds)
    asked = [Question(*question, kind=kind) for kind, question in zip(kinds, questions, strict=True) if question]
    return asked[:num_questions]


def refer_to(item: ShapeObject, scene: Scene, rng: Random, choices: tuple[str, ...]) -> str | None:
    """Names `item` by one of the `choices` of fields ("color shape") that fits no other object, or returns None."""
    unique = []
    for fields in choices:
        values = [tuple(getattr(other, field) for field in fields.split()) for other in scene.objects]
        if values.count(tuple(getattr(item, field) for field in fields.split())) == 1:
            unique.append(fields)
    if not unique:
        return None
    fields = rng.choice(unique)
    name = name_object(item, "the", fields.removesuffix("place"))
    return f"{name} {phrase_place(item.place, rng)}" if fields.endswith("place") else name


def _ask_color(scene: Scene, rng: Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    name = refer_to(item, scene, rng, ("shape", "size shape")) or refer_to(item, scene, rng, ("shape place",))
    return f"what color is {name}?", item.color


def _ask_shape(scene: Scene, rng: Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    name = refer_to(item, scene, rng, ("color", "size color")) or refer_to(item, scene, rng, ("color place",))
    return f"what shape is {name}?", item.shape


def _ask_size(scene: Scene, rng: Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    return f"is {refer_to(item, scene, rng, ('shape', 'color shape'))} small or large?", item.size


def _ask_position(scene: Scene, rng: Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    return f"where is {refer_to(item, scene, rng, ('shape', 'color shape'))}?", item.place


def _ask_identity(scene: Scene, rng: Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    return f"what is {phrase_place(item.place, rng)}?", f"{item.color} {item.shape}"


def _ask_count(scene: Scene, rng: Random) -> tuple[str, str]:
    field = rng.choice(("any", "shape", "color"))
    if field == "any":
        return "how many objects are there?", NUMBERS[len(scene.objects)]
    values = [getattr(item, field) for item in scene.objects]
    # Mostly objects that are there. Otherwise nearly every answer would be zero.
    value = rng.choice(values) if rng.random() < 0.75 else rng.choice(SHAPES if field == "shape" else COLORS)
    name = PLURALS[value] if field == "shape" else f"{value} objects"
    return f"how many {name} are there?", NUMBERS[values.count(value)]


def _ask_existence(scene: Scene, rng: Random) -> tuple[str, str]:
    fields = rng.choice(("shape", "color", "color shape", "color shape"))
    there = [(item.shape, item.color) for item in scene.objects]
    shapes, colors = {shape for shape, _ in there}, {color for _, color in there}
    pairs = [(shape, color) for shape in SHAPES for color in COLORS]
    if rng.random() < 0.5:
        shape, color, answer = *rng.choice(there), "yes"
    else:
        if fields == "shape":
            pairs = [pair for pair in pairs if pair[0] not in shapes]
        elif fields == "color":
            pairs = [pair for pair in pairs if pair[1] not in colors]
        elif rng.random() < 0.5:  # correct in shape or in color
            pairs = [pair for pair in pairs if pair not in there and (pair[0] in shapes or pair[1] in colors)]
        else:
            pairs = [pair for pair in pairs if pair not in there]
        shape, color, answer = *rng.choice(pairs), "no"
    return f"is there {name_object(DescribedObject(shape, color), 'a', fields)}?", answer


def _ask_relation(scene: Scene, rng: Random) -> tuple[str, str] | None:
    # Only in different columns (rows) of the grid, left and right (above and below) are clear.
    cells = [divmod(PLACES.index(item.place), 3) for item in scene.objects]
    pairs = [
        (axis, first, second)
        for axis in (0, 1)
        for first in range(len(cells))
        for second in range(len(cells))
        if cells[first][axis] < cells[second][axis]
    ]
    if not pairs:
        return None
    axis, first, second = rng.choice(pairs)
    answer, relation = rng.choice((("yes", ("above", "left of")), ("no", ("below", "right of"))))
    if rng.random() < 0.5:
        first, second = second, first
        answer = "yes" if answer == "no" else "no"
    names = [refer_to(scene.objects[index], scene, rng, ("shape", "color shape")) for index in (first, second)]
    return f"is {names[0]} {relation[axis]} {names[1]}?", answer


QUESTION_KINDS: dict[str, Callable] = {
    "color": _ask_color,
    "shape": _ask_shape,
    "size": _ask_size,
    "count": _ask_count,
    "existence": _ask_existence,
    "position": _ask_position,
    "identity": _ask_identity,
    "relation": _ask_relation,
}
