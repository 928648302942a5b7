# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Requests to draw say what is true of their scenes."""

import re
from dataclasses import replace
from random import Random

import pytest

from lavit_hf.data.shapes import (
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    arrangements,
    ask_questions,
    describe_scene,
    edit_scene,
    prompt_lists,
    prompts,
    request_scene,
)
from lavit_hf.data.shapes.arrangements import TO_IT, TO_THAT
from lavit_hf.data.shapes.prompt_lists import Wording, list_kin
from lavit_hf.data.shapes.scenes import find_relations
from lavit_hf.data.shapes.words import (
    phrase_relation,
)

from .plain_words import NUMBERS, SCENES, fields_in, plain


NAMES = "|".join((*COLORS, *SIZES, "colored", "identical", "matching", "equal", r"\w+-colored"))
SHAPE = "|".join(SHAPES)
# A name with "the" refers to an object that was named before.
REFERENCE = re.compile(rf"\bthe (?:(?:{NAMES}),? )*(?:{SHAPE})\b(?! @)(?: (?:that|which) (?:is|are) \w+| in \w+)?")
MENTION = re.compile(
    rf"(?:\b(two|three|four|2|3|4|(?:group|set) of (?:three|four)|pair of|couple of|trio of) )?"
    rf"(?:(?:{NAMES}),? )*\b({SHAPE})\b(#?)"
)


def count_shapes(text):
    """Returns the names of all shapes that a request in plain text asks for."""
    shapes = []
    for number, shape, plural in MENTION.findall(REFERENCE.sub("it", text)):
        number = number.removeprefix("group of ").removeprefix("set of ")
        count = {"": 1, "pair of": 2, "couple of": 2, "trio of": 3, "2": 2, "3": 3, "4": 4}.get(number)
        count = count or NUMBERS.index(number)
        assert (count > 1) == bool(plural), text
        shapes += [shape] * count
    return shapes


def test_requests_say_what_is_there(without_talk, monkeypatch):
    """All shapes of a scene are named, as often as they are there, and nothing else is."""
    monkeypatch.setattr(prompt_lists, "list_kin", lambda objects, wording: None)
    monkeypatch.setattr(arrangements, "_corners", lambda objects, wording: None)
    for name in ("_write_columns", "_leave_open"):
        monkeypatch.setattr(prompts, name, prompts._write_sentences)
    monkeypatch.setattr(prompt_lists, "_name_next", lambda item, wording: prompt_lists.name_group([item], wording))
    told, named = [], []
    for index, scene in enumerate(SCENES):
        for number in range(3):
            request = request_scene(scene, Random(f"{index} {number}"))
            # Words for several objects, which are not places of one.
            request = re.sub(
                r"\b(?:in )?(?:the )?[\w-]+ (?:row|column)\b|in the middle (?:between|of them)", "", request
            )
            text = plain(request)
            # A bare "plus" may be read in two ways.
            readings = [text, *(plain(re.sub(r"\bplus\b(?! s[iy])", word, request)) for word in ("cross", "and"))]
            shapes = sorted(item.shape for item in scene.objects)
            text = next((reading for reading in readings if sorted(count_shapes(reading)) == shapes), None)
            assert text is not None, (request, shapes)
            for field, values in fields_in(text).items():
                assert set(values) <= {getattr(item, field) for item in scene.objects}, (request, scene)
            told.append("@" in text)
            named.append(bool(fields_in(text)["color"]))
    assert 0.3 < sum(told) / len(told) < 0.8
    assert 0.9 < sum(named) / len(named) < 0.98


def test_columns_tell_one_thing_of_all_objects_in_their_order():
    forms = set()
    for index, scene in enumerate(SCENES):
        if len(scene.objects) < 2:
            continue
        text = prompts._write_columns(scene.objects, Wording(Random(index), 0, 1))
        if re.search("plus(?! s)", text):  # which may be read as "and"
            continue
        text = plain(text)
        shapes = [item.shape for item in scene.objects]
        said = fields_in(text)
        assert said["shape"][: len(shapes)] == shapes, text
        repeated = said["shape"][len(shapes) :]
        assert repeated in ([], shapes), text
        for field in ("color", "size", "place"):
            values = [getattr(item, field) for item in scene.objects]
            assert said[field] in ([], values, values[:1] if len(set(values)) == 1 else values), (text, scene)
            forms.add((field, len(said[field]) == len(values), bool(repeated)))
    assert {(field, True, repeated) for field in ("color", "place") for repeated in (False, True)} <= forms


