# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures the memory of a LaVIT that is loaded whole, quantized, and with parts on a disk.

    python benchmarks/quantization.py

The language model is a Llama with random weights in bfloat16 and the codes of the release, by default of 0.56 billion
weights. Each way is loaded in a separate process. The table has the bytes of its weights in memory, and the memory of
the process after it has drawn some codes, without that of its imports. On a CPU, this is private memory, which does
not include weights that stay mapped from their file because they have its dtype.
"""

import argparse
import tempfile
import time

import torch
from figures import Figure, add_output, report
from generation import Work, build_model, draw
from memory import in_new_process, read_memory, return_freed_memory
from transformers import TorchAoConfig

from lavit_hf import LavitForCausalLM


WAYS = ("bfloat16", "int8", "int4 values", "int4 packed", "half on disk")


def load(way: str, folder: str, offload_folder: str, args) -> LavitForCausalLM:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    settings = {"dtype": torch.bfloat16, "device_map": args.device}
    weights = {
        "int8": Int8WeightOnlyConfig,
        "int4 values": lambda: IntxWeightOnlyConfig(torch.int4, PerGroup(32)),  # one byte each
        "int4 packed": lambda: Int4WeightOnlyConfig(32),  # needs a GPU
    }
    if way in weights:
        settings["quantization_config"] = TorchAoConfig(weights[way]())
    elif way == "half on disk":
        settings |= {"device_map": "auto", "max_memory": {"cpu": args.half}, "offload_folder": offload_folder}
    return LavitForCausalLM.from_pretrained(folder, **settings)


def count_bytes(weight: torch.Tensor) -> int:
    """Returns the bytes of a weight in memory. A quantized weight has values and scales, one on a disk has none."""
    if hasattr(weight, "__tensor_flatten__"):
        names, _ = weight.__tensor_flatten__()
        return sum(count_bytes(getattr(weight, name)) for name in names)
    return 0 if weight.is_meta else weight.nbytes


def measure(way: str, folder: str, args) -> tuple[float, float, float]:
    """Returns the MB of weights and of the process, and the tokens per second of one way, in a new process."""

    def memory() -> float:
        if args.device.startswith("cuda"):
            return torch.cuda.memory_allocated() / 1e6
        return_freed_memory()
        return read_memory()["RssAnon"] / 1e6

    before = memory()
    with tempfile.TemporaryDirectory() as offload_folder:
        model = load(way, folder, offload_folder, args)
        started = time.perf_counter()
        draw(model, Work(args.num_codes))
        seconds = time.perf_counter() - started
    weights = sum(count_bytes(weight) for weight in model.parameters()) / 1e6
    return weights, memory() - before, args.num_codes / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=1280)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--num-codes", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", default="560MB", help="memory for weights, half of which then go to the disk")
    parser.set_defaults(dtype="bfloat16")
    add_output(parser)
    args = parser.parse_args()
    figures, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        build_model(args).save_pretrained(folder)
        for way in WAYS:
            if way == "int4 packed" and not args.device.startswith("cuda"):
                print("int4 packed needs a GPU.")
                continue
            weights, process, speed = in_new_process(measure, way, folder, args)
            first = first or (weights, process, speed)
            against = [
                ("bfloat16", ratio) if way != "bfloat16" else () for ratio in (first[0] / weights, speed / first[2])
            ]
            figures += [
                Figure(way, weights, "MB of weights", *against[0]),
                Figure(way, process, "MB of the process"),
                Figure(way, speed, "tokens/s, with guidance", *against[1]),
            ]
    report(args, f"{args.layers} layers of width {args.hidden_size}, {args.num_codes} codes", {"ways": figures})


if __name__ == "__main__":
    main()
