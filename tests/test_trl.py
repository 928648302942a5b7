# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""trl's trainers, unchanged, on conversations about images: losses as computed by hand, and what they train."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoProcessor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from lavit_hf import LavitForCausalLM, LavitProcessor, demo_checkpoint
from lavit_hf.data.shapes.loading import make_row
from lavit_hf.training import ImagePart, LavitCollator, TextPart

from .guides import blocks_of
from .tiny import loosen
from .training.small import make_dataset, make_model, make_processor, tokenize


QUESTION = "Question: {} Answer:"
LORA = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
END = "<|end|>"  # of an answer that nothing follows
SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "disable_tqdm": True,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "max_steps": 2,
    "save_steps": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model and its processor."""
    folder = tmp_path_factory.mktemp("lavit")
    processor = make_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(folder) -> LavitProcessor:
    """With a visual tokenizer: trl needs to know the lengths of sequences before the model runs."""
    return LavitProcessor.from_pretrained(folder, visual_tokenizer=True)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Images with a question, its answer and a wrong answer of another length."""
    rows = make_dataset(4)
    return [
        {
            "image": row["image"],
            "edited_image": row["edited_image"],
            "question": row["questions"][0],
            "answer": row["answers"][0],
            "wrong": f"{row['answers'][0]} above {row['answers'][1]}",
        }
        for row in rows
    ]


def message(role: str, text: str, num_images: int | None = None) -> dict:
    """Rows of plain text, into which trl puts the placeholder of an image by itself, or of parts."""
    parts = [{"type": "image"}] * (num_images or 0) + [{"type": "text", "text": text}]
    return {"role": role, "content": text if num_images is None else parts}


@torch.no_grad()
def log_probs(model, folder: Path, prompt: str, completion: str, images: list) -> torch.Tensor:
    """
    Log-probabilities of the tokens of `completion` by hand: one row alone, one placeholder for each image, which the
    model expands.
    """
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(text=prompt, images=images or None, return_tensors="pt")
    answer = processor(text=completion, return_tensors="pt").input_ids
    ids = torch.cat([inputs.pop("input_ids"), answer], dim=1)
    inputs.pop("attention_mask")
    scores = model.eval()(input_ids=ids, **inputs).logits[0, -answer.shape[1] - 1 : -1].log_softmax(-1)
    return scores.gather(1, answer[0, :, None]).flatten()


def answers_loss(model, folder: Path, rows: list[dict], end: str = END) -> float:
    """The mean cross-entropy of all answers, by hand."""
    parts = [
        log_probs(
            model, folder, "<image>" + QUESTION.format(row["question"]), f" {row['answer']}{end}", [row["image"]]
        )
        for row in rows
    ]
    return float(-torch.cat(parts).mean())


def frozen_and_trained(before: dict, model) -> tuple[set, set]:
    """The parts of the model whose weights are what they were, and those whose weights have moved."""
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    part = {name: ".".join(name.split(".")[:2]) for name in before}
    return {part[name] for name in before} - {part[name] for name in moved}, {part[name] for name in moved}


# Conversations and prompts with completions: what the loss counts, in either form


def as_conversations(rows):
    return [
        {"image": row["image"], "messages": [message("user", row["question"]), message("assistant", row["answer"])]}
        for row in rows
    ]


def as_prompts_of_messages(rows):
    return [
        {
            "image": row["image"],
            "prompt": [message("user", row["question"])],
            "completion": [message("assistant", row["answer"])],
        }
        for row in rows
    ]


def as_texts(rows):
    return [
        {
            "image": row["image"],
            "prompt": "<image>" + QUESTION.format(row["question"]),
            "completion": f" {row['answer']}{END}",
        }
        for row in rows
    ]


KINDS = {
    "conversations": (as_conversations, {"assistant_only_loss": True}),
    "prompts of messages": (as_prompts_of_messages, {}),
    "prompts of text": (as_texts, {"completion_only_loss": True}),
}


