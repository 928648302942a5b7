# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`lavit-hf`: what one does with a LaVIT, from a terminal."""

import sys
from typing import Annotated

import typer

from .. import __version__
from . import chat, conversion, datasets, demo, evaluation, pictures, serving, show  # noqa: F401  (they are its commands)
from .common import app


def _show_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; a user's mistake ends it with one line rather than a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        print(f"lavit-hf: {error}", file=sys.stderr)
        sys.exit(1)
