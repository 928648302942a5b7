# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Requests to draw scenes, in the many words in which people write them."""

from collections.abc import Sequence
from random import Random

from .arrangements import arrange
from .captions import NUMBERS, describe_scene, join_words
from .prompt_lists import Wording, count_shapes, group_equal, list_objects_freely, name_group
from .scenes import COLORS, SHAPES, Scene, ShapeObject, find_relations
from .small_talk import add_talk, respell
from .words import COLOR_WORDS, SIZE_WORDS, add_article, choose, phrase_name, phrase_place, phrase_relation, pluralize


# Words that people write before and after the objects that they want to see.
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
    *("gimme {}", "i wanna see {}", "may i have {}?", "let there be {}", "{} would be great", "{} would be nice"),
    *("what about {}?", "do me a favor and draw {}", "i was thinking of {}", "could i see {}", "show us {}", "add {}"),
    *("my kid wants {}", "can we have {}", "can u draw {}", "could u make {}", "pls draw {}", "{} pls", "try {}"),
    *(
        "i'm after {}",
        "nothing but {}",
        "a nearly empty picture with {}",
        "something like {}",
        "there should just be {}",
    ),
    *(
        "is it possible to draw {}?",
        "what i want is {}",
        "i feel like {}",
        "all i need is {}",
        "put {} in the picture",
    ),
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
    if rng.random() < 0.12:
        return describe_scene(scene, rng)
    # Either all objects have their sizes and places told, or some, or none.
    size_share, place_share = rng.choice((0, 0, 0.5, 1, 1)), rng.choice((0, 0.5, 1, 1))
    wording = Wording(rng, size_share, place_share)
    objects = list(scene.objects)
    rng.shuffle(objects)
    share = rng.random()
    if share < 0.05:
        text = _frame(count_shapes(objects, rng), rng)
    elif share < 0.12:
        text = _frame(_leave_open(objects, wording), rng)
    elif len(objects) > 1 and share < 0.35:
        text = _relate(objects, wording)
    elif len(objects) > 1 and share < 0.44:
        text = _write_sentences(objects, wording)
    elif share < 0.51:
        text = _write_notes(objects, wording)
    elif share < (0.7 if len(objects) == 1 else 0.58):
        text = _write_traits(objects, wording)
    elif len(objects) > 1 and share < 0.66:
        text = _write_columns(objects, wording)
    elif len(objects) > 1 and share < 0.84 and (arranged := arrange(objects, wording)):
        text = _frame(arranged, rng)
    else:
        text = _frame(list_objects_freely(objects, wording), rng)
    if rng.random() < 0.06:
        text = f"{text.rstrip('?. ')} {choose(('on', 'against', 'over', 'with'), rng)} {_name_background(scene, rng)}"
    if rng.random() < 0.05:
        text = _deny(text, scene, rng)
    text += rng.choice(("", "", "", "", ".", ".", "!")) * (text[-1] not in "?.!")
    return respell(add_talk(text, rng), rng)


def _leave_open(objects: Sequence[ShapeObject], wording: Wording) -> str:
    """Names objects of which some have their shape or color left open, as in "something pink and a small star"."""
    rng = wording.rng
    names: list[str] = []
    hidden = rng.choice(("shape", "color"))
    for item in objects:
        size = item.size if rng.random() < wording.size_share else None
        if names and rng.random() < 0.3:
            name = wording.name(item)
        elif hidden == "color":
            name = add_article(phrase_name(rng, item.shape, None, size), rng)
        elif rng.random() < 0.5:
            word = choose(COLOR_WORDS[item.color], rng)
            name = " ".join(filter(None, ("something", size and choose(SIZE_WORDS[size], rng), word)))
        else:
            name = add_article(phrase_name(rng, None, item.color, size), rng)
        names.append(" ".join(filter(None, (name, wording.place(item)))))
    return rng.choice((join_words(names), ", ".join(names), " and ".join(names)))