def make_sft(out: Path, model, processor, data: list[dict], **settings) -> SFTTrainer:
    peft_config, collator = settings.pop("peft_config", None), settings.pop("data_collator", None)
    dataset = Dataset.from_list(data)
    return SFTTrainer(
        model,
        SFTConfig(str(out), **(SETTINGS | settings)),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=processor,
        peft_config=peft_config,
        data_collator=collator,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_sft(kind, folder, processor, rows, tmp_path):
    convert, settings = KINDS[kind]
    model = LavitForCausalLM.from_pretrained(folder)
    trainer = make_sft(tmp_path, model, processor, convert(rows), **settings)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(answers_loss(model, folder, rows), rel=1e-4)


def test_sft(folder, processor, rows, tmp_path):
    model = LavitForCausalLM.from_pretrained(folder)
    expected, before = answers_loss(model, folder, rows), {k: v.clone() for k, v in model.state_dict().items()}
    runs = []
    model.model.visual_tokenizer.vision_tower.register_forward_hook(lambda *args: runs.append(1))
    trainer = make_sft(tmp_path, model, processor, as_prompts_of_messages(rows))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert not runs, "the processor's features go along, so that the model's vision tower does not run again"
    frozen, trained = frozen_and_trained(before, model)
    assert frozen == {"model.visual_tokenizer"}
    assert trained >= {"model.language_model", "model.visual_adapter"}

    loaded = LavitForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    after = answers_loss(loaded, tmp_path / "checkpoint-2", rows)
    assert after == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-4)
    assert after < expected


