# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`lavit-hf serve` on loopback, asked through OpenAI's own client and, where it would not send them, raw requests."""

import base64
import io
import json
import re
import socket
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError

import pytest
from fastapi.testclient import TestClient
from openai import BadRequestError, NotFoundError, OpenAI
from PIL import Image
from typer.testing import CliRunner

from lavit_hf import demo_checkpoint
from lavit_hf.cli import app
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.serving.server import MAX_REQUESTS, build_app

from .guides import blocks_of
from .server import running


MODEL = demo_checkpoint().name
REQUESTS = 48  # 200 take minutes


def to_url(image: Image.Image | bytes) -> str:
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        image = file.getvalue()
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def to_question(text: str, *urls: str) -> list[dict]:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def to_scene(seed: int) -> str:
    return to_url(render_scene(sample_scene(seed, "test")))


STAR = to_scene(6)  # the color of its only star is orange
QUESTION = to_question("what color is the star?", STAR)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("serve") / "log"


@pytest.fixture(scope="module")
def client(log):
    command = [sys.executable, "-m", "lavit_hf.cli", "serve", str(demo_checkpoint()), "--device", "cpu"]
    with running([*command, "--host", "127.0.0.1"], log) as address:
        yield OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def ask(client, messages=QUESTION, **settings) -> str:
    """Returns the answer, of one token unless said otherwise: the small model answers in a word."""
    answer = client.chat.completions.create(model=MODEL, messages=messages, **{"max_tokens": 1} | settings)
    if not settings.get("stream"):
        return answer.choices[0].message.content
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


def post(client, body: bytes, **headers) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(f"{client.base_url}chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_an_image_in_and_text_out(client):
    answer = ask(client)
    assert answer == "orange"
    turns = [*QUESTION, {"role": "assistant", "content": answer}, {"role": "user", "content": "what shape is orange?"}]
    assert ask(client, turns)
    assert client.models.list().data == [client.models.retrieve(MODEL)]
    with pytest.raises(NotFoundError, match=f"has the model {MODEL}, not gpt-4"):
        client.models.retrieve("gpt-4")


def test_fields_that_ask_for_nothing_are_taken(client):
    """Programs that wrap the client send all fields, and whole messages of former answers."""
    neutral = {
        "function_call": "none",
        "functions": [],
        "logit_bias": {},
        "metadata": {},
        "modalities": ["text"],
        "parallel_tool_calls": False,
        "response_format": {"type": "text"},
        "service_tier": "auto",
        "store": False,
        "tools": [],
        "tool_choice": "none",
        "prompt_cache_key": "a key",
        "safety_identifier": "someone",
        "top_logprobs": 0,
        "user": "someone",
    }
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1, **neutral)
    assert answer.choices[0].message.content == "orange"
    turns = [*QUESTION, answer.choices[0].message.model_dump() | {"annotations": [], "tool_calls": []}]
    turns += [*QUESTION, answer.choices[0].message, {"role": "user", "content": "what shape is orange?"}]
    assert ask(client, turns)


def test_an_answer_ends_with_its_line(client):
    """The number of tokens is that of the context, and the answer has neither the end of its line nor what follows."""
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION)
    [choice] = whole.choices
    assert (choice.message.content, choice.finish_reason) == ("orange", "stop")
    assert whole.usage.prompt_tokens > 10  # codes of images included
    cut = client.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=1)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 1)


def test_an_answer_that_ends_with_its_last_token_is_complete(client):
    request = {"model": MODEL, "messages": to_question("", STAR)}
    whole = client.chat.completions.create(**request)
    assert whole.choices[0].finish_reason == "stop"
    exact = client.chat.completions.create(**request, max_tokens=whole.usage.completion_tokens)
    assert (exact.choices[0].finish_reason, exact.choices[0].message) == ("stop", whole.choices[0].message)


@pytest.mark.parametrize("temperature", [0, 1e-45, 1e-38])
def test_a_small_temperature_leaves_the_likeliest_token(client, temperature):
    assert ask(client, temperature=temperature) == "orange"


