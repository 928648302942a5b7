# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a dataset with precomputed codes: shards that are complete or absent, a manifest, and a card."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import DatasetCardData

from ..publishing.files import replacing_file


try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("Datasets need the library pyarrow: pip install 'lavit-hf[train]'.") from error


# In the folder of each split with precomputed codes. It has the key "counts" once the split is complete.
MANIFEST_FILE = "codes.json"
# The column with the fingerprint of the codebook that the codes of a row belong to. It stays with rows wherever they
# are copied.
CODEBOOK_COLUMN = "codebook_fingerprint"
CODES_SUFFIX = "_codes"
# The key of a shard's record in the metadata of its parquet file.
RECORD_KEY = b"lavit_hf"
# Settings in which the splits of a dataset agree.
SHARED_SETTINGS = ("columns", "image_columns", "keep_images", "codebook")
CARD = """---
{data}
---

# {title}

A dataset with the codes of its images, ready for training, written by `lavit-hf precompute-codes`.

| split | rows | skipped rows | images | codes | codes per image |
| --- | --- | --- | --- | --- | --- |
{table}

The codes of the images in a column `image` are in `image_codes`, 0 to codebook size - 1, in raster order of the kept
patches. Codes are only valid for the visual tokenizer that computed them: the column `{column}` has the fingerprint of
its codebook, and `{file}` of each split has everything else that codes depend on. Skipped rows have broken images,
which are listed in `broken.jsonl`.
"""


def codes_column(image_column: str) -> str:
    """Returns the name of the column with the codes of the images in `image_column`."""
    return f"{image_column}{CODES_SUFFIX}"


def has_codes(features: Any) -> bool:
    """
    Returns whether a feature of a dataset, or any of those inside it, has codes: a list of integers that is called
    `codes`, as in segments, or ends in `_codes`.

    Args:
        features (`datasets.Features`, or one of them): The features by their names.
    """
    if isinstance(features, dict):
        named = [feature for name, feature in features.items() if f"_{name}".endswith(CODES_SUFFIX)]
        return any(_are_integers(feature) for feature in named) or any(map(has_codes, features.values()))
    inner = _inner(features)
    return inner is not None and has_codes(inner)


def _inner(feature: Any) -> Any:
    """Returns the feature of the items of a list, or None if `feature` is none of a list."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)


def _are_integers(feature: Any) -> bool:
    return "int" in getattr(_inner(feature), "dtype", "")


@dataclass
class CodesSummary:
    """
    The size of a split with precomputed codes.

    Args:
        rows (`int`), skipped_rows (`int`): The rows that were written, and those left out for a broken image.
        images (`int`), codes (`int`): The images, and all their codes together.
    """

    rows: int
    skipped_rows: int
    images: int
    codes: int

    @property
    def mean_codes(self) -> float:
        """The mean number of codes of an image."""
        return self.codes / max(self.images, 1)


def join_hashes(hashes: Sequence[str]) -> str:
    """
    Returns a hash of hashes.

    Args:
        hashes (`Sequence[str]`): The hashes of rows.
    """
    return f"sha256:{hashlib.sha256(' '.join(hashes).encode()).hexdigest()}"


class ShardWriter:
    """
    Writes a shard, with its record inside: the numbers of rows that were read (`input_rows`) and written (`rows`), of
    images and codes, the broken images, and a hash of the rows that were read (`input_digest`). See [`writing_shard`].

    Args:
        path (`Path`): The path of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.record: dict[str, Any] = {"input_rows": 0, "rows": 0, "images": 0, "codes": 0, "broken": []}
        self._row_hashes: list[str] = []
        self._writer: Any = None  # a `pq.ParquetWriter`, from the first rows on

    def write(self, table: pa.Table, row_hashes: list[str], codes: list[np.ndarray], broken: list[dict]) -> None:
        """
        Writes rows, and records the numbers of rows, images and codes, and the broken images.

        Args:
            table (`pa.Table`): The rows to write.
            row_hashes (`list[str]`): A hash of each row of the dataset that was read.
            codes (`list[np.ndarray]`): The codes of each image.
            broken (`list[dict]`): The row, file and error of each broken image.
        """
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema)
        self.record["input_rows"] += len(row_hashes)
        self._row_hashes += row_hashes
        self.record["rows"] += len(table)
        self.record["images"] += len(codes)
        self.record["codes"] += sum(map(len, codes))
        self.record["broken"] += broken
        if len(table) > 0:  # `datasets` cannot read a group of no rows
            self._writer.write_table(table)

    def finish(self) -> None:
        """Adds the record."""
        record = self.record | {"input_digest": join_hashes(self._row_hashes)}
        self._writer.add_key_value_metadata({RECORD_KEY: json.dumps(record)})

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def writing_shard(path: Path) -> Iterator[ShardWriter]:
    """
    Gives a writer of a shard, which is complete when the block ends without an error, and absent otherwise.

    Args:
        path (`Path`): The path of the shard.
    """
    with replacing_file(path) as hidden:
        writer = ShardWriter(hidden)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def shard_path(folder: Path, shard: int) -> Path:
    """Returns the path of the shard with the number `shard` in the `folder` of its split."""
    return folder / f"{shard:06d}.parquet"


