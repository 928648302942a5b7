# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 2: the labels of the loss, in one process or two, killed or not, and that inference agrees with training."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pretrain import read_config
from transformers import AutoModelForCausalLM, AutoProcessor, GenerationConfig, TrainerCallback

from lavit_hf.data.code_files import codebook_fingerprint
from lavit_hf.data.rows import RowStream
from lavit_hf.training import (
    DataArguments,
    LavitCollator,
    LavitForCausalLMTrainer,
    MixtureRows,
    SequenceArguments,
    SequenceReader,
    TextPart,
    freeze_parts,
    last_checkpoint,
)

from ..tiny import NUM_PATCHES, TEXT
from .small import (
    EVERY_KIND,
    ROOT,
    make_dataset,
    make_model,
    make_processor,
    run_in_processes,
    save_visual_tokenizer,
    tokenize,
)
from .small_pretrain import entries, losses, make_arguments, make_trainer, train


SCRIPT = ROOT / "examples" / "pretrain.py"
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LLAMA = {name: TEXT[name] for name in SIZES} | {"model_type": "llama", "tie_word_embeddings": True}


def test_the_log_has_text_and_codes_apart(tmp_path):
    rows = MixtureRows(make_dataset(), SequenceArguments(EVERY_KIND))
    trainer = make_trainer(tmp_path, rows=rows, max_steps=1, learning_rate=0.0, train_sampling_strategy="sequential")
    batch = trainer.data_collator([rows[index] for index in range(8)])
    with torch.no_grad():
        outputs = trainer.model(**batch, skip_logits=True)
    targets = outputs.sequences.labels[:, 1:]
    is_code = targets[targets != -100] >= trainer.model.config.image_start_token_id
    trainer.train()
    assert losses(trainer) == pytest.approx([outputs.loss.item()], abs=2e-3)
    assert entries(trainer, "loss_on_text") == pytest.approx([outputs.token_losses[~is_code].mean().item()], abs=2e-3)
    assert entries(trainer, "loss_on_codes") == pytest.approx([outputs.token_losses[is_code].mean().item()], abs=2e-3)


