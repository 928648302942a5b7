# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Files of a saved folder: they are replaced together, and weights are checked before they are loaded.

A folder may hold other people's files and may be read at any moment, and no file system replaces several of its files
at once. `replacing` therefore keeps one invariant: an old file never lies beside a new one.

1. The new files are written to `.saving-*` in the folder. Until this is complete, the old files are untouched. It is
   locked meanwhile, so that another save can tell it from what a killed process has left and delete that.
2. One rename to `.replacing-*` commits. From now on the new files count, whatever happens.
3. The old files are moved aside. First `config.json` gives way to one that no library loads and whose error says what
   to do. Files without which nothing is loaded follow, and then the rest.
4. One rename to `.placing-*` says that no old file is left.
5. The new files move to their places in the opposite order, `config.json` last.

A process that is killed before step 2 leaves the old files. One that is killed later leaves the new ones, but some may
not be in their places: loading or saving with the classes of this library completes the replacement, and any other
reader gets the new files or an error. A reader that has opened an old file before step 3 may still open a new one
after step 5.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


SAVING, REPLACING, PLACING = ".saving-", ".replacing-", ".placing-"
# Without these or the weights nothing is loaded, while a library may do without one of the other files.
ENTRIES = ("model_index.json", "processor_config.json", "adapter_config.json", "tokenizer.json")
INTERRUPTED = (
    "none: saving to this folder was interrupted while files were being replaced. Save to it again, or load it once "
    "with from_pretrained of a class of lavit_hf, such as LavitForCausalLM, which completes the replacement"
)
# Files of weights of transformers and diffusers, whole or in shards, and their index; not those of an adapter.
WEIGHTS = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model)"
    r"(?:\.(?!safetensors)(?P<variant>[^.]+?))?(?:-\d{5}-of-\d{5})?\.safetensors"
    r"(?:\.index(?:\.(?P<index_variant>[^.]+))?\.json)?"
)


def _weights_in(path: str) -> tuple[str, str, str | None] | None:
    """The folder, the kind and the variant of the weights in a file, or None for another file."""
    folder, _, name = path.rpartition("/")
    match = WEIGHTS.fullmatch(name)
    return match and (folder, match["stem"], match["variant"] or match["index_variant"])


def find_stale(there: Iterable[str], new: Sequence[str]) -> list[str]:
    """Returns the files among `there` whose weights the `new` files hold anew under other names."""
    renewed = {_weights_in(path) for path in new} - {None}
    return [path for path in there if path not in new and _weights_in(path) in renewed]


def list_files(folder: Path) -> list[str]:
    """Returns the paths, relative to a folder, of all files in it and below."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def replacing(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a folder to save to, whose files replace those of `folder` when the block ends without an error. See the top
    of this file for what a reader finds meanwhile. Other files of `folder` stay. A symbolic link at the place of a new
    file, or of a folder with new files, is replaced, and what it points to stays.

    Args:
        folder (`str` or `os.PathLike`): A folder; it is made where there is none.

    Raises:
        ValueError: a folder lies where a file is to be saved, or a file where a folder is needed.
        FileNotFoundError: what was saved has been deleted meanwhile.
    """
    folder = Path(folder)
    if any(part.startswith(SAVING) for part in folder.parts):  # a part of a whole that is being saved
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    finish_replacing(folder)
    with ExitStack() as stack:
        with _locked(folder):  # nobody takes it for abandoned before it is locked
            staged = Path(tempfile.mkdtemp(dir=folder, prefix=SAVING))
            stack.callback(shutil.rmtree, staged, ignore_errors=True)
            stack.enter_context(_locked(staged))
        (staged / "new").mkdir()
        yield staged / "new"
        if not (staged / "new").is_dir():
            raise FileNotFoundError(f"{staged / 'new'}, where files were being saved for {folder}, has been deleted.")
        paths = list_files(staged / "new")
        if paths:  # with several processes, only one of them writes
            _check_places(folder, paths)
            (staged / "old").mkdir()
            # The error of an Auto class shows the type, that of any single configuration the dtype.
            interrupted = json.dumps({"model_type": INTERRUPTED, "dtype": INTERRUPTED}, indent=2)
            (staged / "config.json").write_text(interrupted + "\n", encoding="utf-8")
            _sync(staged)
            staged.rename(folder / staged.name.replace(SAVING, REPLACING))
            finish_replacing(folder)
            _delete_abandoned(folder)


def _delete_abandoned(folder: Path) -> None:
    """Deletes what killed processes have left of their saves; nothing, if the system cannot lock a folder."""
    with _locked(folder):
        for staged in folder.glob(f"{SAVING}*"):
            with suppress(FileNotFoundError), _locked(staged, wait=False) as is_abandoned:
                if is_abandoned:
                    shutil.rmtree(staged, ignore_errors=True)


