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
    arrangements,
    ask_questions,
    conclude,
    describe_layout,
    describe_scene,
    edit_scene,
    parse_caption,
    prompt_lists,
    prompts,
    request_scene,
    sample_scene,
    scene_matches,
)
from lavit_hf.data.shapes import edits as edits_module
from lavit_hf.data.shapes import questions as questions_module
from lavit_hf.data.shapes.arrangements import TO_IT, TO_THAT
from lavit_hf.data.shapes.captions import PLAIN_PLACES
from lavit_hf.data.shapes.comparisons import ask_all, compare
from lavit_hf.data.shapes.prompt_lists import Wording, list_kin
from lavit_hf.data.shapes.scenes import find_relations, fits
from lavit_hf.data.shapes.small_talk import ABBREVIATIONS, add_talk, respell
from lavit_hf.data.shapes.words import (
    COLOR_WORDS,
    COMPARATIVES,
    PLACE_PHRASES,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    phrase_relation,
    pluralize,
)


SCENES = [sample_scene(index, split) for index in range(400) for split in ("train", "test")]


@pytest.fixture
def without_talk(monkeypatch):
    """Leaves out small talk, other spellings, denials and comparisons, which have tests of their own."""
    for module in (prompts, edits_module, questions_module):
        monkeypatch.setattr(module, "add_talk", lambda text, rng, **kwargs: text)
        monkeypatch.setattr(module, "respell", lambda text, rng: text)
    monkeypatch.setattr(prompts, "_deny", lambda text, scene, rng: text)
    for name in ("compare", "ask_all"):
        monkeypatch.setattr(questions_module, name, lambda scene, rng: None)


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
