# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Words that arrange several objects at once: around one of them, in lines, in chains and in corners."""

from collections.abc import Sequence
from random import Random

from .captions import join_words
from .prompt_lists import Wording, list_objects_freely
from .scenes import ShapeObject, find_relations, steps_between, steps_to_middle
from .words import COUNTS, choose, phrase_name, phrase_relation


# The words for a relation to the object in the middle of others, and to the object before.
TO_IT = {
    "above": ("above it", "over it", "higher up", "above this one"),
    "below": ("below it", "under it", "underneath", "beneath it", "underneath it"),
    "left of": ("to its left", "on its left", "left of it", "to the left of it", "on the left of it"),
    "right of": ("to its right", "on its right", "right of it", "to the right of it", "on the right of it"),
}
TO_THAT = {
    "above": ("above that", "over that", "above that one", "over that one"),
    "below": ("below that", "under that", "beneath that", "below that one", "underneath that one"),
    "left of": ("to the left of that", "left of that", "left of that one", "on the left of that"),
    "right of": ("to the right of that", "right of that", "right of that one", "on the right of that"),
}
LINES = {
    "row": (("top", "upper"), ("middle",), ("bottom", "lower")),
    "column": (("left", "left-hand"), ("middle",), ("right", "right-hand")),
}


def arrange(objects: Sequence[ShapeObject], wording: Wording) -> str | None:
    """Describes objects by an arrangement that some of them are in, and lists the others. None if there is none."""
    patterns = [_around, _chain, _between, _line, _order, _corners, _side_by_side]
    wording.rng.shuffle(patterns)
    sparse = Wording(wording.rng, wording.size_share, wording.place_share * 0.2)
    for pattern in patterns:
        found = pattern(objects, sparse)
        if found:
            text, told = found
            others = [item for item in objects if not any(item is other for other in told)]
            if others:
                link = wording.rng.choice((", ", " and ", ", plus ", ". also ", ". and then ", "; "))
                text += link + list_objects_freely(others, wording)
            return text
    return None


Arranged = tuple[str, Sequence[ShapeObject]] | None


def _around(objects: Sequence[ShapeObject], wording: Wording) -> Arranged:
    """Tells where others are relative to one object: "a circle with a square to its right and a star to its left"."""
    rng, anchor = wording.rng, objects[0]
    others = [(item, _relative(item, anchor, TO_IT, rng)) for item in objects[1:]]
    others = [(item, words) for item, words in others if words]
    if not others:
        return None
    place = wording.place(anchor) if rng.random() < 0.5 else Wording(rng, 0, 1).place(anchor)
    start = wording.name(anchor) + (f" {place}" if place else "")
    before = rng.random() < 0.5
    pieces = [
        f"{words} {rng.choice(('is ', '', '', 'there is '))}{wording.name(item)}"
        if before
        else f"{wording.name(item)} {words}"
        for item, words in others
    ]
    link = rng.choice((", ", ". ", ". ", "; ") if before else (" with ", ", ", " and ", " that has ", " and then "))
    text = f"{start}{link}{rng.choice((', ', ' and ', ', and ')).join(pieces)}"
    return text, [anchor, *(item for item, _ in others)]


def _chain(objects: Sequence[ShapeObject], wording: Wording) -> Arranged:
    """Tells where each object is relative to the one before: "a star, below it a circle, and below that a square"."""
    rng, told = wording.rng, [objects[0]]
    shapes = [item.shape for item in objects]
    steps: list[str] = []
    for item in objects[1:]:
        words = _relative(item, told[-1], TO_THAT, rng)
        if words is None:
            break
        told.append(item)
        steps.append(words)
    if len(told) < 3:
        return None
    style = rng.randrange(3)
    if style == 0 or len(set(shapes)) < len(shapes):
        pieces = [f"{words} {wording.name(item)}" for item, words in zip(told[1:], steps, strict=True)]
        return f"{wording.name(told[0])}, {rng.choice((', ', ', and ', ' and ')).join(pieces)}", told
    sentences: list[str] = []
    for first, second in zip(told[1:], told[:-1], strict=True):
        relation = phrase_relation(_directions(first, second)[0], first, second, rng)
        known = f"the {phrase_name(rng, second.shape)}" if sentences else wording.name(second)
        verb = rng.choice((" is", "")) if style == 1 else " goes"
        sentences.append(f"{wording.name(first)}{verb} {relation} {known}")
    return rng.choice((", and ", ". ", ", ")).join(sentences), told


def _between(objects: Sequence[ShapeObject], wording: Wording) -> Arranged:
    rng, (first, *others) = wording.rng, objects
    for one in others:
        for two in others:
            across, down = steps_between(one.place, first.place)
            if one is not two and (across, down) == steps_between(first.place, two.place) and (across, down) != (0, 0):
                between = rng.choice(("between", "in between", "in the middle between", "right between"))
                names = [wording.name(item) for item in (one, two)]
                if rng.random() < 0.5:
                    return f"{wording.name(first)} {between} {' and '.join(names)}", [first, one, two]
                told = "" if rng.random() < 0.6 else " of them"
                text = f"{' and '.join(names)}{rng.choice((', ', ' with ', '. ', ' and '))}"
                placed = (
                    f"{wording.name(first)} in between"
                    if told == ""
                    else f"in the middle of them {wording.name(first)}"
                )
                return text + placed, [first, one, two]
    return None


