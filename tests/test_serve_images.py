# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The images that clients of `lavit-hf serve` name: what it reads, what it refuses, and how long it takes."""

import base64
import io
import json
import os
import re
import socket
import struct
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit

import pytest
import uvicorn
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

from lavit_hf import demo_checkpoint
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.serving import images, server
from lavit_hf.serving.images import decode_images, fetch_images
from lavit_hf.serving.server import build_app


PUBLIC = "93.184.215.14"


def to_file(image: Image.Image, form: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


STAR = to_file(render_scene(sample_scene(6, "test")))


def to_png(width: int, height: int) -> bytes:
    """A black image of 1 bit a pixel, some thousand times smaller than its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Handler(BaseHTTPRequestHandler):
    """Gives an image, or what the path says. A slow path ends with `is_over`."""

    asked: list[tuple[str, str]] = []
    is_over = threading.Event()

    def do_GET(self):
        self.asked.append((self.headers["Host"], self.path))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/star.png")
            return self.end_headers()
        if self.path == "/missing":
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        try:
            if self.path == "/large":
                for _ in range(64):
                    self.wfile.write(bytes(2**20))
            elif self.path == "/slow":
                while not self.is_over.wait(0.1):
                    self.wfile.write(b"x")
            else:
                self.wfile.write(STAR)
        except OSError:  # the other side has had enough
            pass
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def web(monkeypatch):
    """
    A server of images that is reached as `images.example`. Tests have no network: this name, and those that a test
    adds, have the addresses of `names`, and a connection to the public address goes to the server.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket.listen(100)  # by default, five may wait
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {"images.example": [PUBLIC]}
    look_up, connect = socket.getaddrinfo, socket.create_connection

    def getaddrinfo(host, port, *args, **kwargs):
        if host not in names:
            return look_up(host, port, *args, **kwargs)
        found = names[host].pop(0) if isinstance(names[host][0], list) else names[host]
        return [entry for address in found for entry in look_up(address, port, *args, **kwargs)]

    def create_connection(address, *args, **kwargs):
        return connect(server.server_address if address[0] == PUBLIC else address, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    Handler.asked.clear()
    Handler.is_over.clear()
    yield names
    Handler.is_over.set()
    server.shutdown()
    server.server_close()


def refused(url: str, *args, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        fetch_images([url], *args)
    assert str(caught.value).startswith("Image 0 cannot be read: ")


# Hosts


def test_an_allowed_host_is_read(web):
    hosts = ["images.example", "images.example:8080"]
    urls = ["http://images.example/star.png", "HTTP://Images.Example/a/%20b?c=1&d=ä", "http://images.example:8080"]
    assert fetch_images(urls, hosts) == [STAR] * 3
    asked = [("images.example", "/star.png"), ("Images.Example", "/a/%20b?c=1&d=%C3%A4"), ("images.example:8080", "/")]
    assert Handler.asked == asked


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "http://images.example.com/a.png",
        "http://images.example:22/a.png",
        "http://images.example@example.com/a.png",
        "http://example.com#@images.example/a.png",
        "http://example.com\\@images.example/a.png",
        "http://example.com/@images.example",
        "http:///images.example/a.png",
        "http://[images.example]/a.png",
        "http://[::1",
    ],
)
def test_another_host_is_not_read(web, url):
    refused(url, ["images.example"], match="reads from images.example alone|not appear to be|Invalid IPv6")
    assert Handler.asked == []


@pytest.mark.parametrize("path", ["/a b", "/\r\nHost: x", "/\x00"])
def test_a_path_stays_a_path(web, path):
    fetch_images([f"http://images.example{path}"], ["images.example"])
    [(host, asked)] = Handler.asked
    assert host == "images.example"
    assert re.fullmatch(r"[!-~]+", asked)


NOT_PUBLIC = """
    127.0.0.1 127.1.2.3 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 198.18.0.1 224.0.0.1
    240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::a00:1
    2002:7f00:1:: 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
""".split()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_host_without_a_public_address_is_not_read(web, address):
    web["inside.example"] = [address]
    web["both.example"] = [PUBLIC, address]
    for host in ("inside.example", "both.example"):
        refused(f"http://{host}/star.png", [host], match="not public")
    assert Handler.asked == []


def test_public_addresses_are_public():
    for address in (PUBLIC, "1.1.1.1", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
        assert images._is_public(address)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]"]
)
def test_other_forms_of_an_address_are_resolved_first(web, host):
    """Even where the person who starts the server has allowed them."""
    refused(f"http://{host}/star.png", [host], match="not public")


