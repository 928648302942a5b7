# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command line `lavit-hf`."""

import _thread
import signal
import sys
import threading
from typing import Annotated

import typer
from safetensors import SafetensorError
from torch import OutOfMemoryError

from .. import __version__
from .chat import chat
from .conversion import convert, export
from .datasets import precompute_codes
from .demo import demo
from .evaluation import evaluate
from .images import ask, caption, draw, edit, encode, reconstruct, show
from .serve import serve


class _Commands(typer.core.TyperGroup):
    """The commands. The error of an option names the value that was given, which typer leaves out."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if reasons := getattr(error.__cause__, "errors", None):  # of pydantic, in newer versions of typer
                message = error.message.removeprefix("Value error, ").rstrip(".")
                value = repr(reasons()[0]["input"])
                error.message = message if value in message else f"{message}, got {value}"
            raise


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
commands = (
    *(demo, caption, ask, draw, edit, reconstruct, encode, show, chat),
    *(serve, evaluate, precompute_codes, convert, export),
)
for command in commands:
    app.command()(command)


def _print_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """
    LaVIT: one model that reads and draws images as a varying number of tokens.

    `lavit-hf demo` reads, draws and edits an image with a small model that ships with the library. The commands for
    images run on it, too, if no model is named:

        lavit-hf draw "a large red circle at the top left"

    With the authors' checkpoint:

        lavit-hf convert rain1011/LaVIT-7B-v2 lavit-7b --dtype bfloat16

        lavit-hf caption photo.jpg --model lavit-7b

        lavit-hf draw "a red fox in the snow" --model lavit-7b --output fox.png
    """


def _repeat_ignored_interrupt(ignored: "sys.UnraisableHookArgs") -> None:
    """Repeats a Ctrl-C that came during a `__del__`, from which Python lets no exception out."""
    if ignored.exc_type is KeyboardInterrupt:
        again = threading.Timer(0.1, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(ignored)


def main() -> None:
    """Runs the command line. An error that the user can mend is printed as one line, without a traceback."""
    sys.unraisablehook = _repeat_ignored_interrupt
    # By default, a process that is asked to end leaves its workers behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except (ValueError, OSError, ImportError, MemoryError, OutOfMemoryError, SafetensorError) as error:
        print(f"lavit-hf: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == 130:  # typer ends so, without a word, after Ctrl-C
            print("lavit-hf: interrupted", file=sys.stderr)
        raise
    except Exception as error:
        # huggingface_hub hands on the errors of its HTTP client, which is httpx or httpx2.
        if not type(error).__module__.startswith("httpx"):
            raise
        print(f"lavit-hf: The Hub cannot be reached: {error}", file=sys.stderr)
        sys.exit(1)
