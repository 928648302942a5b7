# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Requests to draw scenes, in the many words in which people write them."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from .captions import describe_scene, join_words
from .scenes import Scene, ShapeObject
from .words import (
    COLOR_WORDS,
    COUNTS,
    EQUAL_WORDS,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    add_article,
    choose,
    find_relations,
    phrase_name,
    phrase_place,
    pluralize,
)


# What people write before and after what they want to see.
STARTS = (
    *("draw {}", "draw me {}", "please draw {}", "draw {} please", "draw {}, please", "can you draw {}?"),
    *(
        "could you draw {}?",
        "could you please draw {}?",
        "can you draw me {}",
        "would you draw {}",
        "please draw me {}",
    ),
    *("i want {}", "i would like {}", "i'd like {}", "i'd like to see {}", "i want to see {}", "i need {}"),
    *(
        "give me {}",
        "show me {}",
        "show {}",
        "can i have {}?",
        "can i get {}",
        "could i get {} please",
        "let me see {}",
    ),
    *("make {}", "make me {}", "make a picture of {}", "create {}", "create an image of {}", "generate {}"),
    *("generate an image of {}", "paint {}", "paint me {}", "sketch {}", "render {}", "produce {}", "design {}"),
    *(
        "a picture of {}",
        "a picture with {}",
        "an image of {}",
        "an image with {}",
        "a drawing of {}",
        "picture of {}",
    ),
    *("an image showing {}", "an image that shows {}", "a scene with {}", "there is {}", "there should be {}"),
    *("there's {}", "i see {}", "we see {}", "you can see {}", "it has {}", "the picture shows {}", "just {}"),
    *("only {}", "simply {}", "a simple picture with {}", "a simple drawing of {}", "how about {}?", "{} please"),
    *("{}, please", "{}, thanks", "{} thank you", "hi, {} please", "hello! please draw {}", "hey, can you draw {}?"),
    *("please make {}", "please give me {}", "please show me {}", "would it be possible to have {}?", "let's have {}"),
    *(
        "for my kid: {}",
        "can you make a picture that has {}?",
        "i am looking for {}",
        "put {}",
        "place {}",
        "imagine {}",
    ),
    *(
        "i'd love to see {}",
        "i would love a picture of {}",
        "can you please make an image with {}?",
        "as a picture: {}",
    ),
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
# A second object, after a first one that is "it".
LINKS = (
    *(". {relation} {it}, {one}", ". {relation} {it} is {one}", ". {relation} {it} there is {one}"),
    *(", and {relation} {it} {one}", " with {one} {relation} {it}", ". put {one} {relation} {it}"),
    *(". {one} is {relation} {it}", " and {one} {relation} {it}", ", {one} {relation} {it}"),
)
BACKGROUND_NAMES = {
    "plain": ("plain", "simple", "uniform", "solid"),
    "gradient": ("shaded", "gradient", "smooth"),
    "stripes": ("striped",),
    "checkerboard": ("checkered", "checkerboard", "chessboard"),
    "dots": ("dotted", "spotted"),
    "noise": ("cloudy", "blurry", "foggy"),
}


def request_scene(scene: Scene, rng: Random) -> str:
    """
    Asks for a picture of `scene` in lower case, in one of many wordings that `rng` draws: with synonyms, counts,
    relations or several sentences, and with or without sizes and places. All that the text says holds in the scene.
    """
    if rng.random() < 0.15:
        return describe_scene(scene, rng)
    # Either all objects have their sizes and places told, or some, or none.
    size_share, place_share = rng.choice((0, 0, 0.5, 1, 1)), rng.choice((0, 0.5, 1, 1))
    plan = _Plan(rng, size_share, place_share)
    objects = list(scene.objects)
    rng.shuffle(objects)
    share = rng.random()
    if share < 0.05:
        text = _frame(_count_shapes(objects, rng), rng)
    elif len(objects) > 1 and share < 0.35:
        text = _relate(objects, plan)
    elif len(objects) > 1 and share < 0.46:
        text = _write_sentences(objects, plan)
    elif share < 0.54:
        text = _write_notes(objects, plan)
    else:
        text = _frame(_list(objects, plan), rng)
    if rng.random() < 0.06:
        text = f"{text.rstrip('?. ')} {choose(('on', 'against', 'over', 'with'), rng)} {_name_background(scene, rng)}"
    return text + rng.choice(("", "", "", "", ".", ".", "!")) * (text[-1] not in "?.!")


class _Plan:
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


def _group(objects: Sequence[ShapeObject], rng: Random) -> list[list[ShapeObject]]:
    """Groups objects of one shape and color, mostly of one size, too."""
    groups: dict[tuple, list[ShapeObject]] = {}
    by_size = rng.random() < 0.8
    for item in objects:
        groups.setdefault((item.shape, item.color, item.size if by_size else None), []).append(item)
    return list(groups.values())


def _list(objects: Sequence[ShapeObject], plan: _Plan) -> str:
    rng, parts = plan.rng, []
    if len(objects) > 1 and rng.random() < 0.2 and (text := _list_kin(objects, plan)):
        return text
    if len(objects) > 1 and len({item.size for item in objects}) == 1 and plan.size_share < 1 and rng.random() < 0.2:
        names = [_name_group(group, _Plan(rng, 0, plan.place_share)) for group in _group(objects, rng)]
        size = choose(SIZE_WORDS[objects[0].size], rng)
        every = "both" if len(objects) == 2 else "all"
        return (
            f"{join_words(names)}, {rng.choice((f'{every} {size}', f'{every} of them {size}', f'{every} are {size}'))}"
        )
    groups = _group(objects, rng) if rng.random() < 0.9 else [[item] for item in objects]
    for group in groups:
        parts.append(_name_group(group, plan))
    if len(parts) > 1 and rng.random() < 0.6:
        return f"{', '.join(parts[:-1])}{rng.choice((' and ', ', and ', ' and '))}{parts[-1]}"
    return rng.choice(JOINS).join(parts)


def _count_shapes(objects: Sequence[ShapeObject], rng: Random) -> str:
    """Tells the shapes alone, as in "two circles and a star"."""
    counts = Counter(item.shape for item in objects)
    names = [
        add_article(phrase_name(rng, shape), rng)
        if count == 1
        else f"{choose(COUNTS[count], rng)} {phrase_name(rng, shape, count=count)}"
        for shape, count in counts.items()
    ]
    return join_words(names)


def _list_kin(objects: Sequence[ShapeObject], plan: _Plan) -> str | None:
    """Names two objects that share their shape or their color together, as in "two stars, one red and one blue"."""
    rng, first = plan.rng, objects[0]
    for shared, other in rng.sample((("shape", "color"), ("color", "shape"), ("shape", "size")), 3):
        kin = [item for item in objects if getattr(item, shared) == getattr(first, shared)]
        if len(kin) != 2 or getattr(kin[0], other) == getattr(kin[1], other):
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
        return rng.choice(texts) + (f"{rng.choice((', ', ' and ', ', plus '))}{_list(rest, plan)}" if rest else "")
    return None


_WORDS = {"shape": SHAPE_WORDS, "color": COLOR_WORDS, "size": SIZE_WORDS}


def _name_group(group: Sequence[ShapeObject], plan: _Plan) -> str:
    rng, first = plan.rng, group[0]
    if len(group) == 1:
        place = plan.place(first)
        if place is None:
            return plan.name(first)
        share = rng.random()
        if share < 0.12:
            return f"{place} {plan.name(first)}"
        return f"{plan.name(first)}{rng.choice((' that is', ' which is', ',')) if share > 0.92 else ''} {place}"
    has_one_size = len({item.size for item in group}) == 1
    name = plan.name(first, len(group), tells_size=None if has_one_size else False)
    if has_one_size and name.startswith("two ") and rng.random() < 0.1:
        name = f"two {rng.choice(EQUAL_WORDS)} {name.removeprefix('two ')}"
    places = [phrase_place(item.place, rng) for item in group]
    if rng.random() > plan.place_share:
        return name
    share, last = rng.random(), "the other" if len(group) == 2 else "one"
    if share < 0.5:
        pieces = [f"one {place}" for place in places[:-1]]
        return f"{name}, {', '.join(pieces)} and {last} {places[-1]}"
    return f"{name} {', '.join(places[:-1])} and {places[-1]}"


def _relate(objects: Sequence[ShapeObject], plan: _Plan) -> str:
    """Tells where one object is relative to another, and lists the others."""
    rng, (first, second, *others) = plan.rng, objects
    relations = find_relations(first, second)
    if not relations:
        return _frame(_list(objects, plan), rng)
    relation = choose(RELATION_PHRASES[rng.choice(relations)], rng)
    sparse = _Plan(rng, plan.size_share, plan.place_share * 0.3)
    one, other = sparse.name(first), sparse.name(second)
    share = rng.random()
    place = sparse.place(second)
    if share < 0.6:
        text = f"{one} {relation} {other}" + (f" {place}" if place else "")
        if others:
            text += f"{rng.choice((' and ', ', ', ', plus ', '. also '))}{_list(others, sparse)}"
        return _frame(text, rng)
    if share < 0.8:
        start = _frame(other + (f" {place}" if place else ""), rng).rstrip("?. ")
        text = start + rng.choice(LINKS).format(relation=relation, one=one, it=rng.choice(("it", "it", "that")))
    else:
        it = f"the {phrase_name(rng, second.shape, second.color if second.shape == first.shape else None)}"
        text = _frame(other, rng).rstrip("?. ") + rng.choice(LINKS).format(relation=relation, one=one, it=it)
    if others:
        start = rng.choice(("also ", "and ", "", "there is also ", "add "))
        text = f"{text.rstrip('?. ')}. {start}{_list(others, sparse)}"
    return text


def _write_sentences(objects: Sequence[ShapeObject], plan: _Plan) -> str:
    rng = plan.rng
    pieces = [_name_group(group, plan) for group in _group(objects, rng)]
    first, links = rng.choice(
        (
            ("{}", ("{}",)),
            ("{}", ("{}", "also {}", "and {}")),
            ("there is {}", ("there is {}", "there is also {}", "then {}", "also, {}")),
            ("draw {}", ("add {}", "also draw {}", "and add {}", "then draw {}", "put {}", "then add {}")),
            ("i want {}", ("and {}", "i also want {}", "i want {} too")),
            ("first {}", ("then {}", "next {}", "after that {}")),
            ("please draw {}", ("please add {}", "please also add {}", "and {}")),
        )
    )
    sentences = [first.format(pieces[0]), *(rng.choice(links).format(piece) for piece in pieces[1:])]
    return ". ".join(sentences) + "."


def _write_notes(objects: Sequence[ShapeObject], plan: _Plan) -> str:
    """Writes objects in a few words without articles, as in "top left: red star, small"."""
    rng, notes = plan.rng, []
    style = rng.randrange(4)
    for item in objects:
        size = item.size if rng.random() < plan.size_share else None
        place = item.place if rng.random() < max(plan.place_share, 0.3) else None
        if style == 0:
            name = phrase_name(rng, item.shape, item.color, size)
            notes.append(f"{place}: {name}" if place else name)
        elif style == 1:
            words = [phrase_name(rng, item.shape), item.color, size, place]
            notes.append(", ".join(filter(None, words)) if len(objects) == 1 else " ".join(filter(None, words)))
        else:
            name = phrase_name(rng, item.shape, item.color, size)
            notes.append(" ".join(filter(None, (name, place or phrase_place(item.place, rng) if place else None))))
    return rng.choice((", ", "; ", ". ", " and ", ", ", "\n")).join(notes)


def _frame(text: str, rng: Random) -> str:
    return text if rng.random() < 0.35 else rng.choice(STARTS).format(text)


def _name_background(scene: Scene, rng: Random) -> str:
    names = list(BACKGROUND_NAMES[scene.background.kind])
    lightness = sum(scene.background.rgb) / 3
    if scene.background.kind == "plain":
        names += ["dark"] * (lightness < 100) + ["light", "bright"] * (lightness > 180) + ["gray", "grey"]
    return f"a {rng.choice(names)} background"