def _relate(objects: Sequence[ShapeObject], wording: Wording) -> str:
    """Tells where one object is relative to another, and lists the others."""
    rng, (first, second, *others) = wording.rng, objects
    relations = find_relations(first.place, second.place)
    if not relations:
        return _frame(list_objects_freely(objects, wording), rng)
    key = rng.choice(relations)
    relation = phrase_relation(key, first, second, rng)
    sparse = Wording(rng, wording.size_share, wording.place_share * 0.3)
    one, other = sparse.name(first), sparse.name(second)
    share = rng.random()
    place = sparse.place(second)
    if others and share < 0.12 and (chained := find_relations(second.place, others[0].place)):
        third = sparse.name(others[0])
        link = rng.choice((", which is {} {}", ", and that is {} {}", " {} {}", ". the {name} is {} {}"))
        name = phrase_name(rng, second.shape)
        text = f"{one} {relation} {other}" + link.format(
            phrase_relation(rng.choice(chained), second, others[0], rng), third, name=name
        )
        others = others[1:]
        return _frame(text + (f", plus {list_objects_freely(others, sparse)}" if others else ""), rng)
    if share < 0.24:
        verb = rng.choice(("is", "there is", "goes", "sits", "put", "i want", "there's", "comes", "add", "hangs"))
        text = f"{relation} {other}{f' {place}' if place else ''} {verb} {one}"
        if others:
            text += f"{rng.choice((', and ', '. ', ', also '))}{list_objects_freely(others, sparse)}"
        return text
    if share < 0.3 and key in ("left of", "right of"):
        side = key.removesuffix(" of")
        text = f"{other} {rng.choice(('with', 'and'))} {one} {rng.choice(('to its', 'on its'))} {side}"
        return _frame(text + (f", plus {list_objects_freely(others, sparse)}" if others else ""), rng)
    if share < 0.6:
        text = f"{one} {relation} {other}" + (f" {place}" if place else "")
        if others:
            text += f"{rng.choice((' and ', ', ', ', plus ', '. also '))}{list_objects_freely(others, sparse)}"
        return _frame(text, rng)
    if share < 0.8:
        start = _frame(other + (f" {place}" if place else ""), rng).rstrip("?. ")
        text = start + rng.choice(LINKS).format(
            relation=relation, one=one, it=rng.choice(("it", "it", "that", "this one"))
        )
    else:
        it = f"the {phrase_name(rng, second.shape, second.color if second.shape == first.shape else None)}"
        text = _frame(other, rng).rstrip("?. ") + rng.choice(LINKS).format(relation=relation, one=one, it=it)
    if others:
        start = rng.choice(("also ", "and ", "", "there is also ", "add "))
        text = f"{text.rstrip('?. ')}. {start}{list_objects_freely(others, sparse)}"
    return text


def _write_sentences(objects: Sequence[ShapeObject], wording: Wording) -> str:
    rng = wording.rng
    pieces = [name_group(group, wording) for group in group_equal(objects, rng)]
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


def _write_notes(objects: Sequence[ShapeObject], wording: Wording) -> str:
    """Writes objects in a few words without articles, as in "top left: red star, small"."""
    rng, notes = wording.rng, []
    style = rng.randrange(5)
    for item in objects:
        size = item.size if rng.random() < wording.size_share else None
        place = item.place if rng.random() < max(wording.place_share, 0.3) else None
        if style == 0:
            name = phrase_name(rng, item.shape, item.color, size)
            notes.append(f"{place}: {name}" if place else name)
        elif style == 4:
            fields = {"shape": phrase_name(rng, item.shape), "color": item.color, "size": size, "place": place}
            fields = {name: value for name, value in fields.items() if value}
            names = rng.sample(list(fields), len(fields))
            mark = rng.choice((". ", ", ", " "))
            notes.append(mark.join(f"{name}: {fields[name]}" for name in names))
        elif style == 1:
            words = [phrase_name(rng, item.shape), item.color, size, place]
            notes.append(", ".join(filter(None, words)) if len(objects) == 1 else " ".join(filter(None, words)))
        else:
            name = phrase_name(rng, item.shape, item.color, size)
            told = place and rng.choice((place, phrase_place(item.place, rng)))
            notes.append(" ".join(filter(None, (name, told))))
    return rng.choice((", ", "; ", ". ", " and ")).join(notes)


