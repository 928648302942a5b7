# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `evaluate`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from ..publishing.files import replacing_file
from . import options
from .loading import console, load_model, load_with_decoder


def evaluate(
    model: options.ModelArgument = options.DEMO,
    dataset: Annotated[str, typer.Option(help=options.DatasetName)] = "shapes",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    data_dir: Annotated[str | None, typer.Option(help="Folder of an imagefolder.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Another name of a column, such as caption=text; repeatable.")
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Number of rows, from the first one on.")] = 1000,
    output: options.JsonOutput = Path("evaluation.json"),
    overwrite: options.Overwrite = False,
    tasks: Annotated[str | None, typer.Option(help="With commas between. Default: all that can be run.")] = None,
    samples_dir: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for a sheet of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one forward.")] = 32,
    guidance_scale: options.GuidanceScale = None,
    decoder: options.PixelDecoder = options.Decoder.highres,
    steps: options.Steps = None,
    clip_model: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of a CLIP model, for a CLIP score.")
    ] = None,
    fid_features: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of a network, for a Fréchet distance.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """
    Evaluate a model by the tasks captions, questions, drawing, edits, reconstruction, tokens and own_words. Prints a
    table, and writes JSON with the protocol.

    The task own_words has 200 prompts, questions and edits of the shapes in a person's own words.

    Datasets have the columns image, caption, questions, answers and question_kinds, or others by --column.

    The shapes are made on the spot and judged without a network. For other datasets:
    `lavit-hf evaluate MODEL --dataset imagefolder --data-dir photos --split train --tasks captions,tokens`.
    """
    from .. import evaluation  # imports packages of the extra
    from ..data.loading import check_columns, load_rows
    from ..evaluation.subject import COLUMNS

    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    evaluation.check_tasks(names)
    if wrong := [pair for pair in column or [] if "=" not in pair]:
        raise ValueError(f"--column must be NAME=COLUMN, got {wrong[0]}.")
    drawn = {"--clip-model": {"drawing"}, "--fid-features": {"drawing", "reconstruction"}}
    drawn["--guidance-scale"] = {"drawing", "edits", "own_words"}
    for (option, needed), value in zip(drawn.items(), (clip_model, fid_features, guidance_scale), strict=True):
        if value is not None and names is not None and needed.isdisjoint(names):
            raise ValueError(f"{option} is for the tasks {', '.join(sorted(needed))}, got --tasks {tasks}.")
    columns = dict(pair.split("=", 1) for pair in column or [])
    evaluation.EvaluationSettings(columns=columns)  # checks their names
    sheets = [samples_dir / f"{name}.png" for name in names or evaluation.TASKS] if samples_dir else []
    options.check_outputs(output, *sheets, overwrite=overwrite)
    rows = load_rows(dataset, split, data_dir=data_dir, num_rows=num_samples)
    option = "--column NAME=COLUMN"
    check_columns(rows, list(columns.values()), option)
    for name in names or []:
        for judged in evaluation.TASKS[name].columns:
            if judged not in (*COLUMNS, *rows.column_names):
                raise ValueError(
                    f"--tasks {name} is for the dataset shapes alone: {dataset} has no column {judged!r}."
                )
        check_columns(rows, [columns.get(needed, needed) for needed in evaluation.TASKS[name].columns], option)
    draws = any(task.needs_pixels for name, task in evaluation.TASKS.items() if names is None or name in names)
    pipeline = None
    if draws:  # without a pixel decoder, the tasks that draw are left out
        loaded, processor, pipeline = load_with_decoder(model, decoder, device, dtype, required=False)
    else:
        loaded, processor = load_model(model, device, dtype)
    report = evaluation.evaluate(
        loaded,
        processor,
        pipeline,
        rows,
        split=split,
        tasks=names,
        num_samples=num_samples,
        batch_size=batch_size,
        seed=seed,
        image_generation=options.given(guidance_scale=guidance_scale),
        image_decoding={"num_inference_steps": steps},
        columns=columns,
        clip_model=clip_model and str(clip_model),
        fid_features=fid_features and str(fid_features),
        progress=True,
    )
    report = replace(report, protocol=report.protocol | {"dataset": dataset})
    console.print(Markdown(report.to_markdown()))  # first, so that it is not lost if nothing can be written
    lines = [f"{task} left out: {reason}" for task, reason in report.left_out.items()]
    with replacing_file(output) as hidden:
        hidden.write_text(report.to_json(), encoding="utf-8")
    lines += [str(path) for path in (output, *(report.save_samples(samples_dir) if samples_dir else []))]
    console.print("\n".join(lines), soft_wrap=True)
