# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The training of a tiny LaVIT."""

from optimizers import OptimizerFactory
from transformers import TrainingArguments

from lavit_hf.training import (
    LavitCollator,
    LavitForCausalLMTrainer,
    MixtureRows,
    SequenceArguments,
)

from .small import (
    EVERY_KIND,
    make_dataset,
    make_model,
    make_processor,
)


def make_arguments(folder, **settings) -> TrainingArguments:
    defaults = {
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **(defaults | settings))


def make_trainer(folder, rows=None, model=None, eval_dataset=None, learning_rates=None, **settings):
    processor = make_processor()
    model = model or make_model(processor)
    args = make_arguments(folder, **settings)
    optimizer = (OptimizerFactory, {"args": args, "learning_rates": learning_rates}) if learning_rates else None
    return LavitForCausalLMTrainer(
        model,
        args,
        train_dataset=rows or MixtureRows(make_dataset(), SequenceArguments(EVERY_KIND)),
        eval_dataset=eval_dataset,
        data_collator=LavitCollator(processor, model.config.num_patches),
        processing_class=processor,
        optimizer_cls_and_kwargs=optimizer,
    )


def train(folder, **kwargs) -> LavitForCausalLMTrainer:
    trainer = make_trainer(folder, **kwargs)
    trainer.train()
    return trainer


def entries(trainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


losses = entries
