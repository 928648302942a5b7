# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a tokenized dataset: shards that are whole or absent, the settings they share, and the card."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub import DatasetCardData

from .loading import TOKENIZATION_FILE


# Key of a shard's record among the metadata of its parquet file.
RECORD_KEY = b"lavit_hf"
ROWS_PER_GROUP = 1000
BYTES_PER_GROUP = 32 * 1024**2
CARD = """---
{data}
---

# {title}

Made by `lavit-hf tokenize`: the codes of pictures, ready for training.

| split | from | rows | left out | pictures | codes | codes per picture |
| --- | --- | --- | --- | --- | --- | --- |
{table}

The codes of the pictures in a column `image` are in `image_codes`, 0 to codebook size - 1, in raster order of the kept
patches. Codes mean something only to the tokenizer that made them: its fingerprint is in `{file}` of each split, with
the other settings. Rows that were left out are in `broken.jsonl`.

```python
from datasets import load_dataset

rows = load_dataset("{title}")
```
"""


@dataclass
class TokenizationSummary:
    """
    What a tokenized split holds, and how fast the run that completed it was.

    `rows`, `skipped_rows` (left out for a broken picture), `pictures`, `codes`: of the whole split. `new_pictures`,
    `new_codes`, `seconds`: of this run, over all processes; none are new where everything was there already.
    """

    rows: int
    skipped_rows: int
    pictures: int
    codes: int
    new_pictures: int
    new_codes: int
    seconds: float

    @property
    def mean_codes(self) -> float:
        """Codes per picture."""
        return self.codes / max(self.pictures, 1)

    @property
    def pictures_per_second(self) -> float:
        return self.new_pictures / self.seconds

    @property
    def codes_per_second(self) -> float:
        return self.new_codes / self.seconds


@dataclass
class ShardRecord:
    """What a shard's file says of itself: `input_rows` were read, and each broken picture is listed."""

    input_rows: int
    rows: int
    pictures: int
    codes: int
    broken: list[dict]

    @classmethod
    def read(cls, path: Path) -> "ShardRecord":
        return cls(**json.loads(pq.read_metadata(path).metadata[RECORD_KEY]))


