# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command line, on the checkpoint of the goldens."""

import json
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image

from lavit_hf import ASPECT_RATIOS, demo_checkpoint
from lavit_hf.data.shapes import read_scene, render_scene, sample_scene
from lavit_hf.data.shapes.loading import make_row

from .parity import GOLDENS


@pytest.fixture
def run(command_line):
    """Runs a command; returns its output. With `fails` it must end with one line on stderr, which is returned."""

    def run(*args, fails: bool = False) -> str:
        code, output, error = command_line(*args)
        assert (code == 0) != fails, error
        if fails:
            assert "Traceback" not in error
        return error if fails else output

    return run


def unframed(error: str) -> str:
    """An error without its frame, in which it is wrapped."""
    return " ".join(error.replace("│", " ").split())


@pytest.fixture(scope="module")
def image() -> str:
    return str(GOLDENS / "image_0.png")


def test_convert(run, tmp_path):
    target = tmp_path / "lavit"
    output = run("convert", GOLDENS / "checkpoint", target, "--num-attention-heads", 4, "--dtype", "bfloat16")
    assert "is ready" in output
    config = json.loads((target / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    refusal = run("convert", GOLDENS / "checkpoint", target, "--num-attention-heads", 4, fails=True)
    assert str(target) in refusal


def test_convert_without_a_decoder(run, tmp_path):
    source, target = tmp_path / "source", tmp_path / "lavit"
    shutil.copytree(GOLDENS / "checkpoint", source)
    shutil.rmtree(source / "pixel_decoding")
    assert "pixel_decoding" in run("convert", source, target, "--num-attention-heads", 4, fails=True)
    assert not target.exists()
    run("convert", source, target, "--num-attention-heads", 4, "--without", "lowres")
    assert not (target / "lowres_decoder").exists()


def test_caption_and_ask(run, converted, image):
    other = str(GOLDENS / "image_1.png")
    lines = run("caption", image, other, "--model", converted, "--max-new-tokens", 12).splitlines()
    assert [line.split(": ")[0] for line in lines] == [image, other]
    assert all(len(line.split(": ")[1]) > 3 for line in lines)
    assert run("caption", image, "-m", converted, "--prompt", "a photo of").startswith(f"{image}: a photo of ")
    assert run("ask", image, "where is the dog", "-m", converted).strip()
    one_word = run("ask", image, "is it", "-m", converted, "--min-new-tokens", "1", "--max-new-tokens", "1")
    assert len(one_word.split()) <= 1


def test_draw(run, converted, image, tmp_path):
    target = tmp_path / "cat.png"
    common = ("-m", converted, "-o", target, "--overwrite", "--steps", 2)
    first = run("draw", "a red cat", *common, "--seed", 3)
    assert str(target) in first
    assert "tokens" in first
    pixels = Image.open(target).tobytes()
    run("draw", "a red cat", *common, "--seed", 3)
    assert Image.open(target).tobytes() == pixels
    run("draw", "a red cat", *common, "--seed", 4)
    assert Image.open(target).tobytes() != pixels
    run("draw", "in the snow", *common, "-i", image, "--decoder", "lowres", "--guidance-scale", 2, "--num-images", 2)
    assert (tmp_path / "cat-0.png").exists()
    assert (tmp_path / "cat-1.png").exists()


def test_edit(run, tmp_path):
    scene, target = tmp_path / "scene.png", tmp_path / "edited.png"
    row = make_row(1, "test")
    row["image"].save(scene)
    instruction = row["instruction"]
    common = ("-o", target, "--overwrite", "--steps", 4)
    assert str(target) in run("edit", scene, instruction, *common)
    edited = np.asarray(Image.open(target), dtype=np.float32)
    unchanged = np.abs(edited - np.asarray(Image.open(scene), dtype=np.float32)).max(-1) < 2
    assert 0.2 < unchanged.mean() < 1
    run("draw", instruction, "-i", scene, *common)  # has no such relation to the image before it
    drawn = np.asarray(Image.open(target), dtype=np.float32)
    assert (np.abs(drawn - np.asarray(Image.open(scene), dtype=np.float32)).max(-1) < 2).mean() < 0.2


def test_reconstruct(run, converted, image, tmp_path):
    output = run("reconstruct", image, "-m", converted, "-o", tmp_path / "again.png", "--steps", 2)
    assert "tokens" in output
    assert Image.open(tmp_path / "again.png").size == (64, 64)


def test_encode(run, converted, image, tmp_path):
    lines = run("encode", image, GOLDENS / "image_1.png", "-m", converted, "--selection", "argmax").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["image"] for row in rows] == [image, str(GOLDENS / "image_1.png")]
    expected = json.loads((GOLDENS / "goldens.json").read_text())["visual_ids_argmax"]
    assert len(rows[1]["codes"]) == rows[1]["num_codes"] == len(expected[1])
    assert run("encode", image, "-m", converted, "--overlay", tmp_path / "kept")
    assert Image.open(tmp_path / "kept" / "image_0.png").size == (448, 448)


def test_codes_do_not_depend_on_the_images_before(run, converted, image):
    other, common = GOLDENS / "image_1.png", ("-m", converted, "--selection", "sample", "--seed", 0)
    together = run("encode", image, other, *common)
    assert together == run("encode", image, *common) + run("encode", other, *common)
    assert together != run("encode", image, other, *common, "--seed", 1)


@pytest.mark.parametrize(
    ("options", "counts"), [("--num-codes 3", [3, 3]), ("--max-codes 2", [2, 2]), ("--keep-scale 1e6", [64, 64])]
)
def test_the_number_of_codes(run, converted, image, tmp_path, monkeypatch, options, counts):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    common = "-m", converted, *options.split()
    lines = run("encode", image, GOLDENS / "image_1.png", *common).splitlines()
    assert [json.loads(line)["num_codes"] for line in lines] == counts
    output = run("reconstruct", image, *common, "--steps", 1, "-o", tmp_path / "again.png")
    assert output.startswith(f"{counts[0]} tokens")
    output = run("precompute-codes", "shapes", tmp_path / "codes", "--num-rows", 2, "--num-workers", 0, *common)
    assert f" {sum(counts)} codes" in output


def test_a_number_of_codes_that_images_do_not_have(run, converted, image, tmp_path):
    output = tmp_path / "codes"
    for command in (
        ["encode", image],
        ["reconstruct", image, "-o", f"{output}.png"],
        ["precompute-codes", "shapes", output],
    ):
        error = run(*command, "-m", converted, "--num-codes", 65, fails=True)
        assert "num_codes must be 1 to the number of patches, 64, got 65" in error
    assert not any(tmp_path.iterdir())


def test_kept_patches_lie_over_an_upright_image(run, converted, tmp_path):
    upright = Image.open(GOLDENS / "image_0.png").convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # as a camera held sideways saves it
    upright.rotate(90, expand=True).save(tmp_path / "camera.png", exif=exif)
    upright.save(tmp_path / "plain.png")
    lines = run(
        "encode", tmp_path / "camera.png", tmp_path / "plain.png", "-m", converted, "--overlay", tmp_path / "o"
    )
    camera, plain = (json.loads(line)["codes"] for line in lines.splitlines())
    assert camera == plain
    assert Image.open(tmp_path / "o" / "camera.png").tobytes() == Image.open(tmp_path / "o" / "plain.png").tobytes()


def test_show(run, converted, image, tmp_path):
    output = run("show", image, "-m", converted, "-o", tmp_path / "shown", "--text", "the dog", "--steps", "1")
    names = ["kept_patches", "merging", "reconstruction", "attention"]
    assert [line.split(".png:")[0].rpartition("/")[2] for line in output.splitlines()] == names
    assert {path.stem for path in (tmp_path / "shown").glob("*.png")} == set(names)


def test_show_with_an_empty_caption(command_line, image, tmp_path):
    model, shown = tmp_path / "model", tmp_path / "shown"
    shutil.copytree(demo_checkpoint(), model)
    settings = json.loads((model / "generation_config.json").read_text())
    settings["caption_generation"] = {"max_new_tokens": 1, "forced_eos_token_id": settings["eos_token_id"]}
    (model / "generation_config.json").write_text(json.dumps(settings))
    code, _, error = command_line("show", image, "-m", model, "-o", shown, "--steps", 1)
    assert code == 0, error
    assert "The caption of the model is empty" in error
    assert {path.stem for path in shown.glob("*.png")} == {"kept_patches", "merging", "reconstruction"}


def test_demo(run, tmp_path):
    output = run("demo", "--output", tmp_path)
    assert "LaVIT demo" in output
    assert "[bold]" not in output
    lines = {line.split("  ")[1].strip(): line for line in output.splitlines() if line.startswith("  ")}
    assert "of 64" in lines["kept patches"]
    assert "star" in lines["caption"]
    assert "“what color is the star?” “orange”" in lines["answer"]
    for name in ("image", "kept_patches", "reconstruction", "drawing", "edited"):
        Image.open(tmp_path / f"{name}.png").load()
    drawing, edited = (
        sorted((item.color, item.shape) for item in read_scene(Image.open(tmp_path / f"{name}.png")))
        for name in ("drawing", "edited")
    )
    assert drawing == [("blue", "ring"), ("yellow", "star"), ("yellow", "star")]
    assert edited == [("blue", "star"), ("cyan", "triangle"), ("red", "square")]
    first = (tmp_path / "drawing.png").read_bytes()
    run("demo", "--output", tmp_path, "--overwrite")
    assert (tmp_path / "drawing.png").read_bytes() == first


def test_help_teaches(run):
    assert "lavit-hf convert" in run("--help")
    for command in ("convert", "caption", "ask", "draw", "reconstruct", "encode", "demo"):
        assert command in run("--help")
        assert "Usage" in run(command, "--help")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "cannot be read"),
        (None, "No such file"),
        ("truncated", "cannot be read"),
    ],
)
def test_files_that_are_no_images(run, converted, tmp_path, image, content, message):
    path = tmp_path / "bad.png"
    if content == "truncated":
        Image.effect_noise((200, 200), 90).save(path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content is not None:
        path.write_bytes(content)
    for command in (["caption", path], ["ask", path, "what"], ["reconstruct", path], ["encode", path]):
        error = run(*command, "-m", converted, fails=True)
        assert str(path) in error
        assert message in error


def test_mistakes_are_found_before_any_work(run, tmp_path, image):
    nowhere = ("-m", "somebody/no-model")
    assert "like an image file" in run("draw", "a cat", *nowhere, "-o", tmp_path / "cat.txt", fails=True)
    assert "does not exist" in run("draw", "a cat", *nowhere, "-o", tmp_path / "no" / "cat.png", fails=True)
    for ratio, message in {"5:1": "'5:1' is not one of", **dict.fromkeys(ASPECT_RATIOS, "does not exist")}.items():
        size = ("--aspect-ratio", ratio, "-o", tmp_path / "no" / "cat.png")
        assert message in unframed(run("draw", "a cat", *nowhere, *size, fails=True))
    assert "Invalid value" in run("caption", image, *nowhere, "--num-beams", 0, fails=True)
    for command in (
        ["caption", image],
        ["draw", "a cat"],
        ["precompute-codes", "shapes", tmp_path / "tokens"],
        ["chat"],
    ):
        assert "no-model" in run(*command, "-m", tmp_path / "no-model", fails=True)
    assert "no-model" in run("evaluate", tmp_path / "no-model", fails=True)


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
def test_a_device_that_is_not_there(run, tmp_path, image, device):
    commands = [
        ["caption", image],
        ["encode", image],
        ["draw", "a cat"],
        ["chat"],
        ["show", image],
        ["evaluate"],
    ]
    for command in [*commands, ["precompute-codes", "shapes", tmp_path / "tokens", "-m", demo_checkpoint()]]:
        assert f"--device must be one that is there, got {device}" in run(*command, "--device", device, fails=True)
    assert not (tmp_path / "tokens").exists()


def test_an_aspect_ratio_that_the_decoder_does_not_know(run, tmp_path, image):
    for command in (["draw", "a small blue star"], ["reconstruct", image]):
        error = run(*command, "--aspect-ratio", "1:1", "-o", tmp_path / "out.png", fails=True)
        assert (
            "--aspect-ratio goes with the highres decoder of the release, got 1:1 with one that draws 64 x 64" in error
        )
    assert not any(tmp_path.iterdir())


def test_one_word_of_the_small_model(run, tmp_path):
    """Its answers are single words, while the authors' evaluation asks for at least two tokens."""
    scene = sample_scene(6, "test")
    render_scene(scene).save(tmp_path / "scene.png")
    assert run("ask", tmp_path / "scene.png", "what color is the star?").strip() == "orange"


def test_a_file_in_the_place_of_a_folder(run, tmp_path, image):
    file = tmp_path / "file.png"
    file.touch()
    for command in (["demo", "-o"], ["chat", "-o"], ["show", image, "-o"], ["encode", image, "--overlay"]):
        assert "is a file" in unframed(run(*command, file, fails=True))
    assert "is a directory" in unframed(run("draw", "a cat", "-o", tmp_path, fails=True))
    assert file.stat().st_size == 0


def test_images_of_one_name(run, tmp_path, image):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(image, tmp_path / folder / "x.png")
    both = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    assert "2 are called x" in run("encode", *both, "--overlay", tmp_path / "kept", fails=True)
    assert not (tmp_path / "kept").exists()
    assert len(run("encode", *both).splitlines()) == 2


def test_values_that_no_command_takes(run, tmp_path):
    for seed in (-1, 10**20):
        assert "Invalid value" in run("evaluate", "--seed", seed, fails=True)
    assert "must say something" in run("edit", GOLDENS / "image_0.png", " ", fails=True)
    assert "there is no" in run("serve", tmp_path / "nothing", fails=True)
    assert "there is no ./nothing" in run("serve", "./nothing", fails=True)


def test_fewer_tokens_than_the_usual_least(run, image):
    assert run("caption", image, "--max-new-tokens", 3).removeprefix(f"{image}: ").strip()


def test_without_a_name_it_is_the_small_model(run, tmp_path):
    target = tmp_path / "drawing.png"
    run("draw", "a large red circle at the top left", "-o", target)
    assert "red circle" in run("caption", target)
