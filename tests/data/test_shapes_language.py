# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions, questions and instructions say what is true of their scenes."""

import re
from dataclasses import replace
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
    conclude,
    describe_layout,
    describe_scene,
    edit_scene,
    parse_caption,
    prompts,
    scene_matches,
)
from lavit_hf.data.shapes.comparisons import ask_all, compare
from lavit_hf.data.shapes.scenes import find_relations, fits
from lavit_hf.data.shapes.small_talk import ABBREVIATIONS, add_talk, respell

from .plain_words import FIELDS, NUMBERS, SCENES, fields_in, find, plain


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


def test_layouts_list_all_objects_in_the_order_of_reading():
    for scene in SCENES:
        described = parse_caption(describe_layout(scene))
        assert scene_matches(described, scene.objects, FIELDS)
        places = [PLACES.index(item.place) for item in described]
        assert places == sorted(places)


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


def is_compared(name):
    return re.search(r"\bthe (?:left|right|upper|top|higher|lower|bottom|larger|bigger|smaller|littler)\b", name)


def check_names(name, item, scene):
    """A name fits its object, and no other one unless it compares two."""
    found = find(name, scene)
    assert item in found, (name, scene)
    assert len(found) == 1 or is_compared(name), (name, scene)


def test_answers_are_right(without_talk):
    answers, counts = {}, []
    for index, scene in enumerate(SCENES):
        questions = ask_questions(scene, Random(index))
        counts.append(len(questions))
        assert len({question.text for question in questions}) == len(questions) <= 8
        for question in questions:
            text = plain(question.text)
            answer = conclude(question.answer)
            assert len(answer.split()) <= 2
            answers.setdefault(question.kind, []).append(answer)
            check_answer(text, replace(question, answer=answer), scene)
            check_reasons(text, question, scene)
    assert min(counts) >= 5
    assert sum(counts) / len(counts) > 7
    assert answers.keys() == QUESTION_KINDS.keys()
    for kind in ("existence", "relation"):
        yes, no = answers[kind].count("yes"), answers[kind].count("no")
        assert 0.42 < yes / (yes + no) < 0.58
    assert set(answers["count"]) == {*NUMBERS, "yes", "no"}


def check_reasons(text, question, scene):
    """Objects that are counted or compared are named in the order of reading, or in that of the question."""
    reasons = list(filter(None, question.answer.rpartition(": ")[0].split(", ")))
    if question.kind == "count":
        assert reasons == [place for place in PLACES for item in find(text, scene) if item.place == place]
    elif question.kind == "relation":
        one, other = re.findall(r"the (?:(?! the |~).)*", text)[:2]
        named = [
            [getattr(item, "size" if " than " in text else "place") for item in find(n, scene)] for n in (one, other)
        ]
        assert len(reasons) == 2
        assert all(reason in names for reason, names in zip(reasons, named, strict=True)), (question, scene)
    else:
        assert not reasons


def check_answer(text, question, scene):
    """Finds the answer by another way than the question was made."""
    answer, kind = question.answer, question.kind
    if kind in ("color", "shape", "position"):
        field = "place" if kind == "position" else kind
        found = [item for item in find(text, scene) if getattr(item, field) == answer]
        assert found, (question, scene)
        assert len(find(text, scene)) == 1 or is_compared(text), (question, scene)
    elif kind == "size":
        asked = fields_in(text)["size"]
        named = re.sub(r"\b(?:small|large)\b", "", text)
        found = [item.size for item in find(named, scene)]
        if answer in ("yes", "no"):
            found = ["yes" if size == asked[-1] else "no" for size in found]
        assert answer in found, (question, scene)
        assert set(found) == {answer} or is_compared(text), (question, scene)
    elif kind == "identity":
        if "~" not in text:
            (item,) = find(text, scene)
            assert answer == f"{item.color} {item.shape}"
        else:
            relation, name = re.search("~(.*?)~ (.*)", text).groups()
            assert any(
                f"{item.color} {item.shape}" == answer and relation in find_relations(item.place, other.place)
                for item in scene.objects
                for other in find(name, scene)
                if item is not other
            ), (question, scene)
    elif kind == "existence":
        assert answer == ("yes" if find(text, scene) else "no"), (question, scene)
    elif kind == "count":
        number = len(find(text, scene))
        if answer in ("yes", "no"):
            asked = re.search(r"\b(two|three|four|2|3|4)\b", text)[1]
            assert answer == (
                "yes" if str(number) == str(NUMBERS.index(asked) if asked in NUMBERS else asked) else "no"
            )
        else:
            assert answer == NUMBERS[number], (question, scene)
    else:
        check_relation(text, question, scene)


