# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`compute_metrics` gets logits and labels of equal shapes: both trainers have the token accuracy computed by hand."""

import copy

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments, default_data_collator

from lavit_hf import LavitProcessor
from lavit_hf.modeling.labels_lavit import IGNORE_INDEX
from lavit_hf.training import ImagePart, LavitCollator, LavitForCausalLMTrainer, TextPart

from .small import make_dataset, make_model, make_processor, tokenize


NUM_ROWS = 5  # in batches of two, the last of which is smaller


@pytest.fixture(scope="module")
def model():
    return make_model(make_processor())


@pytest.fixture(scope="module")
def rows(model) -> list[dict]:
    """Texts of several lengths after images with several numbers of codes."""
    dataset = tokenize(make_dataset(NUM_ROWS), model.model.visual_tokenizer)
    rows = [{**row, "text": row["caption"] * (1 + index % 3)} for index, row in enumerate(dataset)]
    assert len({len(row["image_codes"]) for row in rows}) > 1
    return rows


def parts(row: dict) -> list:
    image = ImagePart(row["image"], row["image_codes"], image_input="features")
    return [image, TextPart(row["text"], supervised=True)]


class FromCollator:
    """Labels of images are their codes."""

    def __init__(self, model, expand_images: bool):
        self.collator = LavitCollator(make_processor(), model.config.num_patches, expand_images=expand_images)

    def __call__(self, rows: list[dict]) -> dict:
        return self.collator([parts(row) for row in rows])


class FromProcessor:
    """
    Images are no labels, as in a user's own collator with a processor, with or without a visual tokenizer. It pads on
    the right, so that no position of padding comes before the first token of a row.
    """

    def __init__(self, model, expand_images: bool):
        self.processor: LavitProcessor = make_processor()
        if expand_images:
            self.processor.visual_tokenizer = model.model.visual_tokenizer

    def __call__(self, rows: list[dict]) -> dict:
        texts, images = [f"<image>{row['text']}" for row in rows], [row["image"] for row in rows]
        inputs = self.processor(text=texts, images=images, padding_side="right", return_tensors="pt")
        left_out = (inputs["attention_mask"] == 0) | (inputs["input_ids"] == self.processor.image_token_id)
        return {**inputs, "labels": inputs["input_ids"].masked_fill(left_out, IGNORE_INDEX)}


@torch.no_grad()
def accuracy_by_hand(model, rows: list[dict], kind) -> float:
    """Returns the accuracy over rows that are read one by one, with one placeholder, by the labels of the model."""
    collate, hits = kind(model, expand_images=False), []
    for row in rows:
        outputs = model.eval()(**collate([row]))
        predicted, labels = outputs.logits[0, :-1].argmax(-1), outputs.labels[0, 1:]
        hits.append((predicted == labels)[labels != IGNORE_INDEX])
    return torch.cat(hits).float().mean().item()


class Accuracy:
    """The usual metric, which keeps the arrays it was given."""

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        self.logits, self.labels = prediction.predictions, prediction.label_ids
        predicted = self.logits if self.logits.ndim == 2 else self.logits.argmax(-1)
        counted = self.labels[:, 1:] != IGNORE_INDEX
        return {"accuracy": (predicted[:, :-1] == self.labels[:, 1:])[counted].mean().item()}


def make_trainer(trainer_class, model, folder, rows, collate, **kwargs) -> Trainer:
    args = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_eval_batch_size=2,
        remove_unused_columns=False,
        prediction_loss_only=False,
    )
    return trainer_class(model, args, eval_dataset=rows, data_collator=collate, **kwargs)


