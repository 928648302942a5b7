# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions, questions and instructions say what is true of their scenes."""

import re
from random import Random

import pytest

from lavit_hf.data.shapes import (
    COLORS,
    EDIT_KINDS,
    PLACES,
    QUESTION_KINDS,
    SHAPES,
    SIZES,
    DescribedObject,
    ask_questions,
    describe_scene,
    edit_scene,
    parse_caption,
    sample_scene,
    scene_matches,
)
from lavit_hf.data.shapes.scenes import fits


SCENES = [sample_scene(index, split) for index in range(400) for split in ("train", "test")]
NUMBERS = ["zero", "one", "two", "three", "four"]
PLACE = re.compile(r"\b(?:at|in|on) the ((?:top|bottom)(?: left| right)?|left|right|center|middle)\b")


def place_in(text):
    found = PLACE.search(text)
    return found and {"middle": "center"}.get(found[1], found[1])


def fields_in(name):
    """Reads a name such as "the small red object at the top", independently of the library."""
    words = PLACE.sub("", name).split()
    fields = {
        "shape": next((word for word in words if word in SHAPES), None),
        "color": next((word for word in words if word in COLORS), None),
        "size": next((word for word in words if word in SIZES), None),
        "place": place_in(name),
    }
    return {field: value for field, value in fields.items() if value}


def find(name, scene):
    """All objects of a scene that a name fits."""
    wanted = fields_in(name)
    assert wanted, name
    return [item for item in scene.objects if all(getattr(item, field) == wanted[field] for field in wanted)]


def test_captions_are_read_back():
    captions = [(scene, describe_scene(scene, Random(index))) for index, scene in enumerate(SCENES)]
    without_size, without_place = [], []
    for scene, caption in captions:
        described = parse_caption(caption)
        assert scene_matches(described, scene.objects, ("shape", "color", "size", "place")), caption
        without_size.append(all(item.size is None for item in described))
        without_place.append(all(item.place is None for item in described))
        # Partly told scenes would make "a size is left out" mean something.
        assert without_size[-1] or all(item.size for item in described), caption
        assert without_place[-1] or all(item.place for item in described), caption
    assert 0.22 < sum(without_size) / len(captions) < 0.38
    assert 0.06 < sum(without_place) / len(captions) < 0.14
    wordings = {re.sub("|".join((*SHAPES, *COLORS, *SIZES)), "_", caption) for _, caption in captions}
    assert len(wordings) > 200


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("A Large Red Circle, at the top left.", [("circle", "red", "large", "top left")]),
        ("red small circles in the middle", [("circle", "red", "small", "center")]),
        ("the circle", [("circle", None, None, None)]),
        ("on the left, a star; a ring", [("star", None, None, "left"), ("ring", None, None, None)]),
        ("a ring in the top\nright corner with a star", [("ring", None, None, "top right"), ("star",)]),
        ("a red ring on the left at the top, a blue star", [("ring", "red", None, "left"), ("star", "blue")]),
        ("a startled crossing of starfish in spring", []),
        ("", []),
    ],
)
def test_other_texts_give_what_can_be_read(text, described):
    assert parse_caption(text) == [DescribedObject(*fields) for fields in described]


def answer(question, kind, scene):
    """An answer found by another way than the question was made."""
    if kind in ("color", "shape", "size", "position"):
        (item,) = find(question.replace("small or large", ""), scene)
        return item.place if kind == "position" else getattr(item, kind)
    if kind == "identity":
        (item,) = find(question, scene)
        return f"{item.color} {item.shape}"
    if kind == "existence":
        return "yes" if find(question, scene) else "no"
    if kind == "count":
        name = re.sub(r"\b(circle|square|triangle|star|cross|ring)(s|es)\b", r"\1", question)
        return NUMBERS[len(find(name, scene)) if fields_in(name) else len(scene.objects)]
    assert kind == "relation"
    first, relation, second = re.fullmatch("is (.*) (left of|right of|above|below) (.*)\\?", question).groups()
    (one,), (other,) = find(first, scene), find(second, scene)
    smaller = one.x < other.x if relation.endswith("of") else one.y < other.y
    return "yes" if smaller == (relation in ("left of", "above")) else "no"


