# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The Python of the guides runs, from top to bottom of each, on the model that ships in place of larger ones. That of
`publish.md` and `serve.md` needs a server: see `test_publishing.py` and `test_serve.py`. That of
`train-on-your-own-images.md` runs in `test_own_images.py`, that of `serve-with-other-engines.md` in `test_engines.py`,
the README's in `test_readme.py`, and command lines in `test_commands.py`.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from peft import get_peft_model
from PIL import Image
from transformers import (
    AutoImageProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lavit_hf import (
    LavitForCausalLM,
    LavitProcessor,
    LavitVisualTokenizer,
    LavitVisualTokenizerForPreTraining,
    demo_checkpoint,
)
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.data.shapes import load_shapes, render_scene, sample_scene
from lavit_hf.training import lora_config

from .guides import ROOT, blocks_of, pages_with
from .tiny import VISION, save_clip, save_text_model


OF_THEIR_OWN = {"README", "publish", "serve", "serve-with-other-engines", "train-on-your-own-images"}
# Numbers of images that show something in a guide, and those that are enough to run it.
FEWER = {
    "evaluation": ("num_samples=100, batch_size=50", "num_samples=8, batch_size=4"),
    "what-a-model-sees": ("for index in range(500)", "for index in range(20)"),
}
FOR_THE_GUIDES = os.environ.get("LAVIT_PICTURES")  # a folder, to which the images of a guide go


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """The model that ships, whose pixel decoder takes two steps in place of 25."""
    if FOR_THE_GUIDES:
        return demo_checkpoint()
    folder = tmp_path_factory.mktemp("quick")
    for path in demo_checkpoint().iterdir():
        (folder / path.name).symlink_to(path)
    index = folder / "model_index.json"
    settings = json.loads(index.read_text(encoding="utf-8")) | {"default_num_inference_steps": 2}
    index.unlink()
    index.write_text(json.dumps(settings), encoding="utf-8")
    return folder


# Files that the blocks of a guide take for given. They define all names themselves.


def prepare_use_the_release():
    render_scene(sample_scene(6, "test")).save("photo.jpg")


def prepare_finetune_with_lora():
    base = LavitForCausalLM.from_pretrained("lavit-7b")
    get_peft_model(base, lora_config(base)).save_pretrained("my-answers")
    LavitProcessor.from_pretrained("lavit-7b").save_pretrained("my-answers")
    render_scene(sample_scene(6, "test")).save("photo.jpg")


def prepare_pretrain():
    Path("my-lavit").symlink_to("lavit-7b")
    load_shapes("train", num_rows=4).save_to_disk("my-captions")


def prepare_precompute_codes():
    model = LavitVisualTokenizer.from_pretrained("lavit-7b"), AutoImageProcessor.from_pretrained("lavit-7b")
    precompute_codes(load_rows("shapes", "validation", num_rows=4), "codes", *model)


def prepare_train_the_image_decoder():
    Path("runs/shapes").mkdir(parents=True)
    for stage in ("visual_tokenizer", "image_decoder"):
        Path("runs/shapes", stage).symlink_to(demo_checkpoint())
    render_scene(sample_scene(6, "test")).save("photo.jpg")


def prepare_new_backbones():
    save_clip(Path("openai/clip-vit-base-patch16"))
    SiglipVisionModel(SiglipVisionConfig(**VISION)).save_pretrained("google/siglip2-base-patch16-224")
    vision = "google/siglip2-base-patch16-224"
    LavitVisualTokenizerForPreTraining.from_vision_tower(vision, codebook_size=8192).save_pretrained("my-tokenizer")
    for folder in (vision, "my-tokenizer"):
        SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    save_text_model(Path("HuggingFaceTB/SmolLM2-135M"))


@pytest.mark.parametrize("name", sorted(set(pages_with("python")) - OF_THEIR_OWN))
def test_a_guide_runs(name, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lavit_hf.demo_checkpoint", lambda: quick)
    Path("lavit-7b").symlink_to(quick)
    prepare = globals().get(f"prepare_{name.replace('-', '_')}", lambda: None)
    prepare()
    names: dict = {}
    code = "".join(blocks_of(name))
    if name in FEWER and not FOR_THE_GUIDES:
        assert FEWER[name][0] in code
        code = code.replace(*FEWER[name])
    exec(code, names)
    check = globals().get(f"check_{name.replace('-', '_')}", lambda names: None)
    check(names)


def check_generate(names):
    assert Image.open("circle.png").size == (64, 64)
    assert Image.open("star.png").size == (64, 64)
    assert names["answer"][0]["generated_text"].strip()


def check_use_the_release(names):
    assert all("orange star" in caption for caption in names["captions"])
    assert [drawing.size for drawing in names["drawings"]] == [(64, 64)] * 2
    assert names["loss"] > 0


def check_what_a_model_sees(names):
    pictures = list(Path().glob("*.png"))
    if FOR_THE_GUIDES:
        for picture in pictures:
            shutil.copy(picture, ROOT / FOR_THE_GUIDES)
    assert {picture.name for picture in pictures} == {path.name for path in (ROOT / "docs" / "sees").iterdir()}


def check_new_backbones(names):
    assert names["processor"].image_token_id == names["model"].config.image_token_id


def check_finetune_with_lora(names):
    assert LavitProcessor.from_pretrained("my-merged")
    assert Path("my-merged", "model.safetensors").exists()


def check_precompute_codes(names):
    assert load_rows("codes", "validation").num_rows == 4
    assert names["summary"].rows == 200