def test_streaming(client):
    settings = {"messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model=MODEL, **settings))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "orange"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 0


def test_the_guide_runs(client, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    render_scene(sample_scene(6, "test")).save("photo.jpg", "PNG")
    [block] = blocks_of("serve")
    for given, here in (("http://localhost:8000/v1", str(client.base_url)), ("lavit-7b", MODEL)):
        assert given in block
        block = block.replace(given, here)
    exec(block, {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("typed", ["what color is the <image> star?", "[IMG] what color is the star?"])
def test_special_tokens_in_a_question_are_text(client, typed):
    system = {"role": "system", "content": "Be brief."}
    assert ask(client, [system, *to_question(typed, STAR)])


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client, stream):
    """The answer ends before the first of them, also where a stop string is longer than a piece of the answer."""
    for stop, answer in (("ran", "o"), (["nge", "ge"], "ora"), ("oranges", "orange"), (["a " * 50], "orange")):
        assert ask(client, stop=stop, stream=stream, max_tokens=20) == answer
    caption = ask(client, to_question(" ", STAR), max_tokens=40)
    words = " ".join(caption.split(" ")[1:3])
    assert ask(client, to_question(" ", STAR), max_tokens=40, stop=words, stream=stream) == caption.split(words)[0]


def test_sampling(client):
    """A seed gives the same answer again, no seed another one, and temperature 0 the most likely one."""
    captions = [ask(client, to_question(" ", STAR), max_tokens=20, temperature=2, seed=seed) for seed in (1, 2, 1)]
    assert captions[0] == captions[2] != captions[1]
    free = {ask(client, to_question(" ", STAR), max_tokens=20, temperature=2) for _ in range(3)}
    assert len(free) > 1
    assert ask(client, temperature=0, top_p=0.5) == "orange"


MISTAKES = {
    "no image": ({"messages": to_question("x", to_url(b"no image"))}, "8 bytes, is not a PNG"),
    "a cut image": ({"messages": to_question("x", to_url(base64.b64decode(STAR.split(",")[1])[:300]))}, "cannot be"),
    "no comma": ({"messages": to_question("x", "data:image/png")}, "comma"),
    "a path": ({"messages": to_question("x", "/etc/hostname")}, "reads no paths, send the image itself"),
    "dots": ({"messages": to_question("x", "../../a.png")}, "reads no paths"),
    "file": ({"messages": to_question("x", "file:///etc/hostname")}, "reads no file: URLs"),
    "ftp": ({"messages": to_question("x", "ftp://example.com/a.png")}, "reads no ftp: URLs"),
    "hub": ({"messages": to_question("x", "hf://datasets/a/b.png")}, "reads no hf: URLs"),
    "loopback": ({"messages": to_question("x", "http://127.0.0.1/a.png")}, "reads no http: URLs"),
    "any host": ({"messages": to_question("x", "https://example.com/a.png")}, "reads no https: URLs"),
    "an empty URL": ({"messages": to_question("x", "")}, "reads no paths"),
    "an image of the system": ({"messages": [to_question("x", STAR)[0] | {"role": "system"}]}, "not of system"),
    "system alone": ({"messages": [{"role": "system", "content": "x"}]}, "must precede"),
    "no message": ({"messages": []}, "messages"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: Field required"),
    "a role": ({"messages": [{"role": "tool", "content": "x"}]}, "'user'"),
    "a video": (
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]},
        "vid",
    ),
    "too long": ({"messages": to_question("what color? " * 400, STAR)}, "context of the model holds 512"),
    "much too long": ({"messages": to_question("x" * 10**6, STAR)}, "characters"),
    "too many images": ({"messages": to_question("x", *[STAR] * 60)}, "context of the model holds 512"),
    "far too many images": ({"messages": to_question("x", *[STAR] * 60) * 2}, "have 100 images together, got 120"),
    "an empty message": ({"messages": [{"role": "user", "content": []}]}, "neither text nor images"),
    "blank messages": ({"messages": [{"role": "system", "content": ""}, *to_question(" ")]}, "neither text nor"),
    "no new tokens": ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
    "fewer": ({"max_completion_tokens": -1}, "max_completion_tokens"),
    "more than there is room": ({"max_tokens": 500}, "holds 512 tokens, but the messages have"),
    "a number as text": ({"max_tokens": "ten"}, "max_tokens"),
    "an empty stop string": ({"stop": ""}, "stop"),
    "too many stop strings": ({"stop": ["a"] * 5}, "stop: List should have at most 4 items"),
    "temperature": ({"temperature": -1}, "temperature"),
    "top_p": ({"top_p": 2}, "top_p"),
    "seed": ({"seed": 2**70}, "seed"),
    "several answers": ({"n": 2}, "n: Input should be 1, got 2"),
    "tools": (
        {"tools": [{"type": "function", "function": {"name": "x"}}]},
        "tools: The server has nothing of this",
    ),
    "no base64": (
        {"messages": to_question("x", "data:image/png;base64,@@@")},
        "Image 0 cannot be read: data:",
    ),
    "another field": ({"extra_body": {"top_k": 5}}, "top_k: The server does not know this field"),
    "a form": ({"response_format": {"type": "json_object"}}, "response_format.type: Input should be 'text'"),
    "a bias": ({"logit_bias": {"3": 1}}, "logit_bias"),
    "an answer at the end": (
        {"messages": [*QUESTION, {"role": "assistant", "content": "ora"}]},
        "messages: The last message must ask for an answer, got one of the assistant",
    ),
    "a blank message after an answer": (
        {"messages": [*QUESTION, {"role": "assistant", "content": "ora"}, *to_question(" ")]},
        "messages: The last message must ask for an answer, got one with neither text nor images",
    ),
    "a blank answer at the end": (
        {"messages": [*QUESTION, {"role": "assistant", "content": ""}]},
        "messages: The last message must ask for an answer, got one of the assistant",
    ),
    "an answer of no parts at the end": (
        {"messages": [*QUESTION, {"role": "assistant", "content": []}]},
        "messages: The last message must ask for an answer, got one of the assistant",
    ),
    "another model": ({"model": "gpt-4"}, "has the model"),
    "settings of transformers": ({"extra_body": {"generation_config": '{"num_beams": 1000}'}}, "generation_config"),
    "a template": ({"extra_body": {"chat_template_kwargs": {"chat_template": "x"}}}, "chat_template_kwargs"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told(client, mistake, stream):
    """A stream does not begin before the request is known to be right."""
    settings, words = MISTAKES[mistake]
    with pytest.raises(BadRequestError, match=re.escape(words)) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "stream": stream} | settings)
    assert caught.value.body["type"] == "invalid_request_error"
    assert str(demo_checkpoint().parent) not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (json.dumps({"x" * 10**5: 1}).encode(), "xxx"),
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[" * 10**6, "JSON"),
        (b"[]", "object"),
        (b'{"model": "shapes", "messages": [{"role": "user", "content": "\\ud800"}]}', "JSON"),
        (b'{"model": "shapes", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', "temperature"),
        (json.dumps({"model": MODEL, "messages": to_question("x") * 10**5}).encode(), "at most 500"),
        (b" " * (17 * 2**20), "16 MiB"),
    ],
    ids=["names", "empty", "cut", "deep", "list", "surrogate", "nan", "messages", "large"],
)
def test_requests_that_no_client_sends_are_told(client, body, words):
    status, answer = post(client, body)
    assert (status, words in answer) == (400, True), answer[:1000]
    assert len(answer) < 1000


@pytest.mark.parametrize(("kind", "size"), [("text/plain", 2), ("application/json", 32)], ids=["a type", "a size"])
def test_a_refusal_reaches_a_client_that_is_still_sending(client, kind, size):
    """A server that closes a connection before the request has ended resets it, and the answer is lost."""
    rest = size * 2**20
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Connection: close", f"Content-Type: {kind}"]
    head += [f"Content-Length: {2 * rest}", "", ""]
    with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=60) as connection:
        connection.sendall("\r\n".join(head).encode() + b" " * rest)
        time.sleep(0.5)
        connection.sendall(b" " * rest)
        answer = HTTPResponse(connection)
        answer.begin()
        assert (answer.status, "error" in json.load(answer)) == (400, True)


