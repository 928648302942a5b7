# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The many words for shapes, colors, sizes, places and relations, and phrases that name objects by them."""

import re
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from .scenes import ShapeObject, steps_between


Words = TypeVar("Words")

# The first word of each entry is the name itself, which is drawn as often as all others together.
SIZE_WORDS = {
    "small": (
        "small",
        "little",
        "tiny",
        "mini",
        "small-sized",
        "teeny",
        "very small",
        "really small",
        "minuscule",
        "wee",
        "tiny little",
    ),
    "large": (
        "large",
        "big",
        "huge",
        "giant",
        "big fat",
        "large-sized",
        "enormous",
        "very big",
        "massive",
        "gigantic",
        "great big",
        "really big",
        "very large",
    ),
}
COMPARATIVES = {"small": ("smaller", "littler"), "large": ("larger", "bigger")}
COLOR_WORDS = {
    "red": ("red", "crimson", "scarlet", "bright red", "tomato red", "cherry red", "blood red"),
    "orange": ("orange", "bright orange", "tangerine", "pumpkin orange", "carrot orange"),
    "yellow": ("yellow", "golden", "bright yellow", "gold", "lemon yellow", "sunny yellow"),
    "green": ("green", "bright green", "emerald", "grass green", "leaf green", "dark green"),
    "cyan": ("cyan", "turquoise", "light blue", "aqua", "teal", "sky blue", "bright cyan"),
    "blue": ("blue", "dark blue", "navy", "royal blue", "navy blue", "deep blue", "ocean blue"),
    "purple": ("purple", "violet", "lilac", "dark purple", "plum", "grape", "lavender"),
    "pink": ("pink", "magenta", "rose", "hot pink", "light pink", "bright pink", "bubblegum pink"),
}
SHAPE_WORDS = {
    "circle": ("circle", "disc", "disk", "dot", "ball", "filled circle", "round disc"),
    "square": (
        "square",
        "box",
        "block",
        "square shape",
        "cube",
        "square box",
        "square thing",
        "shape with four equal sides",
    ),
    "triangle": (
        "triangle",
        "triangular shape",
        "pyramid",
        "wedge",
        "three-sided shape",
        "shape with three sides",
        "triangle shape",
    ),
    "star": ("star", "five-pointed star", "star shape", "star symbol", "shape with five points"),
    "cross": ("cross", "plus sign", "plus", "cross shape", "plus symbol", "plus shape", "cross symbol"),
    "ring": (
        "ring",
        "hoop",
        "donut",
        "doughnut",
        "hollow circle",
        "circle outline",
        "loop",
        "circle with a hole",
        "ring shape",
        "letter o",
        "hollow round shape",
    ),
}
THINGS = ("one", "object", "shape", "thing", "figure", "item")  # nobody counts "ones"
COUNTS = {
    2: ("two", "2", "a pair of", "a couple of"),
    3: ("three", "3", "a trio of", "a group of three"),
    4: ("four", "4", "a group of four", "a set of four"),
}
EQUAL_WORDS = ("identical", "matching", "equal")
_CORNERS = ("{} {}", "{} {} corner", "{}-{} corner", "{}-{}", "{} {}-hand corner", "{} {} part", "{} {} area")
_SIDES = ("{0}", "{0} side", "{0}-hand side", "{0} hand side", "{0} edge", "middle {0}", "far {0}")
_IMAGES = ("picture", "image", "canvas", "frame", "drawing", "page")


def _corner(row: str, column: str) -> tuple[str, ...]:
    north, west = "north" if row == "top" else "south", "west" if column == "left" else "east"
    rows = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}[row]
    places = [pattern.format(name, column) for pattern in _CORNERS for name in rows]
    places += [f"{column} {name} corner" for name in rows]
    places += [f"very {row} {column}", f"{north}-{west} corner", f"{north}{west} corner", f"{north}{west}"]
    return tuple(f"{preposition} the {place}" for place in places for preposition in ("in", "at"))


def _side(name: str) -> tuple[str, ...]:
    return tuple(f"{preposition} the {side.format(name)}" for side in _SIDES for preposition in ("on", "at", "to"))


