# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The front doors of transformers: a folder is enough, and each part can be had alone."""

import subprocess
import sys

import pytest
import torch
import transformers
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from transformers import AutoTokenizer
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

import lavit_hf
from lavit_hf import (
    LavitConfig,
    LavitForCausalLM,
    LavitImageProcessor,
    LavitImageProcessorPil,
    LavitModel,
    LavitProcessor,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
)

from .parity import Goldens


@pytest.mark.parametrize(
    ("auto_class", "expected"),
    [
        ("AutoConfig", LavitConfig),
        ("AutoModel", LavitModel),
        ("AutoModelForCausalLM", LavitForCausalLM),
        ("AutoModelForImageTextToText", LavitForCausalLM),
        ("AutoModelForMultimodalLM", LavitForCausalLM),
        ("AutoProcessor", LavitProcessor),
        ("AutoImageProcessor", LavitImageProcessor),
    ],
)
def test_auto_classes_know_lavit(converted, auto_class, expected):
    assert type(getattr(transformers, auto_class).from_pretrained(converted)) is expected


def test_both_image_processors(converted):
    loaded = transformers.AutoImageProcessor.from_pretrained(converted, backend="pil")
    assert type(loaded) is LavitImageProcessorPil
    assert loaded.size.height == 112


@torch.no_grad()
def test_a_model_without_head(converted):
    model = transformers.AutoModel.from_pretrained(converted)
    whole = LavitForCausalLM.from_pretrained(converted)
    ids = torch.tensor([[384, 352, 381, 32000, 40000]])
    torch.testing.assert_close(whole.lm_head(model(ids).last_hidden_state), whole(ids).logits)


@torch.no_grad()
def test_a_visual_tokenizer_alone(converted, tmp_path):
    whole = LavitForCausalLM.from_pretrained(converted).model.visual_tokenizer
    pixel_values = Goldens().tensors["pixel_values"]
    part = LavitVisualTokenizer.from_pretrained(converted)
    assert isinstance(part.config, LavitVisualTokenizerConfig)
    assert torch.equal(part(pixel_values).codes, whole(pixel_values).codes)
    part.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    assert torch.equal(again(pixel_values).codes, whole(pixel_values).codes)


def test_loading_says_nothing_of_missing_weights(converted):
    for model_class in (LavitForCausalLM, LavitModel, LavitVisualTokenizer):
        _, info = model_class.from_pretrained(converted, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]


def test_a_text_tokenizer_alone(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert len(tokenizer) == 32000 + 2 + 16384 + 1
    assert tokenizer.decode([32000, 32002, 32007, 32001], skip_special_tokens=False) == "[IMG]<code_0><code_5>[/IMG]"
    assert tokenizer("<code_5>", add_special_tokens=False).input_ids == [32007]


@torch.no_grad()
def test_bfloat16_goes_the_whole_way(converted):
    goldens = Goldens()
    processor = LavitProcessor.from_pretrained(converted)
    model = LavitForCausalLM.from_pretrained(converted, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.model.visual_tokenizer.quantizer.codebook.dtype == torch.float32
    inputs = processor(text=["<image>"] * 4, images=goldens.images, return_tensors="pt")
    text = model.generate(**inputs, max_new_tokens=5, return_full_text=False)
    assert text.shape == (4, 5)
    assert (text < 32000).all()
    inputs = processor(text=goldens.facts["t2i_prompts"], generation_mode="image", return_tensors="pt")
    settings = {"guidance_scale": 3.0, "do_sample": False, "min_new_tokens": 9, "max_new_tokens": 25}
    ids = model.generate(**inputs, generation_mode="image", **settings)
    codes = [processor.decode_interleaved(row)[-1].codes for row in ids]
    assert [len(row) for row in codes] == [24, 24, 24]
    for subfolder in (None, "lowres_decoder"):
        pipeline = lavit_hf.LavitImageDecoderPipeline.from_pretrained(
            converted, subfolder=subfolder, dtype=torch.bfloat16
        )
        images = pipeline(codes, num_inference_steps=2, output_type="pt").images
        assert images.shape == (3, 3, 64, 64)
        assert images.isfinite().all()


@pytest.mark.parametrize("model_class", [LavitForCausalLM, LavitVisualTokenizer])
def test_the_dtype_that_is_asked_for_holds_everywhere(model_class):
    """Also in the vision tower, whose configuration was saved with another."""
    model = model_class.from_pretrained(lavit_hf.demo_checkpoint(), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_features_in_bfloat16_are_near(converted):
    pixel_values = Goldens().tensors["pixel_values"]
    keep_mask = Goldens().keep_mask("argmax")
    exact = LavitVisualTokenizer.from_pretrained(converted, dtype=torch.float32)(pixel_values, keep_mask=keep_mask)
    rounded = LavitVisualTokenizer.from_pretrained(converted, dtype=torch.bfloat16)(pixel_values, keep_mask=keep_mask)
    error = (rounded.merged_features.float() - exact.merged_features).norm() / exact.merged_features.norm()
    assert error < 0.02


@torch.no_grad()
@pytest.mark.parametrize("strict", [True, False])
def test_a_step_of_the_language_model_exports(converted, strict):
    model = LavitForCausalLM.from_pretrained(converted)

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids, attention_mask=attention_mask, use_cache=False).logits

    ids = torch.tensor([[384, 352, 381, 32000, 40000], [0, 352, 381, 32000, 40001]])
    mask = (ids != 0).long()
    shapes = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("length", min=2, max=256)}
    program = torch.export.export(Step(), (ids, mask), dynamic_shapes=(shapes, shapes), strict=strict)
    other = torch.tensor([[384, 352, 381, 32000, 40000, 41000, 32001]] * 3)
    exported = program.module()(other, torch.ones_like(other))
    torch.testing.assert_close(exported, model(other).logits)


@torch.no_grad()
def test_images_are_expanded_before_an_exported_step(converted):
    """The number of tokens of an image depends on its content, where torch.export stops."""
    model, goldens = LavitForCausalLM.from_pretrained(converted), Goldens()
    processor = LavitProcessor.from_pretrained(converted)
    inputs = processor(text=["<image>"] * 2, images=goldens.images[:2], return_tensors="pt")

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, **kwargs):
            return self.model(use_cache=False, **kwargs).logits

    with pytest.raises(GuardOnDataDependentSymNode):
        torch.export.export(Step(), (), dict(inputs), strict=False)
    sequences = model.model.expand_images(**inputs)
    names = ("inputs_embeds", "attention_mask", "position_ids")
    program = torch.export.export(Step(), (), {name: getattr(sequences, name) for name in names}, strict=False)
    exported = program.module()(**{name: getattr(sequences, name) for name in names})
    torch.testing.assert_close(exported, model(**inputs).logits)


