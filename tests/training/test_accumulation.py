# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches that accumulate gradients have the loss and the update of one batch with all their rows."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments

from lavit_hf.training import LavitForCausalLMTrainer

from ..tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, VISUAL_OFFSET, pad_rows, pictures, tiny_lavit


@pytest.fixture(scope="module")
def model():
    return tiny_lavit()


def make_rows(model, kind: str) -> list[dict]:
    """Makes rows with different numbers of labels."""
    texts = [[5, 6, 7, 8, 9, 10, 11, 12], [15, 16, 17], [20, 21], [25, 26, 27, 28, 29, 30]]
    if kind == "text":
        return [{"ids": text} for text in texts]
    images = pictures(len(texts), seed=3)
    with torch.no_grad():
        codes = [(row + VISUAL_OFFSET).tolist() for row in model.model.tokenize_images(images).split()]
    assert len({len(row) for row in codes}) > 1
    inside = {
        "codes": codes,
        "expanded": [[PLACEHOLDER] * len(row) for row in codes],
        "placeholder": [[PLACEHOLDER]] * 4,
    }
    rows = [
        {"ids": [*text, IMAGE_START, *inside[kind][index], IMAGE_END], "images": images[index : index + 1]}
        for index, text in enumerate(texts)
    ]
    # An image that is no label, and a row without an image.
    rows[1]["ids"], rows[1]["unlabelled"] = [IMAGE_START, *inside[kind][1], IMAGE_END, *texts[1]], True
    rows[2] = {"ids": texts[2], "images": images[:0]}
    return [{**row, "images": images[:0]} if kind == "codes" else row for row in rows]


def collate(rows: list[dict], side: str = "right") -> dict:
    ids, mask = pad_rows([row["ids"] for row in rows], side)
    labels = ids.masked_fill(mask == 0, -100)
    for row, target in zip(rows, labels, strict=True):
        if row.get("unlabelled"):
            target[: target.tolist().index(IMAGE_END)] = -100  # also padding on the left
    images = {"pixel_values": torch.cat([row["images"] for row in rows])} if "images" in rows[0] else {}
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **images}


def train(trainer_class, model, folder, rows, batch_size: int, **settings) -> tuple[float, dict[str, torch.Tensor]]:
    """Returns the loss of one step with as many batches as all rows need, and the change of each parameter."""
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=len(rows) // batch_size,
        max_steps=1,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        **settings,
    )
    trained = copy.deepcopy(model)
    before = {name: weight.detach().clone() for name, weight in trained.named_parameters()}
    loss = trainer_class(trained, args, data_collator=collate, train_dataset=rows).train().training_loss
    return loss, {name: weight.detach() - before[name] for name, weight in trained.named_parameters()}


@pytest.mark.parametrize(
    ("trainer_class", "kind"),
    [
        (trainer_class, kind)
        for trainer_class in (Trainer, LavitForCausalLMTrainer)
        for kind in ("text", "codes", "expanded", "placeholder")
        if (trainer_class, kind) != (Trainer, "placeholder")
    ],
)
def test_accumulated_is_whole(model, tmp_path, trainer_class, kind):
    rows = make_rows(model, kind)
    with torch.no_grad():
        expected = model(**collate(rows)).loss.item()
        by_batch = sum(model(**collate(rows[index : index + 1])).loss.item() for index in range(4)) / 4
    assert abs(by_batch - expected) > 0.01
    whole_loss, whole = train(trainer_class, model, tmp_path, rows, batch_size=4)
    assert whole_loss == pytest.approx(expected, abs=1e-5)
    norm = torch.stack([update.norm() for update in whole.values()]).norm()
    assert norm > 0.1
    for batch_size in (1, 2):
        loss, updates = train(trainer_class, model, tmp_path, rows, batch_size)
        assert loss == pytest.approx(whole_loss, abs=1e-6)
        assert max((updates[name] - whole[name]).norm() for name in whole) < 1e-6 * norm


@pytest.mark.parametrize("trained", ["visual_tokenizer.vision_tower", "visual_tokenizer.selector"])
def test_accumulated_is_whole_where_the_visual_tokenizer_is_trained(model, tmp_path, trained):
    model = copy.deepcopy(model)
    model.model.get_submodule(trained).requires_grad_(True)
    rows = make_rows(model, "placeholder")
    whole_loss, whole = train(LavitForCausalLMTrainer, model, tmp_path, rows, batch_size=4)
    loss, updates = train(LavitForCausalLMTrainer, model, tmp_path, rows, batch_size=1)
    norm = torch.stack([update.norm() for update in whole.values()]).norm()
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    assert max((updates[name] - whole[name]).norm() for name in whole) < 1e-6 * norm
    moved = any(update.norm() > 0 for name, update in whole.items() if trained in name)
    assert moved == (trained == "visual_tokenizer.vision_tower")


def test_the_vision_tower_runs_once_for_each_image(model, tmp_path):
    """This holds with and without accumulated gradients."""
    rows, seen = make_rows(model, "placeholder"), []
    hooked = copy.deepcopy(model)
    hooked.model.visual_tokenizer.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0])), with_kwargs=True
    )
    for batch_size in (4, 2):
        seen.clear()
        train(LavitForCausalLMTrainer, hooked, tmp_path, rows, batch_size)
        assert sum(seen) == 3


@pytest.mark.parametrize("skip_logits", [False, True])
@pytest.mark.parametrize("kind", ["text", "codes", "expanded", "placeholder"])
def test_the_number_of_items_divides_the_loss(model, kind, skip_logits):
    """
    With the number of labels that Trainer counts in a batch, before images are expanded, the loss is the mean, as
    without a number; with twice that number, it is half of the mean.
    """
    batch = collate(make_rows(model, kind))
    counted = batch["labels"][:, 1:].ne(-100).sum()
    with torch.no_grad():
        mean = model(**batch, skip_logits=skip_logits).loss
        same = model(**batch, skip_logits=skip_logits, num_items_in_batch=counted).loss
        half = model(**batch, skip_logits=skip_logits, num_items_in_batch=2 * int(counted)).loss
        nothing = batch | {"labels": torch.full_like(batch["labels"], -100)}
        none = model(**nothing, skip_logits=skip_logits, num_items_in_batch=7).loss
    torch.testing.assert_close(same, mean)
    torch.testing.assert_close(half, mean / 2)
    assert none == 0


@pytest.mark.parametrize("kind", ["text", "codes", "expanded"])
def test_labels_have_equal_weights_on_either_side_of_padding(model, kind):
    """A batch in which `Trainer` counts first tokens behind padding does not give its labels other weights."""
    rows = make_rows(model, kind)
    batches = [[rows[0], rows[2]], [rows[1], rows[3]]]
    losses = {
        side: [model(**collate(batch, side), num_items_in_batch=torch.tensor(50)).loss.item() for batch in batches]
        for side in ("right", "left")
    }
    assert losses["left"] == pytest.approx(losses["right"], rel=1e-5)
    for batch in map(collate, batches, ["left"] * 2):  # one batch has the mean, whatever is counted
        whole = model(**batch, num_items_in_batch=batch["labels"][:, 1:].ne(-100).sum()).loss
        torch.testing.assert_close(whole, model(**batch).loss)
