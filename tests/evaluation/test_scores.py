# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The scorers on the truth, which is all right, and on unrelated cases, which is not."""

import pytest

from lavit_hf.data.shapes import DescribedObject, parse_caption, read_scene
from lavit_hf.evaluation.captions import score_captions
from lavit_hf.evaluation.drawing import score_drawings
from lavit_hf.evaluation.edits import score_edits
from lavit_hf.evaluation.questions import AskedQuestion, list_questions, majority_answers, score_answers
from lavit_hf.evaluation.reconstruction import score_reconstructions
from lavit_hf.evaluation.scenes import JUDGEMENTS, judge, to_objects
from lavit_hf.evaluation.subject import EvaluationSettings
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
    outcome = judge(parse_caption(caption), to_objects(SCENE))
    assert outcome == {"objects": objects, "places": places, "sizes": sizes, "everything": everything}


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
    assert 0 < metrics["sizes"].count <= metrics["places"].count < metrics["everything"].count == len(rows)
    assert set(score_captions(captions, [[caption] for caption in captions])) == {"cider"}


def test_drawings_and_reconstructions(rows, read):
    drawings = score_drawings([row["caption"] for row in rows], read)
    reconstructions = score_reconstructions([row["scene"] for row in rows], read)
    for metrics in (drawings, reconstructions):
        for name in JUDGEMENTS:
            assert metrics[name].value == 1
            assert metrics[name].baselines["unrelated"] <= 0.05
    assert reconstructions["places"].count == reconstructions["sizes"].count == len(rows)
    nothing = score_drawings([row["caption"] for row in rows], [[] for _ in rows])
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


def test_one_case_has_no_baseline(rows, read):
    metrics = score_drawings([rows[0]["caption"]], read[:1])
    assert metrics["objects"].value == 1
    assert metrics["objects"].baselines == {}


def test_answers(rows):
    questions = list_questions(rows, EvaluationSettings())
    metrics = score_answers(questions, [question.references[0] for question in questions])
    assert metrics["accuracy"].value == 1
    assert 0 < metrics["accuracy"].baselines["majority"] < 0.5
    kinds = {question.kind for question in questions}
    assert set(metrics) == {"accuracy"} | {f"accuracy_{kind}" for kind in kinds}
    assert sum(metrics[f"accuracy_{kind}"].count for kind in kinds) == metrics["accuracy"].count


def test_majority_is_learned_from_other_rows():
    asked = [AskedQuestion(*fields) for fields in (
        (0, "q", ("yes",), "existence"), (0, "q", ("yes",), "existence"), (0, "q", ("yes",), "existence"),
        (1, "q", ("no",), "existence"), (2, "q", ("No.",), "existence"), (2, "q", ("red",), "color"),
    )]  # fmt: skip
    # In row 0, whose own answers do not count, "no" is commonest; nobody else was asked for a colour.
    assert majority_answers(asked) == ["no", "no", "no", "yes", "yes", None]
    assert score_answers(asked, ["yes"] * 6)["accuracy"].baselines["majority"] == 0


def test_the_forms_of_questions():
    settings = EvaluationSettings(question_column="question", answer_column="answer")
    ten = [{"answer": "cat", "answer_id": index} for index in range(10)]
    rows = [{"question": "What?", "answer": "a cat"}, {"question": "What?", "answer": ten}]
    assert [len(question.references) for question in list_questions(rows, settings)] == [1, 10]
    assert score_answers(list_questions(rows, settings), ["cat", "dog"])["accuracy"].value == 0.5
    with pytest.raises(ValueError, match="Row 0 has 2 questions, 1 answers"):
        list_questions([{"question": ["What?", "Who?"], "answer": ["a cat"]}], settings)


def test_tokens():
    metrics = score_tokens([[0], [0, 1], [1, 2, 3]], num_patches=4, codebook_size=8, num_objects=[1, 2, 3])
    assert metrics["kept_fraction"].value == pytest.approx(0.5)
    assert metrics["kept_fraction_std"].value == pytest.approx((1 / 24) ** 0.5)
    assert metrics["objects_spearman"].value == pytest.approx(1)
    assert metrics["codebook_usage"].value == 0.5
    assert 1 < metrics["codebook_perplexity"].value < 4
    assert "objects_spearman" not in score_tokens([[0]], 4, 8, [1])
