# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Instructions that change one thing in a scene, with the changed scene."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random

from .captions import PLAIN_PLACES, name_object
from .own_words import is_own_words
from .references import refer_freely, refer_to, relate_to_one
from .scenes import (
    COLORS,
    MAX_OBJECTS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    ShapeObject,
    fits,
    place_object,
    sample_object,
    sample_paint,
    sample_radius,
    steps_to_middle,
)
from .small_talk import add_talk, respell
from .words import COLOR_WORDS, SIZE_WORDS, add_article, choose, phrase_name, phrase_place


@dataclass(frozen=True)
class Edit:
    """An instruction, the kind of its change (one of `EDIT_KINDS`), and the changed scene."""

    instruction: str
    kind: str
    scene: Scene


def edit_scene(scene: Scene, rng: Random, kinds: Sequence[str] | None = None) -> Edit:
    """
    Draws a change that fits a scene. The changed scene has 1 to 4 objects, follows the rules of [`sample_scene`] and
    belongs to the split of `scene`. Everything that the instruction does not name stays exactly the same. In the split
    "train", an instruction may leave the size and the place of an added object and the size and the color of a
    replacement open, as people do. In the other splits it states them, so that one scene alone is right.

    Args:
        scene ([`Scene`]): The scene to change.
        rng (`random.Random`): Draws the change.
        kinds (`Sequence[str]`, *optional*):
            Some of `EDIT_KINDS`, tried in random order until one fits. Default: all. The splits "validation" and
            "test" are small, so that few removals and resizings of their scenes stay within them.

    Raises:
        ValueError: If a kind is unknown, or no change of these kinds stays in the split.
    """
    kinds = list(EDIT_KINDS if kinds is None else kinds)
    if unknown := [kind for kind in kinds if kind not in EDIT_KINDS]:
        raise ValueError(f"`kinds` has {unknown}, expected some of {', '.join(EDIT_KINDS)}.")
    rng.shuffle(kinds)
    for kind in kinds:
        for instruction, objects in EDIT_KINDS[kind](scene, rng):
            edited, text = replace(scene, objects=objects), _frame(instruction, rng)
            if edited.split == scene.split and not is_own_words(text):
                return Edit(text, kind, edited)
    raise ValueError(f"No edit of the kinds {kinds} keeps this scene of {len(scene.objects)} in {scene.split!r}.")


# Each of these yields every change of a kind in random order: the instruction and the changed objects.
Changes = Iterator[tuple[str, tuple[ShapeObject, ...]]]


def _recolor(scene: Scene, rng: Random) -> Changes:
    wordings = (
        *("make {} {}", "paint {} {}", "change the color of {} to {}", "turn {} {}", "color {} {}", "change {} to {}"),
        *("recolor {} to {}", "recolor {} in {}", "make {} {} instead", "{} should be {}", "i want {} to be {}"),
        *("paint {} in {}", "let {} be {}", "change {} into {}", "give {} the color {}", "i'd like {} to be {}"),
        *("make the color of {} {}", "turn {} into {}", "set the color of {} to {}", "i would like {} in {}"),
        *("{} needs to be {}", "{} must become {}", "dye {} {}", "have {} in {}", "switch the color of {} to {}"),
        *("make {} become {}", "i don't like the color of {}, make it {}", "could {} be {} instead?"),
        *("{} in {}", "{}: {}", "{} {} please", "{} to {}", "i think {} would look better in {}"),
    )
    for item, color in product(_shuffled(scene.objects, rng), _shuffled(COLORS, rng)):
        if color != item.color:
            painted = replace(item, color=color, rgb=sample_paint(rng, color))
            name = color if rng.random() < 0.4 else choose(COLOR_WORDS[color], rng)
            yield choose(wordings, rng).format(_refer(item, scene, rng), name), _put(scene, item, painted)


def _remove(scene: Scene, rng: Random) -> Changes:
    wordings = (
        *(
            "remove {}",
            "delete {}",
            "erase {}",
            "take away {}",
            "get rid of {}",
            "drop {}",
            "take {} away",
            "wipe out {}",
        ),
        *(
            "take out {}",
            "make {} disappear",
            "i don't want {}",
            "i don't need {}",
            "leave out {}",
            "cut {}",
            "hide {}",
        ),
        *("{} should go", "throw {} away", "lose {}", "clear {}", "{} has to go", "no {} please", "rub out {}"),
        *("remove {} from the picture", "eliminate {}", "take {} out of the picture", "i don't like {}, remove it"),
        *(
            "no {} anymore",
            "no more {}",
            "{} away",
            "without {}",
            "i can do without {}",
            "don't show {}",
            "{}: delete",
        ),
    )
    for item in _shuffled(scene.objects, rng):
        if len(scene.objects) > 1:
            yield choose(wordings, rng).format(_refer(item, scene, rng)), _others(scene, item)


