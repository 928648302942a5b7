# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Run as a process of its own: saves a whole LaVIT over an old one and is killed before each file operation."""

import os
import shutil
import signal
import sys
from pathlib import Path

from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitImageProcessor,
    LavitProcessor,
)

from .tiny import CODEBOOK_SIZE, IMAGE_SIZE, IMAGE_START, VISUAL_OFFSET, loosen, text_tokenizer, tiny_lavit


WIDTH = 8
OLD, NEW = 1, 2


def build(seed: int, has_decoder: bool = True) -> tuple:
    """A model and its processor, and maybe a pixel decoder. Each of their files differs from those of another seed."""
    model = tiny_lavit(seed=seed, num_merger_layers=seed)
    model.generation_config.max_new_tokens = seed
    tokenizer = text_tokenizer()
    tokenizer.add_special_tokens({"eos_token": f"word{9 + seed}"})
    processor = LavitProcessor.from_backbones(
        text=tokenizer,
        codebook_size=CODEBOOK_SIZE,
        image_start_token_id=IMAGE_START,
        image_size=IMAGE_SIZE,
        image_mean=[seed / 10] * 3,
        chat_template=f"template {seed}",
    )
    if not has_decoder:
        return model, processor, None
    config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(
        model.config.visual_tokenizer_config, condition_dims=[WIDTH]
    )
    blocks = {"block_out_channels": (WIDTH,), "layers_per_block": seed, "norm_num_groups": 2, "sample_size": 8}
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        **blocks,
    )
    vae = AutoencoderKL(**blocks)
    scheduler = DDIMScheduler(beta_end=seed / 100)
    feature_decoder = loosen(LavitFeatureDecoder(config))
    feature_decoder.codebook.copy_(model.model.visual_tokenizer.quantizer.codebook)
    decoder = LavitImageDecoderPipeline(feature_decoder, unet, vae, scheduler, VISUAL_OFFSET + seed)
    return model, processor, decoder


def save(parts: tuple, folder: Path, max_shard_size: str) -> None:
    model, processor, decoder = parts
    model.save_pretrained(folder, processor=processor, image_decoder=decoder, max_shard_size=max_shard_size)


def visible(folder: Path) -> dict[str, int]:
    """The files that a reader sees, and when they were written."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0][0] != "."]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


class Killer:
    """
    Counts what changes the file system while something is saved to `folder`. Until the new files are complete, it
    checks before each operation that a kill there leaves all that was in the folder. Then it forks once for each
    remaining operation, and the child is killed before that operation. The files that it leaves are moved to
    `target`, and the folder is brought back to where the child began.
    """

    def __init__(self, folder: Path, target: Path):
        self.folder, self.target, self.before = folder, target, visible(folder)
        self.count, self.fatal = 0, None
        self.is_watching = True

    def __call__(self, event: str, arguments: tuple) -> None:
        opens = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        changes = opens or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink")
        if not self.is_watching or not changes:
            return
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fatal is None:
            self.is_watching = False
            assert visible(self.folder) == self.before, (
                f"{event} {arguments}: changed before the new files are complete"
            )
            if event == "os.rename" and ".replacing-" in str(arguments[1]):
                self.kill_children()
            self.is_watching = True

    def kill_children(self) -> None:
        """Only the last child, which is killed before no operation, returns."""
        backup = Path(shutil.copytree(self.folder, self.target.with_name("backup")))
        self.fatal = self.count
        while (child := os.fork()) != 0:
            _, status = os.waitpid(child, 0)
            if status == 0:
                os._exit(0)
            assert os.WTERMSIG(status) == signal.SIGKILL, status
            self.folder.rename(self.target / f"{self.fatal:03d}")
            shutil.copytree(backup, self.folder)
            self.fatal += 1
        self.count -= 1  # this operation is counted again, or is the fatal one
        self.is_watching = True
        self("os.rename", ("", ""))


def main(root: str, old_shards: str, new_shards: str, has_decoder: str) -> None:
    """
    Args:
        root: Saves to an empty folder go to its `old` and `new`, and the files of the N-th kill to `killed/N`.
        old_shards, new_shards: `max_shard_size` of both.
        has_decoder: `"True"` or `"False"`.
    """
    # Without code for `trust_remote_code`, whose files are many.
    for saved in (LavitForCausalLM, LavitConfig, LavitProcessor, LavitImageProcessor):
        saved._auto_class = None
    old, new, target, folder = (Path(root, name) for name in ("old", "new", "killed", "folder"))
    save(build(OLD, has_decoder == "True"), old, old_shards)
    parts = build(NEW, has_decoder == "True")
    save(parts, new, new_shards)
    shutil.copytree(old, folder)
    target.mkdir()
    sys.addaudithook(Killer(folder, target))
    save(parts, folder, new_shards)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
