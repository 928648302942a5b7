# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The model that ships: its files, and that it does what its card says."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard

from lavit_hf import LavitVisualTokenizer, demo_checkpoint
from lavit_hf.data.shapes.loading import make_row
from lavit_hf.evaluation import evaluate


# Scores on the test split that its card must show.
FLOORS = {
    ("captions", "objects"): 0.97,
    ("questions", "accuracy"): 0.97,
    ("questions", "accuracy_relation"): 0.95,
    ("drawing", "objects"): 0.94,
    ("drawing", "places"): 0.94,
    ("edits", "everything"): 0.88,
    ("edits", "background"): 0.9,
    ("reconstruction", "objects"): 0.95,
    ("own_words", "right"): 0.88,
    ("tokens", "codebook_usage"): 0.8,
    ("tokens", "objects_spearman"): 0.9,
}


def test_files():
    files = [path for path in demo_checkpoint().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} <= {".jinja", ".json", ".md", ".png", ".py", ".safetensors"}
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".json", ".md")}
    assert not [path for path, text in texts.items() if re.search(r"(?<![\w./:)])/\w+/\w+", text)]  # absolute paths


def test_it_computes_in_single_precision(demo):
    """Half is how it is stored: on a CPU single is the faster, and codes come out as they did in training."""
    model, _, pipeline = demo
    tokenizer = LavitVisualTokenizer.from_pretrained(demo_checkpoint())
    for part in (model, tokenizer, pipeline.feature_decoder, pipeline.unet, pipeline.vae):
        assert part.dtype == torch.float32


def test_the_card_tells_what_was_measured():
    written = json.loads((demo_checkpoint() / "evaluation.json").read_text())
    assert written["protocol"]["num_samples"] >= 1000
    assert written["protocol"]["split"] == "test"
    results, text = written["results"], ModelCard.load(demo_checkpoint() / "README.md").text
    for (task, name), floor in FLOORS.items():
        assert results[task][name]["value"] >= floor, (task, name)
    assert results["tokens"]["kept_fraction"]["value"] <= 0.35
    for task, name in FLOORS:
        value = results[task][name]["value"]
        shown = f"{100 * value:.1f}%" if results[task][name].get("interval") else f"{value:.3f}"
        assert f"| {task} | {name.replace('_', ' ')} | {shown} |" in text


def test_it_reads_and_draws(demo):
    """Far fewer cases than its card rests on, so that chance needs room."""
    rows = [make_row(index, "test") for index in range(24)]
    report = evaluate(*demo, rows)
    for (task, name), floor in FLOORS.items():
        if name != "codebook_usage":  # grows with the number of images
            assert report.results[task][name].value >= floor - 0.2, (task, name)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_hundred_texts_with_pictures_keep_the_grammar(demo, temperature):
    """Text, `[IMG]` codes `[/IMG]`, text, however improbable, and each picture can be decoded."""
    model, processor, pipeline = demo
    torch.manual_seed(0)
    prompts = ["a large red circle at the top left", "there is", "", "two objects: a small blue star on the left and"]
    ids = model.generate(
        **processor(text=prompts, return_tensors="pt"),
        generation_mode="interleaved",
        first_modality="image",
        do_sample=True,
        temperature=temperature,
        image_generation={"temperature": temperature, "guidance_scale": 1.5},
        max_new_tokens=140,
        num_return_sequences=25,
        return_full_text=False,
    )
    start, end, first_code = (
        processor.image_start_token_id,
        processor.image_end_token_id,
        processor.visual_token_offset,
    )
    codes = range(first_code, first_code + processor.codebook_size)
    names = {start: "[", end: "]"}
    written = ["".join(names.get(token, "c" if token in codes else "t") for token in row) for row in ids.tolist()]
    for row in written:
        assert re.fullmatch(r"\[c{1,64}\](t*\[c{1,64}\])*t*", row), row
    segments = processor.batch_decode_interleaved(ids)
    pictures = [segment.codes for row in segments for segment in row if hasattr(segment, "codes")]
    assert len(pictures) > 100
    images = pipeline(pictures, num_inference_steps=1, guidance_scale=1.0, output_type="pt").images
    assert images.isfinite().all()