PLACE_PHRASES = {
    "top left": _corner("top", "left"),
    "top": (
        *("at the top", "on top", "up top", "at the top center", "in the top middle", "at the top edge"),
        *("in the upper middle", "at the upper edge", "at the very top", "in the top center", "up at the top"),
        *("in the middle of the top", "at the top in the middle", "in the center at the top"),
    ),
    "top right": _corner("top", "right"),
    "left": _side("left"),
    "center": (
        *("in the center", "in the middle", "at the center", "right in the middle", "in the very center"),
        *(
            "in the exact middle",
            "dead center",
            "at the middle",
            "centered",
            "in the central area",
            "smack in the middle",
        ),
    ),
    "right": _side("right"),
    "bottom left": _corner("bottom", "left"),
    "bottom": (
        *("at the bottom", "on the bottom", "down at the bottom", "at the bottom center", "in the bottom middle"),
        *("at the bottom edge", "in the lower middle", "at the lower edge", "at the very bottom"),
        *("in the middle of the bottom", "at the bottom in the middle", "in the center at the bottom", "at the foot"),
    ),
    "bottom right": _corner("bottom", "right"),
}
# The words that place a first object relative to a second one.
RELATION_PHRASES = {
    "above": ("above", "over", "on top of", "higher than", "directly above", "right above", "just above"),
    "below": ("below", "under", "underneath", "beneath", "lower than", "directly below", "right below", "just under"),
    "left of": ("left of", "to the left of", "on the left of", "on the left side of", "directly left of"),
    "right of": ("right of", "to the right of", "on the right of", "on the right side of", "directly right of"),
    "next to": ("next to", "beside", "by", "alongside", "right next to", "close to", "adjacent to", "near"),
}
OPPOSITES = {"above": "below", "below": "above", "left of": "right of", "right of": "left of", "next to": "next to"}


def choose(words: Sequence[Words], rng: Random) -> Words:
    """Draws the first of some words, or tuples of words, half of the time, and any other one otherwise."""
    return words[0] if rng.random() < 0.5 or len(words) == 1 else rng.choice(words[1:])


def pluralize(word: str) -> str:
    """Returns the plural of the name of a shape, such as "crosses" or "plus signs"."""
    head, link, rest = word.partition(" with ")
    return f"{head}es{link}{rest}" if head.endswith(("s", "x")) else f"{head}s{link}{rest}"


def add_article(words: str, rng: Random | None = None) -> str:
    """Puts "a" or "an" before words, and sometimes "one" or nothing if `rng` is given."""
    share = 1.0 if rng is None else rng.random()
    if share < 0.12:
        return words if share < 0.06 else f"one {words}"
    starts_with_vowel = words[0] in "aeiou" and not words.startswith("one")
    return f"{'an' if starts_with_vowel else 'a'} {words}"


def phrase_place(place: str, rng: Random, bare: bool = False, exact: bool = False) -> str:
    """
    Returns words for a place, such as "in the upper right corner" or "in the middle of the picture". With `bare`, they
    are those that follow "to the", such as "upper right corner". With `exact`, they tell the middle of a side from its
    corners, as in "on the middle left".
    """
    phrases: Sequence[str] = PLACE_PHRASES[place]
    if exact and " " not in place and place != "center":
        phrases = [phrase for phrase in phrases if "middle" in phrase or "center" in phrase]
    if bare:
        phrases = [phrase.split(" the ", 1)[1] for phrase in phrases if " the " in phrase[:9]]
    phrase = choose(phrases, rng) if rng.random() < 0.4 else rng.choice(phrases)
    if phrase.startswith(("in the", "at the", "on the")) and rng.random() < 0.12:
        phrase += f" of the {rng.choice(_IMAGES)}"
    return phrase


def phrase_name(
    rng: Random, shape: str | None = None, color: str | None = None, size: str | None = None, count: int = 1
) -> str:
    """
    Names one object or several equal ones by the given fields in free words and without an article, such as "big blue
    disc", "circle that is red" or, for a `count` above 1, "tiny stars".
    """
    noun = rng.choice(THINGS[count > 1 :]) if shape is None else choose(SHAPE_WORDS[shape], rng)
    noun = pluralize(noun) if count > 1 else noun
    color = color and choose(COLOR_WORDS[color], rng)
    size = size and choose(SIZE_WORDS[size], rng)
    adjectives = [word for word in (size, color) if word]
    share = rng.random()
    if not adjectives or share < 0.86:
        if share < 0.06:
            adjectives.reverse()
        comma = ", " if len(adjectives) == 2 and rng.random() < 0.1 else " "
        return " ".join(filter(None, (comma.join(adjectives), noun)))
    if share < 0.94 or color is None:
        verb = "are" if count > 1 else "is"
        return f"{noun} {rng.choice(('that', 'which'))} {verb} {' and '.join(adjectives)}"
    before = [word for word in (size,) if word]
    return " ".join(
        [*before, rng.choice((f"{noun} in {color}", f"{color} colored {noun}", f"{color}-colored {noun}"))]
    )


def phrase_relation(relation: str, first: ShapeObject, second: ShapeObject, rng: Random) -> str:
    """Returns words for a relation. Words such as "directly above" need objects in neighboring places."""
    words: Sequence[str] = RELATION_PHRASES[relation]
    if sum(map(abs, steps_between(first.place, second.place))) != 1:
        words = [phrase for phrase in words if not _CLOSE.search(phrase)]
    return choose(words, rng)


_CLOSE = re.compile("directly|just|right (?:above|below|next)|on top of")
