# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The model that stage 2 starts with: a whole LaVIT to go on from, or a new one around a visual tokenizer."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, TokenizersBackend

from ..modeling import LavitForCausalLM, LavitVisualTokenizer
from ..processing import LavitProcessor
from ..processing.chat_lavit import VQA_PROMPT
from .rows import KINDS, SequenceArguments, one_of, read_numbers


@dataclass
class LanguageModelArguments:
    """Either a whole LaVIT, or a visual tokenizer and a language model, pretrained or new."""

    model: str | None = field(default=None, metadata={"help": "Folder or repository of a whole LaVIT to go on from."})
    visual_tokenizer: str | None = field(default=None, metadata={"help": "Folder that stage 1 wrote."})
    language_model: str | None = field(
        default=None, metadata={"help": "Folder or repository of a causal language model with its tokenizer."}
    )
    language_model_config: str | None = field(
        default=None, metadata={"help": "Of a new one instead: JSON with its model_type and sizes, or a file of it."}
    )
    text_tokenizer: str | None = field(default=None, metadata={"help": "Folder or repository, for a new one."})
    train_text_tokenizer: bool = field(
        default=False, metadata={"help": "Train a byte-level one on the dataset's texts instead."}
    )
    text_vocab_size: int = field(default=1024, metadata={"help": "Most tokens of it."})
    copy_merger: bool = field(
        default=True, metadata={"help": "Whether the adapter's merger starts as the visual tokenizer's."}
    )
    image_generation: str = field(
        default="{}", metadata={"help": "JSON with defaults of drawing codes, such as guidance_scale and top_k."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2 or flex_attention. Default: the model's own."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest sequence. Default: what the language model can take."}
    )
    freeze_parts: list[str] = field(
        default_factory=list, metadata={"help": "Parts that stay as they are, such as model.language_model."}
    )
    learning_rates: list[str] = field(
        default_factory=list, metadata={"help": "PART=RATE ..., where it is not --learning_rate."}
    )
    use_muon: bool = field(
        default=False, metadata={"help": "Move hidden layers' matrices by Muon, and by AdamW only the rest."}
    )

    def __post_init__(self):
        self.part_learning_rates = read_numbers("learning_rates", self.learning_rates)
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


def build_lavit(
    arguments: LanguageModelArguments, texts: Iterable[str] = ()
) -> tuple[LavitForCausalLM, LavitProcessor]:
    """
    The model to train and its processor.

    Args:
        arguments ([`LanguageModelArguments`]): What it is made of.
        texts (`Iterable[str]`): To train a text tokenizer on, where that is asked for.

    Raises:
        ValueError: a part that cannot be what it is to be.
    """
    if arguments.model is not None:
        model = LavitForCausalLM.from_pretrained(arguments.model)
        processor = LavitProcessor.from_pretrained(arguments.model)
    else:
        tokenizer, language_model = _load_text(arguments, texts)
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
    if arguments.attn_implementation is not None:
        model.set_attn_implementation(arguments.attn_implementation)
    if settings := json.loads(arguments.image_generation):
        model.generation_config.image_generation = settings
    return model, processor


def _load_text(
    arguments: LanguageModelArguments, texts: Iterable[str]
) -> tuple[PreTrainedTokenizerBase, str | PreTrainedConfig]:
    if arguments.language_model is not None:
        return AutoTokenizer.from_pretrained(arguments.language_model), arguments.language_model
    if arguments.train_text_tokenizer:
        tokenizer = train_text_tokenizer(texts, arguments.text_vocab_size)
    else:
        tokenizer = AutoTokenizer.from_pretrained(arguments.text_tokenizer)
    return tokenizer, read_config(arguments.language_model_config, tokenizer)


def read_config(config: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """
    The configuration of a new language model for a tokenizer.

    Args:
        config (`str`): JSON, or a file of it, with `model_type` and what else is not the default.
        tokenizer (`PreTrainedTokenizerBase`): Gives the size of the vocabulary and the special tokens.

    Raises:
        ValueError: no JSON, or no model type of transformers.
    """
    text = config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8")
    fields = json.loads(text)
    if "model_type" not in fields:
        raise ValueError(f"The language model's configuration must have a model_type, got {sorted(fields)}.")
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    of_tokenizer = {"vocab_size": len(tokenizer)} | {name: getattr(tokenizer, name) for name in special}
    return AutoConfig.for_model(**(of_tokenizer | fields))


def list_texts(
    dataset, arguments: SequenceArguments, image_column: str = "image", num_rows: int = 20_000
) -> Iterator[str]:
    """
    The texts of a dataset's first `num_rows` rows as they stand in sequences, for a tokenizer to be trained on.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): The rows.
        arguments ([`SequenceArguments`]): Name the columns of the kinds that are trained.
        image_column (`str`): The pictures, among these columns.
    """
    names = {name for kind in arguments.weights for name in KINDS[kind]} - {"image_column", "edited_image_column"}
    columns = {name: getattr(arguments, name) for name in sorted(names)}
    pictures = (image_column, arguments.edited_image_column)
    columns |= {name: name for name in arguments.sequence_columns if name not in pictures}
    for row in dataset.select_columns(sorted(set(columns.values()))).take(num_rows):
        # A row may be empty where other kinds have their columns.
        texts = {name: row[column] for name, column in columns.items() if row[column]}
        questions, answers = texts.pop("question_column", []), texts.pop("answer_column", [])
        if isinstance(questions, str):
            questions, answers = [questions], [answers]
        for question, answer in zip(questions, answers, strict=False):
            yield f"{VQA_PROMPT.format(question=question)} {one_of(answer, Random(0))}"
        yield from (part["text"] for part in texts.pop("segments_column", []) if part["type"] == "text")
        for of_column in texts.values():
            yield from [of_column] if isinstance(of_column, str) else of_column


def train_text_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> TokenizersBackend:
    """
    A byte-level BPE tokenizer of its own for texts of a narrow domain: with a few hundred words in all, each of them
    becomes one token. Nothing is unknown to it. `<|end|>` ends a sequence, `<|pad|>` pads.

    Args:
        texts (`Iterable[str]`): What it is trained on.
        vocab_size (`int`): Most tokens, 256 bytes and 2 special ones included. It stops where every word is a token.
    """
    backend = Tokenizer(models.BPE())
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


__all__ = ["LanguageModelArguments", "build_lavit", "list_texts", "read_config", "train_text_tokenizer"]