@pytest.fixture
def plain_words(monkeypatch):
    """Objects are named in the names of their fields, and words are the first ones of their lists."""
    monkeypatch.setattr(arrangements, "choose", lambda words, rng: words[0])
    monkeypatch.setattr(Wording, "name", lambda self, item, count=1: f"<{item.place}>" + "*" * (count > 1))
    monkeypatch.setattr(Wording, "place", lambda self, item: None)
    monkeypatch.setattr(arrangements, "phrase_name", lambda rng, shape, *args, **kwargs: shape)
    monkeypatch.setattr(arrangements, "phrase_relation", lambda relation, *args: relation)


def write_arrangements(name):
    """Yields what a pattern says of scenes, with each object as its place in angle brackets."""
    for index, scene in enumerate(SCENES):
        for number in range(6):
            rng = Random(f"{index} {number}")
            objects = rng.sample(scene.objects, len(scene.objects))
            found = getattr(arrangements, name)(objects, Wording(rng, 0, 0)) if len(objects) > 1 else None
            if found:
                yield found[0], list(found[1]), scene


def steps_to(place):
    return divmod(PLACES.index(place), 3)


HOLDS = {
    "above": lambda first, second: first[0] < second[0],
    "below": lambda first, second: first[0] > second[0],
    "left": lambda first, second: first[1] < second[1],
    "right": lambda first, second: first[1] > second[1],
}
RELATION = re.compile(r"\b(above|below|left|right)\b")


def test_objects_around_another_one_are_where_the_text_says(plain_words):
    seen = set()
    for text, told, _ in write_arrangements("_around"):
        anchor, *others = (steps_to(place) for place in re.findall("<(.*?)>", text))
        assert sorted(f"<{item.place}>" for item in told) == sorted(re.findall("<.*?>", text)), text
        said = RELATION.findall(re.sub("<.*?>", "", text))
        assert len(said) == len(others), text
        for relation, place in zip(said, others, strict=True):
            assert HOLDS[relation](place, anchor), text
            seen.add(relation)
    assert seen == set(HOLDS)


def test_each_object_of_a_chain_is_where_the_text_says(plain_words):
    forms = set()
    for text, told, _ in write_arrangements("_chain"):
        places = [steps_to(item.place) for item in told]
        said = RELATION.findall(re.sub("<.*?>", "", text))
        for relation, first, second in zip(said, places[1:], places[:-1], strict=True):
            assert HOLDS[relation](first, second), text
        # Either each object follows "it", or it comes before the one that was named last.
        order = [item.place for item in told]
        of_two = [order[1], order[0], *order[2:]]
        assert re.findall("<(.*?)>", text) in (order, of_two), text
        forms.add(re.findall("<(.*?)>", text) == order)
    assert forms == {True, False}


def test_words_for_the_object_before_are_not_those_for_the_object_in_the_middle():
    """Otherwise one text would describe two arrangements."""
    words = [{word for entry in table.values() for word in entry} for table in (TO_IT, TO_THAT)]
    assert not words[0] & words[1]
    assert not any(re.search(r"\b(?:it|its|this)\b", word) for word in words[1])


def test_relations_of_requests_hold(plain_words, monkeypatch):
    """The second object is the one after the relation, or the first one of the text: "a ring. left of it, a star"."""
    monkeypatch.setattr(prompts, "phrase_name", lambda rng, shape, *args, **kwargs: shape)
    monkeypatch.setattr(prompts, "phrase_relation", lambda relation, *args: f"~{relation}~")
    monkeypatch.setattr(prompts, "list_objects_freely", lambda objects, wording: "others")
    forms = set()
    for index, scene in enumerate(SCENES * 4):
        if len(scene.objects) < 2:
            continue
        rng = Random(index)
        text = prompts._relate(rng.sample(scene.objects, len(scene.objects)), Wording(rng, 0, 0))
        text = re.sub(r"(to|on) its (left|right)", r"~\2 of~ it", text)
        named, said = re.findall("<(.*?)>", text), re.findall("~(.*?)~", text)
        if len(said) != 1 or len(named) != 2:  # no relation holds, or there are two of them
            continue
        after = re.search("~ <(.*?)>", text)
        second = after[1] if after else named[0]
        [first] = [place for place in named if place != second]
        assert said[0] in find_relations(first, second), text
        forms.add((after is None, named.index(second)))
    assert forms == {(True, 0), (False, 0), (False, 1)}


