# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures what stage 1 would gain from precomputed features of a frozen vision tower.

    python benchmarks/precomputed_features.py

One model has the width of the release and a quarter of its layers, the other is that of the shapes model. Steps of
training with the vision tower take turns in one process with steps that are given its features. The latter do not read
features from a disk, so that the ratio is an upper limit. The size of features is that in bfloat16.
"""

import argparse
import statistics
from collections.abc import Callable
from unittest.mock import patch

import torch
from figures import Figure, add_output, report
from timing import speedup, time_in_turns
from transformers import Blip2VisionConfig

from lavit_hf import LavitVisualTokenizerConfig, LavitVisualTokenizerForPreTraining, demo_checkpoint


def load_small_model(args) -> LavitVisualTokenizerForPreTraining:
    return LavitVisualTokenizerForPreTraining.from_pretrained(demo_checkpoint())


def build_large_model(args) -> LavitVisualTokenizerForPreTraining:
    vision = Blip2VisionConfig(num_hidden_layers=args.vision_layers, initializer_range=0.02)
    config = LavitVisualTokenizerConfig(vision_config=vision, num_merger_layers=args.merger_layers)
    return LavitVisualTokenizerForPreTraining(config)


MODELS = {"shapes": load_small_model, "release": build_large_model}


def measure(name: str, args) -> list[Figure]:
    model = MODELS[name](args).to(args.device, getattr(torch, args.dtype)).train()
    tokenizer = model.visual_tokenizer
    batch_size = args.batch_size if name == "release" else 16 * args.batch_size
    side = tokenizer.config.vision_config.image_size
    pixel_values = torch.randn(batch_size, 3, side, side, device=args.device, dtype=model.dtype)
    with torch.no_grad():
        features = tokenizer.encode_vision(pixel_values)

    def step() -> None:
        model(pixel_values=pixel_values).loss.backward()
        model.zero_grad()

    def step_from_features() -> None:
        with patch.object(tokenizer, "encode_vision", lambda pixel_values: features):
            step()

    ways: dict[str, Callable] = {"with the vision tower": step, "from its features": step_from_features}
    seconds = time_in_turns(ways, args.runs, args.device)
    with_tower, given = seconds.values()
    ratio = speedup(with_tower, given)
    kilobytes = 2 * features[0].numel() / 1e3
    return [
        Figure(f"{name}, with the vision tower", batch_size / statistics.median(with_tower), "images/s"),
        Figure(
            f"{name}, from its features", batch_size / statistics.median(given), "images/s", "with the tower", ratio
        ),
        Figure(f"{name}, from its features", kilobytes, "KB of features per image"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-size", type=int, default=2, help="images per batch; 16 times as many for 'shapes'")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vision-layers", type=int, default=10)
    parser.add_argument("--merger-layers", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    add_output(parser)
    args = parser.parse_args()
    setting = f"Batch {args.batch_size} (shapes: {16 * args.batch_size}), {args.dtype}, median of {args.runs}"
    figures = [figure for name in args.models for figure in measure(name, args)]
    report(args, setting, {"stage 1": figures}, args.dtype)


if __name__ == "__main__":
    main()