def test_sft_with_lora(folder, processor, rows, tmp_path):
    model = LavitForCausalLM.from_pretrained(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_sft(tmp_path, model, processor, as_prompts_of_messages(rows), peft_config=LORA)
    expected = answers_loss(trainer.model, folder, rows)
    assert expected != pytest.approx(answers_loss(LavitForCausalLM.from_pretrained(folder), folder, rows), rel=1e-2)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    trainer.train()
    after = answers_loss(trainer.model, folder, rows)
    assert after < expected
    base = {
        name.replace(".base_layer", ""): value for name, value in trainer.model.get_base_model().state_dict().items()
    }
    assert all(torch.equal(base[name], value) for name, value in before.items())
    adapter = tmp_path / "checkpoint-2"
    loaded = PeftModel.from_pretrained(LavitForCausalLM.from_pretrained(folder), adapter)
    assert answers_loss(loaded, folder, rows) == pytest.approx(after, rel=1e-4)
    assert len(AutoProcessor.from_pretrained(adapter).tokenizer) == loaded.config.vocab_size


def test_sft_with_several_images_and_with_none(folder, processor, rows, tmp_path):
    """In one batch, with two answers in each conversation."""
    model, data, parts = LavitForCausalLM.from_pretrained(folder), [], []
    for index, row in enumerate(rows):
        images = [row["image"], row["edited_image"]][: index % 3]
        questions, answers = (row["question"], "and?"), (row["answer"], row["wrong"])
        messages, prompt = [], "<image>" * len(images)
        for turn, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            messages += [message("user", question, 0 if turn else len(images)), message("assistant", answer, 0)]
            prompt += QUESTION.format(question)
            end = END if turn else "\n"
            parts.append(log_probs(model, folder, prompt, f" {answer}{end}", images))
            prompt += f" {answer}{end}"
        data.append({"images": images, "messages": messages})
    trainer = make_sft(tmp_path, model, processor, data, assistant_only_loss=True)
    expected = float(-torch.cat(parts).mean())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


class WithoutFeatures(DataCollatorForVisionLanguageModeling):
    """As a library may drop what it does not know."""

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        del batch["vision_features"], batch["keep_mask"]
        return batch


def test_features_that_are_dropped_are_computed_again(folder, processor, rows, tmp_path):
    model, runs = LavitForCausalLM.from_pretrained(folder), []
    model.model.visual_tokenizer.vision_tower.register_forward_hook(lambda *args: runs.append(1))
    collator = WithoutFeatures(processor, completion_only_loss=True)
    trainer = make_sft(tmp_path, model, processor, as_prompts_of_messages(rows), data_collator=collator)
    loss = trainer.evaluate()["eval_loss"]
    assert len(runs) == 1
    assert loss == pytest.approx(answers_loss(model, folder, rows), rel=1e-4)


@pytest.mark.parametrize("convert", [as_conversations, as_prompts_of_messages])
def test_whole_sequences_whose_images_are_no_labels(convert, folder, processor, rows, tmp_path):
    """trl's labels are the ids, and those of images are placeholders: the guide's collator leaves them out."""
    model = LavitForCausalLM.from_pretrained(folder)
    (block,) = (block for block in blocks_of("finetune-with-lora") if "class WithoutImages" in block)
    names = {}
    exec(block.partition("\n\n\ntrainer = ")[0], names)
    collator = names["WithoutImages"](processor)
    trainer = make_sft(tmp_path, model, processor, convert(rows), data_collator=collator)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(whole_loss(model, folder, rows), rel=1e-4)


@torch.no_grad()
def whole_loss(model, folder: Path, rows: list[dict]) -> float:
    """The mean cross-entropy over all of each conversation, one row alone, by the model's own loss."""
    processor, losses = AutoProcessor.from_pretrained(folder), []
    for row in rows:
        text = "<image>" + QUESTION.format(row["question"]) + f" {row['answer']}{END}"
        inputs = processor(text=text, images=row["image"], return_tensors="pt")
        outputs = model.eval()(**inputs, labels=inputs["input_ids"], supervise_images=False, skip_logits=True)
        losses.append(outputs.token_losses)
    return float(torch.cat(losses).mean())


def test_sft_on_precomputed_codes(folder, processor, rows, tmp_path):
    """With our collator, images are labels, too: their labels are codes, as many as the logits of their positions."""
    model = LavitForCausalLM.from_pretrained(folder)
    dataset = tokenize(make_dataset(4), model.model.visual_tokenizer)
    data = [row | {"codes": codes} for row, codes in zip(rows, dataset["image_codes"], strict=True)]

    def collate(examples: list[dict], expand_images: bool = True) -> dict:
        collator = LavitCollator(processor, model.config.num_patches, expand_images=expand_images)
        texts = [QUESTION.format(row["question"]) + f" {row['answer']}" for row in examples]
        return collator(
            [
                [ImagePart(row["image"], row["codes"], image_input="features"), TextPart(text)]
                for row, text in zip(examples, texts, strict=True)
            ]
        )

    trainer = make_sft(tmp_path, model, processor, data, data_collator=collate, remove_unused_columns=False)
    with torch.no_grad():
        losses = [model.eval()(**collate([row], False), skip_logits=True).token_losses for row in data]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    assert frozen_and_trained(before, model)[0] == {"model.visual_tokenizer"}


def test_the_model_that_ships(tmp_path):
    """It answers questions about scenes, and trl's loss knows it."""
    path = demo_checkpoint()
    model = LavitForCausalLM.from_pretrained(path)
    scenes = [make_row(index, "test") for index in range(4)]
    rows = [{"image": row["image"], "question": row["questions"][0], "answer": row["answers"][0]} for row in scenes]
    expected = answers_loss(model, path, rows)
    assert expected < 0.5
    assert answers_loss(model, path, rows, end="\n") > 5  # within a conversation, a line break is written by the user
    processor = LavitProcessor.from_pretrained(path, visual_tokenizer=model.model.visual_tokenizer)
    trainer = make_sft(tmp_path, model, processor, as_conversations(rows), assistant_only_loss=True)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_images_cut_by_max_length_are_refused(folder, processor, rows, tmp_path):
    model = LavitForCausalLM.from_pretrained(folder)
    for kind, message in (
        ("conversations", "Mismatch in `image` token count"),
        ("prompts of text", "is too short and"),
    ):
        convert, settings = KINDS[kind]
        trainer = make_sft(tmp_path, model, processor, convert(rows), max_length=4, **settings)
        with pytest.raises(ValueError, match=message):
            trainer.train()


# Preferences


def preference_loss(model, reference, folder: Path, rows: list[dict], beta: float) -> float:
    """The mean of -log sigmoid(beta * margin) by hand, where margin is what the model prefers beyond the reference."""
    margins = []
    for row in rows:
        margin = 0.0
        for answer, sign in ((row["answer"], 1), (row["wrong"], -1)):
            arguments = (folder, "<image>" + QUESTION.format(row["question"]), f" {answer}{END}", [row["image"]])
            margin += sign * float(log_probs(model, *arguments).sum() - log_probs(reference, *arguments).sum())
        margins.append(margin)
    return float(-torch.nn.functional.logsigmoid(beta * torch.tensor(margins)).mean())


def as_preferences_of_messages(rows):
    return [
        {
            "image": row["image"],
            "prompt": [message("user", row["question"])],
            "chosen": [message("assistant", row["answer"])],
            "rejected": [message("assistant", row["wrong"])],
        }
        for row in rows
    ]


def as_preferences_of_text(rows):
    return [
        {
            "image": row["image"],
            "prompt": "<image>" + QUESTION.format(row["question"]),
            "chosen": f" {row['answer']}{END}",
            "rejected": f" {row['wrong']}{END}",
        }
        for row in rows
    ]


def make_dpo(out: Path, model, processor, data: list[dict], reference=None, peft_config=None) -> DPOTrainer:
    dataset = Dataset.from_list(data)
    return DPOTrainer(
        model,
        reference,
        DPOConfig(str(out), beta=0.5, **SETTINGS),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=processor,
        peft_config=peft_config,
    )


@pytest.fixture(scope="module")
def reference(folder) -> LavitForCausalLM:
    """Another language model behind the same visual tokenizer, which is frozen."""
    reference = LavitForCausalLM.from_pretrained(folder)
    loosen(reference.model.language_model)
    return reference


@pytest.mark.parametrize("convert", [as_preferences_of_messages, as_preferences_of_text])
def test_the_loss_of_dpo(convert, folder, processor, reference, rows, tmp_path):
    model = LavitForCausalLM.from_pretrained(folder)
    expected = preference_loss(model, reference, folder, rows, 0.5)
    trainer = make_dpo(tmp_path, model, processor, convert(rows), reference)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-3)


