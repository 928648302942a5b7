# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures what a decoding step takes on a CPU, and what compilation, other dtypes and quantized weights save.

    python benchmarks/decoding.py

The language model is a Llama with random weights and the codes of the release, by default of 0.56 billion weights. All
ways draw one image with guidance and take turns in one process. The limit of a step is the time in which its weights
are read from memory once. "Matrix products" is their share of a step by the profiler; the rest is attention, norms,
sampling and Python. "Compiled" is `torch.compile` of the language model with a static cache, which needs a C++
compiler. int8 are the weights alone, by torchao.
"""

import argparse
import copy
import statistics
import time
from dataclasses import dataclass

import torch
from figures import Figure, add_output, report
from generation import Work, build_model, draw, read_weights
from timing import time_in_turns
from torch.profiler import ProfilerActivity, profile

from lavit_hf import LavitForCausalLM


PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::", "aten::_weight_int8pack_mm", "mkl::")


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


WAYS = {
    "bfloat16": Way(),
    "static-cache": Way(static=True),
    "compiled": Way(static=True, compiled=True),
    "float32": Way("float32"),
    "float32-compiled": Way("float32", static=True, compiled=True),
    "int8": Way(int8=True),
    "int8-compiled": Way(int8=True, static=True, compiled=True),
}


def share_of_products(model: LavitForCausalLM, work: Work) -> float:
    """Returns the share of the time that matrix products take, each with what it calls."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        draw(model, work)
        seconds = time.perf_counter() - started
    products = [event for event in profiler.key_averages() if event.key.startswith(PRODUCTS)]
    return sum(event.self_cpu_time_total for event in products) / 1e6 / seconds


def measure(args) -> list[Figure]:
    base = build_model(args)
    ways = {name: WAYS[name] for name in args.ways}
    models = {name: way.prepare(base) for name, way in ways.items()}
    works = {
        name: Work(args.num_codes, way="static cache" if way.static else "one forward") for name, way in ways.items()
    }
    functions = {name: lambda name=name: draw(models[name], works[name]) for name in ways}
    seconds = time_in_turns(functions | {"weights": lambda: read_weights(base)}, args.runs, "cpu")
    limit = 1000 * statistics.median(seconds.pop("weights"))
    first = next(iter(ways))
    figures = []
    for name, runs in seconds.items():
        step = 1000 * statistics.median(runs) / args.num_codes
        faster = statistics.median(one / other for one, other in zip(seconds[first], runs, strict=True))
        figures += [
            Figure(name, step, "ms a step", "weights read once", limit / step),
            Figure(name, 1000 / step, "tokens/s", *(() if name == first else (first, faster))),
            Figure(name, 100 * share_of_products(models[name], works[name]), "% in matrix products"),
        ]
    return [*figures, Figure("weights read once", limit, "ms a step")]


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
    figures = measure(args)
    setting = f"{args.layers} layers of width {args.hidden_size}, {args.num_codes} codes, median of {args.runs}"
    report(args, setting, {"step": figures})


if __name__ == "__main__":
    main()
