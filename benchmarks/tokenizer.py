# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Compares the packed and the dense path of the merger, at the width and depth of the released model with random weights.

    python benchmarks/tokenizer.py

Both paths take turns in one process, so that ratios hold on a machine whose speed drifts. Peak memory is measured in a
separate process for each path, beyond weights and input.
"""

import argparse
import statistics

import torch
from figures import Figure, add_output, report
from memory import in_new_process, measure_peak
from timing import speedup, time_in_turns
from transformers import Blip2VisionConfig
from transformers.initialization import no_init_weights

from lavit_hf import LavitVisualTokenizer, LavitVisualTokenizerConfig
from lavit_hf.modeling.merger_lavit import PatchPartition


def build_tokenizer(args) -> LavitVisualTokenizer:
    vision = Blip2VisionConfig(num_hidden_layers=args.vision_layers, initializer_range=0.02)
    config = LavitVisualTokenizerConfig(vision_config=vision, num_merger_layers=args.merger_layers)
    return LavitVisualTokenizer(config).to(getattr(torch, args.dtype)).to(args.device).eval()


def merge_packed(tokenizer, features, keep_mask):
    return tokenizer.merger(features, PatchPartition(keep_mask))


def merge_dense(tokenizer, features, keep_mask):
    return tokenizer.merger(features, policy=keep_mask.to(features.dtype))[keep_mask]


MERGERS = {"packed": merge_packed, "dense": merge_dense}


@torch.no_grad()
def tokenize(tokenizer, pixel_values, keep_mask, path: str) -> torch.Tensor:
    """Computes codes from pixels. The decision is given, so that both paths do the same work."""
    features = tokenizer.encode_vision(pixel_values)
    tokenizer.selector(features)
    return tokenizer.quantizer(MERGERS[path](tokenizer, features, keep_mask))[0]


def make_inputs(args, tokenizer):
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(args.batch_size, 3, 224, 224, generator=generator)
    # Exactly this fraction of the batch is kept, with different numbers for each image, as by the selector.
    chances = torch.rand(args.batch_size * tokenizer.config.num_patches, generator=generator)
    keep_mask = chances.argsort().argsort() < args.keep_ratio * chances.numel()
    keep_mask = keep_mask.view(args.batch_size, -1)
    return pixel_values.to(args.device, tokenizer.dtype), keep_mask.to(args.device)


def peak_memory(args, part: str, path: str) -> float:
    """Returns the peak memory in MB of one path beyond the model and its input, in a new process."""
    with no_init_weights():  # the values do not matter here
        tokenizer = build_tokenizer(args)
    pixel_values, keep_mask = make_inputs(args, tokenizer)
    features = torch.zeros(*keep_mask.shape, tokenizer.config.hidden_size).to(pixel_values)
    for parameter in tokenizer.parameters():
        parameter.data.zero_()  # only memory that has been written counts

    @torch.no_grad()
    def work() -> None:
        if part == "merger":
            MERGERS[path](tokenizer, features, keep_mask)
        else:
            tokenize(tokenizer, pixel_values, keep_mask, path)

    return measure_peak(work, args.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--keep-ratio", type=float, default=1 / 3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--vision-layers", type=int, default=40)
    parser.add_argument("--merger-layers", type=int, default=12)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    add_output(parser)
    args = parser.parse_args()

    tokenizer = build_tokenizer(args)
    pixel_values, keep_mask = make_inputs(args, tokenizer)
    with torch.no_grad():
        features = tokenizer.encode_vision(pixel_values)

    @torch.no_grad()
    def merge(path: str):
        return MERGERS[path](tokenizer, features, keep_mask)

    seconds = {}
    for part, function in (
        ("merger", merge),
        ("tokenizer", lambda path: tokenize(tokenizer, pixel_values, keep_mask, path)),
    ):
        turns = {f"{part}-{path}": lambda path=path, function=function: function(path) for path in MERGERS}
        seconds |= time_in_turns(turns, args.runs, args.device)
    difference = (merge("packed") - merge("dense")).abs().max().item()

    setting = (
        f"Batch {args.batch_size}, {keep_mask.float().mean():.2f} of the patches kept, {args.dtype}, median of "
        f"{args.runs}; packed and dense features differ by at most {difference:.1e}"
    )
    figures = []
    for part in ("merger", "tokenizer"):
        packed, dense = (seconds[f"{part}-{path}"] for path in ("packed", "dense"))
        memory = {path: in_new_process(peak_memory, args, part, path) for path in MERGERS}
        against = ("dense", memory["dense"] / memory["packed"])
        figures += [
            Figure(f"{part}, packed", statistics.median(packed), "s", "dense", speedup(dense, packed)),
            Figure(f"{part}, packed", memory["packed"], "MB beyond the weights", *against),
            Figure(f"{part}, dense", statistics.median(dense), "s"),
            Figure(f"{part}, dense", memory["dense"], "MB beyond the weights"),
        ]
    report(args, setting, {"visual tokenizer": figures}, args.dtype)


if __name__ == "__main__":
    main()