def test_answers_are_right():
    answers = {}
    for index, scene in enumerate(SCENES):
        questions = ask_questions(scene, Random(index))
        assert len({question.kind for question in questions}) == len(questions) == 6
        for question in questions:
            text = question.text.rstrip("?") + " ?" if question.kind != "relation" else question.text
            assert question.answer == answer(text, question.kind, scene), (question, scene)
            assert len(question.answer.split()) <= 2
            answers.setdefault(question.kind, []).append(question.answer)
    assert answers.keys() == QUESTION_KINDS.keys()
    for kind in ("existence", "relation"):
        assert 0.42 < answers[kind].count("yes") / len(answers[kind]) < 0.58
    assert set(answers["count"]) == set(NUMBERS)


def follow(edit, scene):
    """The (shape, color, size, place) of all objects after an instruction, read from its words."""
    names = {(item.shape, item.color, item.size, item.place) for item in scene.objects}
    if edit.kind == "add":
        fields = fields_in(edit.instruction)
        return names | {tuple(fields[field] for field in ("shape", "color", "size", "place"))}
    verb, name, change = re.fullmatch(
        r"(change the color of|\w+) (the (?:\w+ )??(?:circle|square|triangle|star|cross|ring))(.*)", edit.instruction
    ).groups()
    (item,) = find(name, scene)
    names.remove((item.shape, item.color, item.size, item.place))
    if edit.kind == "remove":
        assert verb in ("remove", "delete")
        return names
    changed = {field: getattr(item, field) for field in ("shape", "color", "size", "place")} | fields_in(change)
    told = {"recolor": {"color"}, "move": {"place"}, "resize": {"size"}, "replace": {"shape", "color", "size"}}
    assert fields_in(change).keys() == told[edit.kind], edit
    return names | {tuple(changed.values())}


def test_edits_do_what_they_say():
    kinds = []
    for index, scene in enumerate(SCENES):
        edit = edit_scene(scene, Random(index))
        kinds.append(edit.kind)
        after = {(item.shape, item.color, item.size, item.place) for item in edit.scene.objects}
        assert after == follow(edit, scene), (edit, scene)
        assert after != {(item.shape, item.color, item.size, item.place) for item in scene.objects}
        assert edit.scene.split == scene.split
        assert edit.scene.background == scene.background
        assert len(set(scene.objects) - set(edit.scene.objects)) <= 1
        assert 1 <= len(edit.scene.objects) <= 4
        assert len({(item.shape, item.color) for item in edit.scene.objects}) == len(edit.scene.objects)
        for item in edit.scene.objects:
            assert fits(item, [other for other in edit.scene.objects if other is not item])
    assert set(kinds) == set(EDIT_KINDS)


def test_edit_of_a_kind():
    scene = next(scene for scene in SCENES if len(scene.objects) == 1 and scene.split == "train")
    edit = edit_scene(scene, Random(0), kinds=["recolor"])
    before, after = scene.objects[0], edit.scene.objects[0]
    assert (before.x, before.y, before.radius, before.shape) == (after.x, after.y, after.radius, after.shape)
    assert edit.instruction.endswith(after.color)
    with pytest.raises(ValueError, match="remove.*scene of 1 in 'train'"):
        edit_scene(scene, Random(0), kinds=["remove"])
    with pytest.raises(ValueError, match="rotate.*expected some of recolor"):
        edit_scene(scene, Random(0), kinds=["rotate"])


def test_vocabulary_is_small():
    texts = []
    for index, scene in enumerate(SCENES):
        rng = Random(index)
        texts += [describe_scene(scene, rng), edit_scene(scene, rng).instruction]
        texts += [text for question in ask_questions(scene, rng) for text in (question.text, question.answer)]
    text = " ".join(texts)
    assert text == text.lower()
    assert set(re.sub("[a-z ]", "", text)) == set(",.:?")
    words = set(re.findall("[a-z]+", text))
    assert len(words) < 120
    assert words > {word for place in PLACES for word in place.split()}
