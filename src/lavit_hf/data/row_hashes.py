# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Hashes of the rows of a dataset, by which a run that goes on tells whether its shards were computed from them."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .code_files import join_hashes, read_record, shard_path


# The content of a file is described by its size and this many bytes of its beginning, middle and end. The rows of a
# large dataset would take hours to read completely whenever a run is resumed.
HASHED_BYTES = 4096


def hash_rows(table: pa.Table | None, read_files: bool = False) -> list[str]:
    """
    Returns a hash of each row. The folder of image files and the order of columns make no difference.

    Args:
        table (`pa.Table`, *optional*): The rows.
        read_files (`bool`, *optional*, defaults to `False`):
            Whether image files that a row names are read. Otherwise their names and sizes count.
    """
    if table is None:
        return []
    columns = [_describe_column(table[name], read_files) for name in sorted(table.column_names)]
    rows = zip(*columns, strict=True)
    return [hashlib.sha256(repr(row).encode(errors="surrogatepass")).hexdigest() for row in rows]


def _describe_column(column: pa.ChunkedArray, read_files: bool = False) -> list[Any]:
    """Returns the values of a column, with descriptions in place of the content of files."""
    kind = column.type
    if pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
        paths = pc.struct_field(column, "path").to_pylist()
        files = _describe_column(pc.struct_field(column, "bytes"))
        pairs = zip(paths, files, strict=True)
        return [(path and os.path.basename(path), file or _describe_file(path, read_files)) for path, file in pairs]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [_describe_content(value.as_buffer()) for value in column]
    return column.to_pylist()


def _describe_content(content: pa.Buffer | None) -> tuple[int, str] | None:
    """Returns the size and a hash of parts of the content of a file, which is not copied."""
    if content is None:
        return None
    view, middle = memoryview(content), (len(content) - HASHED_BYTES) // 2
    digest = hashlib.sha256(view[:HASHED_BYTES])
    if middle > 0:
        digest.update(view[middle : middle + HASHED_BYTES])
        digest.update(view[-HASHED_BYTES:])
    return len(content), digest.hexdigest()


def _describe_file(path: str | None, read_files: bool) -> int | str | None:
    """Returns the size or the hash of a local file, or None."""
    if not path or not os.path.isfile(path):
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if read_files else os.path.getsize(path)


class FinishedShards:
    """
    The finished shards that a run finds, to compare their rows with those of its dataset.

    Args:
        folder (`Path`): The folder of the split.
        numbers (`set[int]`): The numbers of the shards.
    """

    def __init__(self, folder: Path, numbers: set[int]):
        self.folder, self.numbers = folder, numbers
        self._shard = -1
        self._record: dict[str, Any] = {}
        self._hashes: list[str] = []

    def compare(self, shard: int, table: pa.Table) -> None:
        """
        Compares the next rows of a shard, if it is finished.

        Args:
            shard (`int`): The number of the shard.
            table (`pa.Table`): Its next rows.

        Raises:
            ValueError: If the shard was computed from other rows.
        """
        if shard not in self.numbers:
            return
        if shard != self._shard:
            self._shard, self._record, self._hashes = shard, read_record(shard_path(self.folder, shard)), []
        self._hashes += hash_rows(table)
        missing = self._record["input_rows"] - len(self._hashes)
        if missing < 0 or (missing == 0 and self._record.get("input_digest") != join_hashes(self._hashes)):
            path = shard_path(self.folder, shard)
            raise ValueError(
                f"{path} was computed from other rows than those of this dataset: choose another output folder."
            )