def take_argmax(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    assert logits.shape[:2] == labels.shape
    return logits.argmax(-1)


@pytest.mark.parametrize("preprocess", [None, take_argmax])
@pytest.mark.parametrize("kind", [FromCollator, FromProcessor])
@pytest.mark.parametrize(
    ("trainer_class", "expand_images"),
    [(Trainer, True), (LavitForCausalLMTrainer, True), (LavitForCausalLMTrainer, False)],
)
def test_accuracy(trainer_class, expand_images, kind, preprocess, model, rows, tmp_path):
    metric = Accuracy()
    collate = kind(model, expand_images)
    settings = {"compute_metrics": metric, "preprocess_logits_for_metrics": preprocess}
    trainer = make_trainer(trainer_class, model, tmp_path, rows, collate, **settings)
    measured = trainer.evaluate()["eval_accuracy"]
    assert metric.logits.shape[:2] == metric.labels.shape
    assert metric.logits.ndim == (3 if preprocess is None else 2)
    assert measured == pytest.approx(accuracy_by_hand(model, rows, kind), abs=1e-6)
    assert 0 < measured < 1


@pytest.mark.parametrize("trainer_class", [Trainer, LavitForCausalLMTrainer])
def test_predictions_without_metrics(trainer_class, model, rows, tmp_path):
    """`predict` returns logits and labels whether there are metrics or not."""
    collate = FromCollator(model, expand_images=True)
    predictions, labels, _ = make_trainer(trainer_class, model, tmp_path, rows, collate).predict(rows)
    assert predictions.shape == (*labels.shape, model.config.vocab_size)
    with torch.no_grad():
        [expected] = model.eval()(**collate(rows[-1:])).logits
    np.testing.assert_allclose(predictions[-1, : len(expected)], expected, atol=1e-4)


@pytest.mark.parametrize("batch_eval_metrics", [False, True])
def test_metrics_are_given_what_they_ask_for(model, rows, tmp_path, batch_eval_metrics):
    given = []

    def metric(prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        given.append(prediction)
        return {"rows": sum(len(part.label_ids) for part in given)}

    collate = FromCollator(model, expand_images=False)
    trainer = make_trainer(LavitForCausalLMTrainer, model, tmp_path, rows, collate, compute_metrics=metric)
    trainer.args.include_for_metrics, trainer.args.batch_eval_metrics = ["inputs", "loss"], batch_eval_metrics
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == NUM_ROWS
    assert all(part.predictions.shape == (*part.label_ids.shape, model.config.vocab_size) for part in given)
    losses = np.concatenate([np.atleast_1d(part.losses) for part in given])  # of a batch, for each of its rows
    assert losses.min() - 1e-4 < metrics["eval_loss"] < losses.max() + 1e-4
    if not batch_eval_metrics:  # otherwise one batch at a time
        assert given[0].inputs.shape[0] == NUM_ROWS
        assert given[0].inputs.shape[1] < given[0].label_ids.shape[1]


@pytest.mark.parametrize("with_metrics", [False, True])
def test_the_loss_of_an_evaluation_is_the_mean_over_all_labels(with_metrics, model, rows, tmp_path):
    """Whatever the batch size, with metrics and without, for `evaluate` and `predict`."""
    collate = FromCollator(model, expand_images=True)
    with torch.no_grad():
        losses = torch.cat([model.eval()(**collate([row]), skip_logits=True).token_losses for row in rows])
        labels = torch.cat([collate([row])["labels"][0, 1:] for row in rows])
    labels = labels[labels != IGNORE_INDEX]
    is_text = labels < model.config.image_start_token_id
    expected = {
        "loss": losses.mean(),
        "loss_on_text": losses[is_text].mean(),
        "loss_on_codes": losses[~is_text].mean(),
    }
    for batch_size in (1, 2, NUM_ROWS):
        settings = {"compute_metrics": Accuracy()} if with_metrics else {}
        trainer = make_trainer(LavitForCausalLMTrainer, model, tmp_path, rows, collate, **settings)
        trainer.args.per_device_eval_batch_size, trainer.args.prediction_loss_only = batch_size, not with_metrics
        evaluated, predicted = trainer.evaluate(), trainer.predict(rows).metrics
        for name, value in expected.items():
            assert evaluated[f"eval_{name}"] == pytest.approx(value.item(), abs=1e-4)
            assert predicted[f"test_{name}"] == pytest.approx(value.item(), abs=1e-4)
        assert trainer.state.log_history[0]["eval_loss"] == evaluated["eval_loss"]


def test_tokens_that_a_user_has_added_are_text(model, tmp_path):
    """They lie behind the image placeholder."""
    model = copy.deepcopy(model)
    first = model.config.image_token_id + 1
    model.resize_token_embeddings(first + 2)
    ids = torch.tensor([5, first, first + 1, first])
    rows = [{"input_ids": ids, "labels": ids}]
    metrics = make_trainer(LavitForCausalLMTrainer, model, tmp_path, rows, default_data_collator).evaluate()
    assert metrics["eval_loss_on_text"] == metrics["eval_loss"]
    assert "eval_loss_on_codes" not in metrics
