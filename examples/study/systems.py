# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The systems of the study by their names in recipes, and how each one is built."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from pretrain import ModelArguments, apply_settings, load_language_model
from transformers import AutoModelForCausalLM, PreTrainedConfig, TrainingArguments, set_seed

from lavit_hf import LavitForCausalLM, LavitProcessor, LavitVisualTokenizer
from lavit_hf.evaluation import TASKS, Subject, check_tasks
from lavit_hf.training import DataArguments, LavitForCausalLMTrainer, SequenceArguments, freeze_parts

from .adapters import DroppedForCausalLM, LinearForCausalLM, MlpForCausalLM, ResamplerForCausalLM
from .json_files import compare_recipes, fingerprint, fingerprint_weights, read_json
from .lengths import AnyLengthForCausalLM, set_num_codes
from .regression import RegressionForCausalLM, RegressionSettings, RegressionSubject, RegressionTrainer


OF_A_KIND = ("visual_tokenizer", "image_decoder")  # the parts that differ between kinds of selection
PARTS = (*OF_A_KIND, "text_tokenizer")
READING = ("caption", "question", "text")  # the kinds of sequences in which nothing is drawn


@dataclass(frozen=True)
class System:
    """
    A way to join images and a language model.

    Args:
        model_class (`type[LavitForCausalLM]`): The model.
        draws (`bool`, *optional*, defaults to `True`):
            Whether it draws. If not, images are never labels, and sequences that end in a drawing are left out.
        has_codes (`bool`, *optional*, defaults to `True`):
            Whether codes are in the vocabulary. If not, the codebook has one row, so that no system has a larger
            vocabulary than it uses.
        trainer_class (`type[LavitForCausalLMTrainer]`, *optional*): The trainer.
        subject_class (`type[Subject]`, *optional*): How the evaluation asks it.
    """

    model_class: type[LavitForCausalLM] = LavitForCausalLM
    draws: bool = True
    has_codes: bool = True
    trainer_class: type[LavitForCausalLMTrainer] = LavitForCausalLMTrainer
    subject_class: type[Subject] = Subject

    def choose_sequences(self, sequences: SequenceArguments) -> SequenceArguments:
        """
        Returns the kinds of sequences that the system can learn, with the weights that they have to each other.

        Raises:
            ValueError: If there is none.
        """
        if self.draws:
            return sequences
        mixture = [f"{kind}={weight}" for kind, weight in sequences.weights.items() if kind in READING]
        if not mixture:
            raise ValueError(
                f"A system that does not draw needs one of {', '.join(READING)}, got {sequences.mixture}."
            )
        return replace(sequences, mixture=mixture, sequence_columns=[], supervise_images=False)


SYSTEMS = {
    "lavit": System(),
    "any_length": System(AnyLengthForCausalLM),
    "dropped": System(DroppedForCausalLM),
    "text_only": System(draws=False, has_codes=False),
    "linear": System(LinearForCausalLM, draws=False, has_codes=False),
    "mlp": System(MlpForCausalLM, draws=False, has_codes=False),
    "resampler": System(ResamplerForCausalLM, draws=False, has_codes=False),
    "regression": System(
        RegressionForCausalLM,
        has_codes=False,
        trainer_class=RegressionTrainer,
        subject_class=RegressionSubject,
    ),
}


