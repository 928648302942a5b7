# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts, questions and edits that were written by hand, without a look at the wordings that models learn from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import permutations

from .captions import DescribedObject
from .judging import ReadObject, scene_matches
from .scenes import Background, Scene, ShapeObject, sample_object, sample_scene, scene_rng


FIELDS = ("shape", "color", "size", "place")
CLEAR_DISTANCE = 1 / 8  # of the side, between objects of which one is above or left of the other
NEAR_DISTANCE = 1 / 2  # of the side, between objects that are next to each other


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
        if len(found) != len(self.objects):
            return False
        orders = permutations(found) if self.relations else [tuple(found)]
        return any(
            all(_holds(order[first], relation, order[second]) for first, relation, second in self.relations)
            and (not self.relations or all(map(_fits, self.objects, order)))
            and scene_matches(self.objects, order, FIELDS)
            for order in orders
        )


def load_own_words() -> list[OwnWords]:
    """
    Loads the 200 texts: 110 prompts to draw, 50 questions and 40 edits, with synonyms, counts, relations, capitals,
    polite forms and several sentences. They are for evaluation and never for training.
    """
    text = resources.files(__package__).joinpath("own_words.json").read_text(encoding="utf-8")
    return [_read_entry(index, entry) for index, entry in enumerate(json.loads(text))]


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


def _holds(first: ReadObject, relation: str, second: ReadObject) -> bool:
    across, down = second.x - first.x, second.y - first.y
    if relation == "next to":
        return (across**2 + down**2) ** 0.5 <= NEAR_DISTANCE
    step = {"above": down, "below": -down, "left of": across, "right of": -across}[relation]
    return step >= CLEAR_DISTANCE
