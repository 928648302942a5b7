# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Questions about a scene, with short answers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from .captions import NUMBERS, PLURALS, DescribedObject, name_object
from .scenes import COLORS, PLACES, SHAPES, SIZES, Scene, ShapeObject
from .words import (
    OPPOSITES,
    RELATION_PHRASES,
    add_article,
    choose,
    find_relations,
    phrase_name,
    phrase_place,
    refer_freely,
    steps_between,
)


@dataclass(frozen=True)
class Question:
    """The text of a question, its answer, and its kind, one of `QUESTION_KINDS`."""

    text: str
    answer: str
    kind: str


# Small models learn the words of a question sooner than they learn to count and to compare places.
NUM_QUESTIONS = {"relation": 2, "count": 2}


def ask_questions(scene: Scene, rng: Random, num_questions: int = 8) -> list[Question]:
    """
    Asks at most `num_questions` questions about a scene, which `rng` draws, in random order. Two of them count, and
    two ask for the relation of two objects if the scene has several. The others are of different kinds. Answers of yes
    and no are equally likely, and a "no" often asks for something that is there in part.

    An answer that counts or compares begins with its reasons: "top left, bottom: two" or "small, large: no". A model
    has to find the places of objects before it compares them, where answers of yes and no alone left a small model
    near chance. [`conclude`] returns what follows from the reasons.
    """
    kinds = [kind for kind in QUESTION_KINDS for _ in range(NUM_QUESTIONS.get(kind, 1))]
    rng.shuffle(kinds)
    asked: list[Question] = []
    for kind in kinds:
        question = QUESTION_KINDS[kind](scene, rng)
        if question is not None and question[0] not in (other.text for other in asked):
            asked.append(Question(*question, kind=kind))
    return asked[:num_questions]


def give_reasons(reasons: Iterable[str], conclusion: str) -> str:
    """Writes an answer with its reasons, if there are any."""
    return ": ".join(filter(None, (", ".join(reasons), conclusion)))


def conclude(answer: str) -> str:
    """Returns an answer to a question about shapes without its reasons: "two" of "top left, bottom: two"."""
    return answer.rpartition(":")[2].strip()


def refer_to(item: ShapeObject, scene: Scene, rng: Random, hidden: str) -> str | None:
    """
    Names `item` so that no other object fits, without the `hidden` field of "shape", "color", "size" and "place", half
    of the time by shape and color alone. Returns None if every such name fits another object.
    """
    choices = [fields for fields in ("shape", "color shape", "color", "size shape") if hidden not in fields.split()]
    values = {fields: [tuple(getattr(o, f) for f in fields.split()) for o in scene.objects] for fields in choices}
    own = scene.objects.index(item)
    unique = [fields for fields in choices if values[fields].count(values[fields][own]) == 1]
    if unique and rng.random() < 0.5:
        return name_object(item, "the", unique[0] if rng.random() < 0.6 else rng.choice(unique))
    return refer_freely(item, scene, rng, (hidden,))


# Each of these returns a question and its answer, or None if the scene has none of the kind.
Asked = tuple[str, str] | None


def _ask_color(scene: Scene, rng: Random) -> Asked:
    item = rng.choice(scene.objects)
    wordings = (
        *("what color is {}?", "what is the color of {}?", "which color does {} have?", "what color does {} have?"),
        *("which color is {}?", "{}: what color?", "tell me the color of {}", "name the color of {}", "color of {}?"),
        *("what's the color of {}?", "in which color is {}?", "what colour is {}?", "please tell me what color {} is"),
    )
    return _write(wordings, rng, refer_to(item, scene, rng, "color"), item.color)


def _ask_shape(scene: Scene, rng: Random) -> Asked:
    item = rng.choice(scene.objects)
    if rng.random() < 0.15:
        wordings = (
            "which shape is {}?",
            "what shape is {}?",
            "what shape do you see {}?",
            "which shape can you see {}?",
        )
        return _write(wordings, rng, phrase_place(item.place, rng), item.shape)
    wordings = (
        *("what shape is {}?", "what is the shape of {}?", "which shape is {}?", "what kind of shape is {}?"),
        *(
            "what shape does {} have?",
            "which shape does {} have?",
            "what's the shape of {}?",
            "tell me the shape of {}",
        ),
        *("{} has what shape?", "what sort of shape is {}?", "{} is what shape?", "which form does {} have?"),
    )
    return _write(wordings, rng, refer_to(item, scene, rng, "shape"), item.shape)


