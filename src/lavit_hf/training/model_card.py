# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The card of a trained model: what it is, what it was made from, how it was trained, and the figures it reached."""

import json
from collections.abc import Mapping, Sequence, Sized
from datetime import timedelta
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import Trainer

from ..evaluation import TASKS, EvaluationReport, check_tasks
from .scripts import DataArguments


TRAINING_ARGUMENTS = ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2")
TRAINING_ARGUMENTS += ("max_grad_norm", "bf16", "fp16", "seed")
# Metrics of a Trainer that describe the machine instead of the model.
MACHINE_METRICS = ("_runtime", "_per_second", "_preparation_time")


def write_model_card(
    folder: str | Path,
    *,
    title: str,
    description: str,
    usage: str = "",
    library_name: str = "transformers",
    base_models: Mapping[str, str | None] | None = None,
    dataset: str | DataArguments | None = None,
    trainer: Trainer | None = None,
    training: Mapping[str, str] | None = None,
    evaluation: EvaluationReport | None = None,
    license: str | None = None,
    pipeline_tag: str | None = None,
    images: Sequence[str | Path] = (),
    warnings: Sequence[str] = (),
) -> Path:
    """
    Writes `README.md` into the folder of a trained model. The card names local folders without their paths.

    Args:
        folder (`str` or `Path`): The folder of the model.
        title (`str`), description (`str`): The title, and the description in Markdown.
        usage (`str`, *optional*): Python code that uses the model, in which `path` stands for the folder.
        library_name (`str`, *optional*, defaults to `"transformers"`): The library that loads the model, for the Hub.
        base_models (`dict[str, str]`, *optional*):
            The parts that the model was made from, each with its folder or repository, such as
            `{"vision tower": "openai/..."}`. Parts that are None are left out.
        dataset (`str` or [`DataArguments`], *optional*):
            The name of the training data, as `load_rows` takes it, or the arguments of the script.
        trainer (`Trainer`, *optional*): The trainer of the model, for its arguments and its last evaluation.
        training (`dict[str, str]`, *optional*): How each part was trained, as tables in Markdown.
        evaluation ([`EvaluationReport`], *optional*): An evaluation. Its rates go to the `model-index` as well.
        license (`str`, *optional*), pipeline_tag (`str`, *optional*): For the Hub, in its words.
        images (`Sequence[str | Path]`, *optional*): Images in the folder, to show in this order.
        warnings (`Sequence[str]`, *optional*): Sentences about what is wrong with the model.

    Returns:
        `Path`: The path of the card.

    Raises:
        ValueError: If an image is not a file in the folder, or if the evaluation has an unknown task.
    """
    folder = Path(folder)
    parts = {part: _public_name(name) for part, name in (base_models or {}).items() if name is not None}
    sections = [
        f"# {title}\n\n{description}\n",
        *(f"**Warning:** {warning}\n" for warning in warnings),
        f"## Use\n\n`path` is this folder.\n\n```python\n{usage.strip()}\n```\n" if usage else "",
        _table_section("Parts it was made from", parts),
        _table_section("Training", _describe_training(dataset, trainer)),
        *(f"## Training of the {part}\n\n{table}\n" for part, table in (training or {}).items()),
        _table_section("Figures", _last_evaluation(trainer) if trainer else {}),
        _evaluation_section(evaluation) if evaluation else "",
        "".join(f"![{Path(image).stem}]({_inside(folder, image).as_posix()})\n" for image in images),
    ]
    results = (_eval_results(evaluation) or None) if evaluation else None
    name = dataset.source if isinstance(dataset, DataArguments) else dataset
    data = ModelCardData(
        library_name=library_name,
        license=license,
        pipeline_tag=pipeline_tag,
        model_name=title if results else None,
        eval_results=results,
        tags=["lavit"],
        base_model=[name for name in dict.fromkeys(parts.values()) if _is_repository(name)] or None,
        datasets=[name] if name and _is_repository(_public_name(name)) else None,
    )
    content = "\n".join(section for section in sections if section)
    path = folder / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{content}").save(path)
    return path


def _public_name(name: str) -> str:
    """Returns the id of a repository, or the last part of a local folder, whose path is private."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() else name


def _is_repository(name: str) -> bool:
    return name.count("/") == 1


def _inside(folder: Path, image: str | Path) -> Path:
    """Returns the path of an image relative to the folder."""
    path = (folder / image).resolve()
    if not (path.is_relative_to(folder.resolve()) and path.is_file()):
        raise ValueError(f"images must be files in {folder}, got {str(path)!r}.")
    return path.relative_to(folder.resolve())


def _describe_training(dataset: str | DataArguments | None, trainer: Trainer | None) -> dict[str, Any]:
    rows: dict[str, Any] = {"dataset": _public_name(dataset)} if isinstance(dataset, str) else {}
    if isinstance(dataset, DataArguments):
        rows = {"dataset": _public_name(dataset.source), "split": dataset.train_split}
    if trainer is None:
        return rows
    arguments, optimizer = trainer.args, getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    if isinstance(trainer.train_dataset, Sized):  # a stream has no length
        rows["rows"] = len(trainer.train_dataset)
    rows |= {"steps": trainer.state.global_step, "batch_size": batch_size, "processes": arguments.world_size}
    runtimes = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    if runtimes:
        rows["time of the last run"] = timedelta(seconds=round(runtimes[-1]))
    rows["optimizer"] = type(optimizer).__name__
    values = {name: getattr(arguments, name) for name in TRAINING_ARGUMENTS}
    return rows | {name: getattr(value, "value", value) for name, value in values.items()}


def _last_evaluation(trainer: Trainer) -> dict[str, str]:
    last = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    return {
        name: f"{value:.4g}"
        for name, value in last.items()
        if name.startswith("eval_") and not name.endswith(MACHINE_METRICS)
    }


def _evaluation_section(report: EvaluationReport) -> str:
    protocol = {
        name: value if isinstance(value, str | int) else f"`{json.dumps(value)}`"
        for name, value in report.protocol.items()
        if name != "model"  # the one that the card describes
    }
    return f"## Evaluation\n\n{report.to_markdown()}\n{_table_section('Protocol of the evaluation', protocol)}"


def _eval_results(report: EvaluationReport) -> list[EvalResult]:
    """Returns the rates of an evaluation as the `model-index` of the Hub has them."""
    check_tasks(list(report.results))  # an evaluation that was read from a file may be of another version
    dataset, split = _public_name(report.protocol["dataset"]), report.protocol["split"]
    return [
        EvalResult(
            task_type=TASKS[task].hub_task,
            task_name=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type="accuracy",
            metric_name=f"{task}: {name.replace('_', ' ')}",
            metric_value=round(metric.value, 4),
        )
        for task, metrics in report.results.items()
        for name, metric in metrics.items()
        if metric.is_rate
    ]


def _table_section(heading: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = "".join(f"| {name.replace('_', ' ')} | {value} |\n" for name, value in rows.items())
    return f"## {heading}\n\n| | |\n| --- | --- |\n{lines}"
