# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures what only a GPU can tell, at the sizes of the release with random weights, on one GPU of 80 GB.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts drawing stage_two --minutes 4
    python benchmarks/gpu.py --toy --device cpu --output toy.json

Each part runs in a process of its own. Its figures are added to one JSON file as they are measured, so that the
command can be cut at any time, and ends after 8.5 minutes. The same command then measures the parts that are not
complete. A ratio has its baseline in the same process. The two take turns where the GPU holds both.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from figures import Figure, add_output, default_output, describe, show, write
from gpu_setup import NUM_TEXT_TOKENS, TOY, Setup, Sizes
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lavit_hf import LavitVisualTokenizer, LavitVisualTokenizerForPreTraining
from lavit_hf.modeling.merger_lavit import PatchPartition
from lavit_hf.training import LavitImageDecoderForTraining


@torch.no_grad()
def measure_tokenizer(setup: Setup) -> Iterator[Figure]:
    """Images per second of the visual tokenizer, packed against dense, and the share of the vision tower."""
    batch_size = setup.sizes.tokenizer_batch
    for dtype in (torch.float32, torch.bfloat16):
        tokenizer = setup.new_model(LavitVisualTokenizer, setup.tokenizer_config(), dtype)
        pixel_values, name = setup.random_pixels(batch_size, dtype), str(dtype).removeprefix("torch.")
        features = tokenizer.encode_vision(pixel_values)
        keep_mask = torch.rand(features.shape[:2], device=setup.device) < 1 / 3
        keep_mask[:, 0] = True
        seconds = setup.time(
            {
                "whole": partial(tokenizer, pixel_values),
                "tower": partial(tokenizer.encode_vision, pixel_values),
                "packed": partial(tokenizer.merger, features, PatchPartition(keep_mask)),
                "dense": partial(tokenizer.merger, features, policy=keep_mask.to(features.dtype)),
            }
        )
        yield Figure(f"images, {name}", batch_size / seconds["whole"], "images/s")
        yield Figure(
            f"tower, {name}",
            batch_size / seconds["tower"],
            "images/s",
            "the whole",
            seconds["tower"] / seconds["whole"],
        )
        ratio = seconds["dense"] / seconds["packed"]
        yield Figure(f"packed merger, {name}", batch_size / seconds["packed"], "images/s", "dense merger", ratio)
    tower = tokenizer.vision_tower
    plain, compiled = tower.forward, setup.compile(tower.forward)

    def tokenize(forward: Callable) -> None:
        tower.forward = forward
        tokenizer(pixel_values)

    seconds = setup.time({"plain": lambda: tokenize(plain), "compiled": lambda: tokenize(compiled)})
    ratio = seconds["plain"] / seconds["compiled"]
    yield Figure("images, bfloat16, compiled", batch_size / seconds["compiled"], "images/s", "not compiled", ratio)


@torch.no_grad()
def measure_reading(setup: Setup) -> Iterator[Figure]:
    """Time to the first token after an image, and tokens per second, against the language model alone."""
    from generation import plain_model

    model, count = setup.new_lavit(setup.sizes.text), setup.sizes.reading_tokens
    config = model.config
    prompt = torch.tensor([[config.image_start_token_id, config.image_token_id, config.image_end_token_id, 5, 6, 7]])
    prompt, pixel_values = prompt.to(setup.device), setup.random_pixels(1)
    inputs = {"input_ids": prompt, "pixel_values": pixel_values, "attention_mask": torch.ones_like(prompt)}
    length = model.model.expand_images(**inputs).inputs_embeds.shape[1]
    ids = torch.randint(3, NUM_TEXT_TOKENS, (1, length), device=setup.device)
    plain = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "eos_token_id": None}

    def settings(number: int) -> dict:
        return {"max_new_tokens": number, "min_new_tokens": number, "do_sample": False, "pad_token_id": 0}

    seconds = setup.time(
        {
            "first": lambda: model.generate(**inputs, **settings(1)),
            "all": lambda: model.generate(**inputs, **settings(count + 1)),
            "plain first": lambda: plain_model(model).generate(**plain, **settings(1)),
            "plain all": lambda: plain_model(model).generate(**plain, **settings(count + 1)),
        }
    )
    name = f"language model alone, {length} tokens"
    yield Figure("first token", seconds["first"], "s", name, seconds["plain first"] / seconds["first"])
    step, plain_step = (seconds[f"{kind}all"] - seconds[f"{kind}first"] for kind in ("", "plain "))
    yield Figure("tokens", count / step, "tokens/s", name, plain_step / step)


