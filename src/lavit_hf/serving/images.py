# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading of the images that a client of a server names. Nothing here trusts the client."""

import io
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import url2pathname

from PIL import Image

from ..processing import read_image
from ..processing.image_reading_lavit import read_file


# Limits for all images of a request together.
MAX_BYTES = 10 * 2**20
MAX_PIXELS = 50_000_000
MAX_SECONDS = 10
FORMATS = ("PNG", "JPEG", "WEBP")  # those whose headers tell how much there is to decode
MAX_SCANS = 50  # a progressive JPEG has about ten, and each takes as long as decoding the image
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")  # without the addresses that stand for an IPv4 address
DATA_URL = "send the image itself as a data: URL"


def fetch_images(urls: Sequence[str], hosts: Collection[str] = (), folder: Path | None = None) -> list[bytes]:
    """
    Fetches the image files of a request.

    Args:
        urls (`list[str]`): `data:` URLs, and others if `hosts` or `folder` allow them.
        hosts (`Collection[str]`, *optional*):
            The hosts of `http:` and `https:` URLs, in lower case, with a port if it is not that of the protocol.
            A host whose name has an address that is not public is refused, and so are redirects.
        folder (`Path`, *optional*): The folder of `file:` URLs.

    Returns:
        `list[bytes]`: The contents of the files.

    Raises:
        ValueError: If an image is not allowed, cannot be read, or takes too many bytes or seconds.
    """
    contents: list[bytes] = []
    end = time.monotonic() + MAX_SECONDS
    for index, url in enumerate(urls):
        room = MAX_BYTES - sum(map(len, contents))
        try:
            content = _fetch(url, hosts, folder, room + 1, end)
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or error  # the whole message of an OSError names a path
            reason = f"the images take longer than {MAX_SECONDS} seconds" if time.monotonic() >= end else reason
            raise ValueError(f"Image {index} cannot be read: {reason}.") from error
        if len(content) > room:
            raise ValueError(f"The image files of a request may have {MAX_BYTES >> 20} MiB together.")
        contents.append(content)
    return contents


def decode_images(contents: Sequence[bytes], names: Sequence[str] = ()) -> list[Image.Image]:
    """
    Decodes the images of a request, as [`~lavit_hf.processing.read_image`] does.

    Args:
        contents (`list[bytes]`): The contents of image files.
        names (`list[str]`, *optional*): The names of the images in errors. Default: their numbers.

    Raises:
        ValueError: If a file is not an image, or the images have too many pixels. No image is decoded then.
    """
    names = names or [f"Image {index}" for index in range(len(contents))]
    images = [_open(content, name) for content, name in zip(contents, names, strict=True)]
    if sum(image.width * image.height for image in images) > MAX_PIXELS:
        raise ValueError(f"The images have more than {MAX_PIXELS // 10**6} megapixels together.")
    return [read_image(image, name) for image, name in zip(images, names, strict=True)]


def _open(content: bytes, name: str) -> Image.Image:
    """Reads the header of an image file."""
    if content.count(b"\xff\xda") > MAX_SCANS and content.startswith(b"\xff\xd8"):
        raise ValueError(f"{name} is a JPEG of more than {MAX_SCANS} scans.")
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels.") from error
    except Exception as error:  # Pillow raises whatever it runs into
        raise ValueError(f"{name}, a file of {len(content)} bytes, is not a PNG, JPEG or WebP.") from error


def _fetch(url: str, hosts: Collection[str], folder: Path | None, room: int, end: float) -> bytes:
    """Reads at most `room` bytes of the file at a URL, if it is allowed."""
    if url[:5].lower() == "data:":
        return read_file(url)
    address = urlsplit(url)
    if address.scheme == "file" and folder is not None and not address.netloc:
        path = Path(os.path.realpath(url2pathname(address.path)))
        if not (path.is_relative_to(os.path.realpath(folder)) and path.is_file()):
            raise ValueError("the folder that this server allows has no such file")
        with path.open("rb") as file:
            return file.read(room)
    if address.scheme not in ("http", "https") or not hosts:
        kind = f"{address.scheme}: URLs" if address.scheme else "paths"
        raise ValueError(f"this server reads no {kind}, {DATA_URL}")
    if address.netloc.lower() not in hosts:
        raise ValueError(f"this server reads from {', '.join(sorted(hosts))} alone, {DATA_URL}")
    return _download(address, room, end)


def _download(url: SplitResult, room: int, end: float) -> bytes:
    """Reads at most `room` bytes from a public address, to which the name of the host is resolved only once."""
    is_secure, host = url.scheme == "https", url.hostname or ""
    port = url.port or (443 if is_secure else 80)
    addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(map(_is_public, addresses)):
        raise ValueError(f"{host} has an address that is not public")
    with ExitStack() as stack:
        connected = stack.enter_context(_connect(addresses, port, end))
        # The connection ends in time wherever it waits. A timeout of the socket begins anew with each byte.
        watched = stack.enter_context(connected.dup())
        timer = threading.Timer(end - time.monotonic(), watched.shutdown, [socket.SHUT_RDWR])
        timer.start()
        stack.callback(timer.cancel)
        if is_secure:
            context = ssl.create_default_context()
            connected = stack.enter_context(context.wrap_socket(connected, server_hostname=host))
        connection = HTTPConnection(host, port)
        connection.sock = connected
        path = quote(f"{url.path or '/'}{url.query and '?'}{url.query}", safe="%/:=&?~#+!$,;'@()*[]|")
        connection.request("GET", path, headers={"Host": url.netloc, "User-Agent": "lavit_hf"})
        response = connection.getresponse()
        if response.status != 200:  # redirects included, which would have to be checked anew
            raise ValueError(f"{host} answers {response.status} {response.reason}")
        content = response.read(room)
        if time.monotonic() >= end:
            raise TimeoutError
        return content


def _connect(addresses: Sequence[str], port: int, end: float) -> socket.socket:
    """Connects to the first of several addresses that answers."""
    errors = []
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=max(0.1, end - time.monotonic()))
        except OSError as error:
            errors.append(error)
    raise errors[-1]


def _is_public(address: str) -> bool:
    """Returns whether an address is one of the internet, rather than of this machine, its network or a group."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in PUBLIC_IPV6 or ip.sixtofour or ip.teredo):
        return False
    return ip.is_global and not ip.is_multicast
