# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `serve`."""

import typer
from transformers.utils.import_utils import is_serve_available

from .loading import quiet_libraries


def serve(context: typer.Context) -> None:
    """
    Run `transformers serve`, a server for clients of OpenAI's API: images and text in, text out. All arguments are
    those of `transformers serve`: `lavit-hf serve MODEL`, `lavit-hf serve --help`.
    """
    if not is_serve_available():
        raise ImportError("Serving needs more packages: pip install 'lavit-hf[serve]'.")
    from transformers.cli.transformers import app  # imports packages of the extra

    quiet_libraries()
    app(["serve", *context.args], prog_name="lavit-hf")