def test_an_answer_that_changes_is_asked_for_once(web):
    """A name whose second answer is an address of this machine has no second answer."""
    web["images.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert fetch_images(["http://images.example/star.png"], ["images.example"]) == [STAR]
    assert web["images.example"] == [["127.0.0.1"]]


def test_answers_of_hosts_that_are_no_image_are_told(web):
    web["nowhere.example"] = ["192.0.9.1", PUBLIC]
    hosts = ["images.example", "unknown.invalid"]
    refused("http://images.example/moved", hosts, match="answers 302")
    refused("http://images.example/missing", hosts, match="answers 404")
    refused("http://unknown.invalid/", hosts, match="(?i)name|address")
    refused("https://images.example/", hosts, match="SSL")
    with pytest.raises(ValueError, match="may have 10 MiB together"):
        fetch_images(["http://images.example/large"], hosts)
    with pytest.raises(ValueError, match="may have 10 MiB together"):
        fetch_images([f"data:;base64,{base64.b64encode(bytes(6 * 2**20)).decode()}"] * 2)


def test_the_time_of_a_request_is_limited(web, monkeypatch):
    """A host that sends a byte from time to time gets no more of it, nor do several images."""
    monkeypatch.setattr(images, "MAX_SECONDS", 1)
    begin = time.monotonic()
    with pytest.raises(ValueError, match="take longer than 1 seconds"):
        fetch_images(["http://images.example/star.png", *["http://images.example/slow"] * 5], ["images.example"])
    assert time.monotonic() - begin < 5


# Files


def test_files_of_the_allowed_folder_alone(tmp_path):
    folder, secret = tmp_path / "images", tmp_path / "secret.png"
    (folder / "a b").mkdir(parents=True)
    for path in (folder / "a b" / "star.png", secret, tmp_path / "images.png"):
        path.write_bytes(STAR)
    (folder / "link.png").symlink_to(secret)
    (folder / "inside.png").symlink_to(folder / "a b" / "star.png")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    urls = [f"file://{folder}/a%20b/star.png", f"FILE://{folder}/inside.png", f"file://{folder}/../images/inside.png"]
    assert fetch_images(urls, (), folder) == [STAR] * 3
    for path in (
        *(
            secret,
            "/etc/hostname",
            tmp_path / "images.png",
            folder / ".." / "secret.png",
            f"{folder}/%2e%2e/secret.png",
        ),
        *(folder, folder / "link.png", folder / "missing.png", folder / "pipe", folder / "loop", f"{folder}/a%00.png"),
        *("/dev/zero", "/proc/self/environ", "x" * 5000, ""),
    ):
        refused(f"file://{path}", (), folder, match="has no such file|null|reads no|reads from")
    refused(str(folder / "inside.png"), (), folder, match="reads no paths")
    refused(f"file://host{folder}/inside.png", (), folder, match="reads no")
    refused(f"file://{secret}", match="reads no file: URLs")


def test_an_unreadable_file_names_no_path(tmp_path, monkeypatch):
    (tmp_path / "star.png").write_bytes(STAR)

    def forbidden(*args):
        raise PermissionError(13, "Permission denied", str(tmp_path / "star.png"))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ValueError, match="Permission denied") as caught:
        fetch_images([f"file://{tmp_path}/star.png"], (), tmp_path)
    assert str(tmp_path) not in str(caught.value)


# Pixels


def test_images_are_read_as_everywhere():
    jpeg = to_file(Image.new("RGB", (20, 10), "red"), "JPEG", progressive=True)
    clear = to_file(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    webp = to_file(Image.new("RGB", (8, 8), "red"), "WEBP")
    assert [image.size for image in decode_images([jpeg, clear, webp, STAR])] == [(20, 10), (8, 8), (8, 8), (64, 64)]
    assert decode_images([clear])[0].getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "files",
    [[to_png(13000, 13000)], [to_png(30000, 30000)], [to_png(2**30, 1)], [to_png(5100, 5000)] * 2],
    ids=["169 megapixels", "900 megapixels", "a line", "together"],
)
def test_too_many_pixels_are_refused_before_they_are_decoded(files, monkeypatch):
    assert len(files[0]) < 3 * 10**5
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("is decoded"))
    with pytest.raises(ValueError, match="pixels"):
        decode_images(files)


