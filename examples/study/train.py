# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains one row of the study, evaluates it, and writes all that the report needs to one JSON file. The driver, run.py,
adds the rate and the settings that were found best, without which results do not go into the report.

    PYTHONPATH=examples python -m study.train examples/study/rows/lavit.yaml --seed 1 \\
        --output_dir runs/study/lavit-seed1 --results runs/study/lavit-seed1/results.json
"""

import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Collection
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from pretrain import make_trainer
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from lavit_hf import LavitImageDecoderPipeline, LavitProcessor, LavitVisualTokenizer
from lavit_hf.data.code_files import CODEBOOK_COLUMN, has_codes
from lavit_hf.data.loading import load_rows
from lavit_hf.evaluation import TASKS, EvaluationReport, evaluate
from lavit_hf.inference import encode_images
from lavit_hf.processing import read_image
from lavit_hf.training import (
    DataArguments,
    LavitForCausalLMTrainer,
    MixtureRows,
    SequenceArguments,
    last_checkpoint,
    load_mixture,
    parse_recipe,
    run_script,
)

from .json_files import keep_recipe, only_process, read_json, write_json
from .regression import RegressionForCausalLM
from .systems import StudyArguments, build_system, describe_recipe, fingerprint_parts


NUM_FITTED_IMAGES = 256  # images that the normalization of vectors is fitted to
NUM_COUNTED_IMAGES = 256  # images whose positions are counted
NUM_DRAWINGS = 8
EVALUATIONS, RECIPE = "evaluations.json", "recipe.json"
# The training of a row does not depend on these.
NOT_KEPT = ("results", "codes", "tried", "image_generation")
CURVE_TASKS = ("captions", "questions", "drawing", "edits")
# The metrics whose value is kept for each row, so that systems can be compared row by row.
PAIRED = {
    "captions": ("objects", "everything", "object_f1", "cider"),
    "questions": ("accuracy",),
    "drawing": ("everything", "object_f1"),
    "edits": ("everything", "object_f1"),
    "reconstruction": ("everything", "object_f1", "psnr"),
}
PACKAGES = ("lavit-hf", "torch", "transformers", "diffusers", "datasets", "accelerate")

Arguments = tuple[StudyArguments, SequenceArguments, DataArguments, TrainingArguments]


def read_arguments(flags: list[str] | None = None) -> Arguments:
    """
    Reads a recipe and flags, by default those of this program.

    Raises:
        ValueError: If warmup and decay of the learning rate take more steps than there are.
    """
    arguments = parse_recipe(StudyArguments, SequenceArguments, DataArguments, TrainingArguments, args=flags)
    args = arguments[-1]
    decay = (args.lr_scheduler_kwargs or {}).get("num_decay_steps", 0)
    if args.warmup_steps + decay > args.max_steps > 0:
        raise ValueError(
            f"warmup_steps ({args.warmup_steps:g}) and num_decay_steps ({decay}) must be max_steps ({args.max_steps}) "
            "at most together: the learning rate would jump."
        )
    return arguments


def name_columns(sequences: SequenceArguments, data: DataArguments) -> dict[str, str]:
    """Returns the columns of a dataset by their names in the evaluation."""
    columns = {
        "image": data.image_column,
        "caption": sequences.caption_column,
        "questions": sequences.question_column,
        "answers": sequences.answer_column,
    }
    return {name: column for name, column in columns.items() if column is not None}


class Evaluator:
    """
    Evaluates the model of a row on rows of the test split.

    Args:
        study ([`StudyArguments`]): The row.
        sequences ([`SequenceArguments`]): The columns with captions and questions.
        data ([`DataArguments`]): The dataset.
        processor ([`LavitProcessor`]): The processor of the model.
    """

    def __init__(
        self,
        study: StudyArguments,
        sequences: SequenceArguments,
        data: DataArguments,
        processor: LavitProcessor,
    ):
        self.study, self.processor, self.pipeline = study, processor, None
        if study.chosen.draws and study.image_decoder is not None:
            self.pipeline = LavitImageDecoderPipeline.from_pretrained(study.image_decoder)
            self.pipeline.set_progress_bar_config(disable=True)
        count = max(study.num_test_rows, study.num_curve_rows, NUM_COUNTED_IMAGES)
        place = {"config_name": data.dataset_config_name, "data_dir": data.data_dir}
        self.rows = load_rows(data.dataset_name, study.test_split, num_rows=count, **place)
        self.columns = name_columns(sequences, data)

    def __call__(self, model, num_rows: int, tasks: Collection[str] = tuple(TASKS)) -> EvaluationReport:
        """Runs those tasks of the row that are among `tasks` on its first rows, or fewer where pixels are made."""
        if self.pipeline is not None:
            self.pipeline.to(model.device)
        chosen = [task for task in self.study.chosen_tasks if task in tasks]
        drawn = [task for task in chosen if TASKS[task].needs_pixels]
        read = [task for task in chosen if task not in drawn]
        cases = ((read, num_rows), (drawn, min(num_rows, self.study.num_drawn_rows)))
        report = EvaluationReport({}, {}, {}, {}, {})
        for found in (self.run(model, tasks, count) for tasks, count in cases if tasks):
            report = replace(
                found,
                results=report.results | found.results,
                seconds=report.seconds | found.seconds,
                samples=report.samples | found.samples,
            )
        return report

    def run(self, model, tasks: list[str], num_rows: int) -> EvaluationReport:
        """Runs tasks on the first `num_rows` rows."""
        return evaluate(
            model,
            self.processor,
            self.pipeline,
            self.rows,
            tasks=tasks,
            num_samples=num_rows,
            subject_class=self.study.chosen.subject_class,
            columns=self.columns,
            batch_size=50,
        )

    def read_images(self, count: int) -> list:
        """Reads the first images of the test split."""
        rows = self.rows.select(range(min(count, len(self.rows))))
        return [read_image(row[self.columns["image"]]) for row in rows]


class StudyCallback(TrainerCallback):
    """
    Measures the time of training steps, and evaluates the model at some of them. Times are in the log, and evaluations
    in a file of the output folder, so that a run that was stopped continues both.

    Args:
        evaluator ([`Evaluator`]): Evaluates the model.
        steps (`list[int]`): The steps at which it is called.
    """

    def __init__(self, evaluator: Evaluator, steps: list[int]):
        self.evaluator, self.steps = evaluator, steps
        self.started = self.seconds = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seconds += time.perf_counter() - self.started
        path, step = Path(args.output_dir, EVALUATIONS), state.global_step
        if step in self.steps and state.is_world_process_zero:
            found = read_json(path)
            if str(step) not in found:
                report = self.evaluator(model, self.evaluator.study.num_curve_rows, CURVE_TASKS)
                write_json(path, found | {str(step): list_values(report)})

    def on_log(self, args, state, control, **kwargs):
        if {"loss", "train_loss"} & state.log_history[-1].keys():  # the latter has the steps after the last loss
            state.log_history[-1]["seconds"], self.seconds = round(self.seconds, 3), 0.0


def list_values(report: EvaluationReport) -> dict[str, dict[str, dict]]:
    """Returns the metrics of each task, with their numbers of cases and intervals, in plain values."""
    return json.loads(report.to_json())["results"]


def curve_steps(study: StudyArguments, max_steps: int) -> list[int]:
    """Returns the steps before the last one at which a row is evaluated."""
    points = study.num_curve_points
    return sorted({max_steps * point // points for point in range(1, points)} - {0, max_steps})


def count_operations(trainer: LavitForCausalLMTrainer, num_steps: int) -> float:
    """
    Counts the floating point operations of a training step: forward, backward and optimizer, the mean over the first
    `num_steps` batches, since batches of different kinds of sequences have different lengths. The visual tokenizer is
    left out: it is frozen, and how often it runs depends on which codes were precomputed. The weights of the model
    change.
    """
    model, counter = trainer.model, FlopCounterMode(display=False, depth=8)
    batches = iter(trainer.get_train_dataloader())
    with counter:  # once, since it starts from zero whenever it is entered
        for _ in range(num_steps):
            model.zero_grad()
            trainer.training_step(model, next(batches))
            trainer.optimizer.step()
    model.zero_grad()
    parts = count_parts(counter, model.model.visual_tokenizer)
    return (counter.get_total_flops() - sum(parts.values())) / num_steps


def count_parts(counter: FlopCounterMode, visual_tokenizer: LavitVisualTokenizer) -> dict[str, int]:
    """Returns the counted operations of each part of a visual tokenizer, which may be called without the others."""
    counts = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    # It may be a part of a model, or the module that is called itself.
    owners = ("visual_tokenizer", type(visual_tokenizer).__name__)
    return {
        part: sum(
            count for name, count in counts.items() if name.endswith(tuple(f"{owner}.{part}" for owner in owners))
        )
        for part, _ in visual_tokenizer.named_children()
    }


def load_sequences(
    study: StudyArguments, sequences: SequenceArguments, data: DataArguments, args: TrainingArguments
) -> tuple[MixtureRows, dict[str, MixtureRows] | None]:
    """
    Loads the sequences to train on, with their codes if they were precomputed and the system has codes, and those to
    evaluate on by kind.
    """
    train_rows, eval_rows = load_mixture(data, sequences, args)
    if study.codes is None:
        return train_rows, eval_rows
    split = str(train_rows.dataset.split or "train")  # as `precompute_codes` names its folder
    rows = load_rows(study.codes, split)
    if len(rows) != len(train_rows):
        raise ValueError(f"{study.codes} has {len(rows)} rows, and the recipe trains on {len(train_rows)}.")
    if not study.chosen.has_codes:
        coded = [name for name, kind in rows.features.items() if has_codes({name: kind}) or name == CODEBOOK_COLUMN]
        rows = rows.remove_columns(coded)
    options = {"broken_images": data.broken_images, "seed": args.seed}
    return MixtureRows(rows, sequences, data.image_column, **options), eval_rows


def load_trainer(arguments: Arguments) -> tuple[LavitForCausalLMTrainer, LavitProcessor]:
    """Builds the system of a row and its trainer."""
    study, given, data, args = arguments
    sequences = study.chosen.choose_sequences(given)
    train_rows, eval_rows = load_sequences(study, sequences, data, args)
    model, processor = build_system(study, sequences, args.seed)
    if isinstance(model, RegressionForCausalLM):
        fitted = train_rows.dataset.select_columns([data.image_column]).take(NUM_FITTED_IMAGES)
        images = [read_image(row[data.image_column]) for row in fitted]
        model.fit_targets(encode_images(model.model.visual_tokenizer, processor, images).vectors)
    rows = {"train_dataset": train_rows, "eval_dataset": eval_rows}
    return make_trainer(model, processor, study, args, study.chosen.trainer_class, **rows), processor


def held_out_loss(trainer: LavitForCausalLMTrainer, sequences: SequenceArguments) -> float:
    """Returns the mean loss on held-out rows of each kind of sequences, with the weights of the mixture."""
    metrics, weights = trainer.evaluate(), sequences.weights
    total = sum(weight * metrics[f"eval_{kind}_loss"] for kind, weight in weights.items())
    return total / sum(weights.values())


def try_settings(model, evaluator: Evaluator, settings: dict) -> EvaluationReport:
    """Evaluates a model with other settings of drawing: of the regression, or of `image_generation`."""
    if isinstance(model, RegressionForCausalLM):
        model.regression = replace(model.regression, **settings)
    else:
        own = json.loads(evaluator.study.image_generation)
        model.generation_config.image_generation = own | settings
    return evaluator(model, evaluator.study.num_test_rows)


def list_cases(report: EvaluationReport, rows, column: str = "questions") -> dict[str, dict[str, str]]:
    """
    Returns the values of paired metrics for each of `rows`, as numbers with spaces between. Answers are averaged over
    the questions of a row, in `column`, which are about one image.
    """
    found: dict[str, dict[str, str]] = {}
    for task, names in PAIRED.items():
        for name in names:
            metric = report.results.get(task, {}).get(name)
            if metric is None:
                continue
            values = iter(metric.outcomes)
            if task == "questions":
                questions = [row[column] for row in rows.select_columns([column]).take(len(rows))]
                counts = [1 if isinstance(asked, str) else len(asked) for asked in questions]
                groups = [list(islice(values, count)) for count in counts]
                values = iter(sum(group) / len(group) for group in groups if group)
            found.setdefault(task, {})[name] = " ".join(f"{value:.4g}" for value in values)
    return found


def train_row(arguments: Arguments) -> dict:
    """
    Trains a row, from its last checkpoint if it was stopped, and returns its results.

    Raises:
        ValueError: If the system can do none of the tasks, or if its loss on held-out rows is not finite.
    """
    study, given, data, args = arguments
    if not study.only_loss and not study.chosen_tasks:
        raise ValueError(f"The system {study.system!r} can do none of the tasks, got {', '.join(study.tasks)}.")
    recipe, parts = describe_recipe(study, given, data, args), fingerprint_parts(study)
    keep_recipe(Path(args.output_dir, RECIPE), args.output_dir, recipe | parts, NOT_KEPT)
    trainer, processor = load_trainer(arguments)
    model = trainer.model
    evaluator = None
    if not study.only_loss:
        evaluator = Evaluator(study, given, data, processor)
        trainer.add_callback(StudyCallback(evaluator, curve_steps(study, args.max_steps) if args.seed == 0 else []))
    trained = Path(args.output_dir, SAFE_WEIGHTS_NAME)
    tried = json.loads(study.tried)
    if tried and trained.exists():
        trainer.load_checkpoint(args.output_dir)
    else:
        trainer.train(resume_from_checkpoint=last_checkpoint(args))
    loss = held_out_loss(trainer, study.chosen.choose_sequences(given))
    trainer.save_model()
    trainer.save_state()
    results = {
        "row": study.row,
        "seed": args.seed,
        "held_out_loss": loss if math.isfinite(loss) else None,
        "recipe": recipe,
        "parts": parts,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    if evaluator is None or (study.trial and not math.isfinite(loss)):
        return results
    if not math.isfinite(loss):
        raise ValueError(f"The loss of {study.row!r} on held-out rows is {loss}, in {args.output_dir}.")
    if tried:
        return results | {"tried": [list_values(try_settings(model, evaluator, settings)) for settings in tried]}
    started = time.perf_counter()
    report = evaluator(model, study.num_test_rows)
    seconds = time.perf_counter() - started
    drawings = report.samples.get("drawing", [])[:NUM_DRAWINGS]
    for index, sample in enumerate(drawings if args.seed == 0 else ()):  # the page shows those of the first seed
        folder = Path(study.results).parent / "drawings"
        folder.mkdir(parents=True, exist_ok=True)
        sample.images[0].save(folder / f"{study.row}-seed{args.seed}-{index}.png")
    images = evaluator.read_images(NUM_COUNTED_IMAGES)
    with FlopCounterMode(display=False, depth=8) as counter:
        positions = encode_images(model.model.visual_tokenizer, processor, images).num_codes
    counted = count_parts(counter, model.model.visual_tokenizer)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    curve = {int(step): found for step, found in read_json(Path(args.output_dir, EVALUATIONS)).items()}
    curve[args.max_steps] = list_values(report)
    operations = count_operations(trainer, study.num_counted_steps)
    return results | {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "image_tokens": positions.float().mean().item(),
        "operations": {
            "per_step": operations,
            "total": operations * args.max_steps,
            "visual_tokenizer_per_image": {part: count / len(images) for part, count in counted.items()},
        },
        "seconds": {
            "training": round(sum(entry.get("seconds", 0) for entry in trainer.state.log_history), 1),
            "evaluation": round(seconds, 1),
        },
        "losses": [[entry["step"], entry["loss"]] for entry in log],
        "curve": [{"step": step, "values": values} for step, values in sorted(curve.items())],
        "evaluation": json.loads(report.to_json()),
        "cases": list_cases(report, evaluator.rows, evaluator.columns.get("questions", "questions")),
        "drawings": [" ".join(sample.lines) for sample in drawings],
    }


def main():
    arguments = read_arguments()
    study, args = arguments[0], arguments[-1]
    with only_process(Path(args.output_dir)):
        write_json(study.results, train_row(arguments))


if __name__ == "__main__":
    run_script(main)
