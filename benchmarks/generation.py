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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from figures import Figure, add_output, plot_growth, report
from memory import count_bytes, in_new_process, measure_peak
from timing import speedup, time_in_turns
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedModel, StoppingCriteria

from lavit_hf import LavitForCausalLM
from lavit_hf.publishing.export import causal_model_around


GUIDANCE_SCALE = 4.0
CODES_PER_IMAGE = 85  # the average of the release
GROWTH_CODES = 32  # enough for a rate; fourteen kinds of drawing are measured


@dataclass(frozen=True)
class Drawing:
    """One way to draw: the number of images and of their codes, the prompt, and the method."""

    num_codes: int
    batch_size: int = 1
    prompt_length: int = 32
    num_images: int = 0
    way: str = "one forward"  # or "two passes", or with a "static cache"
    attention: str | None = None  # the one that is faster on the device


class StopAt(StoppingCriteria):
    """Ends sequences of a length, which `max_new_tokens` does as well, but with another static cache."""

    def __init__(self, length: int):
        self.length = length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        is_done = input_ids.shape[1] >= self.length
        return torch.full((len(input_ids),), is_done, device=input_ids.device)


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


def make_prompt(model: LavitForCausalLM, drawing: Drawing) -> torch.LongTensor:
    """Makes prompts (batch_size, length) of images, as codes between `[IMG]` and `[/IMG]`, and text."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(drawing.num_images):
        codes = torch.randint(config.codebook_size, (drawing.batch_size, CODES_PER_IMAGE), generator=generator)
        column = torch.ones(drawing.batch_size, 1, dtype=torch.long)
        start, end = config.image_start_token_id * column, config.image_end_token_id * column
        parts += [start, config.visual_token_offset + codes, end]
    parts.append(torch.randint(3, 32000, (drawing.batch_size, drawing.prompt_length), generator=generator))
    return torch.cat(parts, dim=1).to(model.device)


def draw(model: LavitForCausalLM, drawing: Drawing, stop_after: int | None = None) -> None:
    """Draws exactly `drawing.num_codes` codes of each image, or with the same static cache only the first of them."""
    # On a CPU in bfloat16, sdpa is slower for a single query.
    faster = "eager" if model.device.type == "cpu" else "sdpa"
    model.set_attn_implementation({"text_config": drawing.attention or faster})
    prompt = make_prompt(model, drawing)
    start = torch.full_like(prompt[:, :1], model.config.image_start_token_id)
    prompt = torch.cat([prompt, start], dim=1)
    settings = {
        "attention_mask": torch.ones_like(prompt),
        "guidance_scale": GUIDANCE_SCALE,
        "do_sample": True,
        "top_k": 50,
        "min_new_tokens": drawing.num_codes,
        "max_new_tokens": drawing.num_codes,
        "pad_token_id": 0,
    }
    if stop_after is not None and stop_after < drawing.num_codes:
        settings["stopping_criteria"] = [StopAt(prompt.shape[1] + stop_after)]
    if drawing.way == "two passes":
        settings["negative_prompt_ids"] = start
        settings["eos_token_id"] = model.config.image_end_token_id
        plain_model(model).generate(prompt, **settings)
        return
    if drawing.way == "static cache":
        settings["cache_implementation"] = "static"  # compiled, where there is a GPU
    model.generate(prompt, generation_mode="image", **settings)


def bytes_of_a_step(model: LavitForCausalLM) -> int:
    """Returns the bytes that a step reads: those of the weights of the language model and its head, each once."""
    weights = {id(p): p for part in (model.model.language_model, model.lm_head) for p in part.parameters()}
    embeddings = model.get_input_embeddings().weight
    if embeddings is not model.lm_head.weight:
        del weights[id(embeddings)]  # a step reads a row of each token
    return sum(map(count_bytes, weights.values()))


@cache
def reading(num_bytes: int, device: str) -> Callable[[], torch.Tensor]:
    """Returns a function that reads as many bytes of memory, which is the limit of a step with such weights."""
    return torch.ones(num_bytes // 8, dtype=torch.int64, device=device).sum


def time_steps(
    draws: dict[str, Callable[[int], object]],
    num_codes: int,
    runs: int,
    device: str,
    others: dict[str, Callable[[], object]],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """
    Times ways to draw, which are functions of the number of codes to stop after, and other functions, all in turns.

    Returns:
        The seconds of each run of whole drawings and of the others, and the seconds of one step of each drawing: those
        of its second half by the codes in it, so that neither the prompt nor the start of a drawing counts.
    """
    functions: dict[str, Callable[[], object]] = {name: partial(way, num_codes) for name, way in draws.items()}
    halves = {f"{name}, half": partial(way, num_codes // 2) for name, way in draws.items()}
    seconds = time_in_turns(functions | halves | others, runs, device)
    steps = {}
    for name in draws:
        pairs = zip(seconds[name], seconds.pop(f"{name}, half"), strict=True)
        steps[name] = [(whole - half) / (num_codes - num_codes // 2) for whole, half in pairs]
    return seconds, steps


def peak_memory(args, drawing: Drawing) -> float:
    """Returns the peak memory in MB of one kind of drawing beyond the weights, in a new process."""
    model = build_model(args)
    return measure_peak(lambda: draw(model, drawing), args.device)


def compare(model: LavitForCausalLM, args) -> Iterator[Figure]:
    """Compares guidance in one forward and in two passes, a batch and one image, a step and reading the weights."""
    drawings = {
        "one forward": Drawing(args.num_codes),
        "two passes": Drawing(args.num_codes, way="two passes"),
        "batch of 8": Drawing(args.num_codes, batch_size=8),
    }
    if args.device == "cpu":
        drawings["batch of 8, sdpa"] = Drawing(args.num_codes, batch_size=8, attention="sdpa")
    if args.device.startswith("cuda"):
        drawings["static cache, compiled"] = Drawing(args.num_codes, way="static cache")
    draws = {name: partial(draw, model, drawing) for name, drawing in drawings.items()}
    num_bytes = bytes_of_a_step(model)
    others = {"weights": reading(num_bytes, args.device)}
    seconds, steps = time_steps(draws, args.num_codes, args.runs, args.device, others)
    for name, drawing in drawings.items():
        against = ("one forward", drawing.batch_size * speedup(seconds["one forward"], seconds[name]))
        images = 60 * drawing.batch_size / statistics.median(seconds[name])
        yield Figure(name, images, "images/min", *(() if name == "one forward" else against))
        step, limit = 1000 * statistics.median(steps[name]), speedup(seconds["weights"], steps[name])
        yield Figure(name, step, "ms per step", "weights read once", limit)
        yield Figure(name, in_new_process(peak_memory, args, drawing), "MB beyond the weights")
    weights = statistics.median(seconds["weights"])
    yield Figure("weights read once", 1000 * weights, "ms per step")
    yield Figure("weights read once", num_bytes / 1e9 / weights, "GB/s")


def measure_growth(model: LavitForCausalLM, args) -> Iterator[Figure]:
    """Measures speed and memory over the length of the prompt, its images, and the batch size."""
    series = {
        "prompt length": [(value, Drawing(GROWTH_CODES, prompt_length=value)) for value in (16, 64, 256, 1024)],
        "images in the prompt": [(value, Drawing(GROWTH_CODES, num_images=value)) for value in (0, 1, 2, 4, 8)],
        "batch size": [(value, Drawing(GROWTH_CODES, batch_size=value)) for value in (1, 2, 4, 8, 16)],
    }
    for name, drawings in series.items():
        functions = {str(value): lambda drawing=drawing: draw(model, drawing) for value, drawing in drawings}
        seconds = time_in_turns(functions, args.runs, args.device)
        for value, drawing in drawings:
            speed = drawing.batch_size * drawing.num_codes / statistics.median(seconds[str(value)])
            yield Figure(f"{name}: {value}", speed, "tokens/s")
            yield Figure(f"{name}: {value}", in_new_process(peak_memory, args, drawing), "MB beyond the weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=1280)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--num-codes", type=int, default=CODES_PER_IMAGE, help="number of codes of each image")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of the weights")
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
    setting = f"{title}; guidance {GUIDANCE_SCALE:g}, images of {args.num_codes} codes, medians of {args.runs} runs"
    report(args, setting, parts, args.dtype)


if __name__ == "__main__":
    main()
