# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Stage 2: trains one language model over text and codes of images, on captions, drawings, questions, edits and text.

    python examples/pretrain.py examples/recipes/shapes/pretrain.yaml
    python examples/pretrain.py --visual_tokenizer my-tokenizer --language_model HuggingFaceTB/SmolLM2-135M \\
        --dataset_name my-captions --mixture caption=1 draw=1 --learning_rates model.visual_adapter=5e-4 \\
        --output_dir my-lavit --max_steps 20000

A training step: the collator (`lavit_hf/training/collator.py`) turns sequences of text and images into ids, labels and
pixels; the model computes the codes of images that have none, which become inputs and labels, and the losses of all
labels; the trainer (`lavit_hf/training/language_trainer.py`) makes of them the mean over all batches and processes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from optimizers import OptimizerFactory
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    TokenizersBackend,
    TrainingArguments,
    set_seed,
)

from lavit_hf import LavitForCausalLM, LavitProcessor, LavitVisualTokenizer
from lavit_hf.data.rows import RowStream
from lavit_hf.modeling.arguments_lavit import check_fields
from lavit_hf.modeling.generation_settings_lavit import check_image_settings, check_task_settings
from lavit_hf.training import (
    DataArguments,
    LavitCollator,
    LavitForCausalLMTrainer,
    MixtureRows,
    SequenceArguments,
    TextPart,
    check_whole,
    freeze_parts,
    last_checkpoint,
    load_mixture,
    parse_recipe,
    read_fields,
    read_numbers,
    run_script,
    write_model_card,
)


USAGE = """\
from lavit_hf import LavitForCausalLM, LavitProcessor

model, processor = LavitForCausalLM.from_pretrained(path), LavitProcessor.from_pretrained(path)
inputs = processor(text="<image>", images=image, return_tensors="pt")
print(processor.decode(model.generate(**inputs, return_full_text=False)[0], skip_special_tokens=True))
"""
NUM_TOKENIZER_ROWS = 20_000  # rows whose texts train a new text tokenizer