def _write_traits(objects: Sequence[ShapeObject], wording: Wording) -> str:
    """Tells each object in several short sentences: "there is a star. it is blue. make it big"."""
    texts = [_tell_traits(item, wording) for item in objects]
    return wording.rng.choice((". ", ". then ", ". also ")).join(text.rstrip("?") for text in texts)


def _tell_traits(item: ShapeObject, wording: Wording) -> str:
    rng = wording.rng
    traits = [("color", choose(COLOR_WORDS[item.color], rng))]
    if rng.random() < wording.size_share:
        traits.append(("size", choose(SIZE_WORDS[item.size], rng)))
    if place := wording.place(item):
        traits.append(("place", place))
    rng.shuffle(traits)
    before = [word for field, word in traits[: rng.randrange(2)] if field != "place"]
    rest = [trait for trait in traits if trait[1] not in before]
    noun = add_article(" ".join([*before, phrase_name(rng, item.shape)]), rng)
    style = rng.randrange(4)
    if style == 3 and rest:
        return _add_traits(noun, rest, rng)
    start = rng.choice(("{}", "draw {}", "there is {}", "i want {}", "just {}", "it's {}", "one thing: {}"))
    pieces = [start.format(noun)]
    for field, word in rest:
        if style == 0:
            forms: tuple[str, ...] = ("{}",)
        elif field == "place":
            forms = ("put it {}", "it is {}", "it's {}", "place it {}", "it goes {}")
        else:
            forms = ("it is {}", "make it {}", "it's {}", "it has to be {}", "and it is {}", "it should be {}")
        pieces.append(rng.choice(forms).format(word))
    return rng.choice((". ", ", ", ". ", ", and ") if style else (". ", ", ")).join(pieces)


def _add_traits(noun: str, traits: Sequence[tuple[str, str]], rng: Random) -> str:
    """Asks for an object and then tells its traits at once: "can you draw me a star? a big blue one, at the top"."""
    adjectives = [word for field, word in traits if field != "place"]
    places = [word for field, word in traits if field == "place"]
    told = rng.choice((" and ", ", ", ", and ")).join(adjectives)
    if adjectives and rng.random() < 0.4:
        told = add_article(f"{' '.join(adjectives)} one", rng)
    start = rng.choice(("{}", "can you draw me {}?", "could you draw {}?", "draw {}", "i need {}", "{}"))
    forms = ("{} {}",) if start.endswith("?") else ("{}. {}", "{}, {}", "{} - {}")
    rest = rng.choice((", ", " ", ". ")).join(filter(None, (told, *places)))
    return rng.choice(forms).format(start.format(noun), rest)