def _ask_size(scene: Scene, rng: Random) -> Asked:
    item = rng.choice(scene.objects)
    name = refer_to(item, scene, rng, "size")
    if rng.random() < 0.35:
        asked = rng.choice(SIZES)
        words = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}[asked]
        answer = "yes" if asked == item.size else "no"
        return _write((f"is {{}} {rng.choice(words)}?", f"{{}} is {rng.choice(words)}, right?"), rng, name, answer)
    pairs = (("small", "large"), ("large", "small"), ("big", "small"), ("small", "big"), ("big", "little"))
    one, other = choose(pairs, rng)
    wordings = (
        *(f"is {{}} {one} or {other}?", "what size is {}?", "how big is {}?", "how large is {}?"),
        *(
            "which size does {} have?",
            "what is the size of {}?",
            "what size does {} have?",
            f"{{}}: {one} or {other}?",
        ),
        *(
            f"tell me if {{}} is {one} or {other}",
            f"would you say {{}} is {one} or {other}?",
            "what's the size of {}?",
        ),
    )
    return _write(wordings, rng, name, item.size)


def _ask_position(scene: Scene, rng: Random) -> Asked:
    item = rng.choice(scene.objects)
    wordings = (
        *(
            "where is {}?",
            "where's {}?",
            "where can i find {}?",
            "in which place is {}?",
            "what is the position of {}?",
        ),
        *("where in the picture is {}?", "where do you see {}?", "where is {} located?", "in which part is {}?"),
        *(
            "where does {} sit?",
            "tell me where {} is",
            "whereabouts is {}?",
            "what is the place of {}?",
            "{} is where?",
        ),
    )
    return _write(wordings, rng, refer_to(item, scene, rng, "place"), item.place)


def _ask_identity(scene: Scene, rng: Random) -> Asked:
    item = rng.choice(scene.objects)
    relation = relate_to_one(item, scene, rng) if rng.random() < 0.35 else None
    wordings = (
        *("what is {}?", "what's {}?", "what do you see {}?", "what can you see {}?", "what is there {}?"),
        *(
            "which object is {}?",
            "what object is {}?",
            "what thing is {}?",
            "what do we have {}?",
            "name the thing {}",
        ),
        *(
            "what is shown {}?",
            "what is placed {}?",
            "which shape is it {}?",
            "what can be seen {}?",
            "describe what is {}",
        ),
    )
    return _write(wordings, rng, relation or phrase_place(item.place, rng), f"{item.color} {item.shape}")


def relate_to_one(item: ShapeObject, scene: Scene, rng: Random) -> str | None:
    """Returns a relation to another object that holds for `item` alone, such as "above the red star"."""
    others = [other for other in scene.objects if other is not item]
    rng.shuffle(others)
    for other in others:
        for relation in find_relations(item, other):
            loose = [third for third in scene.objects if third is not other and _may_be(relation, third, other)]
            name = refer_to(other, scene, rng, "none") if loose == [item] else None
            if name:
                return f"{choose(RELATION_PHRASES[relation], rng)} {name}"
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


def _ask_count(scene: Scene, rng: Random) -> Asked:
    fields = rng.choice(("", "shape", "color", "color shape", "color shape", "size", "size shape"))
    there = [tuple(getattr(item, field) for field in fields.split()) for item in scene.objects]
    options = {"shape": SHAPES, "color": COLORS, "size": SIZES}
    # Mostly objects that are there. Otherwise nearly every answer would be zero.
    values = rng.choice(there) if rng.random() < 0.75 else tuple(rng.choice(options[f]) for f in fields.split())
    counted = [item.place for item, own in zip(scene.objects, there, strict=True) if own == values]
    places = sorted(counted, key=PLACES.index)
    if rng.random() < 0.5 and fields in ("", "shape", "color", "color shape"):
        named = dict(zip(fields.split(), values, strict=True))
        name = " ".join(filter(None, (named.get("color"), PLURALS[named["shape"]] if "shape" in named else "objects")))
    else:
        name = phrase_name(rng, **dict(zip(fields.split(), values, strict=True)), count=2)
    if fields and rng.random() < 0.2:
        asked = max(len(places), 2) if rng.random() < 0.6 else rng.randint(2, 3)
        number = choose((NUMBERS[asked], str(asked), f"exactly {NUMBERS[asked]}"), rng)
        wordings = ("are there {} {}?", "do you see {} {}?", "can you see {} {}?", "does it show {} {}?")
        answer = give_reasons(places, "yes" if asked == len(places) else "no")
        return choose(wordings, rng).format(number, name), answer
    wordings = (
        *("how many {} are there?", "how many {} do you see?", "how many {} can you see?", "how many {}?"),
        *(
            "what is the number of {}?",
            "count the {}",
            "count the {} please",
            "number of {}?",
            "how many {} does it have?",
        ),
        *("how many {} are in the picture?", "how many {} are in this image?", "how many {} can you count?"),
        *("tell me how many {} there are", "please count all {}", "how many {} are shown?", "{}: how many?"),
    )
    return _write(wordings, rng, name, give_reasons(places, NUMBERS[len(places)]))


