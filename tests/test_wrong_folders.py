# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`from_pretrained` of each class on the folder of another kind of model: words, and no model of random weights."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitModel,
    LavitProcessor,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
    LavitVisualTokenizerForPreTraining,
)
from lavit_hf.processing import new_image_processor

from .modeling.test_tokenizer import make_config
from .tiny import IMAGE_SIZE, VISION, loosen, pictures, save_text_model, tiny_lavit


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A folder for each kind of model, by its name."""
    root = tmp_path_factory.mktemp("kinds")
    save_text_model(root / "llama")
    ViTModel(ViTConfig(**VISION)).save_pretrained(root / "vit")
    LavitVisualTokenizer(make_config()).save_pretrained(root / "visual tokenizer")
    loosen(LavitVisualTokenizerForPreTraining(make_config())).save_pretrained(root / "stage 1")
    for kind in ("visual tokenizer", "stage 1"):  # as the script of stage 1
        new_image_processor(image_size=IMAGE_SIZE).save_pretrained(root / kind)
    decoder_config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(make_config(), condition_dims=[8])
    LavitFeatureDecoder(decoder_config).save_pretrained(root / "feature decoder")
    tiny_lavit().save_pretrained(root / "lavit")
    (root / "empty").mkdir()
    return root


TOKENIZERS = ("visual tokenizer", "stage 1", "lavit")
# Folders that each class may be loaded from.
RIGHT = {
    LavitVisualTokenizer: TOKENIZERS,
    LavitVisualTokenizerConfig: TOKENIZERS,
    LavitVisualTokenizerForPreTraining: TOKENIZERS,
    LavitFeatureDecoder: ("feature decoder",),
    LavitFeatureDecoderConfig: ("feature decoder",),
    LavitModel: ("lavit",),
    LavitForCausalLM: ("lavit",),
    LavitConfig: ("lavit",),
}
KINDS = (*TOKENIZERS, "feature decoder", "llama", "vit")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loaded", RIGHT, ids=lambda loaded: loaded.__name__)
def test_another_kind_of_model_is_refused_by_its_type(folders, loaded, kind):
    if kind in RIGHT[loaded]:
        assert type(loaded.from_pretrained(folders / kind)) is loaded
    else:
        with pytest.raises(ValueError, match=r"describes models of type 'lavit\w*', got one of '\w+'"):
            loaded.from_pretrained(folders / kind)


COMMANDS = (
    "caption image.png",
    "ask image.png what?",
    "draw something --output out.png",
    "edit image.png instruction --output out.png",
    "reconstruct image.png --output out.png",
    "encode image.png",
    "show image.png --output out",
    "chat",
    "evaluate --tasks tokens",
    "export out",
    "precompute-codes shapes out --num-rows 2",
    "serve --port 0",
)


@pytest.mark.parametrize("kind", ["visual tokenizer", "stage 1", "feature decoder", "llama", "vit"])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_the_kind_of_model_that_they_cannot_use(
    folders, command, kind, command_line, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "red").save("image.png")
    name, model = command.split()[0], str(folders / kind)
    given = [model] if name in ("evaluate", "serve") else ["--model", model]
    code, out, error = command_line(*command.split(), *given)
    reads_codes = name in ("encode", "precompute-codes", "reconstruct") and kind in TOKENIZERS
    if reads_codes and name != "reconstruct":
        assert code == 0, error
    else:
        expected = "Drawing needs a pixel decoder" if reads_codes else "holds a"
        assert (code, error.count("Traceback")) == (1, 0)
        assert expected in error
        assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


@pytest.mark.parametrize("kind", ["llama", "lavit", "empty"])
@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (LavitImageDecoderPipeline, "There is no LavitImageDecoderPipeline in"),
        (LavitProcessor, "Can't load image processor for"),
    ],
    ids=["pipeline", "processor"],
)
def test_a_folder_without_the_parts(folders, loaded, message, kind):
    with pytest.raises((OSError, ValueError), match=message):
        loaded.from_pretrained(folders / kind)


@torch.no_grad()
def test_stage_1_goes_on_with_the_tokenizer_of_a_whole_model(folders):
    whole = LavitForCausalLM.from_pretrained(folders / "lavit")
    model = LavitVisualTokenizerForPreTraining.from_pretrained(folders / "lavit")
    expected = whole.model.visual_tokenizer(pictures(2)).codes
    assert torch.equal(model.visual_tokenizer(pictures(2)).codes, expected)


def test_an_entry_without_a_type_is_of_the_class():
    assert LavitVisualTokenizerConfig.from_dict({"vision_config": VISION | {"model_type": "vit"}}).hidden_size == 32
