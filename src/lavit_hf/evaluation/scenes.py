# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Comparison of the objects that a text or a scene states with the objects that are there."""

from collections.abc import Sequence
from typing import Any

from ..data.shapes import match_objects, scene_matches
from .metrics import Metric, rate, shift


# The fields that each judgement compares. The last one of "places" and "sizes" may be left unstated.
JUDGEMENTS = {
    "objects": ("shape", "color"),
    "places": ("shape", "color", "place"),
    "sizes": ("shape", "color", "size"),
    "everything": ("shape", "color", "place", "size"),
}
OBJECT_F1 = "object_f1"


def is_scene(value: Any) -> bool:
    """Whether a value of a column is a list of objects, as in the column `scene` of `load_shapes`."""
    return isinstance(value, list) and all(isinstance(item, dict) and "shape" in item for item in value)


def judge(stated: Sequence, found: Sequence) -> dict[str, float | None]:
    """
    Judges whether stated objects are there. An object has a `shape`, `color`, `size` and `place`, as attributes or as
    the keys of a dictionary.

    Args:
        stated (`list`): The stated objects. Size and place are `None` if they are not stated.
        found (`list`): The objects of a scene, or those that `read_scene` finds in an image.

    Returns:
        `dict[str, float]`: `objects`: whether all shapes and colors are right and no object is missing or added.
        `places`, `sizes`: whether these are right as well, or `None` if no object states any. `everything`: whether
        all that is stated is right. `object_f1`: the F1 score of single objects, which are right if all that is stated
        of them is right. It is 1 if no object is stated and none is there.
    """
    values = [item if isinstance(item, dict) else vars(item) for item in stated]
    if any(item["color"] is None for item in values):  # a description without a color is wrong
        return dict.fromkeys((*JUDGEMENTS, OBJECT_F1), False)
    outcomes: dict[str, float | None] = {
        name: scene_matches(stated, found, fields) for name, fields in JUDGEMENTS.items()
    }
    for name in ("places", "sizes"):
        if all(item[JUDGEMENTS[name][-1]] is None for item in values):
            outcomes[name] = None
    matched = match_objects(stated, found, JUDGEMENTS["everything"])
    either = len(stated) + len(found)
    return outcomes | {OBJECT_F1: 2 * matched / either if either else 1.0}


def scene_metrics(stated: Sequence, found: Sequence, **baselines: Sequence) -> dict[str, Metric | None]:
    """
    Computes the mean over cases of each judgement of [`judge`].

    Args:
        stated (`list`): The stated objects of each case.
        found (`list`): The objects that are there in each case.
        baselines (`list`): Objects to compare instead, by the name of the baseline. The baseline `unrelated`, the
            found objects of another case, is always added.
    """
    judged = {
        name: [judge(*case) for case in zip(stated, cases, strict=True)] if cases else []
        for name, cases in {"own": found, **baselines, "unrelated": shift(found)}.items()
    }
    own = judged.pop("own")
    return {
        name: rate(
            [outcome[name] for outcome in own],
            **{other: [outcome[name] for outcome in outcomes] for other, outcomes in judged.items()},
        )
        for name in (*JUDGEMENTS, OBJECT_F1)
    }