def test_a_page_of_another_site_cannot_ask(client):
    """A browser sends this type without asking the server whether the page may."""
    body = json.dumps({"model": MODEL, "messages": QUESTION}).encode()
    status, answer = post(client, body, **{"Content-Type": "text/plain"})
    assert (status, "Content-Type must be" in answer) == (400, True)


def test_there_is_no_other_door(client):
    """Neither another kind of content, nor the pages of an API that would load scripts of others."""
    root = str(client.base_url).removesuffix("v1/")
    for path in ("v1/responses", "v1/completions", "load_model", "reset", "docs", "openapi.json"):
        with pytest.raises(HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(root + path, b"{}" if "o" in path[:3] else None))
        assert caught.value.code in (404, 405)
        assert "has POST /v1/chat/completions" in json.load(caught.value)["error"]["message"]
    with urllib.request.urlopen(f"{root}health") as response:
        assert json.load(response) == {"status": "ok"}


def test_a_client_that_leaves_stops_nobody(client):
    for _ in range(3):
        stream = client.chat.completions.create(model=MODEL, messages=to_question(" ", STAR), stream=True)
        next(iter(stream))
        stream.close()
    body = json.dumps({"model": MODEL, "messages": QUESTION, "stream": True}).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body)}", "", ""]
    sockets = [socket.create_connection(("127.0.0.1", client.base_url.port)) for _ in range(4)]
    for each in sockets:
        each.sendall("\r\n".join(head).encode() + body)  # and never reads
    assert ask(client) == "orange"
    for each in sockets:
        each.close()


