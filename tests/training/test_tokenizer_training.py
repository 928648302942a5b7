# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 1: which weights are trained, the schedule, resuming, several processes."""

import copy
import json

import pytest
import torch
from transformers import CLIPVisionConfig, TrainerCallback, TrainingArguments

from lavit_hf import LavitVisualTokenizer, LavitVisualTokenizerForPreTraining
from lavit_hf.training import LavitVisualTokenizerTrainer, TokenizerSchedule, find_collapse

from ..tiny import CODEBOOK_SIZE, VISION, loosen, pictures
from .small import run_in_processes


def make_model(**kwargs) -> LavitVisualTokenizerForPreTraining:
    torch.manual_seed(0)
    kwargs = {
        "codebook_size": CODEBOOK_SIZE,
        "num_merger_layers": 1,
        "code_dim": 8,
        "encode_positions": True,
        "feature_whitening": 0.001,
    } | kwargs
    return loosen(LavitVisualTokenizerForPreTraining.from_vision_tower(CLIPVisionConfig(**VISION), **kwargs), 0.1)


def train(
    model,
    folder,
    schedule=None,
    steps=6,
    resume=None,
    batch_size=8,
    rows=64,
    evaluated=None,
    new=None,
    **kwargs,
):
    settings = {"learning_rate": 1e-3, "logging_steps": 1, "save_steps": 1000, "report_to": "none", "use_cpu": True}
    args = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=batch_size, **(settings | kwargs)
    )
    dataset = [{"pixel_values": picture} for picture in pictures(rows)]
    trainer = LavitVisualTokenizerTrainer(
        model, args, schedule=schedule, train_dataset=dataset, eval_dataset=evaluated, model_init=new
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_each_training_may_have_a_new_model(tmp_path):
    """With `model_init`, the schedule holds for the model in training."""
    made = []

    def make() -> LavitVisualTokenizerForPreTraining:
        made.append(make_model())
        return made[-1]

    trainer = train(None, tmp_path, steps=2, new=make)
    assert trainer.tokenizer is trainer.model is made[-1]
    assert len(made) > 1
    assert trainer.tokenizer.codebook_updater.num_updates > 0


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("without", ["gradients", "a selector that is trained"])
def test_the_loss_does_not_depend_on_what_is_trained(without):
    model = make_model().train()
    losses = []
    for is_trained in (True, False):
        model.visual_tokenizer.selector.requires_grad_(is_trained or without == "gradients")
        torch.manual_seed(0)  # of the Gumbel noise
        with torch.set_grad_enabled(is_trained or without != "gradients"):
            losses.append(copy.deepcopy(model)(pixel_values=pictures(4)).loss)  # a batch changes the codebook
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_the_loss_falls_and_the_tower_stays(tmp_path):
    model = make_model()
    tower = {name: value.clone() for name, value in model.visual_tokenizer.vision_tower.state_dict().items()}
    trainer = train(model, tmp_path, steps=40, rows=16, learning_rate=3e-3)
    history = [entry["reconstruction_loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(history[-5:]) < 0.9 * sum(history[:5])
    for name, value in model.visual_tokenizer.vision_tower.state_dict().items():
        torch.testing.assert_close(value, tower[name], rtol=0, atol=0)
    entry = trainer.state.log_history[-2]
    assert {"reconstruction_loss", "kept_fraction", "commitment_loss", "code_usage", "code_perplexity"} <= set(entry)
    assert 0 < entry["kept_fraction"] < 1
    assert 1 <= entry["code_perplexity"] <= CODEBOOK_SIZE


def test_evaluation_measures_what_training_does(tmp_path):
    trainer = train(make_model(), tmp_path)
    metrics = trainer.evaluate([{"pixel_values": picture} for picture in pictures(8)])
    assert 0 < metrics["eval_reconstruction_loss"] < metrics["eval_loss"]
    assert {"eval_kept_fraction", "eval_code_usage"} <= set(metrics)


def test_an_evaluation_does_not_depend_on_its_batch_size(tmp_path):
    model = train(make_model(), tmp_path, steps=1).tokenizer
    rows = [{"pixel_values": picture} for picture in pictures(5)]
    measured = []
    for batch_size in (1, 2, 5):
        args = TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=batch_size, report_to="none", use_cpu=True, disable_tqdm=True
        )
        metrics = LavitVisualTokenizerTrainer(model, args, eval_dataset=rows).evaluate()
        names = ("eval_reconstruction_loss", "eval_kept_fraction", "eval_code_usage", "eval_code_perplexity")
        measured.append([metrics[name] for name in names])
    for other in measured[1:]:
        assert other == pytest.approx(measured[0], abs=2e-5)


def test_an_evaluation_between_two_log_entries_leaves_the_training_log_alone(tmp_path, monkeypatch):
    """Each entry counts codes of its own mode, over the steps since the last entry of that mode."""
    counts = {True: [], False: []}
    measure = LavitVisualTokenizerTrainer.measure

    def recorded(trainer, outputs):
        counts[trainer.tokenizer.training].append(outputs["tokenizer_output"]["codes"])
        return measure(trainer, outputs)

    monkeypatch.setattr(LavitVisualTokenizerTrainer, "measure", recorded)
    image = [{"pixel_values": pictures(1)[0]}]
    trainer = train(
        make_model(), tmp_path, steps=4, batch_size=2, logging_steps=4, eval_strategy="steps", eval_steps=3,
        evaluated=image,
    )  # fmt: skip
    assert [len(batches) for batches in counts.values()] == [4, 2]  # Trainer evaluates at the end as well
    for prefix, batches in (("", counts[True]), ("eval_", counts[False][:1])):
        name = f"{prefix}code_usage"
        usage = next(entry[name] for entry in trainer.state.log_history if name in entry)
        assert usage == pytest.approx(torch.cat(batches).unique().numel() / CODEBOOK_SIZE, abs=1e-4)


def test_features_are_whitened_after_the_data(tmp_path):
    model = make_model()
    before = torch.cov(model.visual_tokenizer.encode_vision(pictures(64)).flatten(0, 1).T)
    train(model, tmp_path, steps=1)
    features = model.visual_tokenizer.encode_vision(pictures(64)).flatten(0, 1)
    assert features.mean(0).abs().max() < 0.2
    spread, spread_before = (torch.linalg.eigvalsh(values) for values in (torch.cov(features.T), before))
    assert spread[-1] / spread[0] < 0.1 * spread_before[-1] / spread_before[0]
    assert spread.mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("part", ["stage 1", "visual tokenizer", "the object"])
def test_a_trained_visual_tokenizer_is_trained_further(part, tmp_path):
    """Whitening and codebook were trained, and start from no other data."""
    model = train(make_model(codebook_decay=0.999), tmp_path / "a").tokenizer
    trained = model if part == "stage 1" else model.visual_tokenizer
    kind, before = LavitVisualTokenizerForPreTraining, copy.deepcopy(model.visual_tokenizer.eval().state_dict())
    if part == "the object":
        further = kind.from_vision_tower(trained)
    else:
        trained.save_pretrained(tmp_path / "saved")
        further = kind.from_pretrained(tmp_path / "saved", dtype="float32")
    assert further.feature_decoder.codebook.equal(model.visual_tokenizer.quantizer.codebook)
    after = train(further, tmp_path / "b", steps=1, rows=16, learning_rate=0.0).tokenizer.visual_tokenizer.state_dict()
    codebooks = [state.pop("quantizer.codebook") for state in (before, after)]
    assert torch.cosine_similarity(*codebooks).min() > (0.6 if part == "stage 1" else 0.98)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"quantize_from": -5}, "quantize_from must be an integer of at least 0, got -5"),
        ({"freeze_selector_from": -1}, "freeze_selector_from must be an integer of at least 0, got -1"),
        ({"freeze_selector_from": 9, "freeze_selector_until": 3}, "must be above freeze_selector_from, got 3 and 9"),
        ({"freeze_selector_until": 3}, "must be above freeze_selector_from, got 3 and None"),
        ({"final_gumbel_temperature": 0.0}, "must be positive, got 0.0"),
        ({"codebook_start_vectors": 0}, "must be an integer of at least 1, got 0"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        TokenizerSchedule(**schedule)


def test_codes_begin_when_the_schedule_says(tmp_path):
    model = make_model()
    before = model.visual_tokenizer.quantizer.codebook.clone()
    train(model, tmp_path / "a", TokenizerSchedule(quantize_from=10), steps=3)
    torch.testing.assert_close(model.visual_tokenizer.quantizer.codebook, before, rtol=0, atol=0)
    assert not model.quantize
    train(model, tmp_path / "b", TokenizerSchedule(quantize_from=1, codebook_start_vectors=4), steps=2)
    assert (model.visual_tokenizer.quantizer.codebook - before).abs().max() > 0.1
    torch.testing.assert_close(model.feature_decoder.codebook, model.visual_tokenizer.quantizer.codebook)


def test_a_frozen_selector_does_not_move(tmp_path):
    model = make_model()
    schedule = TokenizerSchedule(freeze_selector_from=2, freeze_selector_until=4)
    moved = []

    class Watch(LavitVisualTokenizerTrainer):
        def training_step(self, *args, **kwargs):
            moved.append(self.tokenizer.visual_tokenizer.selector.in_proj.weight.detach().clone())
            return super().training_step(*args, **kwargs)

    args = TrainingArguments(
        str(tmp_path), max_steps=6, learning_rate=1e-3, weight_decay=0.1, report_to="none", use_cpu=True
    )
    dataset = [{"pixel_values": picture} for picture in pictures(64)]
    Watch(model, args, schedule=schedule, train_dataset=dataset).train()
    changes = [(b - a).abs().max().item() for a, b in zip(moved, moved[1:], strict=False)]
    assert [change > 0 for change in changes] == [True, True, False, False, True]


def test_the_temperature_ends_where_it_should():
    schedule = TokenizerSchedule(final_gumbel_temperature=0.25)
    assert [schedule.temperature(1.0, progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.25])


def test_resuming_goes_on_where_it_stood(tmp_path):
    schedule = TokenizerSchedule(quantize_from=2, codebook_start_vectors=2, final_gumbel_temperature=0.2)
    whole = train(make_model(), tmp_path / "whole", schedule, steps=6)
    train(make_model(), tmp_path / "half", schedule, steps=6, save_steps=3)
    checkpoint = tmp_path / "half" / "checkpoint-3"
    for model in (make_model(), LavitVisualTokenizerForPreTraining.from_pretrained(checkpoint)):
        resumed = train(model, tmp_path / "half", schedule, steps=6, resume=str(checkpoint))
        assert losses(resumed) == losses(whole)
        expected = whole.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_the_schedule_leaves_the_configuration_alone(tmp_path):
    model = make_model(gumbel_temperature=0.8)
    model.save_pretrained(tmp_path / "before")
    seen = []

    class Watch(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            seen.append(model.gumbel_temperature)

    schedule = TokenizerSchedule(final_gumbel_temperature=0.2)
    settings = {"max_steps": 4, "save_steps": 2, "gradient_accumulation_steps": 2, "report_to": "none"}
    args = TrainingArguments(str(tmp_path), use_cpu=True, **settings)
    dataset = [{"pixel_values": picture} for picture in pictures(64)]
    trainer = LavitVisualTokenizerTrainer(model, args, schedule=schedule, train_dataset=dataset, callbacks=[Watch()])
    trainer.train()
    assert seen == pytest.approx([0.8 * 0.25 ** (step / 4) for step in range(4)])
    trainer.save_model(tmp_path / "after")
    before, *others = (
        json.loads((tmp_path / folder / "config.json").read_text())
        for folder in ("before", "checkpoint-2", "checkpoint-4", "after")
    )
    assert before["gumbel_temperature"] == 0.8
    for other in others:
        assert other.pop("use_cache") is False  # Trainer sets this for every model
        assert other == before


def test_the_tokenizer_loads_alone_from_what_was_trained(tmp_path):
    model = make_model()
    train(model, tmp_path / "run").save_model(tmp_path / "saved")
    tokenizer = LavitVisualTokenizer.from_pretrained(tmp_path / "saved")
    images = pictures(3)
    torch.testing.assert_close(tokenizer(images).codes, model.visual_tokenizer.eval()(images).codes)


def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    from .run_tokenizer_training import run

    whole = run(tmp_path / "whole", 16)
    run_in_processes(2, "run_tokenizer_training", tmp_path / "shared", 8)
    shared = [torch.load(tmp_path / "shared" / f"rank{rank}.pt") for rank in range(2)]
    assert shared[0]["losses"] == pytest.approx(whole["losses"], abs=1e-3)
    assert len(whole["losses"]) == 10
    torch.testing.assert_close(shared[0]["codebook"], shared[1]["codebook"], rtol=0, atol=0)
    torch.testing.assert_close(shared[0]["codebook"], whole["codebook"], rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_collapse_is_found():
    model = make_model(keep_ratio=0.5).eval()
    outputs = model(pixel_values=torch.stack(list(pictures(16))))
    tokens = outputs.tokenizer_output
    tokens.keep_mask[0] = False  # the images of this test keep patches in any case
    tokens.keep_mask[0, 0] = True
    tokens.codes = torch.arange(len(tokens.codes)) % CODEBOOK_SIZE
    outputs.rebuilt_features = tokens.vision_features + 0.1 * torch.randn_like(tokens.vision_features)
    assert find_collapse(outputs, model.config) == []

    tokens.keep_mask = tokens.keep_mask[1:2].expand(16, -1)
    # Features that differ from place to place, and not from image to image, are a collapse as well.
    outputs.rebuilt_features = outputs.rebuilt_features[:1].expand(16, -1, -1)
    tokens.codes = torch.zeros_like(tokens.codes)
    found = find_collapse(outputs, model.config)
    assert [words in sentence for words, sentence in zip(("All 16", "all images", "1 of"), found, strict=True)]
    assert len(find_collapse(outputs, model.config, quantize=False)) == 2
    for name, value in {"num_codes": 3, "max_codes": 3, "keep_scale": 4}.items():  # all images may have as many
        assert len(find_collapse(outputs, make_model(keep_ratio=0.5, **{name: value}).config)) == 2


def test_metrics_of_outputs_of_one_size(tmp_path):
    """An output that has another length for each batch is no prediction, which `Trainer` would gather."""
    asked = []
    rows = [{"pixel_values": picture} for picture in pictures(5)]
    trainer = train(make_model(), tmp_path, steps=1, evaluated=rows, per_device_eval_batch_size=2)
    assert trainer.predict(rows).metrics["test_loss"] > 0
    trainer.compute_metrics = lambda prediction: asked.append(prediction) or {"asked": len(asked)}
    assert trainer.evaluate()["eval_asked"] == 1