HOLDERS = {
    "rows": lambda rows: rows,
    "Subset": lambda rows: torch.utils.data.Subset(rows, range(len(rows))),
    "ConcatDataset": lambda rows: torch.utils.data.ConcatDataset([rows]),
    "both": lambda rows: torch.utils.data.Subset(torch.utils.data.ConcatDataset([rows]), range(len(rows))),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_each_epoch_has_every_row_in_another_order_and_other_choices(tmp_path, holder):
    rows = MixtureRows(make_dataset(8), SequenceArguments(["draw=1", "caption=1"]))
    seen = []

    trainer = make_trainer(tmp_path, rows=HOLDERS[holder](rows), num_train_epochs=3, max_steps=-1)
    collator = trainer.data_collator
    trainer.data_collator = lambda items: seen.append(items) or collator(items)
    trainer.train()
    assert len(seen) == 3
    for epoch, found in enumerate(seen):
        rows.set_epoch(epoch)
        made = [rows[index] for index in range(8)]
        assert found != made
        assert sorted(map(describe, found)) == sorted(map(describe, made))


def describe(item: list) -> str:
    return repr([part.text if isinstance(part, TextPart) else part.image.tobytes() for part in item])


def test_codes_of_another_visual_tokenizer_are_refused(tmp_path):
    """Rows are checked in the constructor and later, also without a model and with an adapter."""
    processor = make_processor()
    model = make_model(processor)
    coded = tokenize(make_dataset(4), model.model.visual_tokenizer)
    fingerprints = {"own": codebook_fingerprint(model.model.visual_tokenizer.quantizer.codebook), "another": "0"}
    own, another = (
        MixtureRows(coded.add_column("codebook_fingerprint", [value] * len(coded)), SequenceArguments(["draw=1"]))
        for value in fingerprints.values()
    )
    trainer = make_trainer(tmp_path, rows=own, model=model, eval_dataset={"own": own})
    trainer.evaluate()
    trainer = LavitForCausalLMTrainer(
        None,
        make_arguments(tmp_path, max_steps=1, per_device_train_batch_size=2),
        model_init=lambda: model,
        train_dataset=own,
        data_collator=LavitCollator(processor, model.config.num_patches),
    )
    trainer.train()
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*language_model.*q_proj"))
    refused = pytest.raises(ValueError, match="were computed by another visual tokenizer than this model's")
    for call in (
        lambda: trainer.evaluate(another),
        lambda: trainer.predict(another),
        lambda: make_trainer(tmp_path, rows=another, model=model),
        lambda: make_trainer(tmp_path, rows=own, model=model, eval_dataset={"draw": another}),
        lambda: make_trainer(tmp_path, rows=another, model=adapted),
    ):
        with refused:
            call()


def test_each_kind_is_evaluated_apart(tmp_path):
    arguments = SequenceArguments(["caption=1", "text=1"])
    evaluated = {kind: MixtureRows(make_dataset(6), arguments.only(kind)) for kind in arguments.weights}
    metrics = make_trainer(tmp_path, eval_dataset=evaluated).evaluate()
    assert {"eval_caption_loss", "eval_caption_loss_on_codes", "eval_text_loss_on_text"} <= set(metrics)
    assert metrics["eval_text_loss_on_text"] == pytest.approx(metrics["eval_text_loss"], rel=0.1)
    assert "eval_text_loss_on_codes" not in metrics


def test_frozen_parts_stay_and_others_have_rates_of_their_own(tmp_path):
    model = make_model(make_processor())
    freeze_parts(model, ["model.language_model.layers"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = train(tmp_path, model=model, learning_rates={"model.visual_adapter": 0.0}, bf16=True)
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    frozen = ("model.visual_tokenizer", "model.language_model.layers", "model.visual_adapter")
    assert not [name for name in moved if name.startswith(frozen)]


def test_the_loss_is_that_of_rows_in_two_processes(tmp_path):
    """The batches have different numbers of labels, and some have no image that is read."""
    alone = losses(train(tmp_path, max_steps=20))
    run_in_processes(2, "run_language_training", tmp_path, 4)
    together = json.loads((tmp_path / "losses.json").read_text())
    assert together == pytest.approx(alone, abs=1e-3)
    assert alone[-1] < alone[0]


def test_accumulated_batches_and_streams(tmp_path):
    dataset, arguments = make_dataset(), SequenceArguments(["draw=1"])
    stream = RowStream(dataset.to_iterable_dataset(), SequenceReader(arguments))
    trainer = make_trainer(
        tmp_path,
        rows=stream,
        learning_rate=0.0,
        gradient_accumulation_steps=3,
        max_steps=1,
        gradient_checkpointing=True,
    )
    batches = [trainer.data_collator(list(stream)[start : start + 8]) for start in (0, 8, 16)]
    with torch.no_grad():
        losses_of_tokens = [trainer.model(**batch, skip_logits=True).token_losses for batch in batches]
    expected = torch.cat(losses_of_tokens).mean().item()
    trainer.train()
    assert losses(trainer) == pytest.approx([expected], abs=2e-3)


def test_a_training_that_was_interrupted_leaves_nothing_behind(tmp_path):
    """An interrupt within accumulated batches, as in a notebook, and a training of the same trainer after it."""

    class Interrupt(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    settings = {"gradient_accumulation_steps": 3, "max_steps": 1, "logging_steps": 1}
    fresh = train(tmp_path / "fresh", **settings)
    trainer, interrupt = make_trainer(tmp_path / "again", **settings), Interrupt()
    trainer.add_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(interrupt)
    trainer.train()
    for name in ("loss", "grad_norm", "loss_on_text"):
        assert entries(trainer, name) == entries(fresh, name)


def test_an_evaluation_that_has_failed_leaves_nothing_behind(tmp_path):
    """An error or an interrupt comes after batches whose sums were kept."""

    class Interrupt(TrainerCallback):
        def on_prediction_step(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    trainer, interrupt = make_trainer(tmp_path, max_steps=1), Interrupt()
    easy, hard = ([trainer.train_dataset[index]] for index in range(2))
    expected = trainer.evaluate(hard)["eval_loss"]
    trainer.add_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate(easy)
    trainer.remove_callback(interrupt)
    assert trainer.evaluate(hard)["eval_loss"] == expected
    assert trainer.evaluate(easy)["eval_loss"] != expected


def test_inference_finds_what_training_taught():
    """Captions end, questions are answered, and drawings and edits have the codes of the images."""
    processor, dataset = make_processor(), make_dataset(3)
    model = make_model(processor).train()
    kinds = [SequenceArguments(EVERY_KIND).only(kind) for kind in ("caption", "draw", "question", "edit")]
    sequences = [
        SequenceReader(arguments).compose(row, "row", Random(seed))
        for row in dataset
        for arguments in kinds
        for seed in range(4 if "question" in arguments.weights else 1)
    ]
    batch = LavitCollator(processor, NUM_PATCHES)(sequences)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(120):
        model(**batch, skip_logits=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.eval()
    for row in dataset:
        inputs = processor(text="<image>", images=row["image"], return_tensors="pt")
        ids = model.generate(**inputs, return_full_text=False, max_new_tokens=12)
        assert processor.decode(ids[0]) == f"{row['caption']}<|end|>"
        prompt = "<image>" + processor.vqa_prompt.format(question=row["questions"][0])
        inputs = processor(text=prompt, images=row["image"], return_tensors="pt")
        ids = model.generate(**inputs, return_full_text=False, max_new_tokens=12)
        assert processor.decode(ids[0]) == f" {row['answers'][0]}<|end|>"
        prompts = {"image": (row["caption"], None), "edited_image": ("<image>" + row["instruction"], row["image"])}
        for column, (text, images) in prompts.items():
            inputs = processor(text=text, images=images, generation_mode="image", return_tensors="pt")
            ids = model.generate(**inputs, generation_mode="image", do_sample=False)
            pixel_values = processor.image_processor(row[column], return_tensors="pt")["pixel_values"]
            expected = model.model.visual_tokenizer(pixel_values).codes.tolist()
            assert processor.decode_interleaved(ids[0])[-1].codes == expected


# The script


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    save_visual_tokenizer(folder / "tokenizer")
    for split, count in (("train", 24), ("test", 6)):
        make_dataset(count).to_parquet(folder / "data" / f"{split}.parquet")
    return folder


def flags(parts: Path, output: Path) -> list[str]:
    settings = {
        "visual_tokenizer": parts / "tokenizer",
        "language_model_config": json.dumps(LLAMA),
        "image_generation": json.dumps({"guidance_scale": 2.0, "top_k": 5}),
        "text_vocab_size": 300,
        "dataset_name": parts / "data",
        "eval_split": "test",
        "output_dir": output,
        "max_steps": 24,
        "save_steps": 6,
        "logging_steps": 1,
        "learning_rate": 5e-3,
        "report_to": "none",
    }
    given = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [*given, "--train_text_tokenizer", "--use_cpu", "--disable_tqdm=True"]


def run_script(monkeypatch, parts: Path, output: Path) -> list[float]:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags(parts, output), "--mixture", *EVERY_KIND])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    state = json.loads((output / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_killed_and_started_again_is_undisturbed(monkeypatch, parts, tmp_path):
    undisturbed = run_script(monkeypatch, parts, tmp_path / "undisturbed")
    command = [sys.executable, str(SCRIPT), *flags(parts, tmp_path / "killed"), "--mixture", *EVERY_KIND]
    with open(tmp_path / "killed.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while not (tmp_path / "killed" / "checkpoint-6" / "trainer_state.json").exists():
            assert process.poll() is None, (tmp_path / "killed.log").read_text()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoint-24").exists()
    again = run_script(monkeypatch, parts, tmp_path / "killed")
    assert again == pytest.approx(undisturbed, abs=1e-3)
    assert len(again) == 24

    folder = tmp_path / "killed"
    model, processor = AutoModelForCausalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.generation_config.image_generation == GenerationConfig(do_sample=True, guidance_scale=2.0, top_k=5)
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    drawn = model.generate(**processor(text="red above blue", return_tensors="pt"), generation_mode="image")
    assert processor.decode_interleaved(drawn[0])[0].text == "red above blue"
    assert "eval draw loss on codes" in (folder / "README.md").read_text()


def test_a_run_does_not_go_on_with_other_arguments(tmp_path):
    arguments, data = make_arguments(tmp_path), DataArguments(dataset_name="mine")
    assert last_checkpoint(arguments, data, SequenceArguments(["draw=1"])) is None
    other = DataArguments(dataset_name="others")
    assert last_checkpoint(arguments, other, SequenceArguments(["draw=1"])) is None  # nothing has been trained
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text("{}")
    expected = str(tmp_path / "checkpoint-1")
    assert last_checkpoint(arguments, other, SequenceArguments(["draw=1"])) == expected
    skipping = DataArguments(dataset_name="others", broken_images="skip")
    assert last_checkpoint(arguments, skipping, SequenceArguments(["draw=1"])) == expected
    with pytest.raises(ValueError, match="dataset_name is 'mine', and was 'others'; mixture is"):
        last_checkpoint(arguments, data, SequenceArguments(["draw=2"]))


@pytest.mark.parametrize("length", [{"max_steps": 3}, {"max_steps": 2}, {"num_train_epochs": 1}], ids=str)
def test_a_finished_training_takes_no_further_step(tmp_path, length):
    settings = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 8} | length
    first = make_trainer(tmp_path, **settings)
    first.train()
    steps = first.state.global_step
    again = make_trainer(tmp_path, **settings)
    again.train(str(tmp_path / f"checkpoint-{steps}"))
    assert again.state.global_step == steps
    assert not (tmp_path / f"checkpoint-{steps + 1}").exists()
    for weight, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(weight, other)


def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path):
    arguments = make_arguments(tmp_path)
    assert last_checkpoint(arguments) is None
    for step, state in ((9, "{}"), (10, "{}"), (11, '{"global_step": 1'), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(arguments) == str(tmp_path / "checkpoint-10")


def test_arguments_of_the_caller_stay_as_they_are(tmp_path):
    args = make_arguments(tmp_path)
    before = args.to_dict()
    for _ in range(2):
        LavitForCausalLMTrainer(
            make_model(make_processor()),
            args,
            train_dataset=MixtureRows(make_dataset(), SequenceArguments(EVERY_KIND)),
        )
    assert args.to_dict() == before
    stream = RowStream(make_dataset().to_iterable_dataset(), SequenceReader(SequenceArguments(EVERY_KIND)))
    trainer = LavitForCausalLMTrainer(make_model(make_processor()), args, train_dataset=stream)
    assert trainer.args.accelerator_config.dispatch_batches is False
    assert args.to_dict() == before


def test_evaluations_have_the_same_rows_each_time(tmp_path):
    """Workers that stay alive count how often they have read their rows."""
    rows = MixtureRows(make_dataset(8), SequenceArguments(["question=1"], questions_per_sequence=1))
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    trainer = make_trainer(tmp_path, rows=rows, eval_dataset=rows, **workers)
    assert len({trainer.evaluate()["eval_loss"] for _ in range(3)}) == 1


# The model


def test_a_new_language_model_has_the_tokenizers_ids(parts):
    tokenizer = make_processor().tokenizer
    config = read_config(json.dumps({"model_type": "qwen3", "hidden_size": 8}), tokenizer)
    assert (config.model_type, config.vocab_size, config.hidden_size) == ("qwen3", len(tokenizer), 8)
    assert config.eos_token_id == tokenizer.eos_token_id
    with pytest.raises(ValueError, match="must have a model_type of transformers, got None"):
        read_config('{"hidden_size": 8}', tokenizer)