def check_relation(text, question, scene):
    is_true = question.answer == "yes"
    if compared := re.search(r"is (the .*) (bigger|larger|smaller) than (the .*)\?", text):
        one, word, other = compared.groups()
        pairs = [(first.radius, second.radius) for first in find(one, scene) for second in find(other, scene)]
        assert any(((first < second) == (word == "smaller")) == is_true for first, second in pairs if first != second)
        return
    if choice := re.search(
        r"(the .*) (?:left|right|above|below|~\w+~) or (?:left|right|above|below|~[\w ]+~)(?: of)? (the .*)\?", text
    ):
        pairs = [(first, second) for first in find(choice[1], scene) for second in find(choice[2], scene)]
        relation = {"left": "left of", "right": "right of"}.get(question.answer, question.answer)
        assert any(holds(relation, *pair) for pair in pairs if pair[0] is not pair[1]), (question, scene)
        return
    one, relation, other = re.search("(the .*?) ~(.*?)~ (the .*)", text).groups()
    pairs = [(first, second) for first in find(one, scene) for second in find(other, scene) if first is not second]
    assert any(holds(relation, *pair) == is_true for pair in pairs), (question, scene)


def test_comparisons_are_right():
    answers, forms = [], set()
    for index, scene in enumerate(SCENES * 3):
        asked = [compare(scene, Random(index)), ask_all(scene, Random(index))]
        for text, answer in filter(None, asked):
            reasons, conclusion = answer.rpartition(": ")[0].split(", "), conclude(answer)
            forms.add(check_comparison(plain(text), reasons, conclusion, scene))
            answers.append(conclusion)
    assert forms == {"same", "than", "which", "more", "all"}
    # Where all values are alike, the answer still depends on the question.
    asked = filter(None, (ask_all(scene, Random(index)) for index, scene in enumerate(SCENES * 5)))
    alike = [conclude(answer) for _, answer in asked if len(set(answer.rpartition(": ")[0].split(", "))) == 1]
    assert 0.3 < alike.count("yes") / len(alike) < 0.7
    assert 0.3 < answers.count("yes") / (answers.count("yes") + answers.count("no")) < 0.7


def check_comparison(text, reasons, answer, scene):
    """Finds the answer to a comparison from the scene, and returns the form of the question."""
    named = [find(name, scene) for name in re.findall(r"the (?!same)(?:(?! the |,| and | have | or ).)*", text)]
    pairs = [(one, other) for one in named[0] for other in named[1] if one is not other] if len(named) > 1 else []
    if match := re.search(r"(?:same|one) (color|size|shape)", text):
        values = [[getattr(item, match[1]) for item in pair] for pair in pairs]
        assert reasons in values, (text, reasons, scene)
        assert answer == ("yes" if reasons[0] == reasons[1] else "no")
        return "same"
    if match := re.search("(bigger|larger|smaller) than", text):
        assert reasons in [[one.size, other.size] for one, other in pairs], (text, scene)
        wanted = ["small", "large"] if match[1] == "smaller" else ["large", "small"]
        assert answer == ("yes" if reasons == wanted else "no")
        return "than"
    if match := re.search(
        r"(bigger|larger|smaller|higher up|higher|lower|further left|further to the right|@right@)", text
    ):
        measures = {
            **dict.fromkeys(("bigger", "larger"), lambda item: item.size == "large"),
            "smaller": lambda item: item.size == "small",
            "lower": lambda item: item.y,
            **dict.fromkeys(("higher", "higher up"), lambda item: -item.y),
            "further left": lambda item: -item.x,
        }
        measure = measures.get(match[0], lambda item: item.x)
        assert any(max(pair, key=measure).shape == answer for pair in pairs), (text, answer, scene)
        return "which"
    colors = [item.color for item in scene.objects]
    if "more" in text:
        first, second = fields_in(text)["color"]
        other = second if answer == first else first
        assert colors.count(answer) > colors.count(other)
        return "more"
    (field,) = (field for field, values in fields_in(text).items() if values)
    found = {getattr(item, field) for item in scene.objects}
    assert answer == ("yes" if found == set(fields_in(text)[field]) else "no"), (text, scene)
    return "all"


