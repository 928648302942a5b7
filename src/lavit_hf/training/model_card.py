# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The card of a trained model: what it is, what it was made from and how, and the figures it reached."""

import json
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from ..evaluation import EvaluationReport


# What the Hub calls the tasks of an evaluation.
HUB_TASKS = {
    "captions": "image-to-text",
    "questions": "visual-question-answering",
    "drawing": "text-to-image",
    "edits": "image-to-image",
    "reconstruction": "image-to-image",
    "tokens": "image-feature-extraction",
}
# Of a Trainer's metrics, what tells of the machine and not of the model.
NO_FIGURES = ("_runtime", "_per_second", "_preparation_time", "epoch", "total_flos")


def write_model_card(
    folder: str | Path,
    *,
    title: str,
    description: str,
    usage: str = "",
    library_name: str = "transformers",
    base_models: Mapping[str, str] | None = None,
    dataset: str | None = None,
    arguments: TrainingArguments | None = None,
    optimizer: str | None = None,
    training: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    evaluation: EvaluationReport | None = None,
    license: str | None = None,
    pipeline_tag: str | None = None,
    pictures: Sequence[str | Path] = (),
) -> Path:
    """
    Writes `README.md` into the folder of a trained model. Of local folders it gives the name, not the place.

    Args:
        folder (`str` or `Path`): Where the model was saved.
        title (`str`), description (`str`): What the model is. The description is Markdown.
        usage (`str`, *optional*): Python code that uses the model; `path` stands for the folder.
        library_name (`str`): What loads it, for the Hub: `"transformers"` or `"diffusers"`.
        base_models (`dict[str, str]`, *optional*):
            What it was made from: parts and the folder or repository of each, say `{"vision tower": "openai/..."}`.
        dataset (`str`, *optional*): The name of the training data, as `load_rows` takes it.
        arguments (`TrainingArguments`, *optional*): How it was trained.
        optimizer (`str`, *optional*): By what, where it is not `arguments.optim`.
        training (`dict[str, str]`, *optional*): How each of its parts was trained, tables in Markdown.
        metrics (`dict[str, float]`, *optional*): Figures it reached; those of the machine's speed are left out.
        evaluation ([`EvaluationReport`], *optional*):
            How good it is and how that was measured. The shares go to the card's `model-index` as well.
        license (`str`, *optional*), pipeline_tag (`str`, *optional*): For the Hub, in its words.
        pictures (`Sequence[str | Path]`, *optional*):
            Pictures inside of the folder, to be shown in this order. One that is not there is left out: a short run
            has no curves.

    Returns:
        `Path`: of the card.

    Raises:
        ValueError: a picture that does not lie in the folder.
    """
    folder = Path(folder)
    parts = {part: _public_name(name) for part, name in (base_models or {}).items()}
    figures = {name: value for name, value in (metrics or {}).items() if _is_figure(name, value)}
    sections = [
        f"# {title}\n\n{description}\n",
        _code_section(usage),
        _table_section("Parts it was made from", parts),
        _table_section("Training", _training_rows(dataset, arguments, optimizer)),
        *(f"## Training of the {part}\n\n{table}\n" for part, table in (training or {}).items()),
        _table_section("Figures", {name: f"{value:.4g}" for name, value in figures.items()}),
        _evaluation_section(evaluation) if evaluation else "",
        "".join(f"![{path.stem}]({path.as_posix()})\n" for path in _inside(folder, pictures)),
    ]
    results = _eval_results(evaluation) if evaluation else None
    data = ModelCardData(
        library_name=library_name,
        license=license,
        pipeline_tag=pipeline_tag,
        model_name=title if results else None,
        eval_results=results,
        tags=["lavit"],
        base_model=[name for name in dict.fromkeys(parts.values()) if _is_repository(name)] or None,
        datasets=[dataset] if dataset and _is_repository(_public_name(dataset)) else None,
    )
    content = "\n".join(section for section in sections if section)
    path = folder / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{content}").save(path)
    return path


def _public_name(name: str) -> str:
    """A repository's id as it is; of a local folder its last part, for the rest is nobody's business."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() else name


def _is_repository(name: str) -> bool:
    return name.count("/") == 1


def _is_figure(name: str, value) -> bool:
    return isinstance(value, Real) and not name.endswith(NO_FIGURES)


def _inside(folder: Path, pictures: Sequence[str | Path]) -> list[Path]:
    """Those of the pictures that are there, relative to the folder."""
    paths = [(folder / picture).resolve() for picture in pictures]
    for path in paths:
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"pictures must be files in {folder}, got {str(path)!r}.")
    return [path.relative_to(folder.resolve()) for path in paths if path.is_file()]


def _training_rows(dataset: str | None, arguments: TrainingArguments | None, optimizer: str | None) -> dict[str, str]:
    rows = {"data": _public_name(dataset)} if dataset else {}
    if arguments is None:
        return rows
    batch_size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return rows | {
        "steps" if arguments.max_steps > 0 else "epochs": str(
            arguments.max_steps if arguments.max_steps > 0 else arguments.num_train_epochs
        ),
        "batch size": str(batch_size),
        "processes": str(arguments.world_size),
        "optimizer": optimizer or OptimizerNames(arguments.optim).value,
        "betas": f"{arguments.adam_beta1:g}, {arguments.adam_beta2:g}",
        "learning rate": f"{arguments.learning_rate:g}, {SchedulerType(arguments.lr_scheduler_type).value}",
        "warm-up": f"{arguments.warmup_steps:g}",
        "weight decay": f"{arguments.weight_decay:g}",
        "precision": "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "float32",
        "seed": str(arguments.seed),
    }


def _evaluation_section(report: EvaluationReport) -> str:
    protocol = {
        name: value if isinstance(value, str | int) else f"`{json.dumps(value)}`"
        for name, value in report.protocol.items()
        if name != "model"  # this one
    }
    return f"## Evaluation\n\n{report.to_markdown()}\n{_table_section('Protocol of the evaluation', protocol)}"


def _eval_results(report: EvaluationReport) -> list[EvalResult]:
    """The shares that an evaluation found, as the Hub's `model-index` has them."""
    dataset, split = _public_name(report.protocol["dataset"]), report.protocol["split"]
    return [
        EvalResult(
            task_type=HUB_TASKS[task],
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


def _table_section(heading: str, rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    lines = "".join(f"| {name.replace('_', ' ')} | {value} |\n" for name, value in rows.items())
    return f"## {heading}\n\n| | |\n| --- | --- |\n{lines}"


def _code_section(usage: str) -> str:
    return f"## Use\n\n`path` is this folder.\n\n```python\n{usage.strip()}\n```\n" if usage else ""


__all__ = ["write_model_card"]
