# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Files of a saved folder: they are replaced together, and weights are checked before they are loaded.

A folder may hold other people's files and may be read at any moment, and no file system replaces several of its files
at once. `replacing` therefore keeps one invariant: an old file never lies beside a new one.

1. The new files are written to `.saving-*` in the folder. The old files are untouched until all of them are complete.
2. One rename to `.replacing-*` commits. From now on the new files count, whatever happens.
3. The old files are deleted. First `config.json` gives way to one that no library loads and whose error says what to
   do. The files without which nothing is loaded follow, and then the rest.
4. One rename to `.placing-*` says that no old file is left.
5. The new files move to their places in the opposite order, `config.json` last.

A process that is killed before step 2 leaves the old files. One that is killed later leaves the new ones, but some may
not be in their places: loading or saving with the classes of this library completes the replacement, and any other
reader gets the new files or an error. A reader that has opened an old file before step 3 may still open a new one
after step 5. The folder is locked while something is saved to it.
"""

import errno
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from safetensors import SafetensorError, safe_open


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


SAVING, REPLACING, PLACING = ".saving-", ".replacing-", ".placing-"
# No library loads a model without these or the weights, while it may do without one of the other files.
ENTRIES = ("model_index.json", "processor_config.json", "adapter_config.json", "tokenizer.json")
INTERRUPTED = (
    "none: saving to this folder was interrupted while files were being replaced. Save to it again, or load it once "
    "with from_pretrained of a class of lavit_hf, such as LavitForCausalLM, which completes the replacement"
)
# The errors of a write to a disk that has no room or fails.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# A file of weights of transformers or diffusers, whole or in shards; not of an adapter.
WEIGHTS = re.compile(r"(.*/)?(model|diffusion_pytorch_model)(\.[^.]+?)?(-\d{5}-of-\d{5})?\.safetensors")


def patterns_of_weights(paths: Iterable[str]) -> list[str]:
    """Returns patterns of all files that hold the same weights of the same variant as `paths`, under any names."""
    patterns = set()
    for match in filter(None, map(WEIGHTS.fullmatch, paths)):
        stem, variant = (match[1] or "") + match[2], match[3] or ""
        patterns |= {f"{stem}{variant}{suffix}.safetensors" for suffix in ("", "-?????-of-?????")}
        patterns.add(f"{stem}.safetensors.index{variant}.json")
    return sorted(patterns)


def list_files(folder: Path) -> list[str]:
    """Returns the paths, relative to `folder`, of all files in it and below."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def replacing(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a folder to save to, whose files replace those of `folder` when the block ends without an error. See the top
    of this file for what a reader finds meanwhile. Other files of `folder` stay. A symbolic link at the place of a new
    file, or of a folder with new files, is replaced, and its target stays.

    Args:
        folder (`str` or `os.PathLike`): A folder, which is created if it does not exist.

    Raises:
        ValueError: If a folder lies where a file is to be saved, or a file where a folder is needed.
        FileNotFoundError: If the new files were deleted by somebody else.
    """
    folder = Path(folder)
    if any(part.startswith(SAVING) for part in folder.parts):  # a part of a whole that is being saved
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as is_alone:
        if is_alone:  # then these are of killed processes
            for abandoned in folder.glob(f"{SAVING}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
        _finish(folder)
        staged = Path(tempfile.mkdtemp(dir=folder, prefix=SAVING))
        try:
            (staged / "new").mkdir()
            yield staged / "new"
            if not (staged / "new").is_dir():
                raise FileNotFoundError(f"{staged / 'new'} with the new files for {folder} has been deleted.")
            paths = list_files(staged / "new")
            if paths:  # of several processes, only one writes files
                _check_places(folder, paths)
                # The error of an Auto class shows the type, and that of a single configuration the dtype.
                interrupted = json.dumps({"model_type": INTERRUPTED, "dtype": INTERRUPTED}, indent=2)
                (staged / "config.json").write_text(interrupted + "\n", encoding="utf-8")
                _sync(staged)
                staged.rename(folder / staged.name.replace(SAVING, REPLACING))
                _finish(folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a path beside `path` to write to. The file there replaces `path` when the block ends without an error, and is
    deleted otherwise. After a power cut, `path` has the old content or the new one.

    Args:
        path (`str` or `os.PathLike`): The path of a file, in a folder that exists.

    Raises:
        OSError: If the file cannot be written, for instance because the disk is full.
    """
    path = Path(path)
    hidden = path.with_name(f".{path.stem[:32]}.{token_hex(8)}{path.suffix}")  # no other thread has this name
    try:
        yield hidden
        _sync(hidden)
        os.replace(hidden, path)
    except OSError as error:
        # Other errors of the block are not about this file. A full disk is told without a name.
        is_full = error.filename is None and error.errno in FULL
        if not is_full and error.filename != os.fspath(hidden):
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        hidden.unlink(missing_ok=True)


