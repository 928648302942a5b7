# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`evaluate`: the tasks that a dataset and a model allow, and the protocol of how they were run."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from .. import __version__
from ..data.loading import check_features, load_rows
from ..data.texts import read_questions, read_texts
from ..diffusion import LavitImageDecoderPipeline
from ..inference import plan_settings
from ..modeling import LavitForCausalLM, LavitGenerationConfig
from ..modeling.arguments_lavit import check_integer
from ..modeling.freezing_lavit import evaluation_mode
from ..processing import LavitProcessor, read_image
from .captions import evaluate_captions
from .drawings import evaluate_drawing, evaluate_edits, evaluate_reconstruction
from .fidelity import ClipScorer, FrechetScorer
from .metrics import Metric
from .own_words import evaluate_own_words
from .questions import evaluate_questions
from .report import EvaluationReport
from .scenes import is_scene
from .subject import GREEDY, EvaluationSettings, Subject
from .tokens import evaluate_tokens


@dataclass(frozen=True)
class Task:
    """
    A task of an evaluation.

    Args:
        run (`Callable`): Computes metrics from a [`Subject`] and rows.
        columns (`tuple[str, ...]`): The columns that it needs.
        hub_task (`str`): The name that the Hub has for it, for the `model-index` of a card.
        needs_pixels (`bool`): Whether it needs a pixel decoder.
    """

    run: Callable[[Subject, Sequence[dict]], dict[str, Metric | None]]
    columns: tuple[str, ...]
    hub_task: str
    needs_pixels: bool = False


TASKS = {
    "captions": Task(evaluate_captions, ("image", "caption"), "image-to-text"),
    "questions": Task(evaluate_questions, ("image", "questions", "answers"), "visual-question-answering"),
    "drawing": Task(evaluate_drawing, ("caption",), "text-to-image", needs_pixels=True),
    "edits": Task(
        evaluate_edits,
        ("image", "instruction", "edited_image", "edited_scene"),
        "image-to-image",
        needs_pixels=True,
    ),
    "reconstruction": Task(evaluate_reconstruction, ("image",), "image-to-image", needs_pixels=True),
    # The texts are part of the library and describe scenes of `load_shapes`, so the dataset must have such scenes.
    "own_words": Task(evaluate_own_words, ("image", "scene"), "text-to-image", needs_pixels=True),
    "tokens": Task(evaluate_tokens, ("image",), "image-feature-extraction"),
}


KEPT_SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "guidance_scale",
    "image_generation",
    "plan_generation",
)


class Rows(Sequence):
    """
    The first rows of a dataset, read on access, with columns renamed to the names that tasks use. A column "scene" is
    left out where it lists no objects.
    """

    def __init__(self, dataset, num_rows: int, columns: dict[str, str]):
        self.dataset = dataset if hasattr(dataset, "__len__") else list(dataset.take(num_rows))
        self.num_rows, self.columns = min(num_rows, len(self.dataset)), columns
        if self.num_rows == 0:
            raise ValueError("The dataset to evaluate on has no rows.")

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict:
        row = self.dataset[range(self.num_rows)[index]]  # an index beyond the last row ends a loop over the rows
        row = row | {name: row[column] for name, column in self.columns.items() if column in row}
        return {name: value for name, value in row.items() if name != "scene" or is_scene(value)}