def read_memory(log: Path) -> tuple[int, int]:
    """Returns the megabytes and the threads of the server."""
    process = re.search(r"server process \[(\d+)\]", log.read_text())[1]
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) // 1024, int(status["Threads"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_mixed_requests_of_many_threads_leave_the_server_as_it_was(client, log):
    kinds = [
        {"messages": to_question(text, to_scene(i))} for i in range(3) for text in ("what color is the star?", " ")
    ]
    kinds += [{"stop": ["r"], "max_tokens": 9}, {"temperature": 2.0, "seed": 7, "max_tokens": 9}]
    kinds += [{"messages": to_question("hello"), "max_tokens": 4}, {"messages": to_question("x", STAR, to_scene(1))}]
    kinds += [MISTAKES[name][0] for name in ("no image", "a path", "too long", "no new tokens")]

    def answer(index: int) -> str:
        settings = {"max_tokens": 20} | kinds[index % len(kinds)] | {"stream": index % 3 == 0}
        try:
            return ask(client, **settings)
        except BadRequestError as error:
            return str(error)

    alone = [answer(index) for index in range(len(kinds))]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(answer, range(REQUESTS // 2)))  # threads and buffers that stay
        megabytes, threads = read_memory(log)
        together = list(pool.map(answer, range(REQUESTS)))
    assert together == [alone[index % len(kinds)] for index in range(REQUESTS)]
    later = read_memory(log)
    assert later[0] < megabytes + 100
    assert later[1] <= threads + 16
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("stream", [False, True])
def test_settings_that_are_saved_with_a_model_do_not_stop_a_stream(demo, monkeypatch, stream):
    monkeypatch.setattr(demo[0].generation_config, "num_beams", 2)
    monkeypatch.setattr(demo[0].generation_config, "num_return_sequences", 2)
    client = TestClient(build_app(demo[0], copy(demo[1]), MODEL))
    answer = client.post("/v1/chat/completions", json={"model": MODEL, "messages": QUESTION, "stream": stream})
    assert (answer.status_code, "orange" in answer.text) == (200, True)


def test_silent_connections_close_the_server_to_nobody(client):
    silent = [socket.create_connection(("127.0.0.1", client.base_url.port)) for _ in range(MAX_REQUESTS)]
    assert ask(client) == "orange"
    for each in silent:
        each.close()


def test_a_fault_of_the_server_is_none_of_the_client(demo, monkeypatch):
    """An error of the model is not told as a mistake in the request, and is also told where a stream has begun."""

    def fail(**kwargs):
        raise ValueError("a secret of the server")

    monkeypatch.setattr(demo[0], "generate", fail)
    client = TestClient(build_app(demo[0], copy(demo[1]), MODEL), raise_server_exceptions=False)
    answer = client.post("/v1/chat/completions", json={"model": MODEL, "messages": QUESTION})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
    stream = client.post("/v1/chat/completions", json={"model": MODEL, "messages": QUESTION, "stream": True})
    *_, last = stream.text.removesuffix("\n\n").split("\n\n")
    assert json.loads(last.removeprefix("data: ")) == answer.json()
    assert client.post("/v1/chat/completions", json={"model": MODEL, "messages": []}).status_code == 400


def test_the_command_tells_mistakes_before_it_loads(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["lavit_hf.cli.serve"], "load_model", lambda *_: pytest.fail("was loaded"))

    def run(*arguments):
        return CliRunner().invoke(app, ["serve", *map(str, arguments)])

    assert "must be a host" in str(run("--allow-host", "https://example.com").exception)
    assert run("--allow-folder", tmp_path / "nothing").exit_code == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run("--port", taken.getsockname()[1], "--host", "127.0.0.1").exit_code != 0
