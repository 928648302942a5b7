# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures memory and time of the conversion for different numbers of shards of the language model.

    python benchmarks/convert.py --shards 2 4 8 --shard-mb 512

Makes a checkpoint in the authors' layout, with random weights in float16 and the visual parts of the goldens. Converts
it in a separate process, and compares the memory that this needs with the bound: a file of the result, 2 GB by
default, plus 0.5 GB, whatever the size of the checkpoint. The exit code is 1 if the bound is exceeded. Needs Linux,
and twice the size of the largest checkpoint on the disk.

`private` is the memory that cannot be dropped (RssAnon, sampled every 5 ms), less that after the imports. `peak` is
the largest resident set, less that after the imports. It includes the authors' files, which are mapped: pages that
were read count as resident although the kernel can drop them at any time.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from figures import Figure, add_output, report
from memory import in_new_process, read_memory, watch_private_memory


GOLDENS = Path(__file__).parents[1] / "tests" / "goldens" / "checkpoint"
BOUND = 25 * 10**8
HIDDEN_SIZE, INTERMEDIATE_SIZE = 1024, 2752


def layer_shapes(number: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the weights of one layer of the language model, which has 25 MB."""
    prefix, size, wide = f"model.layers.{number}.", HIDDEN_SIZE, INTERMEDIATE_SIZE
    attention = {f"{prefix}self_attn.{name}_proj.weight": (size, size) for name in "qkvo"}
    norms = {f"{prefix}{name}_layernorm.weight": (size,) for name in ("input", "post_attention")}
    wide_ones = {f"{prefix}mlp.{name}_proj.weight": (wide, size) for name in ("gate", "up")}
    return attention | norms | wide_ones | {f"{prefix}mlp.down_proj.weight": (size, wide)}


def plan_shards(num_shards: int, shard_bytes: int, vocab_size: int) -> tuple[list[dict[str, tuple[int, ...]]], int]:
    """Returns the shapes in each shard, which are filled layer by layer, and the number of layers."""
    embedding, shards, num_layers = (vocab_size, HIDDEN_SIZE), [], 0
    layer_bytes = sum(2 * torch.Size(shape).numel() for shape in layer_shapes(0).values())
    for index in range(num_shards):
        shard = {"model.embed_tokens.weight": embedding} if index == 0 else {}
        if index == num_shards - 1:
            shard |= {"model.norm.weight": (HIDDEN_SIZE,), "lm_head.weight": embedding}
        room = shard_bytes - sum(2 * torch.Size(shape).numel() for shape in shard.values())
        for _ in range(max(1, room // layer_bytes)):
            shard |= layer_shapes(num_layers)
            num_layers += 1
        shards.append(shard)
    return shards, num_layers


def make_checkpoint(folder: Path, num_shards: int, shard_bytes: int) -> None:
    """Makes a checkpoint in the authors' layout whose language model has the given size."""
    shutil.copytree(GOLDENS, folder)
    language_model = folder / "language_model"
    (language_model / "pytorch_model.bin").unlink()
    config = json.loads((language_model / "config.json").read_text())
    shards, num_layers = plan_shards(num_shards, shard_bytes, config["vocab_size"])
    config |= {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    (language_model / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for index, shard in enumerate(shards):
        name = f"pytorch_model-{index + 1:05d}-of-{num_shards:05d}.bin"
        tensors = {key: torch.empty(shape, dtype=torch.float16).uniform_() for key, shape in shard.items()}
        torch.save(tensors, language_model / name)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (language_model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    adapter = torch.load(language_model / "visual_weight.bin", weights_only=True)
    adapter["vit_proj.weight"] = torch.rand(HIDDEN_SIZE, adapter["vit_proj.weight"].shape[1])
    adapter["vit_proj.bias"] = torch.rand(HIDDEN_SIZE)
    torch.save(adapter, language_model / "visual_weight.bin")


def convert(source: Path, target: Path, dtype: str) -> dict[str, float]:
    """Converts, in a new process, and returns bytes of memory and seconds."""
    from lavit_hf.conversion import convert_official_checkpoint

    before, start = read_memory()["VmRSS"], time.perf_counter()
    with watch_private_memory() as private:
        convert_official_checkpoint(source, target, dtype=dtype, num_attention_heads=4)
    seconds = time.perf_counter() - start
    return {"peak": read_memory()["VmHWM"] - before, "private": private[0], "seconds": seconds}


def measure(num_shards: int, shard_mb: int, dtype: str, directory: Path) -> dict:
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        source, target = Path(folder, "official"), Path(folder, "converted")
        in_new_process(make_checkpoint, source, num_shards, shard_mb * 10**6)
        sizes = [path.stat().st_size for path in (source / "language_model").glob("pytorch_model-*.bin")]
        facts = in_new_process(convert, source, target, dtype)
    return facts | {"shards": num_shards, "total": sum(sizes), "largest": max(sizes)}


def figures_of(facts: dict) -> list[Figure]:
    name, private = f"{facts['shards']} shards", facts["private"] / 1e9
    bound = f"the bound of {BOUND / 1e9:.2f} GB"
    return [
        Figure(name, facts["total"] / 1e9, "GB in all"),
        Figure(name, facts["largest"] / 1e9, "GB of the largest shard"),
        Figure(name, facts["peak"] / 1e9, "GB resident at most"),
        Figure(name, private, "GB of private memory", bound, facts["private"] / BOUND),
        Figure(name, facts["seconds"], "s"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4, 8], help="numbers of shards")
    parser.add_argument("--shard-mb", type=int, default=512, help="size of a shard, at least 128")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of the result; auto copies the weights as they are")
    parser.add_argument("--directory", type=Path, help="folder to work in; default: a temporary one")
    add_output(parser)
    args = parser.parse_args()
    rows = [measure(number, args.shard_mb, args.dtype, args.directory) for number in args.shards]
    setting = f"From float16 to {args.dtype}, shards of {args.shard_mb} MB"
    report(args, setting, {"conversion": [figure for facts in rows for figure in figures_of(facts)]}, args.dtype)
    return int(any(facts["private"] > BOUND for facts in rows))


if __name__ == "__main__":
    sys.exit(main())
