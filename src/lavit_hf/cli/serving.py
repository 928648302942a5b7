# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`transformers serve`, which knows LaVIT."""

import sys

import typer

from .common import app, check_model, quiet_libraries


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def serve(context: typer.Context) -> None:
    """
    Run `transformers serve`, a server for OpenAI's clients: images and text in, text out. `lavit-hf serve MODEL`;
    all arguments are its own, `lavit-hf serve --help` lists them.
    """
    for model in context.args[:1]:
        if not model.startswith("-"):
            check_model(model)
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise ImportError("Serving needs more packages: pip install 'lavit-hf[serve]'.")
    from transformers.cli.transformers import main

    from .. import modeling  # noqa: F401 # registers LaVIT with the Auto classes

    quiet_libraries()
    sys.argv = ["transformers", "serve", *context.args]
    main()