def finish_replacing(folder: str | os.PathLike) -> bool:
    """
    Completes the replacements in a folder that were committed and interrupted. Returns whether old files were left,
    which somebody may have read just before.

    Raises:
        OSError: the files cannot be moved, for instance since the folder is read-only.
    """
    folder = Path(folder)
    had_old_files = any(folder.glob(f"{REPLACING}*"))
    if not had_old_files and not any(folder.glob(f"{PLACING}*")):
        return False
    with _locked(folder):
        for journal in (path for begin in (PLACING, REPLACING) for path in sorted(folder.glob(f"{begin}*"))):
            try:
                if journal.name.startswith(REPLACING):
                    journal = _move_old_files_aside(folder, journal)
                _place_new_files(folder, journal)
            except OSError as error:
                message = f"The files in {folder} cannot be replaced by those in {journal}: {error}"
                raise OSError(message) from error
    return had_old_files


@contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """
    Locks a folder against other processes and threads. Yields whether it is locked: not where the system locks no
    folders and, without `wait`, not where another one has locked it.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        is_locked = False
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        yield is_locked
    finally:
        os.close(descriptor)


def _move_old_files_aside(folder: Path, journal: Path) -> Path:
    new = list_files(journal / "new")
    if "config.json" in new:
        with suppress(FileNotFoundError):  # it is there already
            os.replace(journal / "config.json", folder / "config.json")
    # Links of folders, before anything is looked for below them.
    parents = sorted({parent.as_posix() for path in new for parent in Path(path).parents})
    links = [parent for parent in parents if (folder / parent).is_symlink()]
    for paths in (links, _find_stale_beside(folder, new), _entries_first(new)):
        for path in paths:
            if path not in (".", "config.json") and os.path.lexists(folder / path):
                # What is moved will be deleted, so that its name does not matter.
                os.replace(folder / path, journal / "old" / path.replace("/", "-"))
    return journal.rename(folder / journal.name.replace(REPLACING, PLACING))


def _find_stale_beside(folder: Path, new: Sequence[str]) -> Iterator[str]:
    for parent in {Path(path).parent for path in new}:
        if (folder / parent).is_dir():
            names = [(parent / file.name).as_posix() for file in (folder / parent).iterdir() if not file.is_dir()]
            yield from find_stale(names, new)


def _place_new_files(folder: Path, journal: Path) -> None:
    for path in reversed(_entries_first(list_files(journal / "new"))):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(journal / "new" / path, folder / path)
    shutil.rmtree(journal, ignore_errors=True)


def _entries_first(paths: Iterable[str]) -> list[str]:
    def order(path: str) -> tuple:
        name = Path(path).name
        rank = 1 if _weights_in(path) or name in ENTRIES else 2
        return 0 if path == "config.json" else rank, path

    return sorted(paths, key=order)


def _check_places(folder: Path, paths: Iterable[str]) -> None:
    for path in paths:
        place = folder / path
        if place.is_dir() and not place.is_symlink():
            raise ValueError(f"A file is to be saved as {place}, which is a folder.")
        for parent in (folder / parent for parent in Path(path).parents if parent != Path()):
            if parent.is_file() and not parent.is_symlink():
                raise ValueError(f"Files are to be saved in {parent}, which is a file.")


def _sync(folder: Path) -> None:
    """Waits until a folder is on the disk, since the files that it replaces will be deleted."""
    is_posix = os.name == "posix"  # elsewhere a folder cannot be opened, and a file to be synchronized is writable
    for path in (folder, *folder.rglob("*")):
        if is_posix or path.is_file():
            descriptor = os.open(path, os.O_RDONLY if is_posix else os.O_RDWR)
            os.fsync(descriptor)
            os.close(descriptor)


def list_shards(index: Path) -> list[str]:
    """
    Returns the names of the files that an index of weights lists.

    Raises:
        ValueError: an index that is not one, or that lists a file elsewhere than beside it.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{index} is not valid JSON: {error}") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        expected = 'an object whose "weight_map" maps the names of weights to files'
        raise ValueError(f"{index} must hold {expected}, got {str(content)[:100]}.")
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index} must name files beside it, got {outside[0]!r}.")
    return sorted(set(names))


def open_safetensors(path: str | os.PathLike) -> safe_open:
    """
    Opens a safetensors file.

    Raises:
        ValueError: the file is damaged or incomplete.
    """
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors, it may be incomplete: {error}") from error


def check_none_missing(name: str, missing: Sequence[str]) -> None:
    """Raises a `ValueError` for weights of the part `name` that its files lack, and that would have any values."""
    if missing:
        raise ValueError(f"The files of {name} lack {len(missing)} of its weights, such as {missing[0]}.")


def check_weights(folder: str | os.PathLike, variant: str | None = None) -> None:
    """
    Checks the files of weights that are loaded from a folder: their index, and whether each file is complete.

    Raises:
        ValueError: same as [`list_shards`] and [`open_safetensors`].
    """
    infix = f".{variant}" if variant else ""
    for kind in ("safetensors", "bin"):
        for stem in ("model", "diffusion_pytorch_model", "pytorch_model"):
            whole, index = Path(folder, f"{stem}{infix}.{kind}"), Path(folder, f"{stem}.{kind}.index{infix}.json")
            names = [whole.name] if whole.is_file() else list_shards(index) if index.is_file() else []
            for path in (whole.with_name(name) for name in names):
                if kind == "safetensors" and path.is_file():
                    open_safetensors(path)
            if names:
                return
