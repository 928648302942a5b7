# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures the memory of a LaVIT that is loaded whole, quantized, and with parts on a disk.

    python benchmarks/quantization.py

The language model is a Llama with random weights in bfloat16 and the codes of the release, by default of 0.56 billion
weights. Each way is loaded and timed in a separate process, so that the ways do not take turns. The table has the
bytes of its weights in memory, and the memory of the process after it has drawn images, without that of its imports.
On a CPU, this is private memory, which does not include weights that stay mapped from their file because they have its
dtype.
"""

import argparse
import statistics
import tempfile

import torch
from figures import Figure, add_output, report
from generation import Drawing, build_model, draw
from memory import count_bytes, in_new_process, read_memory, return_freed_memory
from timing import time_in_turns
from transformers import TorchAoConfig

from lavit_hf import LavitForCausalLM


WAYS = ("bfloat16", "int8", "int4 values", "int4 packed", "half on disk")


def load(way: str, folder: str, offload_folder: str, args) -> LavitForCausalLM:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    settings = {"dtype": torch.bfloat16, "device_map": args.device}
    weights = {
        "int8": Int8WeightOnlyConfig,
        "int4 values": lambda: IntxWeightOnlyConfig(torch.int4, PerGroup(32)),  # one byte each
        "int4 packed": lambda: Int4WeightOnlyConfig(32, int4_packing_format="tile_packed_to_4d"),  # needs a GPU
    }
    if way in weights:
        settings["quantization_config"] = TorchAoConfig(weights[way]())
    elif way == "half on disk":
        settings |= {"device_map": "auto", "max_memory": {"cpu": args.half}, "offload_folder": offload_folder}
    return LavitForCausalLM.from_pretrained(folder, **settings)


def measure(way: str, folder: str, args) -> tuple[float, float, float]:
    """Returns the MB of weights and of the process, and the images per minute of one way, in a new process."""

    def memory() -> float:
        if args.device.startswith("cuda"):
            return torch.cuda.memory_allocated() / 1e6
        return_freed_memory()
        return read_memory()["RssAnon"] / 1e6

    before = memory()
    with tempfile.TemporaryDirectory() as offload_folder:
        model = load(way, folder, offload_folder, args)
        (seconds,) = time_in_turns(
            {way: lambda: draw(model, Drawing(args.num_codes))}, args.runs, args.device
        ).values()
    weights = sum(map(count_bytes, model.parameters())) / 1e6
    return weights, memory() - before, 60 / statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=1280)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--num-codes", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
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
                Figure(way, speed, "images/min", *against[1]),
            ]
    setting = (
        f"{args.layers} layers of width {args.hidden_size}, images of {args.num_codes} codes with guidance, "
        f"medians of {args.runs} runs"
    )
    report(args, setting, {"ways": figures})


if __name__ == "__main__":
    main()
