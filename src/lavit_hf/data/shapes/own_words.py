# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts, questions and edits that were written by hand, and that models do not learn from."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import permutations

from .captions import DescribedObject
from .judging import ReadObject, scene_matches
from .scenes import Background, Scene, ShapeObject, find_relations, sample_object, sample_scene, scene_rng
from .small_talk import ABBREVIATIONS


FIELDS = ("shape", "color", "size", "place")


@dataclass(frozen=True)
class OwnWords:
    """
    A text, and what a judge accepts.

    Args:
        kind (`str`): "drawing", "question" or "edit".
        text (`str`): The prompt, question or instruction.
        scene ([`Scene`], *optional*): The scene that a question asks about or an edit changes.
        answers (`tuple[str, ...]`): The right answers to a question.
        objects (`tuple[DescribedObject, ...]`): The objects to draw. A field that is None may be anything.
        relations (`tuple[tuple[int, str, int], ...]`):
            An index of `objects`, "above", "below", "left of", "right of" or "next to", and another index each.
    """

    kind: str
    text: str
    scene: Scene | None = None
    answers: tuple[str, ...] = ()
    objects: tuple[DescribedObject, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()

    def is_drawn(self, found: Sequence[ReadObject]) -> bool:
        """Returns whether the objects `found` in a drawing are exactly those of the text, in its relations."""
        if not self.relations:
            return scene_matches(self.objects, found, FIELDS)
        return len(found) == len(self.objects) and any(
            all(map(_fits, self.objects, order))
            and all(
                relation in find_relations(order[first].place, order[second].place)
                for first, relation, second in self.relations
            )
            for order in permutations(found)
        )


def is_own_words(text: str) -> bool:
    """
    Returns whether a text is one of [`load_own_words`], whatever its case, marks, spaces, spelling, abbreviations and
    polite words.
    """
    return _letters(text) in _all_letters()


@cache
def _all_letters() -> frozenset[str]:
    return frozenset(_letters(entry["text"]) for entry in _read_file())


def _letters(text: str) -> str:
    text = text.lower().replace("colour", "color").replace("centre", "center").replace("grey", "gray")
    text = _SHORT.sub(lambda match: _WHOLE[match[0]], text)
    words = re.findall("[a-z0-9]+", re.sub("['’]", "", text))
    return "".join(word for word in words if word not in _POLITE)  # "top-left", "top left" and "topleft" are one


_WHOLE = {short: word for word, shorter in ABBREVIATIONS.items() for short in shorter}
_SHORT = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, _WHOLE))})(?!\w)")
_POLITE = frozenset("please pls plz thanks thank you hi hello hey now just ok".split())


def _read_file() -> list[dict]:
    return json.loads(resources.files(__package__).joinpath("own_words.json").read_text(encoding="utf-8"))


def load_own_words() -> list[OwnWords]:
    """
    Loads the 200 texts: 110 prompts to draw, 50 questions and 40 edits, with synonyms, counts, relations, capitals,
    polite forms and several sentences. They are for evaluation: no text of [`load_shapes`] is one of them.
    """
    return [_read_entry(index, entry) for index, entry in enumerate(_read_file())]


def _read_entry(index: int, entry: dict) -> OwnWords:
    return OwnWords(
        entry["kind"],
        entry["text"],
        _make_scene(index, entry["scene"]) if "scene" in entry else None,
        tuple(entry.get("answers", ())),
        tuple(DescribedObject(**{field: item[field] for field in FIELDS}) for item in entry.get("objects", ())),
        tuple((first, relation, second) for first, relation, second in entry.get("relations", ())),
    )


def _make_scene(index: int, described: Sequence[dict]) -> Scene:
    """Makes a scene with the described objects on a background that depends on the index."""
    rng = scene_rng(index, "test", 0, "own words")
    background: Background = sample_scene(index, "test").background
    while True:
        objects: list[ShapeObject] = []
        for item in described:
            placed = sample_object(rng, item["shape"], item["color"], item["size"], item["place"], objects)
            if placed is None:
                break
            objects.append(placed)
        else:
            return Scene(tuple(objects), background)


def _fits(described: DescribedObject, found: ReadObject) -> bool:
    return scene_matches([described], [found], FIELDS)
