# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures what a decoding step takes on a CPU, and what compilation, other dtypes and quantized weights save.

    python benchmarks/decoding.py

The language model is a Llama with random weights and the codes of the release, by default of 0.56 billion weights. All
ways draw one image with guidance and take turns in one process. A step is the time of a further code, without the
prompt. Its limit is the time in which the weights, as the way holds them, are read from memory once. The share of
matrix products is that of a run under the profiler, which takes longer than a run without it. The rest is attention,
norms, sampling and Python. "Compiled" is `torch.compile` of the language model with a static cache, which needs a C++
compiler. int8 are the weights alone, by torchao. With PyTorch 2.14, compiled int8 products of small widths, such as
256, crash the process.

The second part multiplies the matrices of the first layers of the MLPs by a few rows. `nn.Linear` stores its weights
as (out, in). The figures tell what a second row costs, such as that of the unconditional branch, and whether another
dtype or layout of the weights changes that.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from figures import Figure, add_output, report
from generation import Drawing, build_model, bytes_of_a_step, draw, reading, time_steps
from timing import speedup, time_in_turns
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lavit_hf import LavitForCausalLM


PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::", "aten::_weight_int8pack_mm", "mkl::")
ROWS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Way:
    """How the weights are held and the language model is run."""

    dtype: str = "bfloat16"
    static: bool = False
    compiled: bool = False
    int8: bool = False

    def prepare(self, model: LavitForCausalLM) -> LavitForCausalLM:
        """Returns a model of its own."""
        model = copy.deepcopy(model).to(getattr(torch, self.dtype))
        if self.int8:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            for part in (model.model.language_model, model.lm_head):
                quantize_(part, Int8WeightOnlyConfig())
        if self.compiled:
            model.model.language_model.compile(dynamic=False)
        return model

    def draw(self, model: LavitForCausalLM, num_codes: int, stop_after: int) -> None:
        draw(model, Drawing(num_codes, way="static cache" if self.static else "one forward"), stop_after)


WAYS = {
    "bfloat16": Way(),
    "bfloat16-static": Way(static=True),
    "bfloat16-compiled": Way(static=True, compiled=True),
    "float32": Way("float32"),
    "float32-compiled": Way("float32", static=True, compiled=True),
    "int8": Way(int8=True),
    "int8-compiled": Way(int8=True, static=True, compiled=True),
}


def share_of_products(model: LavitForCausalLM, way: Way, num_codes: int) -> float:
    """Returns the share of the time of a drawing that is spent in the operations of matrix products themselves."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        way.draw(model, num_codes, num_codes)
        seconds = time.perf_counter() - started
    products = [event for event in profiler.key_averages() if event.key.startswith(PRODUCTS)]
    return sum(event.self_cpu_time_total for event in products) / 1e6 / seconds


def measure_steps(args) -> Iterator[Figure]:
    """Measures a step of each way against the time in which its weights are read, and against the first way."""
    base = build_model(args)
    ways = {name: WAYS[name] for name in args.ways}
    models = {name: way.prepare(base) for name, way in ways.items()}
    draws = {name: partial(way.draw, models[name], args.num_codes) for name, way in ways.items()}
    limits = {f"{name}, weights": reading(bytes_of_a_step(models[name]), "cpu") for name in ways}
    seconds, steps = time_steps(draws, args.num_codes, args.runs, "cpu", limits)
    first = next(iter(ways))
    for name, way in ways.items():
        step, read = steps[name], seconds[f"{name}, weights"]
        against = () if name == first else (first, speedup(steps[first], step))
        yield Figure(name, 1000 * statistics.median(step), "ms per step", *against)
        yield Figure(name, 1000 * statistics.median(read), "ms to read the weights", "a step", speedup(read, step))
        yield Figure(name, 100 * share_of_products(models[name], way, args.num_codes), "% in matrix products")


def measure_products(args) -> Iterator[Figure]:
    """Measures products of all matrices of a kind with a few rows, in two dtypes and layouts."""
    width, wide = args.hidden_size, 27 * args.hidden_size // 10
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(wide, width, generator=generator).to(dtype) for _ in range(args.layers)]
        layouts = {"(out, in)": weights, "(in, out)": [weight.t().contiguous().t() for weight in weights]}
        for layout, matrices in layouts.items():

            def multiply(rows: torch.Tensor, matrices: list[torch.Tensor] = matrices) -> None:
                for matrix in matrices:
                    nn.functional.linear(rows, matrix)

            functions = {count: partial(multiply, torch.randn(count, width).to(dtype)) for count in ROWS}
            seconds = time_in_turns(functions, args.runs, "cpu")
            kind = f"{str(dtype).removeprefix('torch.')}, {layout}"
            for count, runs in seconds.items():
                against = () if count == 1 else ("1 row", count * speedup(seconds[1], runs))
                yield Figure(f"{kind}, rows: {count}", 1000 * statistics.median(runs), "ms", *against)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=1280)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--num-codes", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.set_defaults(device="cpu", dtype="bfloat16")
    add_output(parser)
    args = parser.parse_args()
    parts = {"steps": list(measure_steps(args)), "products with a few rows": list(measure_products(args))}
    setting = f"{args.layers} layers of width {args.hidden_size}, {args.num_codes} codes, medians of {args.runs} runs"
    report(args, setting, parts)


if __name__ == "__main__":
    main()
