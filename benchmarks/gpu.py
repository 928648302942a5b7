# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures what only a GPU can tell, at the sizes of the release with random weights, on one GPU of 80 GB.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts drawing stage_two --minutes 4
    python benchmarks/gpu.py --toy --device cpu

Each part runs in a process of its own. Its figures are added to one JSON file as they are measured, so that the
command can be cut at any time, and ends after 8.5 minutes. The same command then measures the parts that are not
complete. A ratio has its baseline in the same process. The two take turns where the GPU holds both.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from timing import synchronize, time_in_turns
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2VisionConfig, LlamaConfig

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
    LavitVisualTokenizerForPreTraining,
)
from lavit_hf.modeling.merger_lavit import PatchPartition
from lavit_hf.training import LavitImageDecoderForTraining


# The dense peak of the data sheets in FLOP/s, in bfloat16, by a part of the name of the GPU.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}
NUM_TEXT_TOKENS = 32000


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measured models and inputs. The defaults are those of the release."""

    vision: dict = field(default_factory=lambda: {"num_hidden_layers": 40})
    merger: dict = field(default_factory=lambda: {"num_merger_layers": 12})
    # Llama-2-7B, and a model whose optimizer states fit beside it on one GPU.
    text: dict = field(default_factory=dict)
    trained_text: dict = field(
        default_factory=lambda: {
            "hidden_size": 2048,
            "intermediate_size": 5504,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        }
    )
    unet: dict = field(
        default_factory=lambda: {  # of SDXL
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    )
    vae: dict = field(
        default_factory=lambda: {
            "sample_size": 1024,
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
        }
    )
    conditions: tuple[int, int] = (768, 1280)
    pixels: int = 1024
    steps: int = 25
    codes: int = 85  # of an image, on average
    tokenizer_batch: int = 64
    drawing_batches: tuple[int, ...] = (8, 32)
    reading_tokens: int = 64
    training_batch: int = 64  # images of stage 1
    training_tokens: tuple[int, int] = (8, 1024)  # sequences of stage 2, and their length
    decoder_batch: int = 4
    decoder_pixels: int = 512
    runs: int = 3


TOY = Sizes(
    vision={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
    },
    merger={"num_merger_layers": 1, "intermediate_size": 64, "codebook_size": 64},
    text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    trained_text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    unet={
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 36,
    },
    vae={
        "sample_size": 16,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
    },
    conditions=(4, 12),
    pixels=16,
    steps=2,
    codes=3,
    tokenizer_batch=2,
    drawing_batches=(2,),
    reading_tokens=3,
    training_batch=2,
    training_tokens=(2, 16),
    decoder_batch=2,
    decoder_pixels=16,
    runs=1,
)


@dataclass(frozen=True)
class Figure:
    """
    A measured value.

    Args:
        name (`str`): The name of the measured quantity.
        value (`float`): The value.
        unit (`str`): Its unit.
        baseline (`str`, *optional*): The name of what it is compared with.
        ratio (`float`, *optional*): How many times better than the baseline, or the share of the limit.
    """

    name: str
    value: float
    unit: str
    baseline: str | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Setup:
    """The sizes, and the device that a part runs on."""

    sizes: Sizes
    device: str

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def compile(self, function: Callable) -> Callable:
        """Compiles a function. Without a GPU, nothing is to be gained, and only the graph is captured."""
        return torch.compile(function, backend="inductor" if self.on_gpu else "eager")

    def new_model(self, model_class: type[nn.Module], config, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
        """Makes a model with random weights on the device."""
        with torch.device(self.device):
            return model_class(config).to(dtype).eval()

    def tokenizer_config(self) -> LavitVisualTokenizerConfig:
        vision = Blip2VisionConfig(**self.sizes.vision, initializer_range=0.02)
        return LavitVisualTokenizerConfig(vision_config=vision, **self.sizes.merger)

    def new_lavit(self, text: dict) -> LavitForCausalLM:
        tokenizer = self.tokenizer_config()
        vocab_size = NUM_TEXT_TOKENS + tokenizer.codebook_size + 3
        config = LlamaConfig(vocab_size=vocab_size, max_position_embeddings=4096, **text)
        return self.new_model(LavitForCausalLM, LavitConfig(text_config=config, visual_tokenizer_config=tokenizer))

    def new_pipeline(self) -> LavitImageDecoderPipeline:
        sizes, pooled = self.sizes, self.sizes.conditions[-1]
        assert sum(sizes.conditions) == sizes.unet["cross_attention_dim"]
        decoder = LavitFeatureDecoderConfig.from_visual_tokenizer_config(
            self.tokenizer_config(), condition_dims=list(sizes.conditions), pooled_condition_dim=pooled
        )
        with torch.device(self.device):
            unet = UNet2DConditionModel(addition_embed_type="text_time", **sizes.unet).to(torch.bfloat16)
            vae = AutoencoderKL(scaling_factor=0.13025, **sizes.vae).to(torch.bfloat16)
        feature_decoder = self.new_model(LavitFeatureDecoder, decoder)
        pipeline = LavitImageDecoderPipeline(feature_decoder, unet, vae, DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def random_pixels(self, batch_size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        side = self.tokenizer_config().vision_config.image_size
        return torch.randn(batch_size, 3, side, side, device=self.device, dtype=dtype)

    def time(self, functions: dict[str, Callable]) -> dict[str, float]:
        """Returns the median seconds of functions that take turns."""
        seconds = time_in_turns(functions, self.sizes.runs, self.device)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def peak_memory(self, function: Callable) -> float | None:
        """Returns the largest GB on the GPU while a function runs."""
        if not self.on_gpu:
            function()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        function()
        synchronize(self.device)
        return torch.cuda.max_memory_allocated() / 1e9

    def peak_flops(self) -> float | None:
        """Returns the FLOP/s of the data sheet, if the GPU is a known one."""
        name = torch.cuda.get_device_name() if self.on_gpu else ""
        return next((peak for part, peak in PEAKS.items() if part in name), None)


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
        yield Figure(f"share of the tower, {name}", seconds["tower"] / seconds["whole"], "of the time")
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
    yield Figure("weights read once", 1000 * weights, "ms")
    for name, value in seconds.items():
        step = 1000 * value / codes
        yield Figure(f"step, {name}", step, "ms", "weights read once", 1000 * weights / step)
        if name != "two passes":
            images = works[name].batch_size / value
            baseline = "two passes" if works[name].batch_size == 1 else "one forward"
            yield Figure(f"images, {name}", 60 * images, "images/min", baseline, images * seconds[baseline])


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
        yield Figure(f"{name}: peak memory", memory, "GB")
    if flops is None:
        with FlopCounterMode(display=False) as counter:
            train()
        flops = counter.get_total_flops()
    peak = setup.peak_flops()
    against = {} if peak is None else {"baseline": "the peak", "ratio": flops / seconds / peak}
    yield Figure(f"{name}: useful FLOP/s", flops / seconds / 1e12, "TFLOP/s", **against)
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
        yield Figure(f"{name}, guided", speed, "tokens/s", "bfloat16", speed / first)
        yield Figure(f"{name}: weights", sum(map(count_bytes, model.parameters())) / 1e9, "GB")
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
    yield Figure("conversion: private memory", facts["private"] / 1e9, "GB", "the bound", facts["private"] / BOUND)


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


def describe_machine(device: str) -> dict[str, str]:
    """Returns what the figures depend on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    versions = {module: importlib.metadata.version(module) for module in ("torch", "transformers", "diffusers")}
    return {"device": name, "python": platform.python_version()} | versions


