# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""One call that evaluates a model: which tasks a dataset allows, and the protocol of how they were run."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from torch import nn

from ..data.loading import load_rows
from ..diffusion import LavitImageDecoderPipeline
from ..modeling import LavitForCausalLM
from ..processing import LavitProcessor
from .captions import evaluate_captions
from .drawing import evaluate_drawing
from .edits import evaluate_edits
from .questions import evaluate_questions
from .reconstruction import evaluate_reconstruction
from .report import EvaluationReport
from .subject import GREEDY, EvaluationSettings, Subject, TaskResult
from .tokens import evaluate_tokens


@dataclass(frozen=True)
class Task:
    """
    Args:
        run (`Callable`): From a [`Subject`] and rows to a [`TaskResult`].
        columns (`tuple[str]`): What it reads: columns, or settings that name them.
        needs_pixels (`bool`): Whether it needs a pixel decoder.
    """

    run: Callable[[Subject, Sequence[dict]], TaskResult]
    columns: tuple[str, ...]
    needs_pixels: bool = False


TASKS = {
    "captions": Task(evaluate_captions, ("image_column", "caption_column")),
    "questions": Task(evaluate_questions, ("image_column", "question_column", "answer_column")),
    "drawing": Task(evaluate_drawing, ("caption_column",), needs_pixels=True),
    "edits": Task(evaluate_edits, ("image_column", "instruction", "edited_image", "edited_scene"), needs_pixels=True),
    "reconstruction": Task(evaluate_reconstruction, ("image_column",), needs_pixels=True),
    "tokens": Task(evaluate_tokens, ("image_column",)),
}


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
    **settings,
) -> EvaluationReport:
    """
    Measures what a model understands and draws. It may be in the middle of training: its mode and the random numbers
    are left as they were.

    Args:
        model ([`LavitForCausalLM`], or a `PeftModel` of one): On any device.
        processor ([`LavitProcessor`]): Its processor.
        pipeline ([`LavitImageDecoderPipeline`], *optional*): Its pixel decoder, without which nothing is drawn.
        dataset (`str`, `datasets.Dataset` or `list[dict]`, *optional*, defaults to `"shapes"`):
            A name as `load_rows` takes it, or rows.
        split (`str`, *optional*, defaults to `"test"`), data_dir (`str`, *optional*): Of a named dataset.
        tasks (`list[str]`, *optional*): Some of `TASKS`. Default: all that the dataset and the model allow.
        num_samples (`int`, *optional*, defaults to 1000): The first so many rows, or all where there are fewer.
        settings: Fields of [`EvaluationSettings`], say `batch_size`, `seed` or `guidance_scale`.

    Returns:
        [`EvaluationReport`]: The same numbers for the same arguments on the same machine.

    Raises:
        ValueError: an unknown task, or one asked for that cannot be run; no rows; a setting out of its range; an
            adapter of prompt learning; a processor of another vocabulary.
    """
    settings = EvaluationSettings(**settings)
    check_tasks(tasks)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    name = dataset if isinstance(dataset, str) else type(dataset).__name__
    if isinstance(dataset, str):
        dataset = load_rows(dataset, split, data_dir=data_dir, num_rows=num_samples)
    rows = _first_rows(dataset, num_samples)
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            kind = model.active_peft_config.peft_type.value
            raise ValueError(
                f"Adapters of prompt learning, which the base model lacks, are not evaluated, got {kind}."
            )
        model = model.get_base_model()
    processor.check_vocabulary(model.config)
    subject = Subject(model, processor, pipeline, settings)
    chosen, left_out = _choose_tasks(subject, rows[0], tasks)

    results, seconds, samples = {}, {}, {}
    with subject.at_rest():
        for task in chosen:
            started = time.perf_counter()
            result = TASKS[task].run(subject, rows)
            seconds[task] = time.perf_counter() - started
            results[task] = {key: metric for key, metric in result.metrics.items() if metric is not None}
            samples[task] = result.samples
    drew = any(TASKS[task].needs_pixels for task in chosen)
    protocol = {"dataset": name, "split": split, "num_samples": len(rows)} | _describe(subject, drew)
    return EvaluationReport(results, seconds, left_out, protocol, samples)


def check_tasks(tasks: Sequence[str] | None) -> None:
    """Raises a ValueError that names what of `tasks` is none of `TASKS`."""
    if unknown := [task for task in tasks or () if task not in TASKS]:
        raise ValueError(f"tasks must be of {', '.join(TASKS)}, got {', '.join(map(repr, unknown))}.")


def _first_rows(dataset, num_samples: int) -> Sequence[dict]:
    """Rows with a length and numbers, read when they are asked for where the dataset can."""
    if not hasattr(dataset, "__len__"):
        return list(dataset.take(num_samples))
    if len(dataset) == 0:
        raise ValueError("The dataset to evaluate on has no rows.")
    if len(dataset) <= num_samples:
        return dataset
    return dataset[:num_samples] if isinstance(dataset, list) else dataset.select(range(num_samples))


def _choose_tasks(subject: Subject, row: dict, tasks: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The tasks to run in the order of `TASKS`, and why others cannot be."""
    reasons = {task: _why_not(task, subject, row) for task in TASKS if tasks is None or task in tasks}
    left_out = {task: reason for task, reason in reasons.items() if reason}
    if tasks is not None and left_out:
        task, reason = next(iter(left_out.items()))
        raise ValueError(f"The task {task!r} cannot be run: {reason}.")
    return [task for task in reasons if task not in left_out], left_out


def _why_not(name: str, subject: Subject, row: dict) -> str | None:
    task, settings = TASKS[name], subject.settings
    columns = [getattr(settings, column, column) for column in task.columns]
    if missing := [column for column in columns if column not in row]:
        return f"the dataset has no column {', '.join(map(repr, missing))} (it has {', '.join(row)})"
    if task.needs_pixels and subject.pipeline is None:
        return "there is no pixel decoder"
    if name == "drawing" and "scene" not in row and not (settings.clip_model or settings.fid_features):
        return "only drawings of shapes can be judged (column 'scene'); others need clip_model or fid_features"
    return None


def _describe(subject: Subject, drew: bool) -> dict:
    model, settings = subject.model, subject.settings
    given = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    if isinstance(settings.fid_features, nn.Module):
        given["fid_features"] = type(settings.fid_features).__name__
    decoding = {
        "captions": GREEDY | {"max_new_tokens": settings.max_caption_tokens},
        "answers": GREEDY | {"max_new_tokens": settings.max_answer_tokens},
        "drawing": subject.drawing_settings(),
    }
    if drew:  # only now does the pipeline tell what its defaults were
        pipeline = subject.pipeline
        decoding["pixels"] = {
            "scheduler": type(pipeline.scheduler).__name__,
            "num_inference_steps": pipeline.num_timesteps,
            "guidance_scale": pipeline.guidance_scale,
        }
    packages = ("lavit-hf", "torch", "transformers", "diffusers", "datasets", "pillow")
    return {
        "model": model.config._name_or_path or type(model).__name__,
        "num_parameters": model.num_parameters(),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "selection": model.config.visual_tokenizer_config.selection,
        "decoding": decoding,
        "settings": given,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


__all__ = ["TASKS", "check_tasks", "evaluate"]
