# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads the texts of scenes: words become the names of shapes, colors, sizes and places."""

import re

from lavit_hf.data.shapes import (
    COLORS,
    SHAPES,
    SIZES,
    sample_scene,
)
from lavit_hf.data.shapes.captions import PLAIN_PLACES
from lavit_hf.data.shapes.words import (
    COLOR_WORDS,
    COMPARATIVES,
    PLACE_PHRASES,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    pluralize,
)


SCENES = [sample_scene(index, split) for index in range(400) for split in ("train", "test")]
NUMBERS = ["zero", "one", "two", "three", "four"]
FIELDS = ("shape", "color", "size", "place")


def alternatives(table):
    return {words: name for name, entry in table.items() for words in entry}


def replace_words(text, table, pattern="{}"):
    """Replaces words by their names in a table, longer ones first."""
    ordered = sorted(table, key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, ordered))})\b", lambda match: pattern.format(table[match[0]]), text)


PLURAL_SHAPES = {pluralize(word): f"{shape}#" for shape, words in SHAPE_WORDS.items() for word in words}
PLACES_SAID = alternatives(PLACE_PHRASES) | {phrase: place for place, e in PLAIN_PLACES.items() for phrase in e}
PLACES_SAID |= {
    f"to the {phrase.split(' the ', 1)[1]}": name for phrase, name in PLACES_SAID.items() if " the " in phrase
}
RELATIONS_SAID = alternatives(RELATION_PHRASES)
ADJECTIVES = {
    word.split()[-1] for table in (COLOR_WORDS, SIZE_WORDS, COMPARATIVES) for e in table.values() for word in e
}
ADJECTIVES |= {
    "a",
    "an",
    "the",
    "one",
    "colored",
    "sized",
    "left",
    "right",
    "upper",
    "top",
    "higher",
    "lower",
    "bottom",
}
BEFORE_NOUN = re.compile(rf"^$|\b(?:{'|'.join(ADJECTIVES)}) $")
ARTICLE = re.compile(r" (?:an?|one|two|three|2|3|the)\b")


def plain(text):
    """Writes a text in the names of shapes, colors and sizes, "@place@" and "~relation~". A plural ends with "#"."""
    text = re.sub(" of the (?:picture|image|canvas|frame|drawing|page)", "", text)
    said = {phrase: f"@{place}@" for phrase, place in PLACES_SAID.items()}
    text = replace_words(text, said | {phrase: f"~{name}~" for phrase, name in RELATIONS_SAID.items()})
    # "Plus" is a cross after an adjective or an article, unless another object follows.
    text = re.sub(
        r"\bplus\b(?! sign| symbol| shape)",
        lambda match: (
            "plus"
            if BEFORE_NOUN.search(match.string[: match.start()]) and not ARTICLE.match(match.string[match.end() :])
            else "and"
        ),
        text,
    )
    text = replace_words(text, PLURAL_SHAPES | alternatives(SHAPE_WORDS))
    return replace_words(replace_words(text, alternatives(COLOR_WORDS)), alternatives(SIZE_WORDS))


def fields_in(text):
    """Reads the fields that a plain text names, each as the list of its values."""
    text = text.replace("#", "")
    values = {
        field: re.findall(rf"\b(?:{'|'.join(names)})\b", re.sub("@.*?@|~.*?~", " ", text))
        for field, names in {"shape": SHAPES, "color": COLORS, "size": SIZES}.items()
    }
    return {**values, "place": re.findall("@(.*?)@", text)}


def find(text, scene):
    """All objects of a scene that a name in plain text fits."""
    wanted = {field: values[0] for field, values in fields_in(text).items() if values}
    return [item for item in scene.objects if all(getattr(item, field) == wanted[field] for field in wanted)]