def read_record(path: Path) -> dict:
    """Reads the record of the complete shard at `path`."""
    return json.loads(pq.read_metadata(path).metadata[RECORD_KEY])


def find_shards(folder: Path) -> set[int]:
    """Returns the numbers of the complete shards in the `folder` of a split."""
    return {int(path.stem) for path in folder.glob("[0-9]*.parquet")}


def read_manifest(folder: str | os.PathLike) -> dict:
    """
    Reads the manifest in the `folder` of a split. Returns {} if there is none, or if the file of this name holds
    something else.
    """
    path = Path(folder, MANIFEST_FILE)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("settings"), dict) else {}


def check_output(output: Path) -> None:
    """
    Raises a `ValueError` if the folder `output` holds other files than a dataset with precomputed codes, or lies in
    such a dataset, whose card would hide it.
    """
    for parent in Path(os.path.abspath(output)).parents:
        if any(read_manifest(path.parent) for path in parent.glob(f"*/{MANIFEST_FILE}")):
            raise ValueError(
                f"{output} lies in the dataset {parent}, whose card does not list it: choose a folder outside of it."
            )
    manifests = list(output.glob(f"*/{MANIFEST_FILE}"))
    if not manifests and any(path.is_file() and path.name[0] != "." for path in (output, *output.rglob("*"))):
        raise ValueError(
            f"{output} holds other files than a dataset with precomputed codes: choose another output folder."
        )