@dataclass
class StudyArguments(ModelArguments):
    """A row of the study: its system, the parts that it has, and what is measured."""

    row: str = field(default="", metadata={"help": "The name of the row in the table."})
    system: str = field(default="lavit", metadata={"help": f"The system: one of {', '.join(SYSTEMS)}."})
    num_codes: str | None = field(
        default=None,
        metadata={"help": "The number of positions of each image, or 'all'. Default: what the selector decides."},
    )
    regression: str = field(default="{}", metadata={"help": "JSON with fields of RegressionSettings."})
    image_decoder: str | None = field(default=None, metadata={"help": "The pixel decoder of stage 3."})
    codes: str | None = field(
        default=None,
        metadata={"help": "Folder with the rows to train on and the codes that the visual tokenizer has for them."},
    )
    tasks: list[str] = field(
        default_factory=lambda: [task for task in TASKS if task not in ("tokens", "own_words")],
        metadata={"help": "The tasks of the evaluation. Those that draw are left out where a system does not."},
    )
    test_split: str = field(default="test", metadata={"help": "The split to evaluate the tasks on."})
    num_test_rows: int = field(default=1000, metadata={"help": "The number of rows of the last evaluation."})
    num_drawn_rows: int = field(
        default=300, metadata={"help": "The most rows of tasks that make pixels, which takes longer than reading."}
    )
    num_curve_rows: int = field(default=100, metadata={"help": "The number of rows of evaluations during training."})
    num_curve_points: int = field(
        default=3, metadata={"help": "The number of evaluations, evenly spaced over the steps, of which one is last."}
    )
    num_counted_steps: int = field(default=8, metadata={"help": "The number of steps whose operations are counted."})
    trial: bool = field(
        default=False,
        metadata={"help": "Write results without an evaluation, and no error, if the loss is not finite."},
    )
    tried: str = field(
        default="[]",
        metadata={
            "help": "JSON list of settings of drawing, fields of RegressionSettings or image_generation, to evaluate."
        },
    )
    results: str = field(default="", metadata={"help": "The JSON file to write."})
    only_loss: bool = field(default=False, metadata={"help": "Write the loss on held-out rows, and evaluate no task."})

    def __post_init__(self):
        if self.language_model is not None:  # a flag, which displaces the new language model of a recipe
            self.language_model_config = self.text_tokenizer = None
        super().__post_init__()
        if self.system not in SYSTEMS:
            raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, got {self.system!r}.")
        check_tasks(self.tasks)
        if not self.row or not self.results:
            raise ValueError(f"A run needs row and results, got {self.row!r} and {self.results!r}.")
        for name in ("num_test_rows", "num_drawn_rows", "num_curve_rows", "num_curve_points", "num_counted_steps"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.regression_settings = RegressionSettings(**json.loads(self.regression))

    @property
    def chosen(self) -> System:
        """The system."""
        return SYSTEMS[self.system]

    @property
    def chosen_tasks(self) -> list[str]:
        """The tasks that the system can do, given a pixel decoder."""
        draws = self.chosen.draws and self.image_decoder is not None
        return [task for task in self.tasks if draws or not TASKS[task].needs_pixels]


def load_visual_tokenizer(arguments: StudyArguments) -> LavitVisualTokenizer:
    """Loads the visual tokenizer of a row, which keeps as many patches as the system has positions for."""
    tokenizer = LavitVisualTokenizer.from_pretrained(arguments.visual_tokenizer)
    set_num_codes(tokenizer.config, arguments.num_codes)
    if not arguments.chosen.has_codes:
        tokenizer.config.codebook_size = 1
        tokenizer.quantizer.codebook = tokenizer.quantizer.codebook[:1].clone()
    return tokenizer


def build_system(
    arguments: StudyArguments, sequences: SequenceArguments, seed: int
) -> tuple[LavitForCausalLM, LavitProcessor]:
    """
    Builds the model of a row and its processor.

    Args:
        arguments ([`StudyArguments`]): The row.
        sequences ([`SequenceArguments`]): Its sequences, which say how images enter.
        seed (`int`): The seed of new weights. A new language model has the same ones in all rows of a seed.
    """
    text_tokenizer, language_model = load_language_model(arguments, ())
    set_seed(seed)
    if isinstance(language_model, PreTrainedConfig):
        language_model = AutoModelForCausalLM.from_config(language_model, dtype=torch.float32)
    model = arguments.chosen.model_class.from_backbones(
        load_visual_tokenizer(arguments),
        language_model,
        num_text_tokens=max(text_tokenizer.get_vocab().values()) + 1,
        copy_merger=arguments.copy_merger,
    )
    model.config.image_inputs = sequences.image_inputs
    apply_settings(model, arguments)
    if isinstance(model, RegressionForCausalLM):
        model.regression = arguments.regression_settings
    freeze_parts(model, arguments.freeze_parts)
    processor = LavitProcessor.from_backbones(
        vision=arguments.visual_tokenizer,
        text=text_tokenizer,
        codebook_size=model.config.codebook_size,
        image_start_token_id=model.config.image_start_token_id,
    )
    return model, processor


def fingerprint_parts(arguments: StudyArguments) -> dict[str, str | None]:
    """
    Returns the checksums of the parts of a row, whose contents tell more than their paths, those of the vision tower
    and of the VAE in them, and of the recipe that all visual tokenizers, or pixel decoders, are trained by.
    """
    decoder = arguments.image_decoder
    found = {name: fingerprint(getattr(arguments, name)) for name in PARTS} | {
        "vision_tower": fingerprint_weights(arguments.visual_tokenizer, "vision_tower"),
        "vae": None if decoder is None else fingerprint(Path(decoder, "vae")),
    }
    for name in OF_A_KIND:
        folder = getattr(arguments, name)
        found[f"{name}_recipe"] = folder and read_json(Path(folder).with_suffix(".json")).get("shared")
    return found


def compare_parts(path: str | Path, made: dict, recipe: dict, parts: dict) -> None:
    """
    Checks that a result was made with the parts that another row of the same seed has. Rows with other visual
    tokenizers or pixel decoders share the rest.

    Args:
        path (`str` or `Path`): The name of the result in the message.
        made (`dict`): The result, with its recipe and parts.
        recipe (`dict`): The recipe of the other row.
        parts (`dict`): The checksums of its parts.

    Raises:
        ValueError: If a part differs, or is gone.
    """
    others = [name for name in OF_A_KIND if made["recipe"].get(name) != recipe.get(name)]
    for name, part in made["parts"].items():
        if part is not None and parts.get(name) is None and name not in others:
            raise ValueError(
                f"{path} was made with the {name} of checksum {part}, and there is none now: restore its folder, or "
                "delete the results of this seed to train all anew."
            )
    compare_recipes(path, made["parts"], parts, others)


# Training arguments, or the beginnings of their names, that change what is said, kept or shown of a run, but not its
# outcome.
NOT_TRAINING = (
    *("output_dir", "logging_", "log_", "eval_", "save_", "hub_", "push_to_hub", "report_to", "run_name", "project"),
    *("disable_tqdm", "dataloader_num_workers", "dataloader_prefetch", "dataloader_persistent", "dataloader_pin"),
    *("per_device_eval_batch_size", "do_", "trackio"),
)
ALWAYS_SHOWN = ("max_steps", "per_device_train_batch_size", "learning_rate", "seed")


def describe_training(args: TrainingArguments) -> dict:
    """Returns the training arguments that the outcome depends on and that are not the default ones."""
    defaults = type(args)(output_dir=args.output_dir, use_cpu=True, report_to="none").to_dict()
    return {
        name: value
        for name, value in args.to_dict().items()
        if name in ALWAYS_SHOWN or (value != defaults.get(name) and not name.startswith(NOT_TRAINING))
    }


def describe_recipe(
    arguments: StudyArguments, sequences: SequenceArguments, data: DataArguments, args: TrainingArguments
) -> dict:
    """
    Returns the recipe of a run in plain values: all that the outcome depends on. A part is named by its folder
    alone, which tells its kind wherever the folder lies.
    """
    parts = {name: Path(part).name for name in PARTS if (part := getattr(arguments, name)) is not None}
    described = asdict(arguments) | asdict(sequences) | asdict(data) | describe_training(args) | parts
    return {name: value for name, value in described.items() if name not in ("trial", "only_loss")}
