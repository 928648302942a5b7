# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Other engines draw what `generate` draws: the lines of `serve-with-other-engines.md`."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoProcessor

from lavit_hf import demo_checkpoint

from .guides import blocks_of


PAGE = "serve-with-other-engines"
# One draws short images; the other has random weights, so that it also gives text, and another kind of tokenizer.
MODELS = ["demo", "release"]


def run_lines(heading: str) -> None:
    [lines] = blocks_of(PAGE, "bash", heading)
    result = subprocess.run([sys.executable, *lines.split()[1:]], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def needs(*modules: str):
    missing = [module for module in modules if not find_spec(module)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module", params=MODELS)
def exported(request, converted, tmp_path_factory) -> tuple[Path, dict]:
    """A folder with the exported model, and the names of the guide's first blocks."""
    folder = tmp_path_factory.mktemp(request.param)
    path = demo_checkpoint() if request.param == "demo" else converted
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("lavit_hf.demo_checkpoint", lambda: path)
        for block in blocks_of(PAGE)[:2]:
            exec(block, names)
    names["processor"] = AutoProcessor.from_pretrained(path)
    return folder, names


@pytest.fixture
def names(exported, monkeypatch) -> dict:
    folder, names = exported
    monkeypatch.chdir(folder)
    return dict(names)


def drawn(names: dict, guidance_scale: float = 1.0) -> list[int]:
    """The ids of the codes that `generate` draws."""
    inputs = names["processor"](text="a small blue star on the right", return_tensors="pt")
    settings = {"do_sample": False, "guidance_scale": guidance_scale}
    ids = names["model"].generate(**inputs, generation_mode="image", **settings)[0].tolist()
    assert ids[: len(names["prompt"])] == names["prompt"]
    return codes_of(ids, names)


def codes_of(ids: list[int], names: dict) -> list[int]:
    return [index for index in ids if index > names["image_end"]]


def test_the_prompt(names):
    config, tokens = names["model"].config, names["tokenizer"]
    assert names["prompt"][-1] == names["image_start"] == config.image_start_token_id
    assert names["image_end"] == config.image_end_token_id
    assert len(tokens) == config.image_token_id


@needs("convert_hf_to_gguf", "gguf", "xllamacpp")
def test_llama_cpp(names):
    script, client = blocks_of(PAGE, heading="llama.cpp")
    Path("to_gguf.py").write_text(script, encoding="utf-8")
    run_lines("llama.cpp")
    exec(client, names)
    assert codes_of(names["ids"], names) == drawn(names)


@needs("ctranslate2")
def test_ctranslate2(names):
    for block in blocks_of(PAGE, heading="CTranslate2"):
        exec(block, names)
    assert codes_of(names["ids"], names) == drawn(names)


@needs("onnx_ir", "onnxruntime_genai")
def test_onnxruntime_genai(names):
    plain, guided = blocks_of(PAGE, heading="ONNX Runtime GenAI")
    run_lines("ONNX Runtime GenAI")
    exec(plain, names)
    assert codes_of(names["ids"], names) == drawn(names)
    exec(guided, names)
    assert codes_of(names["ids"], names) == drawn(names, guidance_scale=2.0)
