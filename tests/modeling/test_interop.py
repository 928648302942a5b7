# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pixels from the model itself, and its language model as other engines load it."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, CohereConfig, GenerationConfig, pipeline

from lavit_hf import LavitForCausalLM, LavitProcessor, demo_checkpoint
from lavit_hf.modeling.generation_settings_lavit import TASKS
from lavit_hf.processing import extend_tokenizer

from ..causal_models import tiny_text_config
from ..tiny import CODEBOOK_SIZE, TEXT, VISUAL_OFFSET, loosen, text_tokenizer, tiny_lavit


PROMPT = "a large red circle at the top left"


@pytest.fixture(scope="module")
def model():
    return LavitForCausalLM.from_pretrained(demo_checkpoint())


def draw(model, processor, text, **inputs):
    given = processor(text=text, return_tensors="pt", **inputs)
    return model.generate(**given, generation_mode="image", do_sample=False)


def test_pixels_of_what_was_drawn(model, demo):
    _, processor, pipe = demo
    ids = draw(model, processor, [PROMPT, "a small blue star and a green ring"])
    pixels = model.decode_image_tokens(ids, generator=torch.Generator().manual_seed(0), num_inference_steps=3)
    assert pixels.shape == (2, 3, 64, 64)
    codes = [row[-1].codes for row in processor.batch_decode_interleaved(ids)]
    settings = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": 3, "output_type": "pt"}
    torch.testing.assert_close(pixels, pipe(codes, vocabulary_ids=False, **settings).images)
    pictures = processor.post_process_multimodal_output(pixels, generation_mode="image")
    assert [picture.size for picture in pictures] == [(64, 64)] * 2


@pytest.mark.parametrize("expanded", [False, True], ids=["placeholder_per_image", "placeholder_per_code"])
def test_token_types_say_nothing_new(model, demo, expanded):
    """Other engines ask processors for them, and find images by them."""
    processor = LavitProcessor.from_pretrained(demo_checkpoint())
    processor.visual_tokenizer = model.model.visual_tokenizer if expanded else None
    image = Image.new("RGB", (64, 64), "red")
    given = {"text": ["<image> what color is it?", "a red circle"], "images": [image], "return_tensors": "pt"}
    inputs = processor(**given)
    typed = processor(**given, return_mm_token_type_ids=True)
    assert torch.equal(typed["mm_token_type_ids"].bool(), inputs["input_ids"] == processor.image_token_id)
    with torch.no_grad():
        assert torch.equal(model(**typed).logits, model(**inputs).logits)
        assert torch.equal(model.model(**typed).last_hidden_state, model.model(**inputs).last_hidden_state)
    for settings in (
        {"num_beams": 2, "max_new_tokens": 4},
        {"generation_mode": "image", "guidance_scale": 2.0, "do_sample": False},
        {"generation_mode": "interleaved", "max_new_tokens": 70, "prefill_chunk_size": 3},
    ):
        drawn = []
        for given in (inputs, typed):
            torch.manual_seed(0)
            drawn.append(model.generate(**given, **settings))
        assert torch.equal(*drawn)


def test_the_last_picture_counts(model, demo):
    """A prompt's pictures are not what was drawn; bare codes are a picture as well."""
    _, processor, _ = demo
    first, second = (draw(model, processor, text)[0].tolist() for text in (PROMPT, "a small blue star"))
    settings = {"num_inference_steps": 2}
    offset = model.config.visual_token_offset
    bare = [
        [token for token in ids if offset <= token < offset + model.config.codebook_size] for ids in (first, second)
    ]

    def pixels(ids):
        return model.decode_image_tokens(torch.tensor([ids]), generator=torch.Generator().manual_seed(0), **settings)

    assert torch.equal(pixels(first + second), pixels(bare[1]))
    assert not torch.equal(pixels(bare[0]), pixels(bare[1]))


def test_what_has_no_pixels(model):
    with pytest.raises(ValueError, match="Sequence 1 has no image"):
        model.decode_image_tokens(torch.tensor([[5, model.config.visual_token_offset], [5, 6]]))
    offset = model.config.visual_token_offset
    with pytest.raises(ValueError, match=rf"Sequence 1 has no \[IMG\].* from {offset} on, got 7"):
        model.decode_image_tokens(torch.tensor([[offset, offset], [7, offset]]))  # such as codes without the offset
    for given in (torch.tensor([offset]), [[offset]]):
        with pytest.raises(ValueError, match="must be a tensor of shape"):
            model.decode_image_tokens(given)
    drawn = torch.tensor([[VISUAL_OFFSET]])
    with pytest.raises(ValueError, match="not loaded from anywhere"):
        tiny_lavit().decode_image_tokens(drawn)


def test_a_cut_image_is_told(model, demo, caplog):
    """It is decoded as far as it goes. Codes alone, and whole images, are not cut."""
    ids = draw(model, demo[1], PROMPT)[0].tolist()
    end = ids.index(model.config.image_end_token_id)
    offset = model.config.visual_token_offset
    for given, told in ((ids, 0), ([offset] * 3, 0), (ids[: end - 2], 1)):
        caplog.clear()
        with caplog.at_level("WARNING", "lavit_hf"):
            model.decode_image_tokens(torch.tensor([given]), num_inference_steps=1)
        assert caplog.text.count("The image of sequence 0 has no [/IMG]") == told, given


