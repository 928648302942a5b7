# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tunes a LaVIT with LoRA: a small adapter is trained and saved, and with --save_merged a whole model as well.

    python examples/finetune_lora.py --model lavit-7b --output_dir my-answers --max_steps 1000 --bf16 \\
        --dataset_name my-questions --question_column question --answer_column answer --mixture question=1 \\
        --supervise_images False --supervise_prompts False --learning_rate 1e-4
"""

from dataclasses import dataclass, field
from pathlib import Path

from peft import get_peft_model
from transformers import TrainingArguments, set_seed

from lavit_hf import LavitForCausalLM, LavitProcessor
from lavit_hf.training import CurvesCallback, DataArguments, last_checkpoint, parse_recipe
from lavit_hf.training.collator import LavitCollator
from lavit_hf.training.language_trainer import LavitForCausalLMTrainer
from lavit_hf.training.lora import LoraArguments, lora_config
from lavit_hf.training.mixture import load_eval_mixtures, load_training_mixture
from lavit_hf.training.rows import SequenceArguments


@dataclass
class ModelArguments:
    model: str = field(metadata={"help": "Folder or repository of a LaVIT."})
    dtype: str = field(default="auto", metadata={"help": "Of its weights: auto, as they are saved, or say bfloat16."})
    max_length: int | None = field(default=None, metadata={"help": "Longest sequence."})
    save_merged: bool = field(default=False, metadata={"help": "Whether to save the whole model, to merged/."})


def main():
    model_args, lora, sequences, data, args = parse_recipe(
        ModelArguments, LoraArguments, SequenceArguments, DataArguments, TrainingArguments
    )
    set_seed(args.seed)
    processor = LavitProcessor.from_pretrained(model_args.model)
    base = LavitForCausalLM.from_pretrained(model_args.model, dtype=model_args.dtype)
    model = get_peft_model(base, lora_config(base, lora))
    model.print_trainable_parameters()

    trainer = LavitForCausalLMTrainer(
        model,
        args,
        train_dataset=load_training_mixture(data, sequences, args.seed),
        eval_dataset=load_eval_mixtures(data, sequences),
        data_collator=LavitCollator(processor, base.config.num_patches, model_args.max_length),
        processing_class=processor,
        callbacks=[CurvesCallback()],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args))
    trainer.save_model()  # the adapter: PeftModel.from_pretrained(base, folder), or base.load_adapter(folder)
    if trainer.is_world_process_zero() and model_args.save_merged:
        merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        merged.save_pretrained(Path(args.output_dir) / "merged")
        processor.save_pretrained(Path(args.output_dir) / "merged")


if __name__ == "__main__":
    main()
