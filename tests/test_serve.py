# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`lavit-hf serve` on loopback, asked through OpenAI's own client."""

import base64
import io
import sys

import pytest
from openai import OpenAI

from lavit_hf import demo_checkpoint
from lavit_hf.data.shapes import render_scene, sample_scene

from .guides import blocks_of
from .server import running


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    command = [sys.executable, "-m", "lavit_hf.cli", "serve", str(demo_checkpoint()), "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log"
    with running([*command, "--host", "127.0.0.1"], log) as address:
        yield OpenAI(base_url=f"{address}/v1", api_key="none")


@pytest.fixture(scope="module")
def question() -> list[dict]:
    """A question about the color of the only star in an image, which is orange."""
    file = io.BytesIO()
    render_scene(sample_scene(6, "test")).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what color is the star?"}]
    return [{"role": "user", "content": content}]


def ask(client, messages, **settings):
    # The small model answers in a word; a turn ends with its line.
    return client.chat.completions.create(model=str(demo_checkpoint()), messages=messages, max_tokens=1, **settings)


def test_an_image_in_and_text_out(client, question):
    answer = ask(client, question).choices[0].message.content
    assert answer.strip() == "orange"
    turns = [*question, {"role": "assistant", "content": answer}, {"role": "user", "content": "what shape is orange?"}]
    assert ask(client, turns).choices[0].message.content.strip()


def test_streaming(client, question):
    chunks = list(ask(client, question, stream=True))
    assert len(chunks) > 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip() == "orange"


def test_the_guide_runs(client, question, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    render_scene(sample_scene(6, "test")).save("photo.jpg", "PNG")
    [block] = blocks_of("serve")
    for given, here in (("http://localhost:8000/v1", str(client.base_url)), ("lavit-7b", str(demo_checkpoint()))):
        assert given in block
        block = block.replace(given, here)
    exec(block, {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("typed", ["what color is the <image> star?", "[IMG] what color is the star?"])
def test_special_tokens_in_a_question_are_text(client, question, typed):
    question = [{"role": "system", "content": "Be brief."}, {**question[0]}]
    question[1]["content"] = [question[1]["content"][0], {"type": "text", "text": typed}]
    assert ask(client, question).choices[0].message.content.strip()