def _ask_existence(scene: Scene, rng: Random) -> Asked:
    fields = rng.choice(("shape", "color", "color shape", "color shape", "size color shape"))
    there = [(item.shape, item.color, item.size) for item in scene.objects]
    order = {"shape": 0, "color": 1, "size": 2}
    indices = [order[field] for field in fields.split()]

    def seen(names: tuple) -> bool:
        return any(all(names[index] == item[index] for index in indices) for item in there)

    names, answer = rng.choice(there), "yes"
    if rng.random() < 0.5:
        absent = [(shape, color, size) for shape in SHAPES for color in COLORS for size in SIZES]
        absent = [names for names in absent if not seen(names)]
        if len(indices) > 1 and rng.random() < 0.5:  # correct in part
            near = [
                n for n in absent if any(sum(n[i] == item[i] for i in indices) == len(indices) - 1 for item in there)
            ]
            absent = near or absent
        names, answer = rng.choice(absent), "no"
    told = {field: names[order[field]] for field in fields.split()}
    if rng.random() < 0.4:
        name = name_object(DescribedObject(names[0], names[1], names[2]), "a", fields)
    else:
        name = add_article(phrase_name(rng, **told))
    wordings = (
        *("is there {}?", "do you see {}?", "can you see {}?", "is there {} in the picture?", "does it have {}?"),
        *("does the picture have {}?", "do we have {}?", "is {} in the image?", "does this image contain {}?", "{}?"),
        *("is there {} here?", "is {} there?", "can you find {}?", "does the picture show {}?", "is {} anywhere?"),
    )
    return _write(wordings, rng, name, answer)


def _ask_relation(scene: Scene, rng: Random) -> Asked:
    pairs = [(one, other) for one in scene.objects for other in scene.objects if one is not other]
    rng.shuffle(pairs)
    for first, second in pairs:
        names = [refer_to(item, scene, rng, "place") for item in (first, second)]
        if None in names or names[0] == names[1]:
            continue
        if first.size != second.size and rng.random() < 0.12:
            word = rng.choice(("bigger", "larger", "smaller"))
            answer = "yes" if (word == "smaller") == (first.size == "small") else "no"
            return f"is {names[0]} {word} than {names[1]}?", give_reasons((first.size, second.size), answer)
        places = first.place, second.place
        across, down = steps_between(first, second)
        if rng.random() < 0.25 and (across or down):
            is_across = rng.random() < 0.5 if across and down else bool(across)
            pair = ["left", "right"] if is_across else ["above", "below"]
            answer = pair[(across if is_across else down) < 0]
            rng.shuffle(pair)
            of = " of" if is_across else ""
            wordings = (f"is {{}} {pair[0]} or {pair[1]}{of} {{}}?", f"does {{}} lie {pair[0]} or {pair[1]}{of} {{}}?")
            return rng.choice(wordings).format(*names), give_reasons(places, answer)
        clear = {relation: _clearly(relation, first, second) for relation in OPPOSITES}
        wanted = rng.random() < 0.5
        fitting = [relation for relation, holds in clear.items() if holds is wanted]
        if not fitting:
            fitting, wanted = [relation for relation, holds in clear.items() if holds is not None], not wanted
        relation = rng.choice(fitting)
        words = relation if rng.random() < 0.4 else choose(RELATION_PHRASES[relation], rng)
        wordings = (
            *("is {} {} {}?", "is {} {} {}?", "is {} {} {}?", "{} is {} {}, right?", "can you see {} {} {}?"),
            *(
                "is it true that {} is {} {}?",
                "does {} lie {} {}?",
                "do you see {} {} {}?",
                "would you say {} is {} {}?",
            ),
        )
        answer = give_reasons(places, "yes" if wanted else "no")
        return rng.choice(wordings).format(names[0], words, names[1]), answer
    return None


def _clearly(relation: str, first: ShapeObject, second: ShapeObject) -> bool | None:
    """Whether a relation holds, or None where people may differ."""
    across, down = steps_between(first, second)
    if relation == "next to":
        far = max(abs(across), abs(down))
        return True if abs(across) + abs(down) == 1 else False if far == 2 else None
    step = {"above": down, "below": -down, "left of": across, "right of": -across}[relation]
    return step > 0 if step else None


def _write(wordings: tuple[str, ...], rng: Random, name: str | None, answer: str) -> Asked:
    return None if name is None else (choose(wordings, rng).format(name), answer)


QUESTION_KINDS: dict[str, Callable[[Scene, Random], Asked]] = {
    "color": _ask_color,
    "shape": _ask_shape,
    "size": _ask_size,
    "count": _ask_count,
    "existence": _ask_existence,
    "position": _ask_position,
    "identity": _ask_identity,
    "relation": _ask_relation,
}
