# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The command lines of README and guides run, with small models, few rows and one step in place of many. Those that
install are run by `.ci/run` and `.ci/release`, `lavit-hf serve` by `test_serve.py`, lm-eval by `test_lm_eval.py`,
the tools of other engines by `test_engines.py`, and the study by `training/test_study_driver.py`. The guide that
trains all parts is run by `test_own_images.py`.
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import AutoImageProcessor

from lavit_hf import LavitVisualTokenizer, demo_checkpoint
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.data.shapes import load_shapes, render_scene, sample_scene

from .guides import ROOT, blocks_of, pages_with
from .parity import GOLDENS
from .tiny import Colors, save_clip, save_text_model
from .training.small import UNET, VAE, save_visual_tokenizer


RUN_ELSEWHERE = ("pip ", "python3 -m venv ", "lavit-hf serve ", "lm_eval ", 'python -c "import lavit_hf; from lm_eval')
RUN_ELSEWHERE += (
    "make study",
    "python examples/study/run.py ",
    "python examples/space/app.py",
    "python to_gguf.py ",
    "python -m onnxruntime_genai.",
)
# Arguments that are added to commands, so that they do little.
TRAINING = "--max_steps 1 --per_device_train_batch_size 2 --per_device_eval_batch_size 2 --num_train_rows 8 "
TRAINING += "--num_eval_rows 2 --dataloader_num_workers 0 --report_to none"
LESS = {
    "lavit-hf convert": "--num-attention-heads 4",
    "lavit-hf draw": "--steps 2",
    "lavit-hf evaluate": "--num-samples 2",
    "lavit-hf reconstruct": "--steps 2",
    "lavit-hf show": "--steps 2",
    "precompute-codes": "--num-rows 4",
    "assemble.py": "--num_samples 2",
    **dict.fromkeys(("examples/train_", "examples/pretrain.py", "examples/finetune_lora.py"), TRAINING),
}


def commands_of(page: str) -> list[str]:
    text = "\n".join(blocks_of(page, "bash")).replace("\\\n", " ")
    lines = re.sub(r"'\{[^']*'", lambda json: json[0].replace("\n", " "), text).splitlines()
    commands = (line.partition("#")[0].strip() for line in lines)
    return [command for command in commands if command and not command.startswith(RUN_ELSEWHERE)]


def abridged(command: str) -> list[str]:
    more = [words for start, words in LESS.items() if start in command]
    command = re.sub(r"(--num_processes|--nproc-per-node) \d+", r"\1 2", command)
    return shlex.split(" ".join([command, *more]))


def make_datasets() -> None:
    scenes = load_shapes("train", num_rows=8)
    for folder in ("photos", "images"):
        Path(folder).mkdir()
        names = [f"{index}.png" for index in range(8)]
        for name, scene in zip(names, scenes, strict=True):
            scene["image"].save(Path(folder, name))
        lines = [f'{name},"{text}","{text}"' for name, text in zip(names, scenes["caption"], strict=True)]
        Path(folder, "metadata.csv").write_text("\n".join(["file_name,caption,text", *lines]))
    asked = scenes.map(
        lambda row: {"text": row["caption"], "question": row["questions"][0], "answer": row["answers"][0]}
    )
    asked = asked.select_columns(["image", "text", "question", "answer"])
    Path("tars/0").mkdir(parents=True)
    with tarfile.open("tars/0/000.tar", "w") as tar:
        for index in range(8):
            tar.add(f"photos/{index}.png", f"{index}.jpg")
    for name in ("my-captions", "my-questions", "my-dataset", "owner/name"):
        Path(name).mkdir(parents=True)
        for split in ("train", "validation"):
            asked.to_parquet(Path(name, f"{split}.parquet"))


def make_models() -> None:
    Path("rain1011").mkdir()
    Path("rain1011/LaVIT-7B-v2").symlink_to(GOLDENS / "checkpoint")
    for name in ("my-model", "my-lavit"):
        shutil.copytree(demo_checkpoint(), name)  # some commands write there
    save_clip(Path("openai/clip-vit-base-patch16"))
    save_clip(Path("clip-vit-base-patch16"))
    torch.jit.save(torch.jit.script(Colors()), "inception.pt")
    save_text_model(Path("HuggingFaceTB/SmolLM2-135M"))
    for folder in ("my-tokenizer", "runs/shapes/visual_tokenizer"):
        save_visual_tokenizer(Path(folder))
    parts = {"unet": UNet2DConditionModel(**UNET), "vae": AutoencoderKL(**VAE), "scheduler": DDIMScheduler()}
    for name, part in parts.items():
        part.save_pretrained(Path("stable-diffusion-v1-5/stable-diffusion-v1-5", name))
    for split in ("train", "validation"):
        folder = "runs/shapes/visual_tokenizer"
        model = LavitVisualTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
        precompute_codes(load_rows("shapes", split, num_rows=8), "runs/shapes/codes", *model)


@pytest.fixture
def as_a_user(tmp_path, monkeypatch) -> None:
    """In a folder with everything that the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Path("examples").symlink_to(ROOT / "examples")
    render_scene(sample_scene(6, "test")).save("photo.jpg")
    make_datasets()
    make_models()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "page", [page for page in pages_with("bash") if commands_of(page) and page != "train-on-your-own-images"]
)
def test_commands(page, as_a_user, command_line, monkeypatch):
    if not any(command.startswith("lavit-hf convert") for command in commands_of(page)):
        shutil.copytree(demo_checkpoint(), "lavit-7b")
    for command in commands_of(page):
        program, *arguments = abridged(command)
        if program == "lavit-hf":
            code, _, error = command_line(*arguments)
            assert code == 0, command + error
        elif program == "python":
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            program = Path(sys.executable).with_name(program)
            done = subprocess.run([program, *arguments], capture_output=True, text=True)
            assert done.returncode == 0, command + done.stderr[-6000:]