def test_small_talk_leaves_a_request_as_it_is():
    request = "draw a red circle in the center with a gray star, please"
    talked = {add_talk(request, Random(seed)) for seed in range(2000)}
    assert all(request in text for text in talked)
    assert len(talked) > 100
    spellings = {respell(request, Random(seed)) for seed in range(200)}
    back = {"centre": "center", "colour": "color", "grey": "gray"}
    back |= {shorter: word for word, shorts in ABBREVIATIONS.items() for shorter in shorts}
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, back))})(?!\w)")
    assert {pattern.sub(lambda match: back[match[0]], text) for text in spellings} == {request}
    assert len(spellings) > 3


def test_denials_name_nothing_that_is_there():
    for index, scene in enumerate(SCENES):
        denied = prompts._deny("a short request", scene, Random(index))
        assert denied.endswith("a short request")
        assert not set(fields_in(plain(denied.removesuffix("a short request")))["shape"]) & {
            item.shape for item in scene.objects
        }


def holds(relation, first, second):
    if relation == "next to":
        cells = [divmod(PLACES.index(item.place), 3) for item in (first, second)]
        return sum(abs(one - other) for one, other in zip(*cells, strict=True)) == 1
    distance = {"above": second.y - first.y, "below": first.y - second.y, "left of": second.x - first.x}
    return distance.get(relation, first.x - second.x) > 0.1


def test_edits_do_what_they_say(without_talk):
    kinds = []
    for index, scene in enumerate(SCENES):
        edit = edit_scene(scene, Random(index))
        kinds.append(edit.kind)
        gone = [item for item in scene.objects if item not in edit.scene.objects]
        new = [item for item in edit.scene.objects if item not in scene.objects]
        assert (len(gone), len(new)) == {"add": (0, 1), "remove": (1, 0)}.get(edit.kind, (1, 1))
        check_edit(plain(edit.instruction), edit.kind, scene, *gone, *new)
        assert edit.scene.split == scene.split
        assert edit.scene.background == scene.background
        assert 1 <= len(edit.scene.objects) <= 4
        assert len({item.place for item in edit.scene.objects}) == len(edit.scene.objects)
        for item in edit.scene.objects:
            assert fits(item, [other for other in edit.scene.objects if other is not item])
    assert set(kinds) == set(EDIT_KINDS)


def check_edit(text, kind, scene, *changed):
    """An instruction in plain words names the object that changes, and what becomes of it."""
    if kind == "add":
        said = fields_in(text.partition("~")[0])
        for field, values in said.items():
            assert values in ([], [getattr(changed[0], field)]), text
            # Where results are judged, nothing of the added object is left open.
            assert values or (scene.split == "train" and field in ("size", "place")), text
        return
    before = changed[0]
    if kind == "remove":
        check_names(text, before, scene)
        return
    after, said = changed[1], fields_in(text)
    field = {"recolor": "color", "move": "place", "resize": "size", "replace": "shape"}[kind]
    same = [name for name in FIELDS if name != field]
    if kind == "replace":
        assert after.shape in said["shape"]
        assert after.place == before.place
        for name in ("color", "size"):  # what is not said stays
            assert getattr(after, name) in (*said[name], getattr(before, name)), text
        return
    assert all(getattr(before, name) == getattr(after, name) for name in same), text
    if kind == "resize" and said["size"][-1:] != [after.size]:
        assert re.search(SMALLER if after.size == "small" else LARGER, text), text
    elif kind == "move" and not said["place"]:
        assert after.place in text
    else:
        assert said[field][-1] == getattr(after, field), (text, after)


SMALLER = "shrink|smaller|reduce|scale down|littler|too big|too large|decrease"
LARGER = "enlarge|bigger|larger|grow|increase|blow up|scale up|too small|expand"
