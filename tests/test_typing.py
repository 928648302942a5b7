# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The library passes mypy, by what `pyproject.toml` asks of it, and so does what its users write, strictly: the Python of
README and guides, and what one does with a model and a pipeline of any other library.
"""

import subprocess
import sys

import pytest

import lavit_hf

from .guides import ROOT, blocks_of, pages_with


# Names that a block takes for given, and arguments that libraries document and their annotations do not admit.
LET_PASS = ("name-defined", "list-item", "call-overload", "assignment")
USUAL = """
from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline, LavitProcessor, LavitVisualTokenizer
model = LavitForCausalLM.from_pretrained("lavit").to("cuda").eval()
model.push_to_hub("me/lavit", private=True)
print(model.config.codebook_size, LavitVisualTokenizer.from_pretrained("lavit").config.selection)
processor = LavitProcessor.from_pretrained("lavit")
print(processor.tokenizer("text"), processor.image_token_id)
pipe = LavitImageDecoderPipeline.from_pretrained("lavit").to("cuda")
pipe.set_progress_bar_config(disable=True)
pipe.enable_model_cpu_offload()
pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
pipe.vae.enable_tiling()
print(pipe.unet.config.sample_size, pipe.config.visual_token_offset, pipe.components)
pipe.save_pretrained("lavit")
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[str]:
    """The messages of mypy about the library, the blocks (one module per guide), and all public names."""
    folder = tmp_path_factory.mktemp("guides")
    modules = {name: blocks_of(name) for name in pages_with("python") if name != "serve"}  # about another's client
    modules["usual"] = [USUAL]
    modules["public_names"] = ["import lavit_hf", *(f"reveal_type(lavit_hf.{name})" for name in lavit_hf.__all__)]
    for name, blocks in modules.items():
        (folder / f"{name.replace('-', '_')}.py").write_text("\n".join(blocks), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "src/lavit_hf", *map(str, folder.glob("*.py"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.splitlines()


def test_the_library_type_checks(said):
    assert [line for line in said if ": error:" in line and line.startswith("src/")] == []


def test_the_guides_type_check(said):
    errors = [line for line in said if ": error:" in line and not line.startswith("src/")]
    assert [line for line in errors if not line.endswith(tuple(f"[{code}]" for code in LET_PASS))] == []


def test_every_public_name_has_a_type(said):
    types = [line.split("Revealed type is ")[1].strip('"') for line in said if "Revealed type is" in line]
    assert len(types) == len(lavit_hf.__all__)
    assert "Any" not in types
