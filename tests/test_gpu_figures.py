# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmark for a GPU runs whole at toy size on a CPU, so that it does not fail where a GPU is at hand."""

import json
import sys

import pytest

from .guides import ROOT


sys.path.append(str(ROOT / "benchmarks"))

import gpu  # noqa: E402
import write_numbers  # noqa: E402
from gpu_setup import TOY, Setup, Sizes  # noqa: E402


DIFFERENCE = "ms per step"  # the difference of two times, which is near 0 at toy size


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "gpu.json"
    gpu.write(path, gpu.describe("Toy sizes") | {"complete": []})
    return path


@pytest.mark.parametrize("name", gpu.PARTS)
def test_a_part_is_measured(name, path):
    gpu.run_part(name, Setup(TOY, "cpu"), path)
    content = json.loads(path.read_text())
    part = content["parts"][name]
    assert content["complete"] == [name]
    assert len({(figure["name"], figure["unit"]) for figure in part}) == len(part) > 0
    for figure in part:
        assert figure["value"] >= 0 or figure["unit"] == DIFFERENCE, figure
        assert (figure["ratio"] is None) == (figure["baseline"] is None), figure
    assert gpu.show(content).row_count == len(part)
    page = write_numbers.fill("<!-- figures: gpu -->\n<!-- end of figures -->", path.parent)
    assert page.count("\n| ") == 2 + len({figure["name"] for figure in part})


def test_the_release_is_the_default():
    """The sizes are those that the library's defaults and the authors' checkpoint have."""
    setup = Setup(Sizes(), "cpu")
    tokenizer = setup.tokenizer_config()
    assert (tokenizer.hidden_size, tokenizer.vision_config.num_hidden_layers, tokenizer.num_patches) == (1408, 40, 256)
    assert (tokenizer.num_merger_layers, tokenizer.codebook_size) == (12, 16384)
    assert sum(setup.sizes.conditions) == setup.sizes.unet["cross_attention_dim"] == 2048


def test_the_command_is_cut_and_goes_on(tmp_path, monkeypatch, capfd):
    output = tmp_path / "gpu.json"

    def run(*words: str) -> str:
        command = ["gpu.py", "--toy", "--device", "cpu", "--parts", "lora", "--output", str(output), *words]
        monkeypatch.setattr(sys, "argv", command)
        ended = ""
        try:
            gpu.main()
        except SystemExit as error:
            ended = error.code
        return f"{capfd.readouterr()} {ended}"

    cut = run("--minutes", "0.01")
    assert "goes on with it" in cut
    assert "Not complete: lora." in cut
    assert json.loads(output.read_text())["complete"] == []
    said = run()
    assert "LoRA" in said
    assert "Not complete" not in said
    assert json.loads(output.read_text())["complete"] == ["lora"]
    before = output.read_text()
    assert "LoRA" in run()
    assert output.read_text() == before
    # Figures of another machine or size are not mixed with these.
    content = json.loads(before)
    for changed in ({"setting": "Release sizes"}, {"machine": content["machine"] | {"cores": 1000}}):
        output.write_text(json.dumps(content | changed))
        assert "choose another file" in run()


def test_toy_figures_are_none_of_the_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--toy", "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--toy needs --output" in capsys.readouterr().err
