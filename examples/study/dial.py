# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The dial: tokens per image against the quality of reconstructions, captions and answers. At equal mean lengths, numbers
of tokens that follow the content are compared with the same number for all images.

    PYTHONPATH=examples python -m study.dial --output dial.json --num_rows 500 \\
        --model plain runs/study/dial/plain runs/study/decoders/dynamic \\
        --model random runs/study/dial/random runs/study/decoders/random
"""

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline, LavitProcessor
from lavit_hf.data.loading import load_rows
from lavit_hf.evaluation import evaluate
from lavit_hf.evaluation.runner import check_tasks
from lavit_hf.modeling.selector_lavit import select_patches
from lavit_hf.processing import read_image

from .json_files import fingerprint, read_json, write_json
from .train import list_cases, list_values


BUDGETS = (4, 8, 12, 16, 20, 24, 32, 48, 64)
TASKS = ("reconstruction", "captions", "questions")
SELECTIONS = ("adaptive", "fixed")


@torch.no_grad()
def rank_patches(visual_tokenizer, processor: LavitProcessor, images: Sequence) -> torch.Tensor:
    """Returns the log-probabilities (B, N, 2) of keeping and dropping the patches of images."""
    found = []
    for start in range(0, len(images), 64):
        pixel_values = processor.image_processor(images[start : start + 64], return_tensors="pt")["pixel_values"]
        features = visual_tokenizer.encode_vision(pixel_values.to(visual_tokenizer.device))
        found.append(visual_tokenizer.selector(features))
    return torch.cat(found)


def mean_tokens(log_probs: torch.Tensor, scale: float) -> float:
    """Returns how many patches images keep on average at a scale of the selector's own numbers."""
    return select_patches(log_probs, "topk", keep_scale=scale).sum(dim=-1).float().mean().item()


def find_scale(log_probs: torch.Tensor, budget: float) -> tuple[float, float]:
    """
    Finds the scale of the selector's numbers at which images keep `budget` patches on average, by bisection.

    Args:
        log_probs (`torch.FloatTensor` of shape `(B, N, 2)`): Log-probabilities of keeping and dropping each patch.
        budget (`float`): The wanted mean.

    Returns:
        The scale, and the mean at it. Numbers are whole, so that the mean is near the budget.
    """
    low, high = 0.0, 1.0
    while mean_tokens(log_probs, high) < budget and high < 1e6:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_tokens(log_probs, middle) < budget else (low, middle)
    means = ((scale, mean_tokens(log_probs, scale)) for scale in (low, high))
    return min((abs(mean - budget), scale, mean) for scale, mean in means)[1:]


def measure(
    folder: str,
    decoder: str,
    rows,
    columns: dict[str, str],
    tasks: Sequence[str],
    curves: list[dict],
    keep: Callable[[], None],
) -> None:
    """
    Measures those points of the curves of a model that are missing.

    Args:
        folder (`str`): The folder of a LaVIT with its processor.
        decoder (`str`): The folder of its pixel decoder.
        rows (`datasets.Dataset`): The rows to evaluate on.
        columns (`dict[str, str]`): The columns of the dataset, see [`EvaluationSettings`].
        tasks (`Sequence[str]`): The tasks.
        curves (`list[dict]`):
            The curve of each of `SELECTIONS`, to whose points those of `BUDGETS` are added. It gets the mean number of
            tokens that the selector decides by itself.
        keep (`Callable`): Called after each point, which takes minutes.
    """
    model = LavitForCausalLM.from_pretrained(folder, dtype="float32")
    processor = LavitProcessor.from_pretrained(folder)
    pipeline = LavitImageDecoderPipeline.from_pretrained(decoder, dtype=torch.float32)
    if torch.cuda.is_available():
        model, pipeline = model.cuda(), pipeline.to("cuda")
    tokenizer = model.model.visual_tokenizer
    images = [read_image(row[columns.get("image", "image")]) for row in rows]
    log_probs = rank_patches(tokenizer, processor, images)
    num_patches = tokenizer.config.num_patches
    for curve in curves:
        curve["own_tokens"] = mean_tokens(log_probs, 1.0)
        points = {point["budget"]: point for point in curve["points"] if point["budget"] in BUDGETS}
        for budget in BUDGETS:
            if budget in points or budget > num_patches:
                continue
            if budget == num_patches and curve is not curves[0]:  # both selections keep all patches
                points[budget] = curves[0]["points"][-1]
            else:
                is_adaptive = curve["selection"] == "adaptive"
                scale, mean = find_scale(log_probs, budget) if is_adaptive else (1.0, float(budget))
                tokenizer.config.num_codes, tokenizer.config.keep_scale = None if is_adaptive else budget, scale
                report = evaluate(
                    model,
                    processor,
                    pipeline,
                    rows,
                    tasks=tasks,
                    num_samples=len(rows),
                    columns=columns,
                    batch_size=50,
                )
                cases = list_cases(report, rows, columns.get("questions", "questions"))
                points[budget] = {"budget": budget, "tokens": mean, "values": list_values(report), "cases": cases}
            curve["points"] = [points[budget] for budget in sorted(points)]
            keep()


def main(flags: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        required=True,
        nargs=3,
        metavar=("NAME", "MODEL", "IMAGE_DECODER"),
        help="the name of a model in the tables, its folder, and that of its pixel decoder. Repeat for several",
    )
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--dataset_name", default="shapes", help="dataset, as load_rows takes it")
    parser.add_argument("--split", default="test", help="its split")
    parser.add_argument("--num_rows", type=int, default=500, help="number of its rows")
    parser.add_argument(
        "--column",
        dest="columns",
        type=_read_column,
        action="append",
        default=[],
        help="a column of the evaluation=that of the dataset, such as caption=text",
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="tasks of the evaluation")
    args = parser.parse_args(flags)
    check_tasks(args.tasks)
    names = [name for name, *_ in args.models]
    if len({*names}) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        parser.error(f"names of models must be different words, got {', '.join(names)}")
    rows = load_rows(args.dataset_name, args.split, num_rows=args.num_rows)
    columns, curves = dict(args.columns), []
    for name, model, decoder in args.models:
        kept = Path(args.output).with_suffix(f".{name}.json")
        asked = {"num_rows": len(rows), "tasks": list(args.tasks), "columns": columns}
        asked |= {"dataset": [args.dataset_name, args.split], "folders": [model, decoder]}
        asked |= {"weights": [fingerprint(model), fingerprint(decoder)]}
        found = read_json(kept)
        # The weights in a repository are not known.
        if None in asked["weights"] or {key: found.get(key) for key in asked} != asked:
            found = asked | {"curves": [{"selection": selection, "points": []} for selection in SELECTIONS]}
        if found.get("budgets") != [*BUDGETS]:  # they are written when all of them are measured
            measure(model, decoder, rows, columns, args.tasks, found["curves"], partial(write_json, kept, found))
            write_json(kept, found | {"budgets": [*BUDGETS]})
        curves += [{"tokenizer": name} | curve for curve in found["curves"]]
    write_json(args.output, {"num_rows": len(rows), "curves": curves})


def _read_column(text: str) -> tuple[str, str]:
    name, sign, column = text.partition("=")
    if not (name and sign and column):
        raise argparse.ArgumentTypeError(f"must be NAME=COLUMN, got {text!r}")
    return name, column


if __name__ == "__main__":
    main()