def open_split(output: Path, split: str, settings: dict, is_main_process: bool) -> Path:
    """
    Makes the folder of a split, or finds the one that was created with the same settings.

    Args:
        output (`Path`): The folder of the dataset.
        split (`str`): The name of a split. For a slice or a sum of splits, the first name counts.
        settings (`dict`): Everything that shards depend on. A value of None agrees with any other.
        is_main_process (`bool`): Whether to write, and to delete the unfinished files of a run that was killed.

    Returns:
        `Path`: The folder of the split.

    Raises:
        ValueError: If the folder holds something else, if it was created with different settings, or if another split
            was created with another model or has other columns.
    """
    check_output(output)
    folder = output / re.split(r"\W", split)[0]
    for path in sorted({folder, *(found.parent for found in output.glob(f"*/{MANIFEST_FILE}"))}):
        if not find_shards(path):  # it may begin anew
            continue
        created = read_manifest(path).get("settings")
        if created is None:
            raise ValueError(f"{path} has shards without {MANIFEST_FILE}. Choose another output folder.")
        other = [
            f"{name} was {created.get(name)!r}, now it is {value!r}"
            for name, value in settings.items()
            if value is not None
            and created.get(name) not in (None, value)
            and (path == folder or name in SHARED_SETTINGS)
        ]
        if other:
            raise ValueError(
                f"{path} was created with different settings: {'; '.join(other)}. Choose another output folder."
            )
    if is_main_process and not find_shards(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_text(folder / MANIFEST_FILE, json.dumps({"settings": settings}, indent=2))
    if is_main_process:
        for left in folder.glob(".*.parquet"):
            left.unlink()
    return folder


def reopen_split(folder: Path) -> None:
    """
    Takes the counts of a complete split out of its manifest, before it gets further shards.

    Args:
        folder (`Path`): The folder of the split.
    """
    manifest = read_manifest(folder)
    if manifest.pop("counts", None):
        _write_text(folder / MANIFEST_FILE, json.dumps(manifest, indent=2))


def check_complete(folder: Path) -> None:
    """Raises a `ValueError` if the split with precomputed codes in `folder` is not complete."""
    manifest = read_manifest(folder)
    shards = find_shards(folder)
    if "counts" not in manifest or shards != set(range(manifest.get("shards", len(shards)))):
        raise ValueError(f"{folder} is not complete: run the same `precompute-codes` again to continue it.")


def codebook_fingerprint(codebook: torch.Tensor) -> str:
    """Returns a hash of `codebook` (codebook_size, code_dim), on which alone the meaning of codes depends."""
    return hashlib.sha256(codebook.detach().float().cpu().numpy().tobytes()).hexdigest()[:16]


def complete_split(folder: Path, input_rows: int | None, is_main_process: bool) -> CodesSummary:
    """
    Checks that a split has all its shards. The main process then writes the list of broken images, the counts, and the
    card of the dataset.

    Args:
        folder (`Path`): The folder of the split.
        input_rows (`int`, *optional*): The number of rows that were to be read, where it is known.
        is_main_process (`bool`): Whether to write.

    Returns:
        [`CodesSummary`]: The contents of the split.

    Raises:
        ValueError: If the split has another number of rows, if a shard is missing, or if no row could be read.
    """
    shards, manifest = sorted(find_shards(folder)), read_manifest(folder)
    records = [read_record(shard_path(folder, shard)) for shard in shards]
    found = sum(record["input_rows"] for record in records)
    if found == 0:
        raise ValueError(f"{folder} is empty: the dataset has no rows.")
    rows_per_shard = manifest["settings"]["rows_per_shard"]
    is_whole = len(shards) == shards[-1] + 1 and all(record["input_rows"] == rows_per_shard for record in records[:-1])
    if not is_whole or input_rows not in (None, found):
        raise ValueError(
            f"{folder} has {found} rows in {len(shards)} shards, but {input_rows or 'more'} were to be read. If it "
            "was created with fewer rows, choose another output folder."
        )
    counts = {name: sum(record[name] for record in records) for name in ("rows", "images", "codes")}
    broken = [entry for record in records for entry in record["broken"]]
    if counts["rows"] == 0:
        raise ValueError(f"None of the {found} rows has images that can be read: {broken[0]['error']}")
    summary = CodesSummary(skipped_rows=len({entry["row"] for entry in broken}), **counts)
    if is_main_process:
        if broken:
            lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in broken]
            _write_text(folder / "broken.jsonl", "".join(lines))
        complete = {"shards": len(shards), "counts": asdict(summary)}
        _write_text(folder / MANIFEST_FILE, json.dumps(manifest | complete, indent=2))
        _write_card(folder.parent)
    return summary


def _write_card(output: Path) -> None:
    splits = sorted(path.parent.name for path in output.glob(f"*/{MANIFEST_FILE}"))
    manifests = {name: read_manifest(output / name) for name in splits}
    summaries = {name: CodesSummary(**entry["counts"]) for name, entry in manifests.items() if "counts" in entry}
    files = [{"split": name, "path": f"{name}/*.parquet"} for name in summaries]
    data = DatasetCardData(configs=[{"config_name": "default", "data_files": files}], tags=["lavit"])
    table = "\n".join(
        f"| {name} | {summary.rows} | {summary.skipped_rows} | {summary.images} | {summary.codes} | "
        f"{summary.mean_codes:.1f} |"
        for name, summary in summaries.items()
    )
    card = CARD.format(data=data.to_yaml(), title=output.name, table=table, column=CODEBOOK_COLUMN, file=MANIFEST_FILE)
    _write_text(output / "README.md", card)


def _write_text(path: Path, text: str) -> None:
    """Writes a file completely or not at all."""
    with replacing_file(path) as hidden:
        hidden.write_text(text, encoding="utf-8")