def test_words_for_neighbors_are_not_used_at_a_distance():
    star, ring = (replace(SCENES[0].objects[0], x=1 / 2, y=y) for y in (1 / 6, 5 / 6))
    center = replace(ring, y=1 / 2)
    close = re.compile("directly|just|right above|on top of")
    for second, are_close in ((ring, False), (center, True)):
        phrases = {phrase_relation("above", star, second, Random(seed)) for seed in range(200)}
        assert any(map(close.search, phrases)) == are_close


def test_lines_are_in_their_order_and_complete(plain_words):
    for name in ("_line", "_order"):
        ends_seen = set()
        for text, told, scene in write_arrangements(name):
            places = [item.place for item in told]
            if name == "_line":
                which, kind = re.search(r"\b(top|middle|bottom|left|right) (row|column)", text).groups()
                index = ("top", "middle", "bottom").index(which) if kind == "row" else None
                index = ("left", "middle", "right").index(which) if index is None else index
                axis = 0 if kind == "row" else 1
                in_line = [item.place for item in scene.objects if steps_to(item.place)[axis] == index]
                assert sorted(in_line) == sorted(places), text
                if "*" in text:  # several equal ones
                    continue
            ends = re.search("(left|right|top|bottom) to (left|right|top|bottom)", text)
            listed = re.findall("<(.*?)>", text)
            assert sorted(listed) == sorted(places), text
            axis = 1 if ends[1] in ("left", "right") else 0
            steps = [steps_to(place)[axis] for place in listed]
            assert steps == sorted(set(steps), reverse=ends[1] in ("right", "bottom")), text
            ends_seen.add(ends[1])
        assert ends_seen == ({"left", "top"} if name == "_line" else {"left", "right", "top", "bottom"})


def test_what_is_between_corners_or_side_by_side_is_there(plain_words):
    found = list(write_arrangements("_between"))
    assert len(found) > 20
    for text, (middle, *ends), _ in found:
        rows, columns = zip(*(steps_to(item.place) for item in ends), strict=True)
        assert steps_to(middle.place) == (sum(rows) / 2, sum(columns) / 2), text
        assert len(set(re.findall("<.*?>", text))) == 3, text
    corners = set()
    for text, told, _ in write_arrangements("_corners"):
        assert all(" " in item.place for item in told), text
        shared = set.intersection(*(set(item.place.split()) for item in told))
        assert re.search(r"\b(top|bottom|left|right|opposite|)(?: ?corners?)", text)[1] == "".join(
            shared or ({"opposite"} if len(told) == 2 else ())
        ), text
        corners.add((len(told), *shared))
    assert {(2,), (2, "top"), (2, "left")} <= corners
    found = list(write_arrangements("_side_by_side"))
    assert len(found) > 20
    for text, (first, second), _ in found:
        row, column = steps_to(first.place)
        assert steps_to(second.place) in ((row, column + 1), (row, column - 1)), text


def test_requests_name_two_of_a_kind_together():
    texts = {
        list_kin(scene.objects, Wording(Random(number), 0, 0))
        for scene in SCENES
        for number in range(3)
        if len(scene.objects) == 2
    } - {None}
    pattern = re.compile(rf"(?:an? )?(?:(?:two|2) )?(?:(?:{NAMES}|shapes:|an?|and|both|one|{SHAPE})[#,:]*(?: |$))+")
    for text in texts:
        assert pattern.fullmatch(plain(text)), text
        said = fields_in(plain(text))
        assert 3 <= sum(map(len, said.values())) <= 4
        assert len(set(said["shape"])) == 2 or len(set(said["color"])) == 2 or len(set(said["size"])) == 2
    assert len(texts) > 100


def test_vocabulary_is_small():
    texts = []
    for index, scene in enumerate(SCENES):
        rng = Random(index)
        texts += [describe_scene(scene, rng), request_scene(scene, rng), edit_scene(scene, rng).instruction]
        texts += [text for question in ask_questions(scene, rng) for text in (question.text, question.answer)]
    text = " ".join(texts)
    assert text == text.lower()
    assert set(re.sub("[a-z0-9 \n]", "", text)) <= set(",.:;?!&+-/'")
    words = set(re.findall("[a-z]+", text))
    assert len(words) < 700
    assert words > {word for place in PLACES for word in place.split()}
