# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The guide to training on one's own images, from a folder of images of several modes without a validation split to one
folder that reads and draws: its own commands, with fewer steps, on a machine without a GPU and without the Hub.
"""

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from lavit_hf import LavitForCausalLM
from lavit_hf.data.shapes import load_shapes

from .guides import ROOT, blocks_of
from .hub_server import HubServer
from .server import running
from .test_commands import abridged, commands_of
from .tiny import save_clip


PAGE = "train-on-your-own-images"
NUM_IMAGES = 40
TRAINED = ("my-tower", "my-tokenizer", "my-language-model", "my-vae", "my-decoder")
# Sizes of the page, and those that are enough to run it.
SMALLER = {'"codebook_size": 1024': '"codebook_size": 64', '"codebook_size": 8192': '"codebook_size": 16'}
# A healthy run prints none of these words.
ALARMS = ("Traceback", "[transformers]", "LOAD REPORT", "MISSING", "UNEXPECTED", "newly initialized", "pin_memory")
# One process for all commands, since a start takes longer than they do.
RUN = """
import json, runpy, sys
from lavit_hf import cli

for command in json.load(open("commands.json")):
    print("$", *command, flush=True)
    sys.argv = command[command[0] == "python" :]
    if command[0] == "python":
        runpy.run_path(sys.argv[0], run_name="__main__")
        continue
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, ended.code
"""


def save_images(folder: Path) -> None:
    """RGBA images, palettes and palettes with transparency, of several sizes."""
    folder.mkdir()
    lines = ["file_name,caption"]
    for index, row in enumerate(load_shapes("train", num_rows=NUM_IMAGES)):
        image = row["image"].resize((40 + index % 3 * 8, 48)).convert("RGBA")
        image.putalpha(255 - index % 2 * 100)
        image = image if index % 4 < 2 else image.convert("P")
        name = f"{index:02d}.png" if index else "cat.png"
        image.save(folder / name)
        lines.append(f'{name},"{row["caption"]}"')
    (folder / "metadata.csv").write_text("\n".join(lines))


def commands() -> list[list[str]]:
    result = []
    for command in commands_of(PAGE):
        for size, smaller in SMALLER.items():
            command = command.replace(size, smaller)
        words = abridged(command)
        if "--max_steps" in words:
            words += ["--max_steps", "2"]
        if "--load_best_model_at_end" in words:
            words += ["--eval_steps", "1", "--save_steps", "1"]
        if "train_image_decoder.py" in command:
            words += ["--num_inference_steps", "2"]
        if "train_visual_tokenizer.py" in command:
            words += "--freeze_selector_from 1 --quantize_from 1 --codebook_start_vectors 1".split()
        result.append(words)
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder in which all commands of the page have run, with what they have printed in `log`."""
    home = tmp_path_factory.mktemp("own_images")
    (home / "examples").symlink_to(ROOT / "examples")
    save_images(home / "images")
    save_clip(home / "openai" / "clip-vit-base-patch16")
    (home / "commands.json").write_text(json.dumps(commands()))
    paths = os.pathsep.join([str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(home / "cache")}
    with open(home / "log", "w") as log:
        done = subprocess.run([sys.executable, "-c", RUN], cwd=home, env=environment, stdout=log, stderr=log)
    assert done.returncode == 0, (home / "log").read_text()[-6000:]
    return home


def test_the_road_to_one_folder(home):
    # Two checkpoints in one second, which a real run does not write, have no order in time.
    log = (home / "log").read_text().replace("[transformers] mtime may not be reliable", "")
    assert [alarm for alarm in ALARMS if alarm in log] == []
    for name in TRAINED:
        card = (home / name / "README.md").read_text()
        rows = (("dataset", "images"), ("split", "train[:95%]"), ("rows", 8), ("steps", 2))
        assert [(key, value) for key, value in rows if f"| {key} | {value} |" not in card] == [], name
        assert "| time of the last run | 0:0" in card, name
        assert "| eval " in card, name
    for name in ("my-tokenizer", "my-vae", "my-decoder"):
        assert (home / name / "samples" / "step-0000002.png").is_file()
    card = ModelCard.load(home / "my-lavit" / "README.md")
    assert "Training of the pixel decoder" in card.text
    assert "| split | train[95%:] |" in card.text
    assert (home / "my-lavit" / "samples" / "captions.png").is_file()
    assert json.loads((home / "my-evaluation.json").read_text())["results"].keys() >= {"captions", "reconstruction"}
    assert Image.open(home / "drawing.png").size == (64, 64)
    # Several drawings of a prompt differ.
    assert LavitForCausalLM.from_pretrained(home / "my-lavit").generation_config.image_generation.do_sample is True


def test_the_folder_is_published(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    with HubServer(storage=tmp_path) as hub:
        hub.use(monkeypatch)
        for block in blocks_of(PAGE):
            exec(block, {})
        assert LavitForCausalLM.from_pretrained(hub.repositories["me/my-lavit"])
        assert {"model_index.json", "README.md", "unet"} <= {
            path.name for path in hub.repositories["me/my-lavit"].iterdir()
        }


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page needs gradio")
def test_the_page_opens_the_folder(home):
    [command] = [line for line in "\n".join(blocks_of(PAGE, "bash")).splitlines() if "space/app.py" in line]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(home / "files")}
    program = [sys.executable, *command.split()[1:]]
    with running(program, home / "page_log", env=environment, cwd=home) as address:
        assert urllib.request.urlopen(address).status == 200