def finish_replacing(folder: str | os.PathLike) -> bool:
    """
    Completes a replacement in `folder` that was committed and interrupted. Returns whether old files were left, which
    somebody may have read just before.

    Raises:
        OSError: If the files cannot be moved, for instance because the folder is read-only.
    """
    folder = Path(folder)
    had_old_files = any(folder.glob(f"{REPLACING}*"))
    if had_old_files or any(folder.glob(f"{PLACING}*")):
        with _locked(folder):
            _finish(folder)
    return had_old_files


def _finish(folder: Path) -> None:
    for journal in (path for begin in (PLACING, REPLACING) for path in sorted(folder.glob(f"{begin}*"))):
        try:
            if journal.name.startswith(REPLACING):
                journal = _delete_old_files(folder, journal)
            _place_new_files(folder, journal)
        except OSError as error:
            raise OSError(f"The files in {folder} cannot be replaced by those in {journal}: {error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Locks a folder against other processes and threads. Yields whether the system can lock it."""
    if fcntl is None:
        yield False
        return
    descriptor, is_locked = os.open(folder, os.O_RDONLY), False
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_locked = True
        yield is_locked
    finally:
        if is_locked:  # closing alone does not unlock it for a process that was forked meanwhile
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _delete_old_files(folder: Path, journal: Path) -> Path:
    new = list_files(journal / "new")
    if "config.json" in new:
        with suppress(FileNotFoundError):  # it is there already
            os.replace(journal / "config.json", folder / "config.json")
    # Links to folders go before stale files are looked for, so that these are not looked for behind a link.
    for parent in sorted({parent for path in new for parent in Path(path).parents} - {Path()}):
        if (folder / parent).is_symlink():
            (folder / parent).unlink()
    stale = {path for pattern in patterns_of_weights(new) for path in glob.glob(pattern, root_dir=folder)}
    for path in [*(stale - {*new}), *_entries_first(new)]:
        if path != "config.json":
            (folder / path).unlink(missing_ok=True)
    return journal.rename(folder / journal.name.replace(REPLACING, PLACING))


def _place_new_files(folder: Path, journal: Path) -> None:
    for path in reversed(_entries_first(list_files(journal / "new"))):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(journal / "new" / path, folder / path)
    shutil.rmtree(journal, ignore_errors=True)


def _entries_first(paths: Iterable[str]) -> list[str]:
    def order(path: str) -> tuple:
        is_entry = ".safetensors" in path or Path(path).name in ENTRIES
        return path != "config.json", not is_entry, path

    return sorted(paths, key=order)


def _check_places(folder: Path, paths: Iterable[str]) -> None:
    for path in paths:
        place = folder / path
        if place.is_dir() and not place.is_symlink():
            raise ValueError(f"A file is to be saved as {place}, which is a folder.")
        for parent in (folder / parent for parent in Path(path).parents if parent != Path()):
            if parent.is_file() and not parent.is_symlink():
                raise ValueError(f"Files are to be saved in {parent}, which is a file.")


def _sync(root: Path) -> None:
    """Waits until a file or a folder is on the disk, because what it replaces will be deleted."""
    is_posix = os.name == "posix"  # elsewhere a folder cannot be opened, and a file to be synchronized is writable
    for path in (root, *root.rglob("*")):
        if is_posix or path.is_file():
            descriptor = os.open(path, os.O_RDONLY if is_posix else os.O_RDWR)
            os.fsync(descriptor)
            os.close(descriptor)


def read_json(path: Path) -> dict:
    """
    Reads a JSON object from the file at `path`.

    Returns:
        `dict`: The object.

    Raises:
        ValueError: If the file holds none; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {str(content)[:100]}.")
    return content


def open_safetensors(path: str | os.PathLike) -> safe_open:
    """
    Opens the safetensors file at `path`.

    Returns:
        `safe_open`: The open file, to be used as a context.

    Raises:
        ValueError: If the file is damaged or incomplete.
    """
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors, it may be incomplete: {error}") from error


def check_weights(folder: str | os.PathLike, variant: str | None = None) -> None:
    """
    Checks the files of weights that are loaded from `folder`, of a `variant` or of none: their index, and whether each
    file is complete.

    Raises:
        ValueError: If an index is damaged or names a file outside of the folder, or if a file is damaged.
    """
    infix = f".{variant}" if variant else ""
    for kind in ("safetensors", "bin"):
        for stem in ("model", "diffusion_pytorch_model", "pytorch_model"):
            whole, index = Path(folder, f"{stem}{infix}.{kind}"), Path(folder, f"{stem}.{kind}.index{infix}.json")
            names = {whole.name} if whole.is_file() else _list_shards(index) if index.is_file() else ()
            for path in (whole.with_name(name) for name in names):
                if kind == "safetensors" and path.is_file():
                    open_safetensors(path)
            if names:
                return


def _list_shards(index: Path) -> set[str]:
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{index} must hold an object whose "weight_map" maps the names of weights to files.')
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index} must name files beside it, got {outside[0]!r}.")
    return set(names)
