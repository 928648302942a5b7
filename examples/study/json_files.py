# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading and writing of the JSON files of the study, and what tells whether a result is of a recipe."""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.trainer import TRAINER_STATE_NAME

from lavit_hf import demo_checkpoint
from lavit_hf.publishing import files


def read_json(path: str | Path) -> dict:
    """Reads a JSON file, or returns {} if there is none."""
    return files.read_json(Path(path)) if Path(path).is_file() else {}


def write_json(path: str | Path, values: dict) -> None:
    """Writes a file completely or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.replacing_file(Path(path)) as hidden:
        hidden.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def only_process(folder: Path) -> Iterator[int]:
    """
    A context in which no other process works in a folder. Its value is a file descriptor: processes that inherit it
    keep others out until they end, also if they are left running.

    Raises:
        RuntimeError: If another process does, such as one that was left running.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"Another process works in {folder}.") from error
        yield file.fileno()


def compare_recipes(
    path: str | Path, made: dict, now: dict, ignored: Iterable[str] = (), to_delete: str = "it and what belongs to it"
) -> None:
    """
    Checks that what is at `path` was made by the recipe that is given now.

    Args:
        path (`str` or `Path`): The file with the recipe or the results.
        made (`dict`): The recipe that they were made by.
        now (`dict`): The recipe that is given.
        ignored (`Iterable[str]`, *optional*): The names whose values may differ.
        to_delete (`str`, *optional*): The name that the message gives to the things to delete.

    Raises:
        ValueError: If a value differs. The message has its name and both values.
    """
    now = json.loads(json.dumps(now))
    for name in sorted(made.keys() | now.keys()):
        if made.get(name) != now.get(name) and name not in ignored:
            raise ValueError(
                f"{path} was made with {name}={made.get(name)!r}, and the recipe has {now.get(name)!r}: delete "
                f"{to_delete} to run it again."
            )


def keep_recipe(path: str | Path, folder: str | Path, recipe: dict, ignored: Iterable[str] = ()) -> None:
    """
    Writes the recipe of what a folder is going to have, so that nothing is resumed or reused with another one.

    Args:
        path (`str` or `Path`): The file of the recipe, in the folder or beside it.
        folder (`str` or `Path`): The folder.
        recipe (`dict`): The recipe.
        ignored (`Iterable[str]`, *optional*): The names whose values may differ.

    Raises:
        ValueError: If the folder has been begun with another recipe, or with one that is not known.
    """
    path, folder = Path(path), Path(folder)
    if made := read_json(path):
        compare_recipes(path, made, recipe, ignored, f"the file and the folder {folder}")
        return
    if any(
        child.suffix in (".safetensors", ".md") or child.name.startswith("checkpoint-") for child in folder.glob("*")
    ):
        raise ValueError(f"{folder} has a training whose recipe, {path}, is gone: delete the folder to train anew.")
    write_json(path, recipe)


def fingerprint(folder: str | Path | None) -> str | None:
    """Returns a checksum of the weights, settings and vocabularies in a local folder, or None if there are none."""
    paths = [] if folder is None else sorted(Path(folder).rglob("*"))
    paths = [path for path in paths if path.suffix in (".json", ".safetensors") and path.name != TRAINER_STATE_NAME]
    # Checkpoints of a training are no part of its result.
    paths = [path for path in paths if not path.relative_to(folder).parts[0].startswith("checkpoint-")]
    found = hashlib.sha256()
    for path in paths:
        found.update(path.relative_to(folder).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16] if paths else None


def fingerprint_weights(folder: str | Path | None, module: str) -> str | None:
    """Returns a checksum of the weights of a `module` of the model in a local folder, or None if there are none."""
    found, names = hashlib.sha256(), []
    for path in [] if folder is None else sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in sorted(name for name in weights.keys() if module in name.split(".")):  # noqa: SIM118
                names.append(name)
                found.update(name.encode())
                found.update(weights.get_tensor(name).reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16] if names else None


def fingerprint_shipped() -> dict[str, str | None]:
    """Returns checksums of the weights of the small model that ships with the library, and of its U-Net."""
    folder = Path(demo_checkpoint())
    return {"model": fingerprint_weights(folder, "model"), "unet": fingerprint(folder / "unet")}