class ShardWriter:
    """Writes one shard under a hidden name; [`~ShardWriter.finish`] gives it its own, with its record inside."""

    def __init__(self, path: Path):
        self.path = path
        self.hidden = path.with_name(f".{path.name}.{os.getpid()}")
        self.record = ShardRecord(input_rows=0, rows=0, pictures=0, codes=0, broken=[])
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table, *, input_rows: int, pictures: int, codes: int, broken: list[dict]) -> None:
        """Takes rows and what to record of them; they reach the file in groups, and memory holds no more than one."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.hidden, table.schema)
        self.record.input_rows += input_rows
        self.record.rows += len(table)
        self.record.pictures += pictures
        self.record.codes += codes
        self.record.broken += broken
        self._waiting.append(table)
        rows, size = sum(map(len, self._waiting)), sum(part.nbytes for part in self._waiting)
        if rows >= ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        tables, self._waiting = self._waiting, []
        if sum(map(len, tables)) > 0:  # `datasets` cannot read a group of no rows
            self._writer.write_table(pa.concat_tables(tables).combine_chunks())

    def finish(self) -> ShardRecord:
        self._flush()
        self._writer.add_key_value_metadata({RECORD_KEY: json.dumps(asdict(self.record))})
        self._writer.close()
        with self.hidden.open("rb+") as file:  # a name must not outlive a power cut that its content does not
            os.fsync(file.fileno())
        self.hidden.replace(self.path)
        return self.record


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.parquet"


def finished_shards(folder: Path) -> set[int]:
    return {int(path.stem) for path in folder.glob("[0-9]*.parquet")}


def _split_folder(output: Path, split: str) -> Path:
    """Of a slice or a sum of splits, the folder of the first that it names."""
    return output / re.match(r"\w*", split).group()


def open_split(output: Path, split: str, settings: dict, main_process: bool) -> Path:
    """
    Makes the folder of a split, or finds it as the same settings began it.

    Args:
        output (`Path`): Folder of the dataset.
        split (`str`): Name of a split; of a slice or a sum its first name counts.
        settings (`dict`): What every shard depends on; a value of None agrees with any.
        main_process (`bool`): Whether to write, and to clear away what a run that was killed left half done.

    Returns:
        `Path` of the split's folder.

    Raises:
        ValueError: the folder holds something else, or was begun with other settings.
    """
    if not _manifests(output) and any(path.is_file() and path.name[0] != "." for path in (output, *output.rglob("*"))):
        raise ValueError(f"{output} holds something else than a tokenized dataset: name a new folder.")
    folder = _split_folder(output, split)
    manifest = folder / TOKENIZATION_FILE
    if manifest.is_file():
        begun = _read_json(manifest)["settings"]
        other = [
            f"{name} was {begun.get(name)!r}, now it is {value!r}"
            for name, value in settings.items()
            if value is not None and begun.get(name) not in (None, value)
        ]
        if other:
            raise ValueError(f"{folder} was begun with other settings: {'; '.join(other)}. Name a new folder.")
    elif main_process:
        folder.mkdir(parents=True, exist_ok=True)
        _write_text(manifest, json.dumps({"settings": settings}, indent=2))
    if main_process:
        for left in folder.glob(".*.parquet.*"):
            left.unlink()
    return folder


def codebook_fingerprint(codebook: torch.Tensor) -> str:
    """Of a codebook (codebook_size, code_dim): what codes mean depends on it alone, whatever it was loaded from."""
    return f"sha256:{hashlib.sha256(codebook.detach().float().cpu().numpy().tobytes()).hexdigest()}"


def check_codebook(dataset_name: str | os.PathLike, split: str, codebook: torch.Tensor) -> None:
    """
    Raises a ValueError if `dataset_name` is the folder of a tokenized dataset whose codes are not those of `codebook`
    (codebook_size, code_dim). Other datasets pass.
    """
    manifest = _split_folder(Path(dataset_name), split) / TOKENIZATION_FILE
    if not manifest.is_file():
        return
    made_with = _read_json(manifest)["settings"].get("codebook")
    if made_with != codebook_fingerprint(codebook):
        raise ValueError(
            f"The codes of {dataset_name} were made by another visual tokenizer than this model's: tokenize the "
            "dataset with this model, or train with the tokenizer that made it."
        )


def count_split(folder: Path, input_rows: int | None) -> tuple[dict[str, int], list[dict]]:
    """
    Counts of a split's shards, and its broken pictures, in the order of the rows.

    Raises:
        ValueError: rows are missing: `input_rows` is their number, None if it is not known.
    """
    shards = sorted(finished_shards(folder))
    records = [ShardRecord.read(shard_path(folder, shard)) for shard in shards]
    found = sum(record.input_rows for record in records)
    if found == 0:
        raise ValueError(f"{folder} is empty: the dataset has no rows.")
    rows_per_shard = _read_json(folder / TOKENIZATION_FILE)["settings"]["rows_per_shard"]
    is_whole = len(shards) == shards[-1] + 1 and all(record.input_rows == rows_per_shard for record in records[:-1])
    if not is_whole or input_rows not in (None, found):
        raise ValueError(f"{folder} lacks rows: of {input_rows or 'a stream'} it has {found} in {len(shards)} shards.")
    counts = {name: sum(getattr(record, name) for record in records) for name in ("rows", "pictures", "codes")}
    broken = [entry for record in records for entry in record.broken]
    return counts | {"skipped_rows": len({entry["row"] for entry in broken})}, broken


def complete_split(folder: Path, counts: dict[str, int], broken: Iterable[dict]) -> None:
    """Writes what a split's end tells: broken pictures, counts, and the card of the dataset."""
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in broken]
    if lines:
        _write_text(folder / "broken.jsonl", "".join(lines))
    manifest = folder / TOKENIZATION_FILE
    _write_text(manifest, json.dumps(_read_json(manifest) | {"counts": counts}, indent=2))
    _write_card(folder.parent)


def _write_card(output: Path) -> None:
    splits = {path.parent.name: _read_json(path) for path in _manifests(output)}
    splits = {name: manifest for name, manifest in splits.items() if "counts" in manifest}
    files = [{"split": name, "path": f"{name}/*.parquet"} for name in splits]
    data = DatasetCardData(configs=[{"config_name": "default", "data_files": files}], tags=["lavit"])
    lines = []
    for name, manifest in splits.items():
        counts, source = manifest["counts"], manifest["settings"]["dataset"]
        cells = [name, source.get("name", ""), *(counts[key] for key in ("rows", "skipped_rows", "pictures", "codes"))]
        cells.append(f"{counts['codes'] / max(counts['pictures'], 1):.1f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    card = CARD.format(data=data.to_yaml(), title=output.name, table="\n".join(lines), file=TOKENIZATION_FILE)
    _write_text(output / "README.md", card)


def _manifests(output: Path) -> list[Path]:
    return sorted(output.glob(f"*/{TOKENIZATION_FILE}"))


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)


__all__ = [
    "ShardRecord",
    "ShardWriter",
    "TokenizationSummary",
    "check_codebook",
    "codebook_fingerprint",
    "complete_split",
    "count_split",
    "open_split",
]
