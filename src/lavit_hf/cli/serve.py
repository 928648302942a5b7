# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `serve`."""

import re
import socket
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .loading import console, load_model


def _check_hosts(hosts: list[str]) -> list[str]:
    """Returns the hosts in lower case, or raises a `ValueError` for one that is none."""
    for host in hosts:
        if not re.fullmatch(r"[\w.-]+(:\d+)?", host):
            raise ValueError(f"--allow-host must be a host such as images.example.com, got {host}.")
    return [host.lower() for host in hosts]


def serve(
    model: options.ModelArgument = options.DEMO,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "localhost",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    allow_host: Annotated[
        list[str], typer.Option(help="Host of http: and https: images; may be repeated.", callback=_check_hosts)
    ] = [],  # noqa: B006 # typer copies it
    allow_folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of file: images.")
    ] = None,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """Serve a model to clients of OpenAI's API: images and text in, text out."""
    try:
        import uvicorn

        from ..serving.server import build_app
    except ImportError as error:
        raise ImportError(f"serve needs pip install 'lavit-hf[serve]': {error}") from error

    try:  # before the model is loaded
        if ":" in host:
            both = socket.has_dualstack_ipv6()
            bound = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=both)
        else:
            bound = socket.create_server((host, port))
    except OSError as error:
        raise ValueError(f"--host {host} and --port {port} cannot be listened to: {error.strerror}.") from error
    config = uvicorn.Config("", host=host, port=port, timeout_graceful_shutdown=5, log_level="info")
    name = Path(model).resolve().name if Path(model).is_dir() else model
    config.app = build_app(*load_model(model, device, dtype), name, allow_host, allow_folder)
    address = f"[{host}]" if ":" in host else host
    console.print(f"{name} answers at http://{address}:{bound.getsockname()[1]}/v1. Ctrl-C ends it.", soft_wrap=True)
    uvicorn.Server(config).run([bound])
