# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of a dataset become the rows of a training: kinds, orders, formats, and what is missing in them."""

from random import Random

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from pretrain import list_texts

from lavit_hf.data.rows import RowDataset, RowStream
from lavit_hf.training import ImagePart, MixtureRows, SequenceArguments, SequenceReader, TextPart

from .small import EVERY_KIND, iter_rows, make_dataset, make_image


def test_an_item_is_the_same_wherever_it_is_read():
    dataset, arguments = make_dataset(), SequenceArguments(EVERY_KIND)
    rows, again = MixtureRows(dataset, arguments, seed=1), MixtureRows(dataset, arguments, seed=1)
    items = [rows[index] for index in range(len(rows))]
    assert [again[index] for index in reversed(range(len(again)))] == items[::-1]
    assert [MixtureRows(dataset, arguments, seed=2)[index] for index in range(len(rows))] != items
    loader = torch.utils.data.DataLoader(again, batch_size=8, num_workers=1, collate_fn=list, persistent_workers=True)
    assert [item for batch in loader for item in batch] == items
    rows.set_epoch(1)
    again.set_epoch(1)  # after the workers have started
    second = [rows[index] for index in range(len(rows))]
    assert second != items
    assert [item for batch in loader for item in batch] == second


def test_an_epoch_has_each_row_once_and_kinds_by_weight():
    dataset = Dataset.from_dict({"caption": [f"{index}" for index in range(1500)], "image_codes": [[1]] * 1500})
    rows = MixtureRows(dataset, SequenceArguments(["draw=3", "text=1"], prompt_dropout=0.1))
    items = [rows[index] for index in range(len(rows))]
    texts = [int(item[0].text) for item in items if isinstance(item[0], TextPart)]
    assert len(set(texts)) == len(texts)
    unconditional = [item for item in items if len(item) == 1 and isinstance(item[0], ImagePart)]
    drawn = [item for item in items if isinstance(item[-1], ImagePart)]
    assert len(drawn) / len(items) == pytest.approx(0.75, abs=0.04)
    assert len(unconditional) / len(drawn) == pytest.approx(0.1, abs=0.03)


def test_rows_are_taken_for_what_they_have():
    dataset = Dataset.from_list([{"caption": "red", "text": None}, {"caption": None, "text": "blue"}])
    arguments = SequenceArguments(["text=1"])
    assert [part.text for part in MixtureRows(dataset.select([0]), arguments)[0]] == ["red"]
    with pytest.raises(ValueError, match="Row 0 has no value in 'caption' for a sequence of the kinds text"):
        MixtureRows(dataset.select([1]), arguments)[0]
    several = Dataset.from_list([{"caption": ["red", "blue"], "question": "which?", "answer": [{"answer": "red"}]}])
    assert MixtureRows(several, arguments)[0][0].text in ("red", "blue")


@pytest.mark.parametrize(
    ("questions", "answers"),
    [
        (["a?", "b?", "c?"], "yes"),
        (["a?", "b?", "c?"], ["yes", "no"]),
        (["a?"], ["yes", "no"]),
        (["a?"], None),
        (["a?", None], ["yes", "no"]),
        (["a?", ""], ["yes", "no"]),
        (["a?"], [{"confidence": "high"}]),
        (["a?"], [None]),
    ],
)
def test_questions_and_answers_that_do_not_belong_together_are_refused(questions, answers):
    reader = SequenceReader(SequenceArguments(mixture=["question=1"], questions_per_sequence=3))
    row = {"image": make_image("red", "blue"), "questions": questions, "answers": answers}
    with pytest.raises(ValueError, match="[Rr]ow 7"):
        reader.compose(row, "row 7", Random(0))


def test_broken_images_within_lists_are_left_out(tmp_path):
    make_image("red", "blue").save(tmp_path / "fine.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    segments = [
        [{"type": "text", "text": name}, {"type": "image", "image": str(tmp_path / f"{name}.png")}]
        for name in ("fine", "broken", "fine")
    ]
    segment = {"type": Value("string"), "text": Value("string"), "image": Image()}
    dataset = Dataset.from_dict({"segments": segments}, features=Features({"segments": List(segment)}))
    reader = SequenceReader(SequenceArguments(["interleaved=1"]))
    for items in (RowDataset(dataset, reader), RowStream(dataset.to_iterable_dataset(), reader)):
        with pytest.raises(ValueError, match="row 1.*broken.png"):
            list(items)
    assert len(list(RowStream(dataset.to_iterable_dataset(), reader, broken_images="skip"))) == 2
    assert [item[0].text for item in RowDataset(dataset, reader, broken_images="skip")] == ["fine"] * 3


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow"])
def test_rows_are_the_same_in_any_format(kind):
    dataset, arguments = make_dataset(4), SequenceArguments(EVERY_KIND)
    assert iter_rows(MixtureRows(dataset.with_format(kind), arguments)) == iter_rows(MixtureRows(dataset, arguments))
    if kind in ("torch", "numpy"):
        plain, other = (
            RowStream(rows, SequenceReader(arguments))
            for rows in (dataset.to_iterable_dataset(), dataset.to_iterable_dataset().with_format(kind))
        )
        assert list(other) == list(plain)