def test_resizing_the_vocabulary(converted):
    model = LavitForCausalLM.from_pretrained(converted)
    model.resize_token_embeddings(48390, mean_resizing=False)
    assert model.lm_head.weight.shape[0] == model.config.text_config.vocab_size == 48390
    ids = model.generate(torch.tensor([[384]]), generation_mode="image", max_new_tokens=3, do_sample=False)
    assert ((ids[:, 2:] >= 32001) & (ids[:, 2:] < 48386)).all()


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)


def test_importing_prints_nothing():
    """transformers' `auto_docstring` prints errors at import."""
    done = run_python("from lavit_hf import *")
    assert done.stdout == ""
    assert "ERROR" not in done.stderr


@pytest.mark.parametrize("first", ["import lavit_hf", "from transformers import Trainer, pipeline"])
def test_whatever_is_imported_first(converted, first):
    done = run_python(f"""
{first}
import lavit_hf
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor
from transformers import IMAGE_PROCESSOR_MAPPING, PROCESSOR_MAPPING
config = AutoConfig.from_pretrained({str(converted)!r})
assert type(config) is lavit_hf.LavitConfig
assert PROCESSOR_MAPPING[type(config)] is lavit_hf.LavitProcessor
assert IMAGE_PROCESSOR_MAPPING[type(config)]["pil"] is lavit_hf.LavitImageProcessorPil
assert type(AutoProcessor.from_pretrained({str(converted)!r})) is lavit_hf.LavitProcessor
assert type(AutoModelForMultimodalLM.from_pretrained({str(converted)!r})) is lavit_hf.LavitForCausalLM
print("known")
""")
    assert done.stdout == "known\n"


def test_registering_twice_changes_nothing():
    lavit_hf.register()
    assert transformers.AutoModelForCausalLM._model_mapping[LavitConfig] is LavitForCausalLM


@torch.no_grad()
def test_a_step_with_a_static_cache_exports(converted):
    model = LavitForCausalLM.from_pretrained(converted)
    model.generation_config.use_cache = True
    model.generation_config.cache_implementation = "static"
    model.generation_config.cache_config = {"batch_size": 1, "max_cache_len": 16}
    exportable = TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=16)
    program = exportable.export(input_ids=torch.tensor([[384]]), cache_position=torch.tensor([0]))
    ids = [384, 352, 32000, 40000]
    step = program.module()
    logits = [step(input_ids=torch.tensor([[token]]), cache_position=torch.tensor([k])) for k, token in enumerate(ids)]
    # One position at a time and all at once are computed by different kernels.
    torch.testing.assert_close(torch.cat(logits, dim=1), model(torch.tensor([ids])).logits, atol=1e-4, rtol=1e-4)