def test_a_folder_without_a_pixel_decoder(tmp_path):
    tiny_lavit().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_index.json"):
        LavitForCausalLM.from_pretrained(tmp_path).decode_image_tokens(torch.tensor([[VISUAL_OFFSET]]))


def test_pixels_are_not_made_of_ids(demo):
    _, processor, _ = demo
    with pytest.raises(ValueError, match=r"int64 of shape \(1, 3\)"):
        processor.post_process_multimodal_output(torch.tensor([[5, 6, 7]]), generation_mode="image")
    with pytest.raises(ValueError, match="'audio'"):
        processor.post_process_multimodal_output(torch.tensor([[5, 6, 7]]), generation_mode="audio")


def test_any_to_any(demo):
    """transformers' own pipeline gives text, and with `generation_mode="image"` pictures."""
    _, processor, _ = demo
    both = pipeline("any-to-any", model=str(demo_checkpoint()))
    torch.manual_seed(0)
    (drawn,) = both(text=PROMPT, generation_mode="image", return_full_text=None)
    assert isinstance(drawn["generated_image"], Image.Image)
    assert drawn["generated_image"].size == (64, 64)
    content = [
        {"type": "image", "image": drawn["generated_image"]},
        {"type": "text", "text": "what color is the circle?"},
    ]
    (answer,) = both([{"role": "user", "content": content}], max_new_tokens=3, return_full_text=False)
    assert answer["generated_text"].split()[0] in ("red", "orange")


LOAD_WITHOUT_LAVIT = """
import sys, json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([json.loads(sys.argv[2])])
assert "lavit_hf" not in sys.modules
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
with torch.no_grad():
    logits = model(ids).logits
print(json.dumps([type(model).__name__, logits.double().flatten().tolist(), tokenizer.encode("word5 word6")]))
"""


@torch.no_grad()
@pytest.mark.parametrize("text", [None, CohereConfig(**TEXT, logit_scale=0.5)], ids=["llama", "cohere"])
def test_the_language_model_alone(tmp_path, text):
    """Where lavit_hf is not imported it is an ordinary text model: the same logits for the same ids."""
    model = tiny_lavit(text=text)
    model.generation_config.image_generation = {"guidance_scale": 2.0}
    for name in TASKS:
        setattr(model.generation_config, name, {"max_new_tokens": 9})
    ids = [5, 6, model.config.image_start_token_id, VISUAL_OFFSET, VISUAL_OFFSET + 3]
    model.export_language_model(tmp_path, text_tokenizer())
    command = [sys.executable, "-c", LOAD_WITHOUT_LAVIT, str(tmp_path), json.dumps(ids)]
    name, logits, text_ids = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert name == ("LlamaForCausalLM" if text is None else "CohereForCausalLM")
    expected = model(torch.tensor([ids])).logits[..., : model.config.image_token_id]
    torch.testing.assert_close(torch.tensor(logits).view_as(expected), expected, check_dtype=False)
    assert text_ids == [5, 6]
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert settings.keys() <= vars(GenerationConfig()).keys()
    assert settings["eos_token_id"] == 2


def test_tokens_behind_the_placeholder_are_not_lost_in_an_export(tmp_path):
    model, tokenizer = tiny_lavit(), extend_tokenizer(text_tokenizer(), CODEBOOK_SIZE)
    tokenizer.add_tokens(["<mine>"])
    model.resize_token_embeddings(len(tokenizer))
    with pytest.raises(ValueError, match="1 tokens behind the image placeholder, such as '<mine>'"):
        model.export_language_model(tmp_path, tokenizer)
    assert not any(tmp_path.iterdir())


def test_a_language_model_that_would_compute_something_else_is_not_exported(tmp_path):
    """One that was made from a configuration, without `from_backbones`, which would have refused it."""
    config = tiny_lavit().config
    config.text_config = tiny_text_config("hyperclovax", vocab_size=config.text_config.vocab_size)
    with pytest.raises(ValueError, match="HyperCLOVAXForCausalLM .* changes its head's logits"):
        LavitForCausalLM(config).export_language_model(tmp_path, text_tokenizer())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("in_text", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_an_exported_head_is_that_of_the_model_or_is_refused(tmp_path, in_text, tied, bias):
    """The configuration of the text model may tell something else about the head than that of LaVIT, which counts."""
    config = copy.deepcopy(tiny_lavit().config)
    config.text_config.tie_word_embeddings, config.tie_word_embeddings = in_text, tied
    config.lm_head_bias = bias
    model = loosen(LavitForCausalLM(config)).eval()
    if bias:
        with pytest.raises(
            ValueError, match="The head of LlamaForCausalLM has no bias, and that of this model has one"
        ):
            model.export_language_model(tmp_path, text_tokenizer())
        return
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    model.export_language_model(tmp_path, text_tokenizer())
    ids = torch.tensor([[5, 6, 7]])
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(exported(ids).logits, model(ids).logits[..., : exported.config.vocab_size])


def test_the_encoder_of_images_is_the_vision_tower():
    model = tiny_lavit()
    assert model.get_encoder("image") is model.model.get_encoder("image") is model.model.visual_tokenizer.vision_tower
    assert model.get_decoder() is model.model.language_model