def evaluate(
    model: LavitForCausalLM,
    processor: LavitProcessor,
    pipeline: LavitImageDecoderPipeline | None = None,
    dataset="shapes",
    *,
    split: str = "test",
    data_dir: str | None = None,
    tasks: Sequence[str] | None = None,
    num_samples: int = 1000,
    subject_class: type[Subject] = Subject,
    **settings,
) -> EvaluationReport:
    """
    Evaluates a model. It may be in the middle of training: its mode and the random numbers stay as they were.

    Args:
        model ([`LavitForCausalLM`], or a `PeftModel` of one): The model, on any device.
        processor ([`LavitProcessor`]): Its processor.
        pipeline ([`LavitImageDecoderPipeline`], *optional*): Its pixel decoder, without which nothing is drawn.
        dataset (`str`, `datasets.Dataset` or `list[dict]`, *optional*, defaults to `"shapes"`):
            The name of a dataset as in [`load_rows`], or rows.
        split (`str`, *optional*, defaults to `"test"`): The split of a named dataset.
        data_dir (`str`, *optional*): The folder of a named dataset.
        tasks (`list[str]`, *optional*): Names of `TASKS`. Default: all that the dataset and the model allow.
        num_samples (`int`, *optional*, defaults to 1000): The number of rows, from the first one on.
        subject_class (`type[Subject]`, *optional*, defaults to [`Subject`]):
            How tasks ask the model. A subclass asks a model that draws in another way.
        settings: Fields of [`EvaluationSettings`], such as `batch_size` and `seed`.

    Returns:
        [`EvaluationReport`]: The same numbers for the same arguments on the same machine.

    Raises:
        ValueError: If a task is unknown or cannot be run, there are no rows, a row lacks what a task needs or its
            image cannot be read, a setting is out of its range, the model has an adapter of prompt learning, the
            processor has another vocabulary, or the pixel decoder another codebook.
    """
    given = EvaluationSettings(**settings)
    check_tasks(tasks)
    check_integer("num_samples", num_samples, 1)
    name = dataset if isinstance(dataset, str) else type(dataset).__name__
    if isinstance(dataset, str):
        dataset = load_rows(dataset, split, data_dir=data_dir, num_rows=num_samples)
    rows = Rows(dataset, num_samples, given.columns)
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            kind = model.active_peft_config.peft_type.value
            raise ValueError(
                f"Adapters of prompt learning, which the base model lacks, are not evaluated, got {kind}."
            )
        model = model.get_base_model()
    processor.check_vocabulary(model.config)
    plan_settings(model, given.plan_generation)  # before time is spent
    if pipeline is not None:  # with the same components, but a state and a progress bar of its own
        pipeline = type(pipeline)(**pipeline.components, **pipeline.parameters)
        pipeline.set_progress_bar_config(disable=True)
    subject = subject_class(model, processor, pipeline, given)
    chosen = list(TASKS if tasks is None else tasks)
    left_out = {task: reason for task in chosen if (reason := _why_not(task, subject, rows))}
    if tasks is not None and left_out:
        task, reason = next(iter(left_out.items()))
        raise ValueError(f"The task {task!r} cannot be run: {reason}.")

    run = [task for task in chosen if task not in left_out]
    if any(TASKS[task].needs_pixels for task in run):
        subject.check_image_decoder()
    if "drawing" in run and given.clip_model:
        subject = replace(subject, clip=ClipScorer(given.clip_model, model.device))
    if {"drawing", "reconstruction"} & {*run} and given.fid_features:
        if len(rows) < 2:
            raise ValueError(f"fid_features need at least 2 rows, got {len(rows)}.")
        subject = replace(subject, frechet=FrechetScorer(given.fid_features, model.device))
    _check_rows(rows, {column for task in run for column in TASKS[task].columns}, given.columns)
    results: dict[str, dict[str, Metric]] = {task: {} for task in run}  # in the order of the tasks
    seconds, samples = dict.fromkeys(run, 0.0), dict.fromkeys(run, subject.samples)
    with _evaluating(model, pipeline):
        # Drawing comes first, so that a mistake in its settings, which take the longest, is told at once.
        for task in sorted(run, key=lambda task: not TASKS[task].needs_pixels):
            started = time.perf_counter()
            asked = replace(subject, samples=[], drawn_codes=[])  # each task counts its own
            metrics = TASKS[task].run(asked, rows)
            seconds[task], samples[task] = round(time.perf_counter() - started, 2), asked.samples
            results[task] = {key: metric for key, metric in metrics.items() if metric is not None}
    protocol = {"dataset": name, "split": split, "num_samples": len(rows)} | _describe(subject)
    return EvaluationReport(results, seconds, left_out, protocol, samples)


