# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The scorers give 1 for the truth, and nearly 0 for unrelated cases."""

from random import Random

import numpy as np
import pytest
import torch

from lavit_hf.data.shapes import (
    COLORS,
    PLACES,
    SIZES,
    DescribedObject,
    Scene,
    load_own_words,
    parse_caption,
    read_scene,
    render_scene,
    sample_scene,
)
from lavit_hf.data.shapes.scenes import sample_object
from lavit_hf.evaluation import EvaluationSettings
from lavit_hf.evaluation.captions import score_captions
from lavit_hf.evaluation.drawings import score_edits
from lavit_hf.evaluation.own_words import evaluate_own_words
from lavit_hf.evaluation.questions import Question, list_questions, majority_answers, score_answers
from lavit_hf.evaluation.scenes import JUDGEMENTS, judge, scene_metrics
from lavit_hf.evaluation.subject import Subject
from lavit_hf.evaluation.tokens import score_tokens


@pytest.fixture(scope="module")
def read(rows):
    return [read_scene(row["image"]) for row in rows]


SCENE = [
    {"shape": "circle", "color": "red", "size": "large", "place": "top left"},
    {"shape": "star", "color": "blue", "size": "small", "place": "center"},
]


@pytest.mark.parametrize(
    ("caption", "objects", "places", "sizes", "everything"),
    [
        ("a large red circle at the top left and a small blue star in the center", True, True, True, True),
        ("a small blue star in the middle, a large red circle at the top left", True, True, True, True),
        ("a red circle and a blue star", True, None, None, True),
        ("a red circle at the top left and a blue star at the top", True, False, None, False),
        ("a large red circle and a large blue star", True, None, False, False),
        ("a red circle", False, None, None, False),
        ("a red circle, a blue star and a blue star", False, None, None, False),
        ("a blue circle at the top left and a red star in the center", False, False, None, False),
        ("a circle and a star", False, False, False, False),
        ("nothing at all", False, None, None, False),
    ],
)
def test_judge(caption, objects, places, sizes, everything):
    outcome = judge(parse_caption(caption), SCENE)
    object_f1 = outcome.pop("object_f1")
    assert outcome == {"objects": objects, "places": places, "sizes": sizes, "everything": everything}
    assert 0 <= object_f1 <= 1
    assert object_f1 == 1 or not everything


def test_missing_and_added_objects_count_alike():
    red, blue = DescribedObject("circle", "red", "large"), DescribedObject("square", "blue")
    assert judge([red, blue], SCENE[:0])["object_f1"] == 0
    there = [DescribedObject("square", "blue", "small", "top"), DescribedObject("circle", "red", "small", "left")]
    assert judge([red, blue], there)["object_f1"] == 0.5
    assert judge([blue, blue], there)["object_f1"] == 0.5
    right = there[:1]
    assert judge([blue], right)["object_f1"] == 1
    assert judge([blue], there)["object_f1"] == judge([blue, red], right)["object_f1"] == pytest.approx(2 / 3)
    assert (judge([], there)["object_f1"], judge([], [])["object_f1"]) == (0, 1)


def test_a_malformed_drawing_is_wrong():
    stated = [DescribedObject("circle", "red")]
    assert judge(stated, [DescribedObject("circle", "red", "large", "top")])["objects"]
    assert not judge(stated, [DescribedObject(None, "red", "large", "top")])["objects"]
    assert not judge(stated, [])["objects"]


def test_captions(rows):
    captions, scenes = [row["caption"] for row in rows], [row["scene"] for row in rows]
    metrics = score_captions(captions, [[caption] for caption in captions], scenes)
    assert metrics["cider"].value > 7
    assert metrics["cider"].baselines["unrelated"] < 1
    for name in JUDGEMENTS:
        assert metrics[name].value == 1
        assert metrics[name].baselines["unrelated"] <= 0.05
    assert metrics["object_f1"].value == 1
    assert metrics["object_f1"].baselines["unrelated"] < 0.3
    assert 0 < metrics["sizes"].count <= metrics["places"].count < metrics["everything"].count == len(rows)
    assert set(score_captions(captions, [[caption] for caption in captions])) == {"cider"}


def test_drawings_and_reconstructions(rows, read):
    captions = [parse_caption(row["caption"]) for row in rows]
    drawings = scene_metrics(captions, read)
    reconstructions = scene_metrics([row["scene"] for row in rows], read)
    for metrics in (drawings, reconstructions):
        for name in JUDGEMENTS:
            assert metrics[name].value == 1
            assert metrics[name].baselines["unrelated"] <= 0.05
    assert reconstructions["places"].count == reconstructions["sizes"].count == len(rows)
    nothing = scene_metrics(captions, [[] for _ in rows])
    assert nothing["objects"].value == 0


def test_edits(rows, read):
    edited, kinds = [read_scene(row["edited_image"]) for row in rows], [row["edit_kind"] for row in rows]
    metrics = score_edits([row["edited_scene"] for row in rows], edited, read, kinds)
    assert all(metrics[name].value == 1 for name in JUDGEMENTS)
    assert metrics["everything"].baselines["unedited"] == 0
    assert metrics["everything"].baselines["unrelated"] <= 0.05
    assert sum(metric.count for name, metric in metrics.items() if name.startswith("everything_")) == len(rows)
    unchanged = score_edits([row["edited_scene"] for row in rows], read, read)
    assert unchanged["everything"].value == 0
    assert unchanged["background"] is None
    kept = {"kept": [True, True, False, True], "kept_by_chance": [False, True, False, False]}
    background = score_edits([row["edited_scene"] for row in rows], edited, read, kinds, **kept)["background"]
    assert (background.value, background.count, background.baselines) == (0.75, 4, {"unrelated": 0.25})


