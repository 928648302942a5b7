# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How questions refer to single objects, and how answers give their reasons."""

from collections.abc import Iterable
from random import Random

from .captions import name_object
from .scenes import Scene, ShapeObject
from .words import find_relations, phrase_relation, refer_freely, steps_between


def give_reasons(reasons: Iterable[str], conclusion: str) -> str:
    """Writes an answer with its reasons, if there are any."""
    return ": ".join(filter(None, (", ".join(reasons), conclusion)))


def conclude(answer: str) -> str:
    """Returns an answer to a question about shapes without its reasons: "two" of "top left, bottom: two"."""
    return answer.rpartition(":")[2].strip()


def refer_to(item: ShapeObject, scene: Scene, rng: Random, hidden: str | None = None) -> str | None:
    """
    Names `item` so that no other object fits. The name does not tell the `hidden` field, one of "shape", "color",
    "size" and "place". Half of the names are plain, the others in free words. Returns None if every such name fits
    another object.
    """
    choices = [fields for fields in ("shape", "color shape", "color", "size shape") if hidden not in fields.split()]
    values = {fields: [tuple(getattr(o, f) for f in fields.split()) for o in scene.objects] for fields in choices}
    own = scene.objects.index(item)
    unique = [fields for fields in choices if values[fields].count(values[fields][own]) == 1]
    if unique and rng.random() < 0.5:
        return name_object(item, "the", unique[0] if rng.random() < 0.6 else rng.choice(unique))
    return refer_freely(item, scene, rng, () if hidden is None else (hidden,))


def relate_to_one(item: ShapeObject, scene: Scene, rng: Random) -> str | None:
    """Returns a relation to another object that holds for `item` alone, such as "above the red star"."""
    others = [other for other in scene.objects if other is not item]
    rng.shuffle(others)
    for other in others:
        for relation in find_relations(item, other):
            loose = [third for third in scene.objects if third is not other and _may_be(relation, third, other)]
            name = refer_to(other, scene, rng) if loose == [item] else None
            if name:
                return f"{phrase_relation(relation, item, other, rng)} {name}"
    return None


def _may_be(relation: str, first: ShapeObject, second: ShapeObject) -> bool:
    """Whether someone could say that the relation holds."""
    across, down = steps_between(first, second)
    return {
        "above": down > 0,
        "below": down < 0,
        "left of": across > 0,
        "right of": across < 0,
        "next to": max(abs(across), abs(down)) == 1,
    }[relation]
