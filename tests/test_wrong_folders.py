# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`from_pretrained` of each class on the folder of another kind of model: words, and no model of random weights."""

from pathlib import Path

import pytest
import torch
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

from .modeling.test_tokenizer import make_config
from .tiny import VISION, loosen, pictures, save_text_model, tiny_lavit


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A folder for each kind of model, by its name."""
    root = tmp_path_factory.mktemp("kinds")
    save_text_model(root / "llama")
    ViTModel(ViTConfig(**VISION)).save_pretrained(root / "vit")
    LavitVisualTokenizer(make_config()).save_pretrained(root / "visual tokenizer")
    loosen(LavitVisualTokenizerForPreTraining(make_config())).save_pretrained(root / "stage 1")
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