@torch.no_grad()
def measure_drawing(setup: Setup) -> Iterator[Figure]:
    """Guided drawing of codes: against two passes, against the time to read the weights, and in batches."""
    from generation import Work, draw, read_weights

    model, codes = setup.new_lavit(setup.sizes.text), setup.sizes.codes
    works = {"one forward": Work(codes), "two passes": Work(codes, way="two passes")}
    works["static cache"] = Work(codes, way="static cache")  # compiled by transformers on a GPU
    works |= {f"batch of {size}": Work(codes, batch_size=size) for size in setup.sizes.drawing_batches}
    functions = {name: lambda work=work: draw(model, work) for name, work in works.items()}
    seconds = setup.time(functions | {"weights": lambda: read_weights(model)})
    weights = seconds.pop("weights")
    yield Figure("weights read once", 1000 * weights, "ms a step")
    for name, value in seconds.items():
        step = 1000 * value / codes
        yield Figure(name, step, "ms a step", "weights read once", 1000 * weights / step)
        if name != "two passes":
            images = works[name].batch_size / value
            baseline = "two passes" if works[name].batch_size == 1 else "one forward"
            yield Figure(name, 60 * images, "images/min", baseline, images * seconds[baseline])


@torch.no_grad()
def measure_pixels(setup: Setup) -> Iterator[Figure]:
    """Seconds from a prompt to pixels by part, and the step of the U-Net, compiled."""
    from generation import Work, draw

    sizes = setup.sizes
    model, pipeline = setup.new_lavit(sizes.text), setup.new_pipeline()
    codes = [torch.randint(model.config.codebook_size, (sizes.codes,)).tolist()]

    def decode() -> None:
        pipeline(codes, height=sizes.pixels, width=sizes.pixels, num_inference_steps=sizes.steps)

    work = Work(sizes.codes, way="static cache" if setup.on_gpu else "one forward")
    seconds = setup.time({"codes": partial(draw, model, work), "pixels": decode})
    latents = torch.randn(1, 4, *[sizes.pixels // pipeline.vae_scale_factor] * 2, device=setup.device)
    vae = setup.time({"vae": lambda: pipeline.vae.decode(latents.to(torch.bfloat16))})["vae"]
    whole = seconds["codes"] + seconds["pixels"]
    title = f"prompt to {sizes.pixels} pixels"
    yield Figure(title, whole, "s")
    for part, value in {"codes": seconds["codes"], "VAE": vae, "U-Net": seconds["pixels"] - vae}.items():
        yield Figure(f"{title}: {part}", value, "s", "the whole", value / whole)
    plain, compiled = pipeline.unet.forward, setup.compile(pipeline.unet.forward)

    def decode_with(forward: Callable) -> None:
        pipeline.unet.forward = forward
        decode()

    seconds = setup.time({"plain": lambda: decode_with(plain), "compiled": lambda: decode_with(compiled)})
    ratio = seconds["plain"] / seconds["compiled"]
    yield Figure("pixels, U-Net compiled", seconds["compiled"], "s", "not compiled", ratio)


def measure_step(
    setup: Setup, model: nn.Module, step: Callable, work: float, unit: str, name: str, flops: int | None = None
) -> Generator[Figure, None, int]:
    """
    Work per second, share of the peak, and memory of a training step with AdamW. Recomputed activations are no useful
    work, so that a step with activation checkpointing takes the `flops` of the one without, which are returned.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=setup.on_gpu)

    def train() -> None:
        with torch.autocast(setup.device.split(":")[0], dtype=torch.bfloat16):
            loss = step()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    train()  # the optimizer makes its states
    memory = setup.peak_memory(train)
    seconds = setup.time({"step": train})["step"]
    yield Figure(name, work / seconds, unit)
    if memory is not None:
        yield Figure(name, memory, "GB of peak memory")
    if flops is None:
        with FlopCounterMode(display=False) as counter:
            train()
        flops = counter.get_total_flops()
    peak = setup.peak_flops()
    against = {} if peak is None else {"baseline": "the peak", "ratio": flops / seconds / peak}
    yield Figure(name, flops / seconds / 1e12, "useful TFLOP/s", **against)
    return flops


def measure_stage_one(setup: Setup) -> Iterator[Figure]:
    """Training of the visual tokenizer."""
    batch_size, flops = setup.sizes.training_batch, None
    pixel_values = setup.random_pixels(batch_size)
    for name in ("stage 1", "stage 1, checkpointing"):
        model = setup.new_model(LavitVisualTokenizerForPreTraining, setup.tokenizer_config(), torch.float32).train()
        model.visual_tokenizer.vision_tower.requires_grad_(False).bfloat16()
        if flops:
            model.gradient_checkpointing_enable()
        step = partial(compute_loss, model, pixel_values=pixel_values)
        flops = yield from measure_step(setup, model, step, batch_size, "images/s", name, flops)


def compute_loss(model: nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
    """Returns the loss of a model."""
    return model(**inputs).loss


def measure_stage_two(setup: Setup) -> Iterator[Figure]:
    """Training of a language model of 1.3 billion weights on codes and text."""
    batch_size, length = setup.sizes.training_tokens
    ids = torch.randint(3, NUM_TEXT_TOKENS, (batch_size, length), device=setup.device)
    for attention in ["sdpa"] + ["flash_attention_2"] * bool(importlib.util.find_spec("flash_attn") and setup.on_gpu):
        flops = None
        for name in (f"stage 2, {attention}", f"stage 2, {attention}, checkpointing"):
            model = setup.new_lavit(setup.sizes.trained_text).float().train()
            model.model.visual_tokenizer.requires_grad_(False)
            model.set_attn_implementation({"text_config": attention})
            if flops:
                model.gradient_checkpointing_enable()
            step = partial(compute_loss, model, input_ids=ids, labels=ids, skip_logits=True)
            flops = yield from measure_step(setup, model, step, batch_size * length, "tokens/s", name, flops)


def measure_stage_three(setup: Setup) -> Iterator[Figure]:
    """Training of the U-Net."""
    sizes, flops = setup.sizes, None
    batch_size, side = sizes.decoder_batch, sizes.decoder_pixels
    for name in ("stage 3", "stage 3, checkpointing"):
        pipeline = setup.new_pipeline()
        pipeline.unet.float()
        model = LavitImageDecoderForTraining(pipeline).train()
        if flops:
            model.activation_checkpointing_enable()
        images = torch.rand(batch_size, 3, side, side, device=setup.device)
        codes = torch.randint(pipeline.feature_decoder.config.codebook_size, (batch_size, sizes.codes))
        codes = codes.to(setup.device)
        step = partial(compute_loss, model, images=images, codes=codes, attention_mask=torch.ones_like(codes))
        flops = yield from measure_step(setup, model, step, batch_size, "images/s", name, flops)


@torch.no_grad()
def measure_quantization(setup: Setup) -> Iterator[Figure]:
    """Tokens per second and memory of a language model in bfloat16, int8 and packed int4."""
    from generation import Work, draw
    from quantization import count_bytes
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    ways = {"bfloat16": None, "int8": Int8WeightOnlyConfig()}
    if setup.on_gpu:  # its kernels need one
        ways["int4"] = Int4WeightOnlyConfig(32)
    codes, first = setup.sizes.codes, 0.0
    for name, config in ways.items():
        model = setup.new_lavit(setup.sizes.text)
        if config is not None:
            quantize_(model.model.language_model, config)
        speed = 2 * codes / setup.time({name: lambda model=model: draw(model, Work(codes))})[name]
        first = first or speed
        yield Figure(name, speed, "tokens/s, with guidance", "bfloat16", speed / first)
        yield Figure(name, sum(map(count_bytes, model.parameters())) / 1e9, "GB of weights")
        del model


def measure_lora(setup: Setup) -> Iterator[Figure]:
    """Memory and speed of LoRA on the whole model."""
    from peft import LoraConfig, get_peft_model

    _, length = setup.sizes.training_tokens
    model = setup.new_lavit(setup.sizes.text)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "v_proj"])).train()
    ids = torch.randint(3, NUM_TEXT_TOKENS, (1, length), device=setup.device)
    step = partial(compute_loss, adapted, input_ids=ids, labels=ids, skip_logits=True)
    yield from measure_step(setup, adapted, step, length, "tokens/s", "LoRA, one sequence, checkpointing")


def measure_conversion(setup: Setup) -> Iterator[Figure]:
    """Seconds and memory of the conversion of a checkpoint of two shards, which needs no GPU."""
    from convert import BOUND, measure

    facts = measure(2, 128 if setup.sizes is TOY else 1024, "bfloat16", None)
    yield Figure("conversion", facts["total"] / 1e9 / facts["seconds"], "GB/s")
    yield Figure("conversion", facts["private"] / 1e9, "GB of private memory", "the bound", facts["private"] / BOUND)


PARTS: dict[str, Callable[[Setup], Iterator[Figure]]] = {
    "drawing": measure_drawing,
    "pixels": measure_pixels,
    "tokenizer": measure_tokenizer,
    "stage_two": measure_stage_two,
    "stage_one": measure_stage_one,
    "stage_three": measure_stage_three,
    "reading": measure_reading,
    "quantization": measure_quantization,
    "lora": measure_lora,
    "conversion": measure_conversion,
}


def run_part(name: str, setup: Setup, path: Path) -> None:
    """Measures a part, and adds each of its figures to the file."""
    content = json.loads(path.read_text())
    figures = content["parts"][name] = []
    for figure in PARTS[name](setup):
        figures.append(asdict(figure))
        write(path, content)
    content["complete"].append(name)
    write(path, content)


def run_parts(args: argparse.Namespace, path: Path) -> None:
    """Runs the parts that are not complete, each in a process of its own, until the time is over."""
    deadline = time.monotonic() + 60 * args.minutes
    for name in args.parts:
        if name in json.loads(path.read_text())["complete"]:
            continue
        command = [sys.executable, __file__, "--part", name, "--device", args.device, "--output", str(path)]
        try:
            left = max(1.0, deadline - time.monotonic())
            done = subprocess.run([*command, *["--toy"] * args.toy], timeout=left).returncode == 0
        except subprocess.TimeoutExpired:
            print(f"The {args.minutes:g} minutes are over in the part {name}: the same command goes on from there.")
            return
        if not done:
            print(f"The part {name} failed; the others go on.", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--minutes", type=float, default=8.5, help="time after which the command ends")
    add_output(parser)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny models, to test the command itself")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: there is no GPU; --toy --device cpu tests the command")
    if args.part:
        run_part(args.part, Setup(TOY if args.toy else Sizes(), args.device), args.output)
        return
    if args.toy and not args.output:
        parser.error("--toy needs --output: its figures are none of the results")
    path = args.output or default_output(args.device)
    expected = describe(f"{'Toy' if args.toy else 'Release'} sizes", args.device) | {"complete": []}
    if not path.exists():
        write(path, expected)
    found = json.loads(path.read_text())
    for key in ("machine", "setting"):
        if found[key] != expected[key]:
            parser.error(
                f"{path} has figures of {found[key]}, not of {expected[key]}: name another file with --output"
            )
    run_parts(args, path)
    content = json.loads(path.read_text())
    Console(width=120).print(show(content))
    if missing := [name for name in args.parts if name not in content["complete"]]:
        sys.exit(f"Not complete: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
