# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A model like any other: `Trainer`, `peft` and `pipeline` take it as they take every causal language model."""

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments, pipeline

from lavit_hf import LavitForCausalLM

from .parity import Goldens
from .tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, TEXT_TOKENS, pad_rows, pictures, tiny_lavit


IMAGE = [IMAGE_START, PLACEHOLDER, IMAGE_END]


class Scenes(torch.utils.data.Dataset):
    """Text, a picture, text: the placeholder is one position, whatever its picture becomes."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        ids = torch.tensor([5, 6, *IMAGE, 7, 8 + index])
        return {
            "input_ids": ids,
            "labels": ids.clone(),
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pictures(1, seed=index)[0],
        }


def make_trainer(folder, model, **settings) -> Trainer:
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    return Trainer(model, arguments, train_dataset=Scenes(), eval_dataset=Scenes())


def test_trainer(tmp_path):
    model = tiny_lavit()
    trainer = make_trainer(
        tmp_path,
        model,
        max_steps=12,
        gradient_checkpointing=True,
        learning_rate=1e-2,
        bf16=True,
        save_steps=12,
        logging_steps=100,
    )
    tower = model.model.visual_tokenizer.vision_tower
    frozen = {name: value.clone() for name, value in tower.state_dict().items()}
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < 0.9 * before
    assert all(torch.equal(value, frozen[name]) for name, value in tower.state_dict().items())
    assert trainer.predict(Scenes()).predictions.shape[0] == 8
    loaded = LavitForCausalLM.from_pretrained(tmp_path / "checkpoint-12").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_accumulated_steps_weigh_the_loss_rightly(tmp_path):
    """Trainer counts labels before placeholders become codes; divided by these, the loss would come out too large."""
    model = tiny_lavit()
    trainer = make_trainer(tmp_path, model, max_steps=1, learning_rate=0.0, logging_steps=1, save_strategy="no")
    expected = trainer.evaluate()["eval_loss"]
    trainer.train()
    (loss,) = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert loss == pytest.approx(expected, rel=0.05)


@torch.no_grad()
def test_lora(tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_lavit(), lora)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("language_model" in name and "lora" in name for name in trained)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.5)
    row, _ = pad_rows([[*IMAGE, 7]])
    logits = model(input_ids=row, pixel_values=pictures(1)).logits
    assert (logits - tiny_lavit()(row, pictures(1)).logits).abs().max() > 1e-2
    settings = {"generation_mode": "image", "guidance_scale": 2.0, "max_new_tokens": 4}
    drawn = model.generate(input_ids=torch.tensor([[5]]), **settings)

    model.save_pretrained(tmp_path)
    merged = PeftModel.from_pretrained(tiny_lavit(), tmp_path).merge_and_unload()
    torch.testing.assert_close(merged(row, pictures(1)).logits, logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(merged.generate(torch.tensor([[5]]), **settings), drawn)


def test_pipeline(converted):
    ask = pipeline("image-text-to-text", model=str(converted))
    image = Goldens().images[0]
    written = ask(images=image, text="<image>a photo of", max_new_tokens=4)[0]["generated_text"]
    assert written.startswith("<image>a photo of")
    assert len(written) > len("<image>a photo of") + 4
    content = [{"type": "image", "image": image}, {"type": "text", "text": "where is the dog"}]
    answer = ask([{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
    assert answer[0]["generated_text"].strip()


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="FlexAttention on a CPU needs vector units, and compiles with g++",
)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", pytest.param("flex_attention", marks=needs_compiler)])
def test_attention_implementations_agree(implementation):
    model = tiny_lavit()
    ids, mask = pad_rows([[5, *IMAGE, 7], [6, 7]])
    expected = model(ids, pictures(1), mask)
    model.set_attn_implementation(implementation)
    assert model.config.text_config._attn_implementation == implementation
    logits = model(ids, pictures(1), mask).logits
    seen = expected.sequences.attention_mask.bool()
    torch.testing.assert_close(logits[seen], expected.logits[seen], atol=1e-4, rtol=1e-4)
    assert logits[..., :TEXT_TOKENS].isfinite().all()
