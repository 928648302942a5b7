# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Mistakes on the command line: each is told in a few words, before a model is loaded, and nothing is written."""

import re
import socket
from pathlib import Path

import pytest
from PIL import Image

from lavit_hf.cli.loading import find_base
from lavit_hf.data.shapes import render_scene, sample_scene

from .tiny import tiny_lavit


MODEL = ("--model", "somebody/no-model")  # a mistake is told before this repository is looked for
# A right line of each command that would begin to work, and would fail since there is no such model.
COMMANDS = {
    "demo": (),
    "caption": ("image.png", *MODEL),
    "ask": ("image.png", "what is that?", *MODEL),
    "draw": ("a red star", *MODEL),
    "edit": ("image.png", "paint it blue", *MODEL),
    "reconstruct": ("image.png", *MODEL),
    "encode": ("image.png", *MODEL),
    "show": ("image.png", *MODEL),
    "chat": MODEL,
    "evaluate": ("somebody/no-model", "--dataset", "images", "--split", "train"),
    "precompute-codes": ("images", "codes", "--split", "train", *MODEL),
    "convert": ("somebody/no-model", "converted"),
    "export": ("exported", *MODEL),
}
# Each value is added to the line, except "missing", which takes the place of its first argument. Commands that do not
# have an option say so. Most paths are those of files that a test makes.
WRONG_VALUES = (
    *("--no-such-option", "--seed", "-z", "--help-me", "--model"),
    *(
        "--seed -1",
        "--seed x",
        "--seed 1.5",
        "--seed 99999999999",
        "--dtype int8",
        "--device nope",
        "--device cuda:99",
    ),
    *("--steps 0", "--steps -1", "--steps x", "--guidance-scale nan", "--guidance-scale inf", "--guidance-scale 0"),
    *(
        "--steps 1001",
        "--tasks captions,captions",
        "--tasks captions --guidance-scale 2",
        "--image-column image --image-column image",
    ),
    *("--guidance-scale -2", "--guidance-scale x", "--num-beams 0", "--num-beams 1.5", "--max-new-tokens 0"),
    *("--max-new-tokens -3", "--min-new-tokens -1", "--num-images 0", "--num-images -1", "--decoder nope"),
    *("--aspect-ratio 5:1", "--selection nope", "--batch-size 0", "--num-samples 0", "--tasks nope", "--column nope"),
    *(
        "--column nope=text",
        "--column caption=nope",
        "--split nope",
        "--dataset missing/folder",
        "--clip-model missing",
        "--data-dir missing",
    ),
    *("--fid-features missing", "--num-rows 0", "--rows-per-shard 0", "--num-workers -1", "--broken-images nope"),
    *("--num-codes 0", "--num-codes 1.5", "--max-codes -1", "--keep-scale -1", "--keep-scale nan", "--keep-scale inf"),
    *(
        "--num-codes 8 --keep-scale 0.5",
        "--image-column nope",
        "--num-attention-heads 0",
        "--without nope",
        "--tasks questions",
    ),
    *("--model missing", "--model text.txt", "--model a/b/c", "--model ..", "--model images"),
    *("--output text.txt", "--output /proc/nothing.png", "--overlay text.txt", "--overlay taken"),
    *("--samples-dir text.txt", "--image missing.png", "--image text.txt", "--image images"),
)
WRONG_OUTPUTS = {
    **dict.fromkeys(
        ("draw", "edit", "reconstruct"), ("image.png", "missing/image.png", "image.psd", "images", "image")
    ),
    **dict.fromkeys(("demo", "show"), ("taken",)),
    "evaluate": ("image.png", "missing/evaluation.json", "images", "/dev/full"),
}
WRONG_IMAGES = ("missing.png", "text.txt", "empty.png", "images", "truncated.png", "", "/dev/null")
WRONG_PROMPTS = ("", " ")
WRONG_FOLDERS = ("images", "text.txt", "text.txt/folder", "/proc/folder")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with an image and with files that are none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path.with_name("cache"))
    image = render_scene(sample_scene(6, "test"))
    for path in ("image.png", "images/0.png", "taken/image.png", "taken/merging.png"):
        Path(path).parent.mkdir(exist_ok=True)
        image.save(path)
    Path("text.txt").write_text("no image at all")
    Path("empty.png").touch()
    Image.effect_noise((200, 200), 90).save("truncated.png")
    Path("truncated.png").write_bytes(Path("truncated.png").read_bytes()[:5000])
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def wrong_lines(command: str) -> list[tuple[str, ...]]:
    right = COMMANDS[command]
    lines = [(*right, *words.split(" ")) for words in WRONG_VALUES]
    if right and right[0] == "image.png":
        lines += [(name, *right[1:]) for name in WRONG_IMAGES]
    if command in ("ask", "edit"):
        lines += [(right[0], text, *MODEL) for text in WRONG_PROMPTS]
    if command == "evaluate":
        lines += [(name, *right[1:]) for name in ("missing", "text.txt", "a/b/c")]
    if command in ("convert", "export", "precompute-codes"):
        place = command != "export"
        lines += [(*right[:place], name, *right[place + 1 :]) for name in WRONG_FOLDERS]
    if command == "precompute-codes":
        lines.append((right[0], "images/codes", *right[2:]))  # among the files that are read
    if command not in ("caption", "encode"):  # which take several images
        lines.append((*right, "surplus", "words"))
    if command not in ("chat", "demo", "evaluate"):
        lines += [(), right[1:]]
    return lines + [(*right, "--output", name) for name in WRONG_OUTPUTS.get(command, ())]


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_values(command, here, command_line):
    before = contents(here)
    lines = wrong_lines(command)
    assert len(lines) >= 40
    for line in lines:
        code, output, error = command_line(command, *line)
        assert code in (1, 2), (line, output, error)
        assert error.strip(), line
        assert "Traceback" not in error, (line, error)
        assert "somebody/no-model" not in error, (line, error)
        told = " ".join(error.replace("│", "").split())
        if option := re.search(r"Invalid value for '(--[\w-]+)'", told):
            assert line[line.index(option[1]) + 1] in told, line
        assert contents(here) == before, line


@pytest.mark.parametrize("command", ["draw", "edit", "reconstruct", "show", "chat"])
def test_missing_pixel_decoder(command, here, command_line):
    """A pixel decoder that a folder lacks is missed before the model, which may be large, is loaded."""
    Path("model").mkdir()
    tiny_lavit().config.save_pretrained("model")  # a model that cannot be loaded, since it has no weights
    line = (*(word for word in COMMANDS[command] if word not in MODEL), "--model", "model")
    needs = {"highres": "Drawing needs a pixel decoder", "lowres": "--decoder lowres needs a folder lowres_decoder"}
    if command == "chat":  # it does without the usual one
        del needs["highres"]
    for decoder, needed in needs.items():
        code, _, error = command_line(command, *line, "--decoder", decoder)
        assert code == 1
        assert f"{needed}, and model has none: save it there" in " ".join(error.split())


def test_a_port_that_is_taken_is_named_before_the_model_is_loaded(command_line):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, error = command_line("serve", *MODEL[1:], "--host", "127.0.0.1", "--port", port)
    assert code == 1
    assert f"--host 127.0.0.1 and --port {port} cannot be listened to: Address already in use" in " ".join(
        error.split()
    )


def test_an_adapter_that_does_not_name_its_base_model_is_no_crash(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    assert find_base(str(tmp_path)) == str(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    assert find_base(str(tmp_path)) == "somebody/model"
