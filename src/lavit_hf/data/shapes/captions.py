# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions of scenes in a small grammar, and a parser for them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from .scenes import COLORS, PLACES, SHAPES, SIZES, Scene, ShapeObject


@dataclass(frozen=True)
class DescribedObject:
    """An object as a text describes it: shape, color, size and place, each None if the text does not say it."""

    shape: str
    color: str | None = None
    size: str | None = None
    place: str | None = None


NUMBERS = ("zero", "one", "two", "three", "four")
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
BACKGROUND_WORDS = {
    "plain": "plain",
    "gradient": "shaded",
    "stripes": "striped",
    "checkerboard": "checkered",
    "dots": "dotted",
    "noise": "cloudy",
}
PLAIN_PLACES = {
    "top left": ("at the top left", "in the top left corner"),
    "top": ("at the top",),
    "top right": ("at the top right", "in the top right corner"),
    "left": ("on the left",),
    "center": ("in the center", "in the middle"),
    "right": ("on the right",),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom": ("at the bottom",),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}


def describe_scene(scene: Scene, rng: Random) -> str:
    """
    Describes `scene` in one of a dozen wordings, which `rng` draws, in lower case. Most captions give size, color,
    shape and place of each object. One in five gives no sizes, and one in ten no places either.
    """
    objects = list(scene.objects)
    if rng.random() < 0.5:
        rng.shuffle(objects)
    else:
        objects.sort(key=lambda item: PLACES.index(item.place))
    share = rng.random()
    if share < 0.1:
        names = _name_groups(objects)
        return rng.choice(("{}", "a picture of {}", "there is {}")).format(join_words(names))
    fields = "color shape" if share < 0.3 else "size color shape"
    caption = rng.choice(WORDINGS)(objects, fields, rng)
    if rng.random() < 0.1 and not caption.endswith("."):
        caption += f" on a {BACKGROUND_WORDS[scene.background.kind]} background"
    return caption


def describe_layout(scene: Scene) -> str:
    """
    Lists the objects of `scene` in the order of reading, with place, size, color and shape, as in "top left: small
    blue star, bottom: large red ring".
    """
    objects = sorted(scene.objects, key=lambda item: PLACES.index(item.place))
    return _places_first_briefly(objects, "size color shape")


def _name_groups(objects: list[ShapeObject]) -> list[str]:
    """Names objects by color and shape, and equal ones together, as in "two red circles"."""
    counts: dict[tuple[str, str], int] = {}
    for item in objects:
        counts[item.color, item.shape] = counts.get((item.color, item.shape), 0) + 1
    return [
        f"{NUMBERS[count]} {color} {PLURALS[shape]}"
        if count > 1
        else name_object(DescribedObject(shape, color), "a", "color shape")
        for (color, shape), count in counts.items()
    ]


def name_object(item: ShapeObject | DescribedObject, article: str, fields: str) -> str:
    """Names an object by some `fields` of "size color shape", in this order, such as "an orange circle"."""
    words = " ".join(getattr(item, field) for field in fields.split())
    if "shape" not in fields:
        words += " object"
    if article == "a" and words[0] in "aeiou":
        article = "an"
    return f"{article} {words}".strip()


def _phrase_place(place: str, rng: Random) -> str:
    """Returns the phrase for a place, such as "in the middle"."""
    return rng.choice(PLAIN_PLACES[place])


def join_words(parts: list[str]) -> str:
    """Joins words as in "x", "x and y", "x, y and z"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _listed(frame: str) -> Callable:
    def wording(objects, fields, rng):
        parts = [f"{name_object(item, 'a', fields)} {_phrase_place(item.place, rng)}" for item in objects]
        return frame.format(join_words(parts))

    return wording


def _counted(objects, fields, rng):
    frame = "one object: {}" if len(objects) == 1 else f"{NUMBERS[len(objects)]} objects: {{}}"
    return _listed(frame)(objects, fields, rng)


def _places_first(objects, fields, rng):
    return join_words(
        [f"{_phrase_place(item.place, rng)} there is {name_object(item, 'a', fields)}" for item in objects]
    )


def _places_first_briefly(objects, fields, rng=None):
    return ", ".join(f"{item.place}: {name_object(item, '', fields)}" for item in objects)


def _briefly(objects, fields, rng):
    return ", ".join(f"{name_object(item, '', fields)} {_phrase_place(item.place, rng)}" for item in objects)


def _sentences(objects, fields, rng):
    parts = [f"{name_object(item, 'a', fields)} is {_phrase_place(item.place, rng)}." for item in objects]
    return " ".join(parts)


WORDINGS = (
    _listed("{}"),
    _listed("{}"),
    _listed("there is {}"),
    _listed("a picture of {}"),
    _listed("an image with {}"),
    _listed("this picture shows {}"),
    _counted,
    _places_first,
    _places_first_briefly,
    _briefly,
    _sentences,
)

_MENTION = re.compile(
    rf"\b(?P<place>(?:top|bottom) (?:left|right)|top|bottom|left|right|center|middle)\b"
    rf"|(?:\b(?P<count>two|three|four) )?(?P<adjectives>(?:\b(?:{'|'.join(SIZES + COLORS)}) )*)"
    rf"\b(?P<shape>{'|'.join(SHAPES)})(?:s|es)?\b"
)


def parse_caption(text: str) -> list[DescribedObject]:
    """
    Returns the objects that a caption describes, in its order.

    Every wording of [`describe_scene`] is parsed without a mistake. In any other text, an object is a shape with the
    sizes and colors right before it, and a place in the same clause (between commas, full stops and "and") or in a
    clause of its own.
    """
    objects: list[DescribedObject] = []
    waiting = None  # a place whose object follows
    for clause in re.split(r"[,.;]|\band\b", " ".join(text.lower().split())):
        before = len(objects)
        for mention in _MENTION.finditer(clause):
            place = {"middle": "center"}.get(mention["place"], mention["place"])
            if mention["shape"]:
                words = mention["adjectives"].split()
                color, size = (next((word for word in words if word in names), None) for names in (COLORS, SIZES))
                count = NUMBERS.index(mention["count"] or "one")
                objects += [DescribedObject(mention["shape"], color, size, waiting)] * count
                waiting = None
            elif len(objects) > before and objects[-1].place is None:
                objects[-1] = replace(objects[-1], place=place)
            else:
                waiting = place
        if len(objects) > before:
            waiting = None
        elif waiting and objects and objects[-1].place is None:
            objects[-1], waiting = replace(objects[-1], place=waiting), None
    return objects
