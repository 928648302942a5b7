# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The common test suites of other libraries, from their source distributions on the package index."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


CACHE = Path(__file__).parents[2] / ".cache" / "conformance"


def fetch_sdist(name: str, version: str) -> Path:
    """
    Downloads a source distribution with pip and unpacks its tests, once.

    Args:
        name (`str`): Name of the distribution, say `"transformers"`.
        version (`str`): Its version, which should be the installed one.

    Returns:
        `Path`: A folder that holds the distribution's `tests`. It is kept in `.cache/conformance`, which git ignores.

    Raises:
        subprocess.CalledProcessError: If pip finds no source distribution of this version.
    """
    folder = CACHE / f"{name}-{version}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name]
        subprocess.run([*pip, "--dest", temporary, f"{name}=={version}"], check=True)
        (archive,) = Path(temporary).glob("*.tar.gz")
        with tarfile.open(archive) as file:
            members = [member for member in file if Path(member.name).parts[1:2] == ("tests",)]
            file.extractall(temporary, members, filter="data")
        # A source distribution has the modules of the folder `tests`, but not always the file that makes it a package.
        unpacked = archive.with_name(archive.name.removesuffix(".tar.gz"))
        (unpacked / "tests" / "__init__.py").touch()
        unpacked.rename(folder)  # last, so that an interrupted run leaves no half-filled folder
    return folder