def test_files_that_take_long_are_refused():
    """A small JPEG may tell a decoder to go over its pixels a million times."""
    jpeg = to_file(Image.new("RGB", (64, 64), "red"), "JPEG", progressive=True)
    start = jpeg.rindex(b"\xff\xda")
    assert decode_images([jpeg])
    with pytest.raises(ValueError, match="JPEG of more than 50 scans"):
        decode_images([jpeg[:start] + 60 * jpeg[start:-2] + jpeg[-2:]])


@pytest.mark.parametrize("form", ["EPS", "PDF", "TIFF", "BMP", "GIF", "ICNS"])
def test_other_formats_are_refused(form):
    """Some run programs, such as Ghostscript for EPS."""
    with pytest.raises(ValueError, match="is not a PNG, JPEG or WebP"):
        decode_images([to_file(Image.new("RGB", (16, 16)), form)])


def test_several_frames_are_refused():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for form in ("PNG", "WEBP"):
        with pytest.raises(ValueError, match="2 frames"):
            decode_images([to_file(frames[0], form, save_all=True, append_images=frames[1:])])


# The server


@contextmanager
def serving(app):
    config = uvicorn.Config(app, port=0, log_level="warning")
    bound = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1/chat/completions"
    finally:
        server.should_exit = True
        thread.join()


def test_a_slow_host_keeps_nobody_waiting(web, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_SECONDS", 60)
    (tmp_path / "star.png").write_bytes(STAR)
    model, processor = (kind.from_pretrained(demo_checkpoint()) for kind in (AutoModelForCausalLM, AutoProcessor))

    def ask(address: str, url: str) -> str:
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "what color is the star?"},
        ]
        body = {"model": "shapes", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["choices"][0]["message"]["content"]

    def ask_in_vain() -> None:
        with pytest.raises(HTTPError) as caught:
            ask(address, "http://images.example/slow")
        assert caught.value.code == 400

    model.model.visual_tokenizer.config.selection = "sample"
    with pytest.raises(ValueError, match="got 'sample'"):  # random numbers of a request would change others
        build_app(model, processor, "shapes")
    model.model.visual_tokenizer.config.selection = "topk"
    with serving(build_app(model, processor, "shapes", ["images.example"], tmp_path)) as address:
        with ThreadPoolExecutor(40) as pool:
            slow = [pool.submit(ask_in_vain) for _ in range(40)]
            while sum(path == "/slow" for _, path in Handler.asked) < len(slow):
                assert not any(each.done() for each in slow)
                time.sleep(0.05)
            data = f"data:image/png;base64,{base64.b64encode(STAR).decode()}"
            for url in (data, "http://images.example/star.png", f"file://{tmp_path}/star.png"):
                assert ask(address, url) == "orange"
            assert not any(each.done() for each in slow)
            Handler.is_over.set()
        assert [each.result() for each in slow] == [None] * len(slow)


def test_requests_are_limited_in_number_and_time(demo, monkeypatch):
    """A request whose body does not come keeps its place for a while only, and /health answers meanwhile."""
    monkeypatch.setattr(server, "MAX_REQUESTS", 1)
    monkeypatch.setattr(server, "MAX_BODY_SECONDS", 2)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    )
    with serving(build_app(demo[0], copy(demo[1]), "shapes")) as address:

        def ask() -> dict:
            request = urllib.request.Request(address, b"{}", {"Content-Type": "application/json"})
            with pytest.raises(HTTPError) as caught:
                urllib.request.urlopen(request, timeout=60)
            return {"status": caught.value.code} | json.load(caught.value)["error"]

        with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as slow:
            slow.sendall(head.encode())
            time.sleep(0.5)
            refused = ask()
            assert (refused["status"], refused["type"]) == (503, "server_error")
            assert refused["message"] == "The server takes 1 requests at a time."
            with urllib.request.urlopen(urljoin(address, "/health"), timeout=60) as response:
                assert response.status == 200
            slow.settimeout(60)
            answer = HTTPResponse(slow)  # which waits for the body, a packet of its own
            answer.begin()
            assert (answer.status, "must arrive within 2 seconds" in answer.read().decode()) == (400, True)
        assert ask()["status"] == 400
