# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures drawing with guidance, in one batched forward and in two passes, in batches, and over the length of prompts.

    python benchmarks/generation.py --plot docs/generation-cost.png

The language model is a Llama with random weights and the codes of the release, by default of 0.56 billion weights in
bfloat16. A whole run takes about twenty minutes on two cores. The compared ways take turns in one process, so that
ratios hold on a machine whose speed drifts. Peak memory is measured in a separate process for each.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from figures import Figure, add_output, plot_growth, report
from memory import in_new_process, measure_peak
from timing import time_in_turns
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedModel

from lavit_hf import LavitForCausalLM
from lavit_hf.modeling.backbones_lavit import causal_model_around


GUIDANCE_SCALE = 4.0
CODES_PER_IMAGE = 85  # the average of the release
GROWTH_CODES = 32  # enough for a rate; fourteen kinds of work are measured


@dataclass(frozen=True)
class Work:
    """One way to draw: the number of images and of their codes, the prompt, and the method."""

    num_codes: int
    batch_size: int = 1
    prompt_length: int = 32
    num_images: int = 0
    way: str = "one forward"  # or "two passes", or with a "static cache"
    attention: str | None = None  # the one that is faster on the device


def build_model(args) -> LavitForCausalLM:
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=224, patch_size=14
    )
    text = LlamaConfig(
        hidden_size=args.hidden_size,
        intermediate_size=27 * args.hidden_size // 10,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        vocab_size=32000,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LavitForCausalLM.from_backbones(vision, text, codebook_size=16384, num_merger_layers=1)
    return model.to(args.device, getattr(torch, args.dtype)).eval()


@cache
def plain_model(model: LavitForCausalLM) -> PreTrainedModel:
    """Returns the language model as a model of transformers, with the same weights."""
    return causal_model_around(model.model.language_model, model.lm_head)


def make_prompt(model: LavitForCausalLM, work: Work) -> torch.LongTensor:
    """Makes prompts (batch_size, length) of images, as codes between `[IMG]` and `[/IMG]`, and text."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(work.num_images):
        codes = torch.randint(config.codebook_size, (work.batch_size, CODES_PER_IMAGE), generator=generator)
        column = torch.ones(work.batch_size, 1, dtype=torch.long)
        start, end = config.image_start_token_id * column, config.image_end_token_id * column
        parts += [start, config.visual_token_offset + codes, end]
    parts.append(torch.randint(3, 32000, (work.batch_size, work.prompt_length), generator=generator))
    return torch.cat(parts, dim=1).to(model.device)


def draw(model: LavitForCausalLM, work: Work) -> None:
    """Draws exactly `work.num_codes` codes of each image."""
    # On a CPU in bfloat16, sdpa is several times slower for a single query.
    faster = "eager" if model.device.type == "cpu" else "sdpa"
    model.set_attn_implementation({"text_config": work.attention or faster})
    prompt = make_prompt(model, work)
    start = torch.full_like(prompt[:, :1], model.config.image_start_token_id)
    prompt = torch.cat([prompt, start], dim=1)
    settings = {
        "attention_mask": torch.ones_like(prompt),
        "guidance_scale": GUIDANCE_SCALE,
        "do_sample": True,
        "top_k": 50,
        "min_new_tokens": work.num_codes,
        "max_new_tokens": work.num_codes,
        "pad_token_id": 0,
    }
    if work.way == "two passes":
        settings["negative_prompt_ids"] = start
        settings["eos_token_id"] = model.config.image_end_token_id
        plain_model(model).generate(prompt, **settings)
        return
    if work.way == "static cache":
        settings["cache_implementation"] = "static"  # compiled, where there is a GPU
    model.generate(prompt, generation_mode="image", **settings)


def read_weights(model: LavitForCausalLM) -> int:
    """Reads each weight of the language model and its head once; returns their bytes."""
    weights = {id(p): p for part in (model.model.language_model, model.lm_head) for p in part.parameters()}
    total = 0
    for weight in weights.values():
        weight.data.flatten().view(torch.int64).sum()
        total += weight.numel() * weight.element_size()
    return total


def peak_memory(args, work: Work) -> float:
    """Returns the peak memory in MB of one kind of work beyond the weights, in a new process."""
    model = build_model(args)
    return measure_peak(lambda: draw(model, work), args.device)


def compare(model: LavitForCausalLM, args) -> Iterator[Figure]:
    """Compares guidance in one forward and in two passes, a batch and one image, a step and reading the weights."""
    works = {
        "one forward": Work(args.num_codes),
        "two passes": Work(args.num_codes, way="two passes"),
        "batch of 8": Work(args.num_codes, batch_size=8),
    }
    if args.device == "cpu":
        works["batch of 8, sdpa"] = Work(args.num_codes, batch_size=8, attention="sdpa")
    if args.device.startswith("cuda"):
        works["static cache, compiled"] = Work(args.num_codes, way="static cache")
    functions = {name: lambda work=work: draw(model, work) for name, work in works.items()}
    seconds = time_in_turns(functions | {"weights": lambda: read_weights(model)}, args.runs, args.device)
    weights = statistics.median(seconds.pop("weights"))
    for name, runs in seconds.items():
        work, median = works[name], statistics.median(runs)
        ratios = [one * work.batch_size / other for one, other in zip(seconds["one forward"], runs, strict=True)]
        against = () if name == "one forward" else ("one forward", statistics.median(ratios))
        step = median / args.num_codes
        images = 60 * work.batch_size / median * args.num_codes / CODES_PER_IMAGE
        yield Figure(name, work.batch_size / step, "tokens/s", *against)
        yield Figure(name, images, f"images/min of {CODES_PER_IMAGE} codes")
        yield Figure(name, 1000 * step, "ms a step", "weights read once", weights / step)
        yield Figure(name, in_new_process(peak_memory, args, work), "MB beyond the weights")
    yield Figure("weights read once", 1000 * weights, "ms a step")
    yield Figure("weights read once", read_weights(model) / 1e9 / weights, "GB/s")


def measure_growth(model: LavitForCausalLM, args) -> Iterator[Figure]:
    """Measures speed and memory over the length of the prompt, its images, and the batch size."""
    series = {
        "prompt length": [(value, Work(GROWTH_CODES, prompt_length=value)) for value in (16, 64, 256, 1024)],
        "images in the prompt": [(value, Work(GROWTH_CODES, num_images=value)) for value in (0, 1, 2, 4, 8)],
        "batch size": [(value, Work(GROWTH_CODES, batch_size=value)) for value in (1, 2, 4, 8, 16)],
    }
    for name, works in series.items():
        functions = {str(value): lambda work=work: draw(model, work) for value, work in works}
        seconds = time_in_turns(functions, args.runs, args.device)
        for value, work in works:
            speed = work.batch_size * work.num_codes / statistics.median(seconds[str(value)])
            yield Figure(f"{name}: {value}", speed, "tokens/s")
            yield Figure(f"{name}: {value}", in_new_process(peak_memory, args, work), "MB beyond the weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=1280)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--num-codes", type=int, default=CODES_PER_IMAGE, help="number of codes of each image")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", help="dtype; float32 suits a processor without bfloat16 units")
    parser.add_argument("--plot", help="image file for a plot of the growth, which is only measured with this option")
    add_output(parser)
    args = parser.parse_args()
    model = build_model(args)
    billions = sum(p.numel() for p in model.model.language_model.parameters()) / 1e9
    title = f"Llama of {billions:.2f} billion weights, {args.dtype}"
    parts = {"drawing": list(compare(model, args))}
    if args.plot:
        parts["growth"] = list(measure_growth(model, args))
        plot_growth(parts["growth"], args.plot, f"{title}, {args.device}, {torch.get_num_threads()} threads")
    setting = f"{title}; guidance {GUIDANCE_SCALE:g}, {args.num_codes} codes, median of {args.runs}"
    report(args, setting, parts)


if __name__ == "__main__":
    main()
