# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Generates and trains with a model whose weights are shared by processes. Each process saves what it has found."""

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig, fsdp

from lavit_hf import LavitForCausalLM
from lavit_hf.training import LavitForCausalLMTrainer, run_script

from ..tiny import pictures
from .small_pretrain import losses, make_trainer


TRAINING = {"per_device_train_batch_size": 4, "max_steps": 4}
# One process draws and reads longer than the other.
LENGTHS = (3, 7)


@torch.no_grad()
def generate(model: LavitForCausalLM, rank: int) -> dict[str, torch.Tensor]:
    """Returns what a process generates: text, drawings with guidance, and both behind an image."""
    start, image, end = (getattr(model.config, f"image_{name}_id") for name in ("start_token", "token", "end_token"))
    length = {"max_new_tokens": LENGTHS[rank], "min_new_tokens": LENGTHS[rank]}
    draw = {"generation_mode": "image", "guidance_scale": 2.0} | length
    text, padded = torch.tensor([[5, 6, 7]]), torch.tensor([[0, 5, 6, 7], [5, 6, 7, 8]])
    with_image = {"input_ids": torch.tensor([[5, start, image, end, 7]]), "pixel_values": pictures(1)}
    return {
        "text": model.generate(text, **length),
        "drawing": model.generate(text, **draw),
        "padded drawings": model.generate(padded, attention_mask=(padded != 0).long(), **draw),
        "text behind an image": model.generate(**with_image, **length),
        "drawing behind an image": model.generate(**with_image, **draw),
    }


def load(folder: Path, plan: dict[str, str]) -> tuple[LavitForCausalLM, list[str]]:
    """Loads a model under FSDP2, as transformers does on any device, and returns the modules that were sharded."""
    calls: list[str] = []
    shard = fsdp.fully_shard

    def fully_shard(modules, *args, **kwargs):
        calls.extend(type(module).__name__ for module in (modules if isinstance(modules, list) else [modules]))
        return shard(modules, *args, **kwargs)

    fsdp.fully_shard = fully_shard
    config = DistributedConfig(fsdp_size=distributed.get_world_size(), fsdp_plan=plan)
    return LavitForCausalLM.from_pretrained(folder, distributed_config=config), calls


def train_with_zero(folder: Path, stage: int) -> tuple[LavitForCausalLMTrainer, int]:
    """Trains with DeepSpeed, and returns the number of values that this process stores: weights, or their averages."""
    import deepspeed

    # Sums through shared memory, which DeepSpeed would compile first.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    settings = dict.fromkeys(sizes, "auto") | {"zero_optimization": zero, "zero_allow_untested_optimizer": True}
    model = LavitForCausalLM.from_pretrained(folder)
    trainer = make_trainer(folder, model=model, deepspeed=settings, **TRAINING)
    trainer.train()
    if stage == 3:
        return trainer, sum(weight.ds_tensor.numel() for weight in model.parameters())
    return trainer, sum(part.numel() for part in trainer.optimizer.optimizer.single_partition_of_fp32_groups)


def train_with_fsdp(folder: Path, way: str, rank: int) -> tuple[LavitForCausalLMTrainer, dict]:
    distributed.init_process_group("gloo")
    plan = {}
    if way == "all_layers":  # as accelerate does, which shards the layers of the vision tower and of the mergers too
        parts = ("visual_tokenizer.vision_tower.encoder", "visual_tokenizer.merger", "visual_adapter.merger")
        plan = {f"model.{part}.layers.*": "free_full_weight" for part in parts}
    model, calls = load(folder, plan)
    parts = [weight.to_local() for weight in model.parameters() if isinstance(weight, DTensor)]
    found = {"calls": calls, "num_sharded": len(parts), "share": sum(part.numel() for part in parts)}
    found["generated"] = generate(model, rank)
    trainer = make_trainer(folder, model=model, **TRAINING)
    trainer.train()
    return trainer, found


def main():
    folder, way, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ["RANK"])
    if way.startswith("zero"):
        trainer, share = train_with_zero(folder, int(way[-1]))
        found = {"share": share, "generated": generate(trainer.model.eval(), rank)}
    else:
        trainer, found = train_with_fsdp(folder, way, rank)
    trainer.save_model(folder / way)
    torch.save(found | {"losses": losses(trainer)}, folder / f"{way}.{rank}.pt")


if __name__ == "__main__":
    run_script(main)
