# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Instructions that change one thing in a scene, with the changed scene."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random

from .captions import name_object, phrase_place
from .questions import refer_to
from .scenes import (
    COLORS,
    MAX_OBJECTS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    ShapeObject,
    fits,
    place_object,
    sample_object,
    sample_paint,
    sample_radius,
)


@dataclass(frozen=True)
class Edit:
    """An instruction, the kind of its change (one of `EDIT_KINDS`), and the changed scene."""

    instruction: str
    kind: str
    scene: Scene


def edit_scene(scene: Scene, rng: Random, kinds: Sequence[str] | None = None) -> Edit:
    """
    Draws a change that fits a scene. The changed scene has 1 to 4 objects, follows the rules of [`sample_scene`] and
    belongs to the split of `scene`. Everything that the instruction does not name stays exactly the same.

    Args:
        scene ([`Scene`]): The scene to change.
        rng (`random.Random`): Draws the change.
        kinds (`Sequence[str]`, *optional*):
            Some of `EDIT_KINDS`, tried in random order until one fits. Default: all. The splits "validation" and
            "test" are small, so that few removals and resizings of their scenes stay within them.

    Raises:
        ValueError: If a kind is unknown, or no change of these kinds stays in the split.
    """
    kinds = list(EDIT_KINDS if kinds is None else kinds)
    if unknown := [kind for kind in kinds if kind not in EDIT_KINDS]:
        raise ValueError(f"`kinds` has {unknown}, expected some of {', '.join(EDIT_KINDS)}.")
    rng.shuffle(kinds)
    for kind in kinds:
        for instruction, objects in EDIT_KINDS[kind](scene, rng):
            edited = replace(scene, objects=objects)
            if edited.split == scene.split:
                return Edit(instruction, kind, edited)
    raise ValueError(f"No edit of the kinds {kinds} keeps this scene of {len(scene.objects)} in {scene.split!r}.")


# Each of these yields every change of a kind in random order: the instruction and the changed objects.
Changes = Iterator[tuple[str, tuple[ShapeObject, ...]]]


def _recolor(scene: Scene, rng: Random) -> Changes:
    for item, color in product(_shuffled(scene.objects, rng), _shuffled(COLORS, rng)):
        if not _is_taken(scene, item.shape, color):
            wording = rng.choice(("make {} {}", "paint {} {}", "change the color of {} to {}"))
            painted = replace(item, color=color, rgb=sample_paint(rng, color))
            yield wording.format(_refer(item, scene, rng), color), _put(scene, item, painted)


def _remove(scene: Scene, rng: Random) -> Changes:
    for item in _shuffled(scene.objects, rng):
        if len(scene.objects) > 1:
            yield f"{rng.choice(('remove', 'delete'))} {_refer(item, scene, rng)}", _others(scene, item)


def _add(scene: Scene, rng: Random) -> Changes:
    free = _free_places(scene) if len(scene.objects) < MAX_OBJECTS else []
    for names, place in product(_new_names(scene, rng), _shuffled(free, rng)):
        added = sample_object(rng, *names, place, scene.objects)
        if added:
            name = name_object(added, "a", "size color shape")
            yield f"add {name} {phrase_place(place, rng)}", (*scene.objects, added)


def _replace(scene: Scene, rng: Random) -> Changes:
    for names, item in product(_new_names(scene, rng), _shuffled(scene.objects, rng)):
        new = sample_object(rng, *names, item.place, _others(scene, item))
        if new:
            name = name_object(new, "a", "size color shape")
            yield f"replace {_refer(item, scene, rng)} with {name}", _put(scene, item, new)


def _move(scene: Scene, rng: Random) -> Changes:
    for item, place in product(_shuffled(scene.objects, rng), _shuffled(_free_places(scene), rng)):
        moved = place_object(rng, item, place, _others(scene, item))
        if moved:
            yield f"put {_refer(item, scene, rng)} {phrase_place(place, rng)}", _put(scene, item, moved)


def _resize(scene: Scene, rng: Random) -> Changes:
    for item in _shuffled(scene.objects, rng):
        size, others = SIZES[1 - SIZES.index(item.size)], _others(scene, item)
        resized = replace(item, size=size, radius=sample_radius(rng, size))
        # A larger object may have to move within its place.
        if fits(resized, others) or (resized := place_object(rng, resized, item.place, others)):
            yield f"make {_refer(item, scene, rng)} {size}", _put(scene, item, resized)


EDIT_KINDS: dict[str, Callable[[Scene, Random], Changes]] = {
    "recolor": _recolor,
    "remove": _remove,
    "add": _add,
    "replace": _replace,
    "move": _move,
    "resize": _resize,
}


def _shuffled(values: Sequence, rng: Random) -> list:
    return rng.sample(values, len(values))


def _refer(item: ShapeObject, scene: Scene, rng: Random) -> str:
    return refer_to(item, scene, rng, ("shape", "color shape"))


def _others(scene: Scene, item: ShapeObject) -> tuple[ShapeObject, ...]:
    return tuple(other for other in scene.objects if other is not item)


def _put(scene: Scene, item: ShapeObject, new: ShapeObject) -> tuple[ShapeObject, ...]:
    return tuple(new if other is item else other for other in scene.objects)


def _is_taken(scene: Scene, shape: str, color: str) -> bool:
    return any((item.shape, item.color) == (shape, color) for item in scene.objects)


def _free_places(scene: Scene) -> list[str]:
    taken = {item.place for item in scene.objects}
    return [place for place in PLACES if place not in taken]


def _new_names(scene: Scene, rng: Random) -> list[tuple[str, str, str]]:
    """Yields the (shape, color, size) of objects that a scene does not have, in random order."""
    return _shuffled([names for names in product(SHAPES, COLORS, SIZES) if not _is_taken(scene, *names[:2])], rng)