def test_a_transform_of_rows_holds():
    dataset = make_dataset(4).with_transform(lambda rows: {"caption": [text.upper() for text in rows["caption"]]})
    items = iter_rows(MixtureRows(dataset, SequenceArguments(["text=1"])))
    assert all(item[0].text.isupper() for item in items)


def test_images_are_read_only_if_they_are_needed(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    make_image("red", "blue").save(tmp_path / "fine.png")
    files = [str(tmp_path / name) for name in ("broken.png", "fine.png", "fine.png")]
    dataset = Dataset.from_dict({"image": files, "caption": ["red", "green", "blue"]})
    assert len(iter_rows(MixtureRows(dataset, SequenceArguments(["text=1"])))) == 3
    with pytest.raises(ValueError, match="row 0 .*broken.png"):
        iter_rows(MixtureRows(dataset, SequenceArguments(["draw=1"])))
    rows = MixtureRows(dataset, SequenceArguments(["draw=1"], prompt_dropout=0.0), broken_images="skip")
    assert sorted(item[0].text for item in iter_rows(rows)) in (["blue", "blue", "green"], ["blue", "green", "green"])


@pytest.mark.parametrize("empty", [None, "", "  ", [], [""], [" ", None]], ids=repr)
def test_rows_without_a_value_are_named_or_left_out(empty):
    texts = [["red"], empty if isinstance(empty, list) else None if empty is None else [empty], ["blue"]]
    dataset = Dataset.from_list([{"text": text} for text in texts])
    arguments = SequenceArguments(["text=1"], text_column="text")
    for rows in (dataset, dataset.to_iterable_dataset()):
        items = RowDataset if rows is dataset else RowStream
        with pytest.raises(ValueError, match="Row 1.* has no value in 'text' .*broken_images='skip' leaves out"):
            list(items(rows, SequenceReader(arguments)))
        found = {item[0].text for item in items(rows, SequenceReader(arguments), broken_images="skip")}
        assert found == {"red", "blue"}
    assert {MixtureRows(Dataset.from_list([{"text": ["", "red"]}]), arguments)[0][0].text} == {"red"}


def test_a_plan_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'draw' need a column 'layout'.* Set plan_column"):
        MixtureRows(make_dataset(4), SequenceArguments(["draw=1"], plan_column="layout"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixture": ["paint=1"]}, "mixture must give some of caption, .* got \\['paint=1'\\]"),
        ({"mixture": ["draw=0"]}, "mixture"),
        ({"mixture": ["draw"]}, "mixture must be NAME=NUMBER"),
        ({"prompt_dropout": 2.0}, "prompt_dropout must be a finite number from 0 to 1, got 2.0"),
        ({"plan_dropout": -0.5}, "plan_dropout must be a finite number from 0 to 1, got -0.5"),
        ({"image_inputs": "pixels"}, "'features' or 'codes', got 'pixels'"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        SequenceArguments(**given)


def test_drawings_have_requests_of_their_own():
    row = {"image_codes": [1, 2], "captions": ["a red star"], "prompts": ["draw a star"]}
    for column, expected in (("prompts", "draw a star"), (None, "a red star")):
        arguments = SequenceArguments(
            mixture=["draw=1"], caption_column="captions", prompt_column=column, prompt_dropout=0.0
        )
        assert list(list_texts(MixtureRows(Dataset.from_list([row]), arguments))) == [expected]


def test_texts_of_answers_in_every_form():
    """One or several questions, with an answer, several of them, or VQAv2's answers with who gave them."""
    rows = [
        {"image": "unread.png", "questions": "what?", "answers": "red"},
        {"image": "unread.png", "questions": "what?", "answers": [{"answer": "red"}]},
        {"image": "unread.png", "questions": ["what?"], "answers": ["red"]},
        {"image": "unread.png", "questions": ["what?"], "answers": [[{"answer": "red"}, {"answer": "red"}]]},
    ]
    for row in rows:
        texts = list_texts(MixtureRows(Dataset.from_list([row]), SequenceArguments(mixture=["question=1"])))
        assert list(texts) == ["Question: what? Answer: red"]
