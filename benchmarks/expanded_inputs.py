# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures the cost of knowing the lengths of sequences before the model runs.

    python benchmarks/expanded_inputs.py

A model with a vision tower of the shape of ViT-B at 224 pixels and a small Llama, both with random weights, reads
images that are followed by texts. Every way starts from the same pixels and ids and ends with the same loss, except
for the last one, in which images enter as precomputed codes:

- placeholder: one placeholder for each image, which the model expands
- features: vision tower and selector run in the processor, which passes their results to the model
- twice: the same without the features, so that the vision tower runs again in the model
- codes: codes as ids; the vision tower does not run

A training step computes the gradients of the language model and its adapter; the visual tokenizer is frozen. All ways
take turns in one process, and ratios compare them with the first way within each turn.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from figures import Figure, add_output, report
from timing import speedup, time_in_turns
from transformers import CLIPVisionConfig, LlamaConfig

from lavit_hf import LavitForCausalLM


WAYS = ("placeholder", "features", "twice", "codes")
TEXT_TOKENS = 32000


def build_model(args) -> LavitForCausalLM:
    vision = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=args.vision_layers,
        num_attention_heads=12,
        image_size=224,
        patch_size=16,
    )
    text = LlamaConfig(
        hidden_size=args.hidden_size,
        intermediate_size=args.hidden_size * 4,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        vocab_size=TEXT_TOKENS,
    )
    torch.manual_seed(0)
    model = LavitForCausalLM.from_backbones(vision, text, codebook_size=8192, num_merger_layers=args.merger_layers)
    return model.to(args.device)


class Batch:
    """Images and texts, as inputs of the model in each way."""

    def __init__(self, model: LavitForCausalLM, args):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(args.batch_size, 3, 224, 224, generator=generator)
        texts = torch.randint(3, TEXT_TOKENS, (args.batch_size, args.text_length), generator=generator)
        self.model, self.pixel_values, self.texts = model, pixels.to(args.device), texts.tolist()
        with torch.no_grad():  # precomputed codes
            self.codes = [codes.tolist() for codes in model.model.visual_tokenizer(self.pixel_values).split()]

    def join(self, images: list[list[int]]) -> dict[str, torch.Tensor]:
        """Joins `[IMG]`, the ids of an image, `[/IMG]` and a text to rows, padded on the right."""
        config = self.model.config
        start, end = config.image_start_token_id, config.image_end_token_id
        rows = [[start, *image, end, *text] for image, text in zip(images, self.texts, strict=True)]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        labels = ids.masked_fill(mask == 0, -100)
        inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: value.to(self.pixel_values.device) for name, value in inputs.items()}

    def inputs(self, way: str) -> dict[str, torch.Tensor]:
        placeholder, offset = self.model.config.image_token_id, self.model.config.visual_token_offset
        if way == "placeholder":
            return self.join([[placeholder] for _ in self.texts]) | {"pixel_values": self.pixel_values}
        if way == "codes":
            return self.join([[offset + code for code in codes] for codes in self.codes])
        with torch.no_grad():  # as in the processor
            features, keep_mask = self.model.model.visual_tokenizer.select_patches(self.pixel_values)
        inputs = self.join([[placeholder] * count for count in keep_mask.sum(dim=-1).tolist()])
        if way == "twice":
            return inputs | {"pixel_values": self.pixel_values}
        return inputs | {"vision_features": features, "keep_mask": keep_mask}


def forward(batch: Batch, way: str) -> float:
    with torch.no_grad():
        return batch.model.eval()(**batch.inputs(way), skip_logits=True).loss.item()


def step(batch: Batch, way: str) -> float:
    loss = batch.model.train()(**batch.inputs(way), skip_logits=True).loss
    loss.backward()
    batch.model.zero_grad(set_to_none=True)
    return loss.item()


def measure(function: Callable, batch: Batch, args) -> dict[str, list[float]]:
    turns = {way: lambda way=way: function(batch, way) for way in WAYS}
    return time_in_turns(turns, args.runs, args.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--text-length", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--vision-layers", type=int, default=12)
    parser.add_argument("--merger-layers", type=int, default=4)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    add_output(parser)
    args = parser.parse_args()

    model = build_model(args)
    batch = Batch(model, args)
    losses = {way: forward(batch, way) for way in WAYS}
    lengths = ", ".join(str(len(codes)) for codes in batch.codes)
    setting = (
        f"Batch {args.batch_size}, codes of images {lengths}, texts of {args.text_length} tokens, float32, median of "
        f"{args.runs}; losses " + ", ".join(f"{way} {loss:.4f}" for way, loss in losses.items())
    )
    figures = []
    for name, function in {"forward": forward, "training step": step}.items():
        seconds = measure(function, batch, args)
        for way, times in seconds.items():
            against = () if way == WAYS[0] else (WAYS[0], speedup(seconds[WAYS[0]], times))
            figures.append(Figure(way, statistics.median(times), f"s per {name}", *against))
    report(args, setting, {"inputs": figures}, "float32")


if __name__ == "__main__":
    main()