def _add(scene: Scene, rng: Random) -> Changes:
    wordings = (
        *("add {}", "put {}", "draw {}", "insert {}", "place {}", "add {} too", "also add {}", "i also want {}"),
        *("include {}", "there should be {}", "i'd like {} as well", "add one more thing: {}", "i want {} too"),
        *("put in {}", "paint {}", "create {}", "give me {} too", "i need {} as well", "add another shape: {}"),
        *(
            "one more: {}",
            "throw in {}",
            "{} as well",
            "plus {}",
            "there's room, so add {}",
            "{} is missing",
            "now {}",
        ),
        *("complete it with {}", "also {}", "and {}", "i would like to have {} too", "can there be {} as well?"),
    )
    free = _free_places(scene) if len(scene.objects) < MAX_OBJECTS else []
    is_exact = scene.split != "train"
    for names, place in product(_new_names(rng), _shuffled(free, rng)):
        added = sample_object(rng, *names, place, scene.objects)
        if added:
            share = rng.random()
            if share < 0.35:
                name = f"{name_object(added, 'a', 'size color shape')} {choose(PLAIN_PLACES[place], rng)}"
            else:
                size = added.size if share < 0.9 or is_exact else None
                name = add_article(phrase_name(rng, added.shape, added.color, size), rng)
                relation = relate_to_one(added, replace(scene, objects=(*scene.objects, added)), rng)
                if not is_exact and relation and rng.random() < 0.25:
                    name += f" {relation}"
                elif is_exact or rng.random() < 0.85:
                    name += f" {phrase_place(place, rng)}"
            yield choose(wordings, rng).format(name), (*scene.objects, added)


def _replace(scene: Scene, rng: Random) -> Changes:
    wordings = (
        *("replace {} with {}", "replace {} by {}", "swap {} for {}", "change {} into {}", "turn {} into {}"),
        *("exchange {} for {}", "make {} {}", "substitute {} with {}", "instead of {}, draw {}", "change {} to {}"),
        *("put {1} in place of {0}", "put {1} where {0} is", "{1} instead of {0}", "i want {1} instead of {0}"),
        *("switch {} for {}", "transform {} into {}", "make {} become {}", "let {1} take the place of {0}"),
        *("swap out {} for {}, in the same spot", "{} out, {} in", "not {} but {}", "{} becomes {}", "{} into {}"),
        *("use {1} in the place of {0}", "where {} is there should be {}", "trade {} for {}", "turn {} to {}"),
    )
    for item in _shuffled(scene.objects, rng):
        name = _refer(item, scene, rng)
        for shape, color, size in _new_names(rng):
            told = ("shape", "color", "size")
            if scene.split == "train" and rng.random() >= 0.7:
                told = ("shape", "color") if rng.random() < 0.5 else ("shape",)
            values = {"shape": shape, "color": color, "size": size}
            # Fields that the instruction leaves out stay as they are.
            values = {field: value if field in told else getattr(item, field) for field, value in values.items()}
            if shape == item.shape:
                continue
            new = sample_object(rng, **values, place=item.place, others=_others(scene, item))
            if new:
                if values["color"] == item.color:
                    new = replace(new, rgb=item.rgb)
                if rng.random() < 0.35:
                    fields = " ".join(field for field in ("size", "color", "shape") if field in told)
                    words = name_object(new, "a", fields)
                else:
                    words = add_article(phrase_name(rng, **{field: values[field] for field in told}))
                yield choose(wordings, rng).format(name, words), _put(scene, item, new)


def _move(scene: Scene, rng: Random) -> Changes:
    wordings = (
        *("put {} {}", "move {} {}", "place {} {}", "shift {} {}", "i want {} {}", "{} should be {}", "bring {} {}"),
        *(
            "slide {} so that it is {}",
            "position {} {}",
            "{} belongs {}",
            "set {} {}",
            "i'd like {} {}",
            "let {} be {}",
        ),
        *("move {} so that it is {}", "relocate {} so that it is {}", "push {} {}", "have {} {}", "drag {} {}"),
        *("{} goes {}", "{} {}", "let {} sit {} instead", "move {} over {}", "{} {} please", "{} would be better {}"),
    )
    towards = (
        *("move {} to the {}", "shift {} to the {}", "bring {} to the {}", "drag {} to the {}", "push {} to the {}"),
        *("slide {} to the {}", "{} should move to the {}", "relocate {} to the {}", "send {} to the {}"),
        *("{} to the {}", "{} to the {} please", "shift {} over to the {}", "{} has to go to the {}", "{}: to the {}"),
    )
    for item, place in product(_shuffled(scene.objects, rng), _shuffled(_free_places(scene), rng)):
        moved = place_object(rng, item, place, _others(scene, item))
        if moved:
            name, share = _refer(item, scene, rng), rng.random()
            # "To the left" leaves the row as it is. Elsewhere the middle of the left side has to be named.
            row, column = steps_to_middle(item.place)
            keeps = {"left": row, "right": row, "top": column, "bottom": column}.get(place, 0) == 0
            exact = not keeps and (scene.split != "train" or rng.random() < 0.5)
            if share < 0.3:
                text = rng.choice(towards).format(name, phrase_place(place, rng, bare=True, exact=exact))
            elif share < 0.5 and not exact:
                text = choose(wordings, rng).format(name, choose(PLAIN_PLACES[place], rng))
            else:
                text = choose(wordings, rng).format(name, phrase_place(place, rng, exact=exact))
            yield text, _put(scene, item, moved)


