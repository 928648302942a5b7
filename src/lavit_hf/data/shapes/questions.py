# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Questions about a scene, with short answers."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .captions import NUMBERS, PLURALS, DescribedObject, name_object
from .comparisons import Asked, ask_all, compare
from .own_words import is_own_words
from .references import give_reasons, refer_to, relate_to_one
from .scenes import COLORS, PLACES, SHAPES, SIZES, Scene, ShapeObject, share_side, steps_between
from .small_talk import add_talk, respell
from .words import OPPOSITES, add_article, choose, phrase_name, phrase_place, phrase_relation


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
    then finds the objects before it compares them. A small model that learned answers of yes and no alone stayed near
    chance. [`conclude`] returns the conclusion. Texts of [`load_own_words`] are left out.

    Raises:
        ValueError: If `num_questions` is negative.
    """
    if num_questions < 0:
        raise ValueError(f"`num_questions` must be at least 0, got {num_questions}.")
    kinds = [kind for kind in QUESTION_KINDS for _ in range(NUM_QUESTIONS.get(kind, 1))]
    rng.shuffle(kinds)
    asked: list[Question] = []
    seen: set[str] = set()
    for kind in kinds:
        question = QUESTION_KINDS[kind](scene, rng)
        if question is not None and question[0] not in seen:
            seen.add(question[0])
            text = respell(add_talk(question[0], rng, asks_to_draw=False) if rng.random() < 0.3 else question[0], rng)
            if not is_own_words(text):
                asked.append(Question(text, question[1], kind))
    return asked[:num_questions]


# Each of the following returns a question and its answer, or None if the scene has none of the kind.


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
        return _write(wordings, rng, _name_place(item, scene, rng), item.shape)
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
    return _write(wordings, rng, relation or _name_place(item, scene, rng), f"{item.color} {item.shape}")


def _name_place(item: ShapeObject, scene: Scene, rng: Random) -> str:
    """Names the place of an object so that it fits no other one."""
    others = [other.place for other in scene.objects if other is not item]
    return phrase_place(item.place, rng, exact=any(share_side(item.place, other) for other in others))


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
        if asked < len(places):  # people differ about whether there are two where there are three
            number = f"exactly {NUMBERS[asked]}"
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
    if rng.random() < 0.1:
        return ask_all(scene, rng)
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
    if rng.random() < 0.3 and (asked := compare(scene, rng)):
        return asked
    pairs = [(one, other) for one in scene.objects for other in scene.objects if one is not other]
    rng.shuffle(pairs)
    for first, second in pairs:
        names = [refer_to(item, scene, rng, "place") for item in (first, second)]
        if None in names or names[0] == names[1]:
            continue
        places = first.place, second.place
        across, down = steps_between(first.place, second.place)
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
        words = relation if rng.random() < 0.4 else phrase_relation(relation, first, second, rng)
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
    across, down = steps_between(first.place, second.place)
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
