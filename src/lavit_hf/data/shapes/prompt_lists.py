# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Lists of objects in free words: names with sizes and places, counts, and what objects share."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from .captions import join_words
from .scenes import ShapeObject
from .words import (
    COLOR_WORDS,
    COUNTS,
    EQUAL_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    add_article,
    choose,
    phrase_name,
    phrase_place,
    pluralize,
)


JOINS = (
    " and ",
    ", ",
    ", and ",
    " with ",
    " plus ",
    " as well as ",
    " together with ",
    "; ",
    " & ",
    " and also ",
    " + ",
)


class Wording:
    """The words of one text: how many of its objects have their size and their place told."""

    def __init__(self, rng: Random, size_share: float, place_share: float):
        self.rng, self.size_share, self.place_share = rng, size_share, place_share

    def name(self, item: ShapeObject, count: int = 1, tells_size: bool | None = None) -> str:
        """Names an object without its place, or `count` equal ones with a number."""
        tells_size = self.rng.random() < self.size_share if tells_size is None else tells_size
        size = item.size if tells_size else None
        words = phrase_name(self.rng, item.shape, item.color, size, count)
        if count == 1:
            return add_article(words, self.rng)
        return f"{choose(COUNTS[count], self.rng)} {words}"

    def place(self, item: ShapeObject) -> str | None:
        """Returns words for the place of an object, or None where it is left out."""
        return phrase_place(item.place, self.rng) if self.rng.random() < self.place_share else None


def group_equal(objects: Sequence[ShapeObject], rng: Random) -> list[list[ShapeObject]]:
    """Groups objects of one shape and color, mostly of one size, too."""
    groups: dict[tuple, list[ShapeObject]] = {}
    by_size = rng.random() < 0.8
    for item in objects:
        groups.setdefault((item.shape, item.color, item.size if by_size else None), []).append(item)
    return list(groups.values())


def list_objects_freely(objects: Sequence[ShapeObject], wording: Wording) -> str:
    rng, parts = wording.rng, []
    if len(objects) > 1 and rng.random() < 0.2 and (text := list_kin(objects, wording)):
        return text
    if (
        len(objects) > 1
        and len({item.size for item in objects}) == 1
        and wording.size_share < 1
        and rng.random() < 0.2
    ):
        names = [name_group(group, Wording(rng, 0, wording.place_share)) for group in group_equal(objects, rng)]
        size = choose(SIZE_WORDS[objects[0].size], rng)
        every = "both" if len(objects) == 2 else "all"
        return (
            f"{join_words(names)}, {rng.choice((f'{every} {size}', f'{every} of them {size}', f'{every} are {size}'))}"
        )
    groups = group_equal(objects, rng) if rng.random() < 0.9 else [[item] for item in objects]
    for before, group in zip([[], *groups], groups, strict=False):
        if len(before) == len(group) == 1 and before[0].shape == group[0].shape and rng.random() < 0.3:
            parts.append(_name_next(group[0], wording))
        else:
            parts.append(name_group(group, wording))
    if len(parts) > 1 and rng.random() < 0.6:
        return f"{', '.join(parts[:-1])}{rng.choice((' and ', ', and ', ' and '))}{parts[-1]}"
    return rng.choice(JOINS).join(parts)


def _name_next(item: ShapeObject, wording: Wording) -> str:
    """Names an object after another one of its shape, as in "and a green one on the left"."""
    rng = wording.rng
    size = choose(SIZE_WORDS[item.size], rng) if rng.random() < wording.size_share else None
    words = " ".join(filter(None, (size, choose(COLOR_WORDS[item.color], rng), "one")))
    return " ".join(filter(None, (add_article(words), wording.place(item))))


def count_shapes(objects: Sequence[ShapeObject], rng: Random) -> str:
    """Tells the shapes alone, as in "two circles and a star"."""
    counts = Counter(item.shape for item in objects)
    names = [
        add_article(phrase_name(rng, shape), rng)
        if count == 1
        else f"{choose(COUNTS[count], rng)} {phrase_name(rng, shape, count=count)}"
        for shape, count in counts.items()
    ]
    return join_words(names)