def test_dpo(folder, processor, reference, rows, tmp_path):
    model = LavitForCausalLM.from_pretrained(folder)
    before, runs = {name: value.clone() for name, value in model.state_dict().items()}, []
    expected = preference_loss(model, reference, folder, rows, 0.5)
    for part in (model, reference):
        part.model.visual_tokenizer.vision_tower.register_forward_hook(lambda *args: runs.append(1))
    trainer = make_dpo(tmp_path, model, processor, as_preferences_of_messages(rows), reference)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-3)
    assert not runs
    frozen, trained = frozen_and_trained(before, model)
    assert frozen == {"model.visual_tokenizer"}
    assert trained >= {"model.language_model", "model.visual_adapter"}
    loaded = LavitForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    after = preference_loss(loaded, reference, folder, rows, 0.5)
    assert after == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-3)
    assert after < expected


def test_dpo_with_lora_and_the_base_model_as_reference(folder, processor, rows, tmp_path):
    model = LavitForCausalLM.from_pretrained(folder)
    trainer = make_dpo(tmp_path, model, processor, as_preferences_of_messages(rows), peft_config=LORA)
    base = LavitForCausalLM.from_pretrained(folder)
    expected = preference_loss(trainer.model, base, folder, rows, 0.5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-3)
    trainer.train()
    trained = PeftModel.from_pretrained(LavitForCausalLM.from_pretrained(folder), tmp_path / "checkpoint-2")
    after = preference_loss(trained, base, folder, rows, 0.5)
    assert after == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-3)
    assert after < expected