def _resize(scene: Scene, rng: Random) -> Changes:
    larger = (
        *("enlarge {}", "make {} bigger", "make {} larger", "grow {}", "increase the size of {}", "blow up {}"),
        *("scale up {}", "{} should be bigger", "i want {} bigger", "{} is too small", "expand {}"),
        *(
            "{} is too small, make it big",
            "{} bigger",
            "bigger {} please",
            "i need a bigger size for {}",
            "{}: larger",
        ),
    )
    smaller = (
        *("shrink {}", "make {} smaller", "reduce {}", "reduce the size of {}", "scale down {}", "make {} littler"),
        *("{} should be smaller", "i want {} smaller", "{} is too big", "decrease the size of {}"),
        *("{} is too big, make it small", "{} smaller", "smaller {} please", "i need a smaller size for {}"),
    )
    plain = ("make {} {}", "turn {} {}", "i want {} to be {}", "{} should be {}", "make {} {} instead", "let {} be {}")
    for item in _shuffled(scene.objects, rng):
        size, others = SIZES[1 - SIZES.index(item.size)], _others(scene, item)
        resized = replace(item, size=size, radius=sample_radius(rng, size))
        # A larger object may have to move within its place.
        if fits(resized, others) or (resized := place_object(rng, resized, item.place, others)):
            name = _refer(item, scene, rng)
            if rng.random() < 0.5:
                text = choose(plain, rng).format(name, choose(SIZE_WORDS[size], rng))
            else:
                text = rng.choice(larger if size == "large" else smaller).format(name)
                if len(scene.objects) == 1 and rng.random() < 0.3:
                    text = rng.choice(("bigger", "larger") if size == "large" else ("smaller", "make it smaller"))
            yield text, _put(scene, item, resized)


EDIT_KINDS: dict[str, Callable[[Scene, Random], Changes]] = {
    "recolor": _recolor,
    "remove": _remove,
    "add": _add,
    "replace": _replace,
    "move": _move,
    "resize": _resize,
}


POLITE = (
    *("please {}", "{} please", "{}, please", "can you {}?", "could you {}?", "could you please {}?", "would you {}?"),
    *("now {}", "{} now", "can you please {}", "please {}, thanks", "{}, thank you", "hi, {}", "i want you to {}"),
    *("could you {} please", "next, {}", "then {}", "{} for me", "ok, now {}", "would you mind? {}"),
)
ORDERS = frozenset(
    "make paint change turn color recolor let give set dye have switch remove delete erase take get drop wipe leave "
    "cut hide throw lose clear rub eliminate add put draw insert place include create replace swap exchange move "
    "substitute transform shift bring slide position relocate push drag enlarge grow increase blow scale expand send "
    "shrink reduce decrease".split()
)


def _frame(instruction: str, rng: Random) -> str:
    """Makes an instruction polite, or ends it with a mark."""
    if rng.random() < 0.3 and "?" not in instruction and "please" not in instruction:
        orders = instruction.split()[0] in ORDERS
        instruction = rng.choice(POLITE if orders else ("{} please", "{}, please", "please, {}", "{}, thanks")).format(
            instruction
        )
    ending = "" if instruction.endswith(("?", ".")) else rng.choice(("", "", "", "", ".", ".", "!"))
    return respell(add_talk(instruction + ending, rng, asks_to_draw=False), rng)


def _shuffled(values: Sequence, rng: Random) -> list:
    return rng.sample(values, len(values))


def _refer(item: ShapeObject, scene: Scene, rng: Random) -> str:
    name = refer_to(item, scene, rng, "place") if rng.random() < 0.5 else None
    return name or refer_freely(item, scene, rng) or f"the {item.shape} {choose(PLAIN_PLACES[item.place], rng)}"


def _others(scene: Scene, item: ShapeObject) -> tuple[ShapeObject, ...]:
    return tuple(other for other in scene.objects if other is not item)


def _put(scene: Scene, item: ShapeObject, new: ShapeObject) -> tuple[ShapeObject, ...]:
    return tuple(new if other is item else other for other in scene.objects)


def _free_places(scene: Scene) -> list[str]:
    taken = {item.place for item in scene.objects}
    return [place for place in PLACES if place not in taken]


def _new_names(rng: Random) -> list[tuple[str, str, str]]:
    """Returns the (shape, color, size) of all objects in random order."""
    return _shuffled(list(product(SHAPES, COLORS, SIZES)), rng)
