# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A small dataset of colored images with captions, questions and edits, and a small LaVIT to train on it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from pretrain import list_texts, train_text_tokenizer
from transformers import CLIPVisionConfig, LlamaConfig

from lavit_hf import (
    LavitForCausalLM,
    LavitImageProcessorPil,
    LavitProcessor,
    LavitVisualTokenizer,
    LavitVisualTokenizerForPreTraining,
)
from lavit_hf.processing import read_image
from lavit_hf.training import MixtureRows, SequenceArguments

from ..guides import ROOT
from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, TEXT, VISION, loosen, tiny_lavit


COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "white": (240, 240, 240)}
EVERY_KIND = ["caption=1", "draw=1", "question=1", "edit=1", "text=0.5"]

SIZE = 16  # of drawn images, in pixels
WIDTH = 16
UNET = {
    "sample_size": SIZE // 2,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
}
VAE = {
    "sample_size": SIZE,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}


def make_image(top: str, bottom: str, size: tuple[int, int] = (24, 20)) -> PILImage.Image:
    return PILImage.fromarray(np.array([[COLORS[top]], [COLORS[bottom]]], dtype=np.uint8)).resize(size, 0)


def make_dataset(count: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        top, bottom, new = (str(color) for color in rng.choice(list(COLORS), 3))
        rows.append(
            {
                "image": make_image(top, bottom),
                "caption": f"{top} above {bottom}",
                "questions": ["what is above?", "what is below?"],
                "answers": [top, bottom],
                "instruction": f"make the top {new}",
                "edited_image": make_image(new, bottom),
            }
        )
    texts = {"caption": Value("string"), "instruction": Value("string")}
    lists = {"questions": List(Value("string")), "answers": List(Value("string"))}
    return Dataset.from_list(rows, Features({"image": Image(), "edited_image": Image()} | texts | lists))


def make_processor(**kwargs) -> LavitProcessor:
    kinds, dataset = SequenceArguments(EVERY_KIND, questions_per_sequence=2), make_dataset()
    texts = [text for kind in kinds.weights for text in list_texts(MixtureRows(dataset, kinds.only(kind)))]
    tokenizer = train_text_tokenizer(texts, 300)
    return LavitProcessor.from_backbones(
        vision=image_processor(), text=tokenizer, codebook_size=CODEBOOK_SIZE, **kwargs
    )


def image_processor() -> LavitImageProcessorPil:
    return LavitImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def make_model(processor: LavitProcessor, **kwargs) -> LavitForCausalLM:
    tokenizer = processor.tokenizer
    text = TEXT | {"vocab_size": processor.image_start_token_id, "bos_token_id": None}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    return tiny_lavit(text=LlamaConfig(**text), **kwargs)


def tokenize(dataset: Dataset, tokenizer: LavitVisualTokenizer, drop: bool = False) -> Dataset:
    """Adds the codes of both images, or puts them in the place of the images, as precomputed codes are."""
    for column in ("image", "edited_image"):
        pictures = [read_image(row[column]) for row in dataset]
        codes = tokenizer(image_processor()(pictures, return_tensors="pt")["pixel_values"]).split()
        dataset = dataset.add_column(f"{column}_codes", [row.tolist() for row in codes])
    return dataset.remove_columns(["image", "edited_image"]) if drop else dataset


def make_stage_one() -> LavitVisualTokenizerForPreTraining:
    torch.manual_seed(0)
    model = LavitVisualTokenizerForPreTraining.from_vision_tower(
        CLIPVisionConfig(**VISION), codebook_size=CODEBOOK_SIZE, num_merger_layers=1
    )
    model = loosen(model).eval()
    model.feature_decoder.codebook.copy_(model.visual_tokenizer.quantizer.codebook)
    return model


def save_visual_tokenizer(folder: Path) -> Path:
    """Saves a folder as stage 1 writes it."""
    make_stage_one().save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def run_in_processes(count: int, script: str, *arguments) -> None:
    """Runs `tests/training/{script}.py` in `count` processes that torchrun starts, and shows their errors."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", f"tests.training.{script}", *map(str, arguments)]
    python_path = os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]


def iter_rows(rows) -> list:
    return [rows[index] for index in range(len(rows))]
