# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Questions that compare objects of a scene by color, shape, size, place and number."""

from random import Random

from .captions import NUMBERS, PLURALS
from .references import give_reasons, refer_to
from .scenes import COLORS, SHAPES, SIZES, Scene, ShapeObject, steps_between
from .words import add_article


Asked = tuple[str, str] | None  # a question and its answer, or None if the scene has none of the kind


def compare(scene: Scene, rng: Random) -> Asked:
    """Asks which of two objects is larger or further to one side, whether two are alike, or of what there is more."""
    if len(scene.objects) < 2:
        return None
    first, second = rng.sample(scene.objects, 2)
    names = [refer_to(item, scene, rng, "place") for item in (first, second)]
    if None in names or names[0] == names[1]:
        return None
    share = rng.random()
    if share < 0.35:
        field = rng.choice(("color", "size", "color", "shape"))
        values = getattr(first, field), getattr(second, field)
        wordings = (
            *(f"do {{}} and {{}} have the same {field}?", f"is {{}} the same {field} as {{}}?"),
            *(f"{{}} and {{}}: same {field}?", f"does {{}} have the same {field} as {{}}?"),
            *(f"are {{}} and {{}} of one {field}?", f"are {{}} and {{}} the same {field}?"),
        )
        return rng.choice(wordings).format(*names), give_reasons(values, "yes" if values[0] == values[1] else "no")
    if share < 0.55:
        word = rng.choice(("bigger", "larger", "smaller"))
        sizes = first.size, second.size
        holds = sizes == (("small", "large") if word == "smaller" else ("large", "small"))
        return f"is {names[0]} {word} than {names[1]}?", give_reasons(sizes, "yes" if holds else "no")
    shapes = [item.shape for item in scene.objects]
    if share < 0.9 and shapes.count(first.shape) == shapes.count(second.shape) == 1:
        return _which_of_two(first, second, rng)
    colors = first.color, second.color
    counts = [sum(item.color == color for item in scene.objects) for color in colors]
    if counts[0] == counts[1]:
        return None
    wordings = ("are there more {} or more {} shapes?", "what is there more of, {} or {} things?", "more {} or {}?")
    told = [f"{NUMBERS[count]} {color}" for count, color in zip(counts, colors, strict=True)]
    return rng.choice(wordings).format(*colors), give_reasons(told, colors[counts[1] > counts[0]])


def _which_of_two(first: ShapeObject, second: ShapeObject, rng: Random) -> Asked:
    """Asks which of two shapes is larger, smaller, higher, lower or further to a side."""
    across, down = steps_between(first.place, second.place)
    sizes = {"bigger": "large", "larger": "large", "smaller": "small"}
    words = [(word, (first.size, second.size), first.size == size) for word, size in sizes.items()]
    words = words if first.size != second.size else []
    places = first.place, second.place
    if down:
        words += [("higher", places, down > 0), ("lower", places, down < 0), ("higher up", places, down > 0)]
    if across:
        words += [("further left", places, across > 0), ("further to the right", places, across < 0)]
    if not words:
        return None
    word, reasons, is_first = rng.choice(words)
    wordings = (
        "which is {}, the {} or the {}?",
        "what is {}, the {} or the {}?",
        "which one is {}, the {} or the {}?",
    )
    answer = (first if is_first else second).shape
    return rng.choice(wordings).format(word, first.shape, second.shape), give_reasons(reasons, answer)


def ask_all(scene: Scene, rng: Random) -> Asked:
    """Asks whether all objects share a color, a shape or a size. Neither answer is much commoner than the other."""
    if len(scene.objects) == 1:
        return None
    fields = {"color": COLORS, "shape": SHAPES, "size": SIZES}
    found = {field: [getattr(item, field) for item in scene.objects] for field in fields}
    alike = [field for field in fields if len(set(found[field])) == 1]
    if not alike and rng.random() < 0.6:
        return None
    field = rng.choice(alike if alike and rng.random() < 0.8 else tuple(fields))
    values = found[field]
    value = rng.choice(values)
    if field in alike and rng.random() < 0.3:
        value = rng.choice([other for other in fields[field] if other != value])
    if rng.random() < 0.5:
        name = PLURALS[value] if field == "shape" else value
        text = rng.choice(("are all objects {}?", "are they all {}?", "are all shapes {}?", "all of them {}?"))
    else:
        name = add_article(value) if field == "shape" else value
        text = rng.choice(("is everything {}?", "is every object {}?", "everything's {}, right?", "is each one {}?"))
    return text.format(name), give_reasons(values, "yes" if set(values) == {value} else "no")
