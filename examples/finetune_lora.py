# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tunes a LaVIT with LoRA: a small adapter is trained and saved, and with --save_merged a whole model as well.

    python examples/finetune_lora.py --model lavit-7b --output_dir my-answers --max_steps 1000 \\
        --dataset_name my-questions --question_column question --answer_column answer --mixture question=1 \\
        --supervise_images False --supervise_prompts False --learning_rate 1e-4
"""

from dataclasses import dataclass, field
from pathlib import Path

from peft import get_peft_model
from pretrain import set_plans
from transformers import TrainingArguments, set_seed

from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline, LavitProcessor
from lavit_hf.training import (
    DataArguments,
    LavitCollator,
    LavitForCausalLMTrainer,
    LoraArguments,
    SequenceArguments,
    check_whole,
    last_checkpoint,
    load_mixture,
    lora_config,
    parse_recipe,
    run_script,
    write_model_card,
)


USAGE = """\
from lavit_hf import LavitForCausalLM, LavitProcessor

model = LavitForCausalLM.from_pretrained("{base}")
model.load_adapter(path)
processor = LavitProcessor.from_pretrained(path)
"""


@dataclass
class ModelArguments:
    model: str = field(metadata={"help": "Folder or repository of a LaVIT."})
    dtype: str = field(
        default="auto", metadata={"help": "The dtype of its weights: auto, as they are saved, or bfloat16."}
    )
    max_length: int | None = field(default=None, metadata={"help": "The largest length of a sequence."})
    save_merged: bool = field(default=False, metadata={"help": "Whether to save the whole model to merged/."})


def main():
    model_args, lora, sequences, data, args = parse_recipe(
        ModelArguments, LoraArguments, SequenceArguments, DataArguments, TrainingArguments
    )
    checkpoint = last_checkpoint(args, model_args, lora, sequences, data)  # before time is spent
    set_seed(args.seed)
    check_whole(model_args.model)
    train_rows, eval_rows = load_mixture(data, sequences, args)
    processor = LavitProcessor.from_pretrained(model_args.model)
    base = LavitForCausalLM.from_pretrained(model_args.model, dtype=model_args.dtype)
    set_plans(base, sequences)
    model = get_peft_model(base, lora_config(base, lora))
    model.print_trainable_parameters()

    trainer = LavitForCausalLMTrainer(
        model,
        args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=LavitCollator(processor, base.config.num_patches, model_args.max_length),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if eval_rows is not None:
        trainer.evaluate()
    trainer.save_model()  # the adapter: PeftModel.from_pretrained(base, folder), or base.load_adapter(folder)
    trainer.save_state()
    base.generation_config.save_pretrained(args.output_dir)  # whether the model plans its drawings
    if not trainer.is_world_process_zero():
        return
    write_model_card(
        args.output_dir,
        title="LoRA of a LaVIT",
        description=f"Rank {lora.lora_rank}, trained on {', '.join(sequences.mixture)}.",
        usage=USAGE.format(base=Path(model_args.model).name if Path(model_args.model).exists() else model_args.model),
        library_name="peft",
        base_models={"model": model_args.model},
        dataset=data,
        trainer=trainer,
    )
    if model_args.save_merged:
        merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        has_decoder = Path(model_args.model, LavitImageDecoderPipeline.config_name).is_file()
        decoder = LavitImageDecoderPipeline.from_pretrained(model_args.model) if has_decoder else None
        merged.save_pretrained(Path(args.output_dir) / "merged", image_decoder=decoder)
        processor.save_pretrained(Path(args.output_dir) / "merged")


if __name__ == "__main__":
    run_script(main)