def _write_columns(objects: Sequence[ShapeObject], wording: Wording) -> str:
    """Tells one thing of all objects after the other: "a star and a ring, the star is red, the ring is blue"."""
    rng = wording.rng
    field = rng.choice(("color", "color", "size", "place"))
    known = {"color": COLOR_WORDS, "size": SIZE_WORDS}
    words = [
        choose(known[field][getattr(item, field)], rng) if field in known else phrase_place(item.place, rng)
        for item in objects
    ]
    if rng.random() < 0.2:
        return _write_table(objects, rng)
    rest = ["color"] if field != "color" else ["size"] if rng.random() < wording.size_share else []
    names = [phrase_name(rng, item.shape, **{name: getattr(item, name) for name in rest}) for item in objects]
    shapes = [item.shape for item in objects]
    things = [add_article(name, rng) for name in names]
    if len(set(words)) == 1 and field != "place":
        every = "both" if len(objects) == 2 else rng.choice(("all", f"all {NUMBERS[len(objects)]}"))
        forms = ("{things}, {every} {word}", "{every} {word}: {things}", "{things}, and {every} of them {word}")
        forms += ("{every} are {word}: {things}", "everything is {word}: {things}", "{things}. {every} are {word}")
        text = rng.choice(forms).format(things=join_words(things), every=every, word=words[0])
        return text.replace(f"all {NUMBERS[len(objects)]} of", "all of")
    if len(set(shapes)) == len(shapes) and rng.random() < 0.7:
        verb = rng.choice((" is", " is", "", " should be", " has to be"))
        shorts = [
            f"the {shape}{rng.choice((verb, verb, ''))} {word}" for shape, word in zip(shapes, words, strict=True)
        ]
        if rng.random() < 0.3 and rest:
            shorts = [f"the {name}{verb or ' is'} {word}" for name, word in zip(names, words, strict=True)]
            return rng.choice((" and ", ", ", ". ", " and ")).join(shorts)
        return f"{join_words(things)}{rng.choice((', ', '. ', ': '))}{rng.choice((', ', ' and ', '. ')).join(shorts)}"
    order = rng.choice(("", " in that order", " from first to last", ", in this order"))
    label = {"color": "colors: ", "size": "sizes: ", "place": "places: "}[field] if rng.random() < 0.4 else ""
    return f"{', '.join(things)}{rng.choice(('. ', ', ', '; '))}{label}{', '.join(words)}{order}"


def _write_table(objects: Sequence[ShapeObject], rng: Random) -> str:
    """Tells two or three things of all objects one after the other: "ring, star. pink, blue. top left, center"."""
    columns = [
        [choose(COLOR_WORDS[item.color], rng) for item in objects],
        [phrase_name(rng, item.shape) for item in objects],
        [item.place for item in objects],
    ]
    labels = rng.choice((("", "", ""), ("colors: ", "shapes: ", "places: "), ("", "", "")))
    told = rng.sample(range(3), 3) if rng.random() < 0.6 else rng.sample(range(2), 2)
    text = rng.choice((". ", "; ")).join(labels[index] + ", ".join(columns[index]) for index in told)
    return text + rng.choice(("", "", ". in that order", ", in this order"))


def _deny(text: str, scene: Scene, rng: Random) -> str:
    """Adds what is not wanted, or takes back a first word: "no stars" or "a circle, no, a star"."""
    there = {item.shape for item in scene.objects}
    there |= {"circle", "ring"} if there & {"circle", "ring"} else set()  # a ring is a circle to some people
    absent = [shape for shape in SHAPES if shape not in there]
    if not absent or len(text) < 8:
        return text
    name = pluralize(phrase_name(rng, rng.choice(absent)))
    if rng.random() < 0.5:
        return f"{rng.choice(('no {}, ', 'no {} today. ', 'without {}: ', 'not {}, ')).format(name)}{text}"
    wrong = add_article(phrase_name(rng, rng.choice(absent), rng.choice(COLORS) if rng.random() < 0.5 else None), rng)
    regret = rng.choice(("no, ", "wait, no: ", "sorry, ", "i mean ", "no wait, ", "or rather ", "hmm no, "))
    return f"{wrong}{rng.choice(('... ', ', ', ' - ', '. '))}{regret}{text}"


def _frame(text: str, rng: Random) -> str:
    return text if rng.random() < 0.35 else rng.choice(STARTS).format(text)


def _name_background(scene: Scene, rng: Random) -> str:
    names = list(BACKGROUND_NAMES[scene.background.kind])
    lightness = sum(scene.background.rgb) / 3
    if scene.background.kind == "plain":
        names += ["dark"] * (lightness < 100) + ["light", "bright"] * (lightness > 180) + ["gray", "grey"]
    return f"a {rng.choice(names)} background"
