# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Servers that tests start and ask over loopback."""

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError


SECONDS = 300  # for a start on a slow machine


@contextmanager
def running(command: list[str], log: Path, **kwargs) -> Iterator[str]:
    """The address of a server: `command` with the `--port` of a free port, from when it answers to the block's end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT, **kwargs)
    address, started = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while not answers(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - started < SECONDS, log.read_text()
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except HTTPError:  # an answer, if none of a page
        return True
    except OSError:
        return False
    return True