def write(path: Path, content: dict) -> None:
    """Replaces the file at once, so that it is whole whenever the command is cut."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)


def run_part(name: str, setup: Setup, path: Path) -> None:
    """Measures a part, and adds each of its figures to the file."""
    content = json.loads(path.read_text())
    part = content["parts"][name] = {"complete": False, "figures": []}
    for figure in PARTS[name](setup):
        part["figures"].append(asdict(figure))
        write(path, content)
    part["complete"] = True
    write(path, content)


def run_parts(args: argparse.Namespace, path: Path) -> None:
    """Runs the parts that are not complete, each in a process of its own, until the time is over."""
    deadline = time.monotonic() + 60 * args.minutes
    for name in args.parts:
        if json.loads(path.read_text())["parts"].get(name, {}).get("complete"):
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


def show(content: dict) -> Table:
    """Makes the table of all figures."""
    table = Table("part", "figure", "value", "unit", "against", "ratio")
    for name, part in content["parts"].items():
        for figure in (Figure(**values) for values in part["figures"]):
            ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
            table.add_row(name, figure.name, f"{figure.value:.4g}", figure.unit, figure.baseline or "", ratio)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--minutes", type=float, default=8.5, help="time after which the command ends")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="JSON file of the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny models, to test the command itself")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: there is no GPU; --toy --device cpu tests the command")
    if args.part:
        run_part(args.part, Setup(TOY if args.toy else Sizes(), args.device), args.output)
        return
    machine = describe_machine(args.device) | {"sizes": "toy" if args.toy else "release"}
    if not args.output.exists():
        write(args.output, {"machine": machine, "parts": {}})
    found = json.loads(args.output.read_text())["machine"]
    if found != machine:
        parser.error(f"--output {args.output} has figures of {found}, not of {machine}: name another file")
    run_parts(args, args.output)
    content = json.loads(args.output.read_text())
    Console(width=120).print(show(content))
    if missing := [name for name in args.parts if not content["parts"].get(name, {}).get("complete")]:
        sys.exit(f"Not complete: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
