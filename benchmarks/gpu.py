# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures what only a GPU can tell, at the sizes of the release with random weights, on one GPU of 80 GB.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts drawing stage_two --minutes 4
    python benchmarks/gpu.py --toy --device cpu --output toy.json

Each part runs in a process of its own. Its figures are added to one JSON file as they are measured, so that the
command can be cut at any time, and ends after 8.5 minutes. The same command then measures the parts that are not
complete. A ratio has its baseline in the same process. The two take turns where the GPU holds both at a time.
"""

import argparse
import copy
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import torch
from figures import Figure, add_output, default_output, describe, show, write
from gpu_setup import NUM_TEXT_TOKENS, TOY, Setup, Sizes
from rich.console import Console
from timing import speedup
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lavit_hf import LavitVisualTokenizer, LavitVisualTokenizerForPreTraining
from lavit_hf.training import LavitImageDecoderForTraining


@torch.no_grad()
def measure_tokenizer(setup: Setup) -> Iterator[Figure]:
    """Images per second of the visual tokenizer, packed against dense, and the share of the vision tower."""
    from tokenizer import MERGERS

    batch_size = setup.sizes.tokenizer_batch
    for dtype in (torch.float32, torch.bfloat16):
        tokenizer = setup.new_model(LavitVisualTokenizer, setup.tokenizer_config(), dtype)
        pixel_values, name = setup.random_pixels(batch_size, dtype), str(dtype).removeprefix("torch.")
        tokenize = partial(tokenizer, pixel_values, num_codes=setup.sizes.codes)
        features, keep_mask = tokenizer.encode_vision(pixel_values), tokenize().keep_mask
        seconds = setup.time(
            {
                "whole": tokenize,
                "tower": partial(tokenizer.encode_vision, pixel_values),
                **{path: partial(merge, tokenizer, features, keep_mask) for path, merge in MERGERS.items()},
            }
        )
        speeds = {part: batch_size / median(runs) for part, runs in seconds.items()}
        yield Figure(f"images, {name}", speeds["whole"], "images/s")
        share = speedup(seconds["tower"], seconds["whole"])
        yield Figure(f"tower, {name}", speeds["tower"], "images/s", "the time of the whole", share)
        ratio = speedup(seconds["dense"], seconds["packed"])
        yield Figure(f"packed merger, {name}", speeds["packed"], "images/s", "dense merger", ratio)
    tower = tokenizer.vision_tower
    plain, compiled = tower.forward, torch.compile(tower.forward, backend=setup.backend)

    def tokenize_with(forward: Callable) -> None:
        tower.forward = forward
        tokenize()

    seconds = setup.time({"plain": partial(tokenize_with, plain), "compiled": partial(tokenize_with, compiled)})
    speed, ratio = batch_size / median(seconds["compiled"]), speedup(seconds["plain"], seconds["compiled"])
    yield Figure("images, bfloat16, tower compiled", speed, "images/s", "not compiled", ratio)


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
    ratio = speedup(seconds["plain first"], seconds["first"])
    yield Figure("first token", median(seconds["first"]), "s", name, ratio)
    rest, plain_rest = (
        [whole - first for whole, first in zip(seconds[f"{kind}all"], seconds[f"{kind}first"], strict=True)]
        for kind in ("", "plain ")
    )
    yield Figure("tokens", count / median(rest), "tokens/s", name, speedup(plain_rest, rest))


@torch.no_grad()
def measure_drawing(setup: Setup) -> Iterator[Figure]:
    """Guided drawing of codes: against two passes, against the time to read the weights, and in batches."""
    from generation import Drawing, bytes_of_a_step, draw, reading, time_steps

    model, codes = setup.new_lavit(setup.sizes.text), setup.sizes.codes
    drawings = {"one forward": Drawing(codes), "two passes": Drawing(codes, way="two passes")}
    # transformers compiles it on a GPU. The class of "two passes" comes before it: a new class compiles it again.
    drawings["static cache"] = Drawing(codes, way="static cache")
    drawings |= {f"batch of {size}": Drawing(codes, batch_size=size) for size in setup.sizes.drawing_batches}
    draws = {name: partial(draw, model, drawing) for name, drawing in drawings.items()}
    limit = {"weights": reading(bytes_of_a_step(model), setup.device)}
    seconds, steps = time_steps(draws, codes, setup.sizes.runs, setup.device, limit)
    yield Figure("weights read once", 1000 * median(seconds["weights"]), "ms per step")
    for name, drawing in drawings.items():
        ratio = speedup(seconds["weights"], steps[name])
        yield Figure(name, 1000 * median(steps[name]), "ms per step", "weights read once", ratio)
        images = 60 * drawing.batch_size / median(seconds[name])
        baseline = "two passes" if name == "one forward" else "one forward"
        ratio = drawing.batch_size * speedup(seconds[baseline], seconds[name])
        yield Figure(name, images, "images/min", *(() if name == "two passes" else (baseline, ratio)))


@torch.no_grad()
def measure_pixels(setup: Setup) -> Iterator[Figure]:
    """Seconds from a prompt to pixels by part, and the step of the U-Net, compiled."""
    from generation import Drawing, draw

    sizes = setup.sizes
    model, pipeline = setup.new_lavit(sizes.text), setup.new_pipeline()
    codes = [torch.randint(model.config.codebook_size, (sizes.codes,)).tolist()]
    plain, compiled = pipeline.unet, copy.deepcopy(pipeline.unet)
    compiled.compile_repeated_blocks(backend=setup.backend)  # a few seconds, where the whole U-Net takes minutes

    def decode(unet: nn.Module) -> None:
        pipeline.unet = unet
        pipeline(codes, height=sizes.pixels, width=sizes.pixels, num_inference_steps=sizes.steps)

    latents = torch.randn(1, 4, *[sizes.pixels // pipeline.vae_scale_factor] * 2, device=setup.device)
    drawing = Drawing(sizes.codes, way="static cache" if setup.on_gpu else "one forward")
    seconds = setup.time(
        {
            "codes": partial(draw, model, drawing),
            "pixels": partial(decode, plain),
            "blocks of the U-Net compiled": partial(decode, compiled),
            "VAE": lambda: pipeline.vae.decode(latents.to(torch.bfloat16)),
        }
    )
    whole = [sum(parts) for parts in zip(seconds["codes"], seconds["pixels"], strict=True)]
    title = f"prompt to {sizes.pixels} pixels"
    yield Figure(title, median(whole), "s")
    for part in ("codes", "pixels"):
        yield Figure(f"{title}: {part}", median(seconds[part]), "s", title, speedup(seconds[part], whole))
    name, pixels = f"{title}: pixels", seconds["pixels"]
    compiled, vae = seconds["blocks of the U-Net compiled"], seconds["VAE"]
    yield Figure(f"{name}, blocks of the U-Net compiled", median(compiled), "s", name, speedup(pixels, compiled))
    yield Figure(f"{name}: VAE", median(vae), "s", name, speedup(vae, pixels))


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
    seconds = median(setup.time({"step": train})["step"])
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
    """Training of a language model of 1.3 billion weights on tokens of text. No image is read."""
    batch_size, length = setup.sizes.training_tokens
    ids = torch.randint(3, NUM_TEXT_TOKENS, (batch_size, length), device=setup.device)
    flops = None  # those of sdpa hold for FlashAttention, whose kernels the counter does not know
    for attention in ["sdpa"] + ["flash_attention_2"] * bool(importlib.util.find_spec("flash_attn") and setup.on_gpu):
        for name in (f"stage 2, {attention}", f"stage 2, {attention}, checkpointing"):
            model = setup.new_lavit(setup.sizes.trained_text).float().train()
            model.model.visual_tokenizer.requires_grad_(False)
            model.set_attn_implementation({"text_config": attention})
            if name.endswith("checkpointing"):
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
    """Drawing with, and memory of, a language model in bfloat16, int8 and packed int4."""
    from generation import Drawing, draw
    from memory import count_bytes
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    ways = {"bfloat16": None, "int8": Int8WeightOnlyConfig()}
    if setup.on_gpu:  # its kernels need one
        ways["int4"] = Int4WeightOnlyConfig(32, int4_packing_format="tile_packed_to_4d")
    # Without compilation, the time of a step on a GPU is that of its launches, whatever the weights.
    drawing = Drawing(setup.sizes.codes, way="static cache" if setup.on_gpu else "one forward")
    speeds, sizes = {}, {}
    for name, config in ways.items():
        model = setup.new_lavit(setup.sizes.text)
        if config is not None:
            quantize_(model.model.language_model, config)
        speeds[name] = 60 / median(setup.time({name: partial(draw, model, drawing)})[name])
        sizes[name] = sum(map(count_bytes, model.parameters())) / 1e9
        speed, size = speeds[name] / speeds["bfloat16"], sizes["bfloat16"] / sizes[name]
        yield Figure(name, speeds[name], "images/min", *(() if config is None else ("bfloat16", speed)))
        yield Figure(name, sizes[name], "GB of weights", *(() if config is None else ("bfloat16", size)))
        del model


def measure_lora(setup: Setup) -> Iterator[Figure]:
    """Memory and speed of LoRA of the language model on tokens of text. No image is read."""
    from peft import LoraConfig, get_peft_model

    (_, length), flops = setup.sizes.training_tokens, None
    ids = torch.randint(3, NUM_TEXT_TOKENS, (1, length), device=setup.device)
    model = setup.new_lavit(setup.sizes.text)
    model.enable_input_require_grads()
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "v_proj"])).train()
    step = partial(compute_loss, adapted, input_ids=ids, labels=ids, skip_logits=True)
    for name in ("LoRA, one sequence", "LoRA, one sequence, checkpointing"):
        if name.endswith("checkpointing"):
            model.gradient_checkpointing_enable()
        flops = yield from measure_step(setup, adapted, step, length, "tokens/s", name, flops)


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
            print(f"The part {name} was cut after {args.minutes:g} minutes. The same command goes on with it.")
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
        if args.device.startswith("cuda:"):
            torch.cuda.set_device(args.device)
        run_part(args.part, Setup(TOY if args.toy else Sizes(), args.device), args.output)
        return
    if args.toy and not args.output:
        parser.error("--toy needs --output, since its figures do not belong to benchmarks/results")
    path = args.output or default_output(args.device)
    expected = describe(f"{'Toy' if args.toy else 'Release'} sizes", args.device) | {"complete": []}
    if not path.exists():
        write(path, expected)
    found = json.loads(path.read_text())
    if expected["machine"]["gpu"]:  # the processor matters little, and the dtype in which it is faster may be close
        found["machine"]["processor"] = expected["machine"]["processor"]
    for key in ("machine", "setting"):
        if found[key] != expected[key]:
            parser.error(
                f"{path} has figures of {found[key]}, not of {expected[key]}: choose another file with --output"
            )
    run_parts(args, path)
    content = json.loads(path.read_text())
    Console(width=120).print(show(content))
    if missing := [name for name in args.parts if name not in content["complete"]]:
        sys.exit(f"Not complete: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