def list_kin(objects: Sequence[ShapeObject], wording: Wording) -> str | None:
    """Names two objects that share their shape or their color together, as in "two stars, one red and one blue"."""
    rng, first = wording.rng, objects[0]
    for shared, other in rng.sample((("shape", "color"), ("color", "shape"), ("shape", "size")), 3):
        kin = [item for item in objects if getattr(item, shared) == getattr(first, shared)]
        values = [getattr(item, other) for item in kin]
        if len(kin) == 3 and shared == "shape" and other == "color" and len(set(values)) == 3:
            rest = [item for item in objects if item not in kin]
            text = _list_three(kin, wording)
            return f"{text}, plus {list_objects_freely(rest, wording)}" if rest else text
        if len(kin) != 2 or values[0] == values[1]:
            continue
        if other == "size" and kin[0].color != kin[1].color:
            continue
        one, two = (choose(_WORDS[other][getattr(item, other)], rng) for item in kin)
        both = f"{add_article(one)} and {add_article(two)}"
        name = choose(_WORDS[shared][getattr(first, shared)], rng)
        if shared == "color":
            texts = (f"{add_article(name)} {one} and {two}", f"two {name} shapes: {both}", f"{both}, both {name}")
        else:
            name = f"{first.color} {name}" if other == "size" else name
            names = pluralize(name)
            texts = (
                *(f"two {names}, one {one} and one {two}", f"two {names}, one {one}, one {two}", f"{both} {name}"),
                *(f"{add_article(one)} {name} and {add_article(two)} one", f"2 {names}: {one} and {two}"),
            )
        rest = [item for item in objects if item not in kin]
        return rng.choice(texts) + (
            f"{rng.choice((', ', ' and ', ', plus '))}{list_objects_freely(rest, wording)}" if rest else ""
        )
    return None


def _list_three(kin: Sequence[ShapeObject], wording: Wording) -> str:
    """Names three objects of one shape in different colors, as in "three stars, one red, one blue and one pink"."""
    rng, first = wording.rng, kin[0]
    size = first.size if len({item.size for item in kin}) == 1 and rng.random() < wording.size_share else None
    things = f"{choose(COUNTS[3], rng)} {phrase_name(rng, first.shape, None, size, count=3)}"
    colors = [choose(COLOR_WORDS[item.color], rng) for item in kin]
    ones = [f"one {color}" for color in colors]
    texts = (
        f"{things}, {', '.join(ones)}",
        f"{things}, {join_words(ones)}",
        f"{things}: {join_words(colors)}",
        f"{things} in {join_words(colors)}",
        f"{add_article(colors[0])} {first.shape}, {add_article(colors[1])} one and {add_article(colors[2])} one",
    )
    return rng.choice(texts)


_WORDS = {"shape": SHAPE_WORDS, "color": COLOR_WORDS, "size": SIZE_WORDS}


def name_group(group: Sequence[ShapeObject], wording: Wording) -> str:
    rng, first = wording.rng, group[0]
    if len(group) == 1:
        place = wording.place(first)
        if place is None:
            return wording.name(first)
        share = rng.random()
        if share < 0.12:
            return f"{place} {wording.name(first)}"
        return f"{wording.name(first)}{rng.choice((' that is', ' which is', ',')) if share > 0.92 else ''} {place}"
    has_one_size = len({item.size for item in group}) == 1
    name = wording.name(first, len(group), tells_size=None if has_one_size else False)
    if has_one_size and name.startswith("two ") and rng.random() < 0.1:
        name = f"two {rng.choice(EQUAL_WORDS)} {name.removeprefix('two ')}"
    places = [phrase_place(item.place, rng) for item in group]
    if rng.random() > wording.place_share:
        return name
    share, last = rng.random(), "the other" if len(group) == 2 else "one"
    if share < 0.5:
        pieces = [f"one {place}" for place in places[:-1]]
        return f"{name}, {', '.join(pieces)} and {last} {places[-1]}"
    return f"{name} {', '.join(places[:-1])} and {places[-1]}"
