# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How questions refer to single objects, and how answers give their reasons."""

from collections.abc import Iterable, Sequence
from random import Random

from .captions import name_object
from .scenes import Scene, ShapeObject, find_relations, share_side, steps_between
from .words import COMPARATIVES, phrase_name, phrase_place, phrase_relation


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


def refer_freely(item: ShapeObject, scene: Scene, rng: Random, hidden: Sequence[str] = ()) -> str | None:
    """
    Names an object of a scene so that no other one fits, with "the" and in free words, such as "the upper star" or
    "the big thing in the middle".

    Args:
        item ([`ShapeObject`]): The object.
        scene ([`Scene`]): The scene with the object.
        rng (`random.Random`): Draws the words.
        hidden (`Sequence[str]`, *optional*):
            The fields of "shape", "color", "size" and "place" that are not to be told.

    Returns:
        `str` or `None`: The name, or None if the fields that may be told fit another object, too.
    """
    choices = {
        fields: weight
        for fields, weight in _REFERENCES.items()
        if not set(fields) & set(hidden)
        and [all(getattr(other, f) == getattr(item, f) for f in fields) for other in scene.objects].count(True) == 1
    }
    if not choices:
        return None
    (fields,) = rng.choices(list(choices), list(choices.values()))
    told = {field: getattr(item, field) for field in fields if field != "place"}
    alike = [other for other in scene.objects if all(getattr(other, f) == v for f, v in told.items() if f != "size")]
    if len(alike) == 2 and rng.random() < 0.4:
        compared = [*_compare(item, next(other for other in alike if other is not item), rng, hidden)]
        if compared:
            name = phrase_name(rng, **{field: value for field, value in told.items() if field != "size"})
            return f"the {rng.choice(compared)} {name}"
    name = f"the {phrase_name(rng, **told)}"
    if "place" not in fields:
        return name
    exact = any(share_side(item.place, other.place) for other in scene.objects if other is not item)
    return f"{name} {phrase_place(item.place, rng, exact=exact)}"


_REFERENCES = {
    ("shape",): 4,
    ("color", "shape"): 4,
    ("color",): 1.5,
    ("size", "shape"): 1.5,
    ("size", "color", "shape"): 1,
    ("size", "color"): 0.5,
    ("size",): 0.5,
    ("shape", "place"): 1,
    ("color", "shape", "place"): 0.5,
    ("place",): 0.8,
}


def _compare(item: ShapeObject, other: ShapeObject, rng: Random, hidden: Sequence[str]):
    """Yields words that tell an object from another one: by size, and by column or row."""
    if item.size != other.size and "size" not in hidden:
        yield rng.choice(COMPARATIVES[item.size])
    if "place" in hidden:
        return
    across, down = steps_between(item.place, other.place)
    if across:
        yield "left" if across > 0 else "right"
    if down:
        yield rng.choice(("upper", "top", "higher") if down > 0 else ("lower", "bottom"))


def relate_to_one(item: ShapeObject, scene: Scene, rng: Random) -> str | None:
    """Returns a relation to another object that holds for `item` alone, such as "above the red star"."""
    others = [other for other in scene.objects if other is not item]
    rng.shuffle(others)
    for other in others:
        for relation in find_relations(item.place, other.place):
            loose = [third for third in scene.objects if third is not other and _may_be(relation, third, other)]
            name = refer_to(other, scene, rng) if loose == [item] else None
            if name:
                return f"{phrase_relation(relation, item, other, rng)} {name}"
    return None


def _may_be(relation: str, first: ShapeObject, second: ShapeObject) -> bool:
    """Whether someone could say that the relation holds."""
    across, down = steps_between(first.place, second.place)
    return {
        "above": down > 0,
        "below": down < 0,
        "left of": across > 0,
        "right of": across < 0,
        "next to": max(abs(across), abs(down)) == 1,
    }[relation]
