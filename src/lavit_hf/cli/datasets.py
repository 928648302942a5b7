# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What one does with whole datasets: tokenize."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .common import (
    DeviceOption,
    Dtype,
    DtypeOption,
    RequiredModelOption,
    Selection,
    app,
    console,
    pick_device,
    quiet_libraries,
)


class BrokenPictures(StrEnum):
    stop = "raise"
    skip = "skip"


@app.command()
def tokenize(
    dataset: Annotated[
        str, typer.Argument(help="shapes, imagefolder, a folder, or any name that datasets loads.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write, or to go on with.", show_default=False)],
    model: RequiredModelOption,
    split: Annotated[str, typer.Option(help="Split to read and to write.")] = "train",
    config_name: Annotated[str | None, typer.Option(help="The dataset's configuration.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder of an imagefolder.")] = None,
    image_column: Annotated[
        list[str] | None, typer.Option(help="Column with pictures; may be given several times. Default: image.")
    ] = None,
    num_rows: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Read rows as they come, without a cache.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows computed at once.")] = 32,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Rows of the dataset per file.")] = 10_000,
    selection: Annotated[Selection | None, typer.Option(help="How patches are kept. Default: the model's.")] = None,
    broken_pictures: Annotated[
        BrokenPictures, typer.Option(help="Stop at a picture that cannot be read, or leave its row out and record it.")
    ] = BrokenPictures.stop,
    drop_images: Annotated[bool, typer.Option("--drop-images", help="Write codes without the pictures.")] = False,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures.")] = 2,
    seed: Annotated[int, typer.Option(help="Of shapes: another seed gives other rows.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """
    Write a dataset with the codes of its pictures. Stopped at any moment, it goes on when it is run again.

    In several processes: `accelerate launch -m lavit_hf.cli tokenize DATASET OUTPUT --model MODEL`.
    """
    from accelerate import PartialState

    from ..data.tokenization import tokenize_dataset

    quiet_libraries()
    summary = tokenize_dataset(
        dataset,
        output,
        model,
        split=split,
        image_columns=image_column or ["image"],
        batch_size=batch_size,
        rows_per_shard=rows_per_shard,
        selection=selection and selection.value,
        broken_pictures=broken_pictures.value,
        keep_images=not drop_images,
        num_workers=num_workers,
        device=device and pick_device(device),
        dtype=dtype.value,
        config_name=config_name,
        data_dir=data_dir,
        streaming=streaming,
        num_rows=num_rows,
        seed=seed,
    )
    state = PartialState()
    if state.is_main_process:
        console.print(
            f"{output}: {summary.rows} rows, {summary.pictures} pictures, {summary.codes} codes, "
            f"{summary.mean_codes:.1f} per picture",
            soft_wrap=True,
        )
        if summary.skipped_rows:
            console.print(f"Left out for broken pictures: {summary.skipped_rows}, listed in broken.jsonl")
        if summary.new_pictures:
            console.print(
                f"{summary.pictures_per_second:.1f} pictures and {summary.codes_per_second:.1f} codes per second"
            )
    state.destroy_process_group()