@dataclass
class ModelArguments:
    """Either a whole LaVIT, or a visual tokenizer and a language model, pretrained or new."""

    model: str | None = field(default=None, metadata={"help": "Folder or repository of a whole LaVIT to start from."})
    visual_tokenizer: str | None = field(default=None, metadata={"help": "Folder that stage 1 has written."})
    language_model: str | None = field(
        default=None, metadata={"help": "Folder or repository of a causal language model with its tokenizer."}
    )
    language_model_config: str | None = field(
        default=None, metadata={"help": "For a new language model: JSON with its model_type and sizes, or its file."}
    )
    text_tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or repository of a tokenizer for a new language model."}
    )
    train_text_tokenizer: bool = field(
        default=False, metadata={"help": "Train a byte-level tokenizer on the texts of the dataset instead."}
    )
    text_vocab_size: int = field(default=1024, metadata={"help": "The largest number of tokens of such a tokenizer."})
    lowercase: bool = field(
        default=False, metadata={"help": "Whether such a tokenizer reads capitals as small letters."}
    )
    copy_merger: bool = field(
        default=True, metadata={"help": "Whether the adapter's merger starts as that of the visual tokenizer."}
    )
    image_generation: str = field(
        default="{}",
        metadata={
            "help": "JSON with defaults of drawing codes, such as guidance_scale. Codes are sampled unless it has "
            "do_sample."
        },
    )
    plan_generation: str = field(
        default="{}",
        metadata={"help": "JSON with defaults of writing plans, such as max_new_tokens. It needs a plan_column."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2 or flex_attention. Default: the model's own."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "The largest length of a sequence. Default: that of the language model."}
    )
    freeze_parts: list[str] = field(
        default_factory=list, metadata={"help": "Parts that are not trained, such as model.language_model."}
    )
    learning_rates: list[str] = field(
        default_factory=list, metadata={"help": "PART=RATE ..., for parts that do not have --learning_rate."}
    )
    use_muon: bool = field(
        default=False, metadata={"help": "Move the matrices of hidden layers by Muon, and the rest by AdamW."}
    )

    def __post_init__(self):
        self.part_learning_rates = read_numbers("learning_rates", self.learning_rates)
        self.drawing_settings = read_fields("image_generation", self.image_generation)
        check_image_settings(self.drawing_settings)
        text = [self.language_model, self.language_model_config]
        if self.model is None and (self.visual_tokenizer is None or text.count(None) != 1):
            raise ValueError(
                "Give either model, or visual_tokenizer and one of language_model and language_model_config; got "
                f"visual_tokenizer={self.visual_tokenizer!r}, language_model={self.language_model!r} and "
                f"language_model_config={self.language_model_config!r}."
            )
        is_new = self.model is None and self.language_model is None
        if is_new and (self.text_tokenizer is None) != self.train_text_tokenizer:
            raise ValueError(
                "A new language model needs either text_tokenizer or train_text_tokenizer, got "
                f"{self.text_tokenizer!r} and {self.train_text_tokenizer}."
            )


def load_model(arguments: ModelArguments, texts: Iterable[str] = ()) -> tuple[LavitForCausalLM, LavitProcessor]:
    """Loads or builds the model to train and its processor. A new text tokenizer is trained on `texts`."""
    if arguments.model is not None:
        check_whole(arguments.model)
        model = LavitForCausalLM.from_pretrained(arguments.model)
        processor = LavitProcessor.from_pretrained(arguments.model)
    else:
        tokenizer, language_model = load_language_model(arguments, texts)
        model = LavitForCausalLM.from_backbones(
            LavitVisualTokenizer.from_pretrained(arguments.visual_tokenizer),
            language_model,
            num_text_tokens=max(tokenizer.get_vocab().values()) + 1,
            copy_merger=arguments.copy_merger,
        )
        processor = LavitProcessor.from_backbones(
            vision=arguments.visual_tokenizer,
            text=tokenizer,
            codebook_size=model.config.codebook_size,
            image_start_token_id=model.config.image_start_token_id,
        )
    apply_settings(model, arguments)
    return model, processor


def apply_settings(model: LavitForCausalLM, arguments: ModelArguments) -> None:
    """Gives a model the attention and the defaults of drawing that the arguments have."""
    if arguments.attn_implementation is not None:
        model.set_attn_implementation(arguments.attn_implementation)
    settings = arguments.drawing_settings
    if settings or arguments.model is None:  # greedy drawings of one prompt would all be the same
        model.generation_config.image_generation = {"do_sample": True} | settings


def make_trainer(
    model: LavitForCausalLM,
    processor: LavitProcessor,
    arguments: ModelArguments,
    args: TrainingArguments,
    trainer_class: type[LavitForCausalLMTrainer] = LavitForCausalLMTrainer,
    **rows,
) -> LavitForCausalLMTrainer:
    """Makes the trainer of a model, with the lengths and the optimizer of the arguments. `rows` are its datasets."""
    max_length = arguments.max_length
    if max_length is None:
        max_length = getattr(model.config.text_config, "max_position_embeddings", None)
    optimizer = None
    if arguments.use_muon or arguments.part_learning_rates:
        settings = {"learning_rates": arguments.part_learning_rates, "use_muon": arguments.use_muon}
        optimizer = (OptimizerFactory, {"args": args, **settings})
    return trainer_class(
        model,
        args,
        data_collator=LavitCollator(processor, model.config.num_patches, max_length),
        processing_class=processor,
        optimizer_cls_and_kwargs=optimizer,
        **rows,
    )


def read_plan_settings(arguments: ModelArguments, sequences: SequenceArguments) -> dict:
    """
    Returns the settings of plans that are given.

    Raises:
        ValueError: If there are settings without plans, or they are no settings.
    """
    settings = read_fields("plan_generation", arguments.plan_generation)
    check_task_settings("plan_generation", settings)
    if settings and not sequences.plans:
        raise ValueError(f"plan_generation needs a plan_column or an edited_plan_column, got {settings}.")
    return settings


def set_plans(model: LavitForCausalLM, sequences: SequenceArguments, settings: dict | None = None) -> None:
    """Saves with the model whether it plans its drawings, which depends on the drawings that it learns, and how."""
    if sequences.plans:
        own = model.generation_config.plan_generation or {}
        model.generation_config.plan_generation = own | (settings or {})
    elif not {"draw", "edit"}.isdisjoint(sequences.weights):
        model.generation_config.plan_generation = None


def load_language_model(
    arguments: ModelArguments, texts: Iterable[str]
) -> tuple[PreTrainedTokenizerBase, str | PreTrainedConfig]:
    """Loads a tokenizer, and returns the name of its pretrained language model or the configuration of a new one."""
    if arguments.language_model is not None:
        return AutoTokenizer.from_pretrained(arguments.language_model), arguments.language_model
    if arguments.train_text_tokenizer:
        tokenizer = train_text_tokenizer(texts, arguments.text_vocab_size, arguments.lowercase)
    else:
        tokenizer = AutoTokenizer.from_pretrained(arguments.text_tokenizer)
    return tokenizer, read_config(arguments.language_model_config, tokenizer)


def read_config(config: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """
    Returns the configuration of a new language model, with the vocabulary and special tokens of a tokenizer.

    Args:
        config (`str`): JSON, or the name of its file, with `model_type` and all values that are not the default.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
    """
    text = config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8")
    fields = read_fields("language_model_config", text)
    if (model_type := fields.get("model_type")) not in CONFIG_MAPPING:
        raise ValueError(f"language_model_config must have a model_type of transformers, got {model_type!r}.")
    check_fields("language_model_config", fields, CONFIG_MAPPING[model_type])
    if fields.get("vocab_size", len(tokenizer)) < len(tokenizer):
        raise ValueError(
            f"vocab_size of language_model_config must be at least the {len(tokenizer)} tokens of the tokenizer, got "
            f"{fields['vocab_size']}."
        )
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return AutoConfig.for_model(**({"vocab_size": len(tokenizer)} | special | fields))


def train_text_tokenizer(texts: Iterable[str], vocab_size: int = 1024, lowercase: bool = False) -> TokenizersBackend:
    """
    Trains a byte-level BPE tokenizer, in which every text has ids. If the texts have a few hundred words in all, each
    of them becomes one token. `<|end|>` ends a sequence, `<|pad|>` pads. Among the `vocab_size` tokens are 256 bytes.
    With `lowercase`, capitals have the ids of small letters.
    """
    backend = Tokenizer(models.BPE())
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return TokenizersBackend(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")


def list_texts(rows: MixtureRows | RowStream, num_rows: int = NUM_TOKENIZER_ROWS) -> Iterable[str]:
    """Yields the texts of the first sequences. Consecutive parts are one text, as they are tokenized."""
    for place, row in enumerate(rows.dataset.take(num_rows)):
        for is_text, run in groupby(rows.compose(row, place) or (), key=lambda part: isinstance(part, TextPart)):
            if is_text:
                yield "".join(part.text for part in run)


def main():
    model_args, sequences, data, args = parse_recipe(
        ModelArguments, SequenceArguments, DataArguments, TrainingArguments
    )
    checkpoint = last_checkpoint(args, model_args, sequences, data)  # before time is spent
    set_seed(args.seed)
    plan_settings = read_plan_settings(model_args, sequences)
    # 1. The data: rows of a dataset become sequences of text and images
    train_rows, eval_rows = load_mixture(data, sequences, args)

    # 2. The model, from its parts or from the checkpoint of a run that was stopped
    # A recipe may name the parts of a new model beside the whole one that a flag gives.
    parts = ("visual_tokenizer", "language_model") if model_args.model is None else ("model",)
    bases = {name: getattr(model_args, name) for name in parts}
    model_args.model = checkpoint or model_args.model
    model, processor = load_model(model_args, list_texts(train_rows))
    set_plans(model, sequences, plan_settings)
    freeze_parts(model, model_args.freeze_parts)

    # 3. Training
    trainer = make_trainer(model, processor, model_args, args, train_dataset=train_rows, eval_dataset=eval_rows)
    trainer.train(resume_from_checkpoint=checkpoint)
    if eval_rows is not None:
        trainer.evaluate()
    trainer.save_model()
    trainer.save_state()

    # 4. The model card
    if trainer.is_world_process_zero():
        write_model_card(
            args.output_dir,
            title="LaVIT",
            description="One language model that reads and draws images as a varying number of tokens: stage 2 of "
            "LaVIT (arXiv 2309.04669).",
            usage=USAGE,
            base_models={name.replace("_", " "): base for name, base in bases.items()},
            dataset=data,
            trainer=trainer,
        )


if __name__ == "__main__":
    run_script(main)
