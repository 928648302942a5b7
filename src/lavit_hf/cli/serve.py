# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `serve`."""

import typer

from .loading import quiet_libraries
from .options import check_model


def serve(context: typer.Context) -> None:
    """
    Run `transformers serve`, a server for clients of OpenAI's API: images and text in, text out. All arguments are
    those of `transformers serve`: `lavit-hf serve MODEL`, `lavit-hf serve --help`.
    """
    for model in context.args[:1]:
        if not model.startswith("-"):
            check_model(model)
    # Imported here, since it takes time. transformers documents the command alone: if its application moves,
    # tests/test_serve.py fails.
    from transformers.cli.transformers import app

    quiet_libraries()
    app(["serve", *context.args], prog_name="lavit-hf")