@contextmanager
def _evaluating(model: LavitForCausalLM, pipeline: LavitImageDecoderPipeline | None) -> Iterator[None]:
    """A context in evaluation mode without gradients. Afterwards the model and the random numbers are as before."""
    parts = [] if pipeline is None else pipeline.components.values()
    modules = [model, *(part for part in parts if isinstance(part, nn.Module))]
    devices = [model.device] if model.device.type == "cuda" else []
    own = model.generation_config
    # Settings of generation that the protocol does not name do not hold.
    model.generation_config = LavitGenerationConfig(**{name: getattr(own, name, None) for name in KEPT_SETTINGS})
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), evaluation_mode(*modules):
            yield
    finally:
        model.generation_config = own


def check_tasks(tasks: Sequence[str] | None) -> None:
    """Raises a `ValueError` that names an unknown one of `tasks`, or one that is there twice."""
    if unknown := [task for task in tasks or () if task not in TASKS]:
        raise ValueError(f"tasks must be of {', '.join(TASKS)}, got {', '.join(map(repr, unknown))}.")
    if tasks is not None and len({*tasks}) < len(tasks):
        raise ValueError(f"tasks must be different ones, got {', '.join(tasks)}.")


def _why_not(name: str, subject: Subject, rows: Rows) -> str | None:
    """Returns the reason why a task cannot be run, or None."""
    task, settings, row = TASKS[name], subject.settings, rows.dataset[0]
    columns = [settings.columns.get(column, column) for column in task.columns]
    if missing := [column for column in columns if column not in row]:
        return f"the dataset has no column {', '.join(map(repr, missing))} (it has {', '.join(row)})"
    if task.needs_pixels and subject.pipeline is None:
        return "there is no pixel decoder"
    if name == "own_words" and "scene" not in rows[0]:
        return "its texts are about the shapes of load_shapes, which the column 'scene' does not list"
    if name == "drawing" and "scene" not in rows[0] and not (settings.clip_model or settings.fid_features):
        return "only drawings of shapes can be judged (column 'scene'); others need clip_model or fid_features"
    return None


def _check_rows(rows: Rows, columns: set[str], names: Mapping[str, str]) -> None:
    """
    Reads the `columns` that tasks need, whose `names` may be others in the dataset, before time is spent.

    Raises:
        ValueError: If a text is missing or of another type, or an image cannot be read.
    """
    named = {column: names.get(column, column) for column in columns}
    check_features(rows.dataset, named.values())
    for index, row in enumerate(rows):
        try:
            if "questions" in named:
                read_questions(row, named["questions"], named["answers"])
            for column in named.keys() & {"caption", "instruction"}:
                read_texts(row[named[column]], named[column])
        except ValueError as error:
            raise ValueError(f"row {index}, {error}") from error
        for column in named.keys() & {"image", "edited_image"}:
            read_image(row[named[column]], f"row {index}, column {named[column]!r}")


def _describe(subject: Subject) -> dict:
    """Returns the protocol of an evaluation in plain values."""
    model, settings, pipeline = subject.model, subject.settings, subject.pipeline
    given = dict(vars(settings))
    if isinstance(settings.fid_features, nn.Module):
        given["fid_features"] = type(settings.fid_features).__name__
    decoding = {
        "captions": GREEDY | {"max_new_tokens": settings.max_caption_tokens},
        "answers": GREEDY | {"max_new_tokens": settings.max_answer_tokens},
        "drawing": subject.drawing_settings(),
    }
    if (plans := plan_settings(model, settings.plan_generation)) is not None:
        decoding["plans"] = plans
    if pipeline is not None and pipeline.num_timesteps:  # after its last call a pipeline tells its settings
        decoding["pixels"] = {
            "scheduler": type(pipeline.scheduler).__name__,
            "num_inference_steps": pipeline.num_timesteps,
            "guidance_scale": pipeline.guidance_scale,
        }
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "diffusers", "datasets")}
    return {
        "model": model.name_or_path or type(model).__name__,
        "num_parameters": model.num_parameters(),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "selection": model.config.visual_tokenizer_config.selection,
        "decoding": decoding,
        "settings": given,
        "versions": {"python": platform.python_version(), "lavit-hf": __version__} | versions,
    }
