# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How good a model is, in one command."""

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    DEMO,
    OF_A_MODEL,
    Decoder,
    DecoderOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    SeedOption,
    StepsOption,
    app,
    console,
    load_decoder,
    load_model,
)


TASK_NAMES = "captions, questions, drawing, edits, reconstruction, tokens"


def _column(what: str):
    return typer.Option(help=f"Column with {what}.", rich_help_panel="Columns of a dataset")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(**OF_A_MODEL)] = DEMO,
    dataset: Annotated[
        str, typer.Option(help="shapes, imagefolder, a folder, or any name that datasets loads.")
    ] = "shapes",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    data_dir: Annotated[str | None, typer.Option(help="Folder of an imagefolder.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Rows, the first ones.")] = 1000,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="JSON file to write.")] = Path(
        "evaluation.json"
    ),
    tasks: Annotated[
        str | None, typer.Option(help=f"With commas between: {TASK_NAMES}. Default: all that can be run.")
    ] = None,
    samples_dir: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for sheets of pictures, one per task.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one forward.")] = 32,
    guidance_scale: Annotated[float | None, typer.Option(help="Of drawing codes. Default: the model's.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of drawing codes. Default: the model's.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Of drawing codes. Default: the model's.")] = None,
    decoder: DecoderOption = Decoder.highres,
    steps: StepsOption = None,
    decoder_guidance_scale: Annotated[
        float | None, typer.Option(help="Of turning codes into pixels. Default: the decoder's.")
    ] = None,
    clip_model: Annotated[
        str | None, typer.Option(help="Folder of a CLIP model: adds the CLIP score of drawings.")
    ] = None,
    fid_features: Annotated[
        str | None, typer.Option(help="File of a feature network: adds the Fréchet distance of drawings.")
    ] = None,
    image_column: Annotated[str, _column("the pictures")] = "image",
    caption_column: Annotated[str, _column("a caption, or a list of them")] = "caption",
    question_column: Annotated[str, _column("a question, or a list of them")] = "questions",
    answer_column: Annotated[str, _column("the answers")] = "answers",
    kind_column: Annotated[str, _column("kinds of the questions, if there are any")] = "question_kinds",
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """
    Measure captions, answers, drawings, edits, reconstructions and tokens: a table, and JSON with the whole protocol.

    The shapes are made here and judged without any learned network. For other datasets:
    `lavit-hf evaluate MODEL --dataset imagefolder --data-dir photos --split train --tasks captions,tokens`.
    """
    from .. import evaluation  # needs libraries that single pictures do not

    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    evaluation.check_tasks(names)
    if output.suffix.lower() != ".json":
        raise ValueError(f"--output must end with .json, got {output}.")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"--output is in a folder that does not exist: {output.absolute().parent}.")
    loaded, processor = load_model(model, device, dtype)
    # A folder without a decoder is a model that only reads: the tasks that draw are left out, which the table says.
    draws = any(task.needs_pixels for name, task in evaluation.TASKS.items() if names is None or name in names)
    has_decoder = not Path(model).is_dir() or (Path(model) / "model_index.json").is_file()
    pipeline = load_decoder(model, decoder, like=loaded) if draws and has_decoder else None
    report = evaluation.evaluate(
        loaded,
        processor,
        pipeline,
        dataset,
        split=split,
        data_dir=data_dir,
        tasks=names,
        num_samples=num_samples,
        batch_size=batch_size,
        seed=seed,
        guidance_scale=guidance_scale,
        temperature=temperature,
        top_k=top_k,
        num_inference_steps=steps,
        decoder_guidance_scale=decoder_guidance_scale,
        clip_model=clip_model,
        fid_features=fid_features,
        image_column=image_column,
        caption_column=caption_column,
        question_column=question_column,
        answer_column=answer_column,
        kind_column=kind_column,
        progress=True,
    )
    output.write_text(report.to_json(), encoding="utf-8")
    console.print(report.table())
    console.print(f"{output}", soft_wrap=True)
    if samples_dir is not None:
        for path in report.save_samples(samples_dir):
            console.print(f"{path}", soft_wrap=True)