def test_one_case_has_no_baseline(rows, read):
    metrics = scene_metrics([rows[0]["scene"]], read[:1])
    assert metrics["objects"].value == 1
    assert metrics["objects"].baselines == {}


def test_answers(rows):
    questions = list_questions(rows)
    metrics = score_answers(questions, [question.references[0] for question in questions])
    assert metrics["accuracy"].value == 1
    assert 0 < metrics["accuracy"].baselines["majority"] < 0.5
    kinds = {question.kind for question in questions}
    assert set(metrics) == {"accuracy"} | {f"accuracy_{kind}" for kind in kinds}
    assert sum(metrics[f"accuracy_{kind}"].count for kind in kinds) == metrics["accuracy"].count


def test_majority_is_learned_from_other_rows():
    asked = [Question(*fields) for fields in (
        (0, "q", ("yes",), "existence"), (0, "q", ("yes",), "existence"), (0, "q", ("yes",), "existence"),
        (1, "q", ("no",), "existence"), (2, "q", ("No.",), "existence"), (2, "q", ("red",), "color"),
    )]  # fmt: skip
    # In row 0, whose own answers do not count, "no" is commonest; nobody else was asked for a colour.
    assert majority_answers(asked) == ["no", "no", "no", "yes", "yes", None]
    assert score_answers(asked, ["yes"] * 6)["accuracy"].baselines["majority"] == 0


def test_the_forms_of_questions():
    ten = [{"answer": "cat", "answer_id": index} for index in range(10)]
    rows = [{"questions": "What?", "answers": "a cat"}, {"questions": "What?", "answers": ten}]
    assert [len(question.references) for question in list_questions(rows)] == [1, 10]
    assert score_answers(list_questions(rows), ["cat", "dog"])["accuracy"].value == 0.5
    # Only answers about shapes have reasons.
    clock = {"questions": "What time is it?", "answers": "10:30", "scene": "kitchen"}
    shapes = {"questions": "How many?", "answers": "top, left: two", "scene": SCENE}
    assert [question.references for question in list_questions([clock, shapes])] == [("10:30",), ("two",)]
    with pytest.raises(ValueError, match=r"'answers' must hold as many answers as there are questions, got \["):
        list_questions([{"questions": ["What?", "Who?"], "answers": ["a cat"]}])
    with pytest.raises(ValueError, match="Row 0 has 1 questions and 2 kinds"):
        list_questions([{"questions": "What?", "answers": "a cat", "question_kinds": ["name", "color"]}])


class Knowing(Subject):
    """Draws what texts state, and gives the last of the right answers, or the next case's instead."""

    def __init__(self, is_right: bool):
        super().__init__(None, None, None, EvaluationSettings())
        self.cases = {case.text: case for case in load_own_words()}
        texts = list(self.cases)
        self.meant = dict(zip(texts, texts if is_right else [*texts[1:], texts[0]], strict=True))

    def answer(self, questions, images):
        return [f"top, left: {(self.cases[self.meant[text]].answers or ('none',))[-1]}" for text in questions]

    def draw(self, texts, first, images=None):
        return [draw_case(self.cases[self.meant[text]]) for text in texts]


def draw_case(case):
    """Draws scenes with the objects of a case until one has its relations."""
    rng = Random(case.text)
    while True:
        objects = []
        for item in case.objects:
            place = item.place or rng.choice(PLACES)
            color, size = item.color or rng.choice(COLORS), item.size or rng.choice(SIZES)
            objects.append(sample_object(rng, item.shape, color, size, place, [one for one in objects if one]))
        if None not in objects:
            image = render_scene(Scene(tuple(objects), sample_scene(0, "test").background))
            if case.is_drawn(read_scene(image)):
                return image


def test_own_words():
    """Each of several right answers counts, also where there are more than ten."""
    rows = [{}] * len(load_own_words())
    metrics = evaluate_own_words(Knowing(True), rows)
    assert {name: (metric.value, metric.count) for name, metric in metrics.items()} == {
        "right": (1, 200),
        "right_drawing": (1, 110),
        "right_question": (1, 50),
        "right_edit": (1, 40),
    }
    assert evaluate_own_words(Knowing(False), rows)["right"].value < 0.2
    assert evaluate_own_words(Knowing(True), rows[:20])["right"].count == 20


def test_tokens():
    codes = [torch.tensor(row) for row in ([0], [0, 1], [1, 2, 3], [5, 6], [1])]
    metrics = score_tokens(codes[:3], num_patches=4, codebook_size=8, num_objects=[1, 2, 3])
    assert metrics["kept_fraction"].value == pytest.approx(0.5)
    assert metrics["kept_fraction_std"].value == pytest.approx((1 / 24) ** 0.5)
    assert metrics["objects_spearman"].value == pytest.approx(1, abs=1e-5)
    assert metrics["codebook_usage"].value == 0.5
    assert 1 < metrics["codebook_perplexity"].value < 4
    for num_objects in ([1], [1, 1, 1, 1, 1], []):  # without a variation there is no correlation
        assert "objects_spearman" not in score_tokens(codes[: len(num_objects) or None], 4, 8, num_objects)
    ranks = score_tokens(codes, 4, 8, [1, 2, 3, 4, 5])["objects_spearman"].value
    assert ranks == pytest.approx(np.corrcoef([1, 2, 3, 4, 5], [1.5, 3.5, 5, 3.5, 1.5])[0, 1], abs=1e-5)
