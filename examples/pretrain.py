# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Stage 2: trains one language model over text and picture codes, on captions, drawings, questions, edits and text.

    python examples/pretrain.py examples/recipes/shapes/pretrain.yaml
    python examples/pretrain.py --visual_tokenizer my-tokenizer --language_model HuggingFaceTB/SmolLM2-135M \\
        --dataset_name my-captions --mixture caption=1 draw=1 --learning_rates model.visual_adapter=5e-4 \\
        --output_dir my-lavit --max_steps 20000 --bf16
"""

from transformers import TrainingArguments, set_seed

from lavit_hf.data.tokenized_dataset import check_codebook
from lavit_hf.training import (
    CurvesCallback,
    DataArguments,
    freeze_parts,
    last_checkpoint,
    parse_recipe,
    run_script,
    write_model_card,
)
from lavit_hf.training.collator import LavitCollator
from lavit_hf.training.language_model import LanguageModelArguments, build_lavit, list_texts
from lavit_hf.training.language_trainer import LavitForCausalLMTrainer
from lavit_hf.training.mixture import load_eval_mixtures, load_training_mixture
from lavit_hf.training.optimizer import MuonWithAdamW
from lavit_hf.training.rows import SequenceArguments


USAGE = """\
from lavit_hf import LavitForCausalLM, LavitProcessor

model, processor = LavitForCausalLM.from_pretrained(path), LavitProcessor.from_pretrained(path)
inputs = processor(text="<image>", images=picture, return_tensors="pt")
print(processor.decode(model.generate(**inputs, return_full_text=False)[0], skip_special_tokens=True))
"""


def main():
    model_args, sequences, data, args = parse_recipe(
        LanguageModelArguments, SequenceArguments, DataArguments, TrainingArguments
    )
    set_seed(args.seed)
    checkpoint = last_checkpoint(args)
    train_rows = load_training_mixture(data, sequences, args.seed)
    model_args.model = checkpoint or model_args.model
    model, processor = build_lavit(model_args, list_texts(train_rows.dataset, sequences, data.image_column))
    check_codebook(data.dataset_name, data.train_split, model.model.visual_tokenizer.quantizer.codebook)
    freeze_parts(model, model_args.freeze_parts)
    longest = model_args.max_length or getattr(model.config.text_config, "max_position_embeddings", None)

    trainer = LavitForCausalLMTrainer(
        model,
        args,
        train_dataset=train_rows,
        eval_dataset=load_eval_mixtures(data, sequences),
        data_collator=LavitCollator(processor, model.config.num_patches, longest),
        processing_class=processor,
        learning_rates=model_args.part_learning_rates,
        use_muon=model_args.use_muon,
        callbacks=[CurvesCallback()],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate() if trainer.eval_dataset else {}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        parts = {"visual tokenizer": model_args.visual_tokenizer, "language model": model_args.language_model}
        write_model_card(
            args.output_dir,
            title="LaVIT",
            description="One language model that reads and draws pictures as a varying number of tokens: stage 2 of "
            "LaVIT (arXiv 2309.04669).",
            usage=USAGE,
            base_models={part: name for part, name in parts.items() if name},
            dataset=data.dataset_name,
            arguments=args,
            optimizer=MuonWithAdamW.__name__ if model_args.use_muon else None,
            metrics=metrics,
            pictures=["curves.png"],
        )


if __name__ == "__main__":
    run_script(main)
