# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Whether two accounts of a scene agree: what a text or a scene says, and what is there."""

from collections.abc import Sequence

from ..data.shapes import DescribedObject, scene_matches
from .metrics import Metric, rate


# What is judged, and the fields that have to be right for it. Beyond shape and color, only what is stated counts.
JUDGEMENTS = {
    "objects": ("shape", "color"),
    "places": ("shape", "color", "place"),
    "sizes": ("shape", "color", "size"),
    "everything": ("shape", "color", "place", "size"),
}
OPTIONAL = {"places": "place", "sizes": "size"}


def to_objects(scene: Sequence[dict]) -> list[DescribedObject]:
    """The objects of a column `scene`, all of them wholly described."""
    return [DescribedObject(*(item[name] for name in ("shape", "color", "size", "place"))) for item in scene]


def judge(stated: Sequence, found: Sequence) -> dict[str, bool | None]:
    """
    Args:
        stated (`list`): Objects with `shape`, `color`, `size` and `place`, the last two None where nothing is said.
        found (`list`): What is there: objects of a scene, or as `read_scene` reads them off a picture.

    Returns:
        `dict[str, bool]`: `objects`: every shape and color, no object more or less; `places`, `sizes`: these as well
        as the objects, None where none is stated; `everything`: all that is stated.
    """
    if any(item.color is None for item in stated):  # an account of an object says its colour, or is wrong
        return dict.fromkeys(JUDGEMENTS, False)
    outcomes = {name: scene_matches(stated, found, fields) for name, fields in JUDGEMENTS.items()}
    unstated = (name for name, field in OPTIONAL.items() if all(getattr(item, field) is None for item in stated))
    return outcomes | dict.fromkeys(unstated)


def judge_all(stated: Sequence[Sequence], found: Sequence[Sequence]) -> list[dict[str, bool | None]]:
    """[`judge`] case by case; what is found may be shorter, as that of other cases is where there is one case only."""
    return [judge(*case) for case in zip(stated, found, strict=False)]


def scene_metrics(
    outcomes: Sequence[dict[str, bool | None]], **baselines: Sequence[dict[str, bool | None]]
) -> dict[str, Metric | None]:
    """The share of cases right, for each of `JUDGEMENTS`, beside what the same judge says of the baselines."""
    return {
        name: rate(
            [outcome[name] for outcome in outcomes],
            **{other: [outcome[name] for outcome in judged] for other, judged in baselines.items()},
        )
        for name in JUDGEMENTS
    }


__all__ = ["JUDGEMENTS", "judge", "judge_all", "scene_metrics", "to_objects"]
