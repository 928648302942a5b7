# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading and writing of the JSON files of the study."""

import json
from pathlib import Path

from lavit_hf.publishing.files import replacing_file


def read_json(path: str | Path) -> dict:
    """Reads a JSON file, or returns {} if there is none."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).is_file() else {}


def write_json(path: str | Path, values: dict) -> None:
    """Writes a file completely or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(Path(path)) as hidden:
        hidden.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
