# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The card of a trained model."""

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import TrainingArguments

from lavit_hf.evaluation import TASKS, EvaluationReport, Metric
from lavit_hf.training import LavitVisualTokenizerTrainer, write_model_card

from ..tiny import pictures
from .test_tokenizer_training import make_model


def test_the_card_says_what_made_the_model(tmp_path):
    local = tmp_path / "somewhere" / "my-tower"
    local.mkdir(parents=True)
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "samples" / "step-10.png")
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        learning_rate=2e-4,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    rows = [{"pixel_values": image} for image in pictures(12)]
    trainer = LavitVisualTokenizerTrainer(make_model(), arguments, train_dataset=rows, eval_dataset=rows[:4])
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    path = write_model_card(
        tmp_path,
        title="A tokenizer",
        description="Images to codes.",
        usage="load(path)",
        base_models={"vision tower": str(local), "decoder": "someone/decoder", "other": None},
        dataset="someone/images",
        trainer=trainer,
        images=["samples/step-10.png"],
        warnings=["All images have the same codes."],
    )
    card = ModelCard.load(path)
    assert card.data.base_model == ["someone/decoder"]
    assert card.data.datasets == ["someone/images"]
    assert card.data.tags == ["lavit"]
    assert "# A tokenizer\n\nImages to codes." in card.text
    assert "Images to codes.\n\n**Warning:** All images have the same codes.\n" in card.text
    assert "| rows | 12 |" in card.text
    assert "| time of the last run | 0:0" in card.text
    assert "```python\nload(path)\n```" in card.text
    assert "| vision tower | my-tower |" in card.text
    assert "| other |" not in card.text
    assert str(tmp_path) not in card.text
    assert "| steps | 1 |" in card.text
    assert "| batch size | 12 |" in card.text
    assert "| optimizer | AdamW |" in card.text
    assert "| learning rate | 0.0002 |\n| lr scheduler type | linear |" in card.text
    assert f"| eval loss | {loss:.4g} |" in card.text
    assert "runtime" not in card.text
    assert "![step-10](samples/step-10.png)" in card.text


def test_little_is_needed(tmp_path):
    text = write_model_card(tmp_path, title="A model", description="It is one.").read_text(encoding="utf-8")
    assert text.endswith("# A model\n\nIt is one.\n")
    assert "##" not in text.replace("# A model", "")


def test_images_must_be_in_the_folder(tmp_path):
    (tmp_path / "model").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    with pytest.raises(ValueError, match="outside.png"):
        write_model_card(tmp_path / "model", title="A", description="B", images=["../outside.png"])


def test_figures_of_an_evaluation(tmp_path):
    """The card has the results as a table and as the Hub's `model-index`, with their protocol."""
    results = {
        "drawing": {"objects": Metric(0.875, 8, [0.5, 0.98], {"unrelated": 0.0})},
        "tokens": {"usage": Metric(0.5, 9)},
    }
    protocol = {
        "model": "/home/me/model",
        "dataset": "shapes",
        "split": "test",
        "num_samples": 8,
        "settings": {"seed": 0},
    }
    report = EvaluationReport(results, {"drawing": 1.0, "tokens": 1.0}, {}, protocol)
    assert EvaluationReport.from_json(report.to_json()) == report
    path = write_model_card(
        tmp_path,
        title="A model",
        description="It is one.",
        training={"pixel decoder": "| | |\n| --- | --- |\n| steps | 5 |"},
        evaluation=report,
        license="apache-2.0",
        pipeline_tag="any-to-any",
    )
    card = ModelCard.load(path)
    [result] = card.data.eval_results
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("text-to-image", "shapes", "test")
    assert (result.metric_name, result.metric_value) == ("drawing: objects", 0.875)
    assert (card.data.model_name, card.data.license, card.data.pipeline_tag) == ("A model", "apache-2.0", "any-to-any")
    assert "| drawing | objects | 87.5% | 50.0% to 98.0% | unrelated 0.0% | 8 |" in card.text
    assert '| settings | `{"seed": 0}` |' in card.text
    assert "## Training of the pixel decoder\n\n| | |" in card.text
    assert "/home" not in card.text


def report_of(*tasks: str) -> EvaluationReport:
    results = {task: {"objects": Metric(0.5, 8, [0.2, 0.8])} for task in tasks}
    return EvaluationReport(results, {}, {}, {"dataset": "shapes", "split": "test"})


def test_rates_of_every_task_go_to_the_hub(tmp_path):
    path = write_model_card(tmp_path, title="A", description="B", evaluation=report_of(*TASKS))
    results = ModelCard.load(path).data.eval_results
    found = {result.metric_name.partition(":")[0]: result.task_type for result in results}
    assert found == {name: task.hub_task for name, task in TASKS.items()}


def test_a_task_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tasks must be of captions, .*, got 'juggling'"):
        write_model_card(tmp_path, title="A", description="B", evaluation=report_of("captions", "juggling"))