def _line(objects: Sequence[ShapeObject], wording: Wording) -> Arranged:
    """Tells a row or a column: "the top row is three pink dots" or "left column, top to bottom: a star, a ring"."""
    rng = wording.rng
    kind = rng.choice(tuple(LINES))
    index = steps_to_middle(objects[0].place)[kind == "column"]
    line = [item for item in objects if steps_to_middle(item.place)[kind == "column"] == index]
    if len(line) < 2 or (len(line) == 2 and rng.random() < 0.5):
        return None
    line.sort(key=lambda item: steps_to_middle(item.place)[kind == "row"])
    name = f"{choose(LINES[kind][index + 1], rng)} {kind}"
    ends = "left to right" if kind == "row" else "top to bottom"
    if len({(item.shape, item.color, item.size) for item in line}) == 1:
        things = wording.name(line[0], len(line))
        texts = (f"{things} in the {name}", f"the {name} is {things}", f"{things} in the {name}, side by side")
        return (texts[: 3 if kind == "row" else 2])[rng.randrange(3 if kind == "row" else 2)], line
    things = [wording.name(item) for item in line]
    listed = rng.choice((", ".join(things), join_words(things)))
    texts = (
        f"in the {name} from {ends}: {listed}",
        f"in the {name}, {listed}, from {ends}",
        f"the {name} has, from {ends}, {listed}",
        f"{name}, {ends}: {listed}",
    )
    return rng.choice(texts), line


def _order(objects: Sequence[ShapeObject], wording: Wording) -> Arranged:
    """Lists all objects in one order: "from left to right a star, a ring and a box"."""
    rng, kind = wording.rng, wording.rng.choice(tuple(LINES))
    steps = [steps_to_middle(item.place)[kind == "row"] for item in objects]
    if len(set(steps)) < len(steps):
        return None
    ordered = [item for _, item in sorted(zip(steps, objects, strict=True), key=lambda pair: pair[0])]
    ends = "left to right" if kind == "row" else "top to bottom"
    if rng.random() < 0.25:
        ordered.reverse()
        ends = "right to left" if kind == "row" else "bottom to top"
    things = [wording.name(item) for item in ordered]
    listed = rng.choice((", ".join(things), join_words(things), ", then ".join(things)))
    texts = (f"from {ends}: {listed}", f"from {ends} {listed}", f"{listed}, from {ends}", f"{ends}, {listed}")
    return rng.choice(texts), ordered


def _corners(objects: Sequence[ShapeObject], wording: Wording) -> Arranged:
    """Tells equal objects in two or four corners: "two orange rings in the top corners"."""
    rng, first = wording.rng, objects[0]
    alike = [item for item in objects if (item.shape, item.color, item.size) == (first.shape, first.color, first.size)]
    alike = [item for item in alike if " " in item.place]
    if len(alike) not in (2, 4):
        return None
    if len(alike) == 4:
        which, each = "", rng.choice(("each corner", "every corner"))
    else:
        sides = [word for word in alike[0].place.split() if word in alike[1].place.split()]
        which, each = (f"{sides[0]} ", f"each {sides[0]} corner") if sides else ("opposite ", "")
    things = wording.name(first, len(alike))
    the = "" if which == "opposite " else "the "
    texts = [
        f"{things} in {the}{which}corners",
        f"{things}, in {'all four' if len(alike) == 4 else 'two'} {which}corners",
    ]
    if each:
        texts += [f"{wording.name(first)} in {each}", f"{things}, one in {each}", f"in {each} {wording.name(first)}"]
    return rng.choice(texts), alike


def _side_by_side(objects: Sequence[ShapeObject], wording: Wording) -> Arranged:
    rng, (first, second, *_) = wording.rng, objects
    across, down = steps_between(first.place, second.place)
    if abs(across) != 1 or down:
        return None
    names = f"{wording.name(first)} and {wording.name(second)}"
    alike = (first.shape, first.color, first.size) == (second.shape, second.color, second.size)
    if alike:
        names = f"{choose(COUNTS[2], rng)} {phrase_name(rng, first.shape, first.color, count=2)}"
    texts = (
        f"{names} side by side",
        f"side by side: {names}",
        f"{names}, next to each other",
        f"{names} beside each other",
    )
    return rng.choice(texts), [first, second]


def _directions(first: ShapeObject, second: ShapeObject) -> list[str]:
    return [relation for relation in find_relations(first.place, second.place) if relation in TO_IT]


def _relative(item: ShapeObject, other: ShapeObject, words: dict[str, Sequence[str]], rng: Random) -> str | None:
    relations = _directions(item, other)
    return choose(words[rng.choice(relations)], rng) if relations else None
