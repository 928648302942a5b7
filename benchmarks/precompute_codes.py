# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures how much of the speed of the visual tokenizer remains when a dataset is read and written, and the memory.

    python benchmarks/precompute_codes.py
    python benchmarks/precompute_codes.py --device cuda --dtype bfloat16 --hidden-size 1408 --vision-layers 40 \\
        --merger-layers 12 --patch-size 14 --num-images 4000 --num-workers 12

The images are JPEGs of `--image-file-size`, and the weights are random. "ready" calls the visual tokenizer on pixels
that are already on the device, and reads back the codes. "dataset" is `precompute_codes` from files to files. Both
take turns, so that ratios hold on a machine whose speed drifts. "parts" are the steps of an image one after the other
in one process. "files" are reading and preparing JPEGs of several sizes in one thread. "processes" is
`precompute_codes` in several processes on the CPU, each with one thread and without workers, which is not measured
with another `--device`. Memory is the private memory of a
separate process, for datasets of several lengths, with images of 16 pixels and a tiny model in place of the released
one. It is measured once for each length.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from figures import Figure, add_output, plot_growth, report
from memory import in_new_process, watch_private_memory
from PIL import Image
from timing import speedup, time_in_turns
from transformers import ViTConfig

from lavit_hf import LavitImageProcessor, LavitVisualTokenizer, LavitVisualTokenizerConfig
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.processing import read_image


FILE_SIZES = ((500, 375), (1024, 768))


def save_model(folder: Path, args) -> Path:
    vision = ViTConfig(
        hidden_size=args.hidden_size,
        intermediate_size=4 * args.hidden_size,
        num_hidden_layers=args.vision_layers,
        num_attention_heads=args.hidden_size // (64 if args.hidden_size % 64 == 0 else 16),
        patch_size=args.patch_size,
        image_size=args.image_size,
    )
    config = LavitVisualTokenizerConfig(vision_config=vision, num_merger_layers=args.merger_layers)
    torch.manual_seed(0)
    tokenizer = LavitVisualTokenizer(config)
    with torch.no_grad():
        tokenizer.selector.out_proj.bias[1] += 0.7  # about a third of the patches
    tokenizer.to(getattr(torch, args.dtype)).save_pretrained(folder)
    LavitImageProcessor(size={"height": args.image_size, "width": args.image_size}).save_pretrained(folder)
    return folder


def save_images(folder: Path, count: int, size: tuple[int, int]) -> datasets.Dataset:
    """Saves files with about the size and detail of photographs."""
    folder.mkdir()
    rows, generator = [], np.random.default_rng(0)
    for index in range(count):
        coarse = generator.integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        path = folder / f"{index}.jpg"
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        rows.append({"image": str(path), "caption": f"number {index}"})
    features = datasets.Features({"image": datasets.Image(decode=False), "caption": datasets.Value("string")})
    return datasets.Dataset.from_list(rows, features=features)


@torch.inference_mode()
def tokenize(tokenizer, pixel_values: torch.Tensor, batch_size: int, count: int) -> None:
    """Computes the codes of `count` images by the visual tokenizer alone."""
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        outputs = tokenizer(pixel_values[:size])
        [codes.numpy() for codes in outputs.codes.int().cpu().split(outputs.num_codes.tolist())]


def save_inputs(args, folder: Path) -> None:
    """Saves the model and the dataset that all parts share."""
    save_model(folder / "model", args)
    dataset = save_images(folder / "images", args.num_images, args.image_file_size)
    dataset.save_to_disk(folder / "rows")


def compare_speed(args, folder: Path) -> Iterator[Figure]:
    """Compares the speed of a dataset, with its images and without, with that of the visual tokenizer alone."""
    model, dataset = folder / "model", datasets.load_from_disk(folder / "rows")
    weight = np.mean([path.stat().st_size for path in (folder / "images").iterdir()]) / 1000
    yield Figure("an image file", weight, "kB")
    tokenizer = LavitVisualTokenizer.from_pretrained(model).eval().to(args.device)
    images = [read_image(row["image"]) for row in dataset.select(range(min(max(args.batch_sizes), len(dataset))))]
    processor = LavitImageProcessor.from_pretrained(model)
    pixel_values = processor(images, return_tensors="pt")["pixel_values"].to(args.device)
    outputs = (folder / f"output-{number}" for number in itertools.count())

    def precompute(batch_size: int, keep_images: bool) -> None:
        settings = {"batch_size": batch_size, "keep_images": keep_images, "num_workers": args.num_workers}
        precompute_codes(dataset, next(outputs), tokenizer, processor, **settings)

    for batch_size in args.batch_sizes:
        ways = {
            "ready": partial(tokenize, tokenizer, pixel_values, batch_size, len(dataset)),
            "dataset": partial(precompute, batch_size, True),
            "dataset without images": partial(precompute, batch_size, False),
        }
        seconds = time_in_turns(ways, args.repeats, args.device)
        for name, runs in seconds.items():
            against = () if name == "ready" else ("ready", speedup(seconds["ready"], runs))
            speed = len(dataset) / statistics.median(runs)
            yield Figure(f"{name}, batch of {batch_size}", speed, "images/s", *against)


@torch.inference_mode()
def measure_parts(args, folder: Path) -> Iterator[Figure]:
    """Measures what each step of an image takes, and its share of all."""
    dataset = datasets.load_from_disk(folder / "rows")
    tokenizer = LavitVisualTokenizer.from_pretrained(folder / "model").eval().to(args.device)
    processor = LavitImageProcessor.from_pretrained(folder / "model")
    rows = dataset.select(range(min(max(args.batch_sizes), len(dataset))))
    contents = [row["image"] for row in rows]  # the bytes of files, which `save_to_disk` has put into the rows
    images = [read_image(row) for row in contents]
    pixel_values = processor(images, return_tensors="pt")["pixel_values"].to(args.device)
    files = datasets.Dataset.from_list([{"image": content} for content in contents])
    vision_features = tokenizer.encode_vision(pixel_values)
    steps = {
        "reading": lambda: [read_image(row) for row in contents],
        "preparing": lambda: processor(images, return_tensors="pt"),
        "vision tower": lambda: tokenizer.encode_vision(pixel_values),
        "selector, merger and codebook": lambda: tokenizer(vision_features=vision_features),
        "writing": lambda: files.to_parquet(folder / "written.parquet"),
    }
    times = time_in_turns(steps, args.repeats, args.device)
    parts = {name: statistics.median(seconds) for name, seconds in times.items()}
    total = sum(parts.values())
    for name, value in parts.items():
        yield Figure(name, 1000 * value / len(rows), "ms per image", "all parts", value / total)


def measure_files(args, folder: Path) -> Iterator[Figure]:
    """Measures how many files one thread reads and prepares."""
    processor, threads = LavitImageProcessor.from_pretrained(folder / "model"), torch.get_num_threads()
    torch.set_num_threads(1)
    for size in dict.fromkeys((tuple(args.image_file_size), *FILE_SIZES)):
        name = f"{size[0]} x {size[1]}"
        paths = [row["image"] for row in save_images(folder / name, 16, size)]
        work = {name: lambda paths=paths: processor([read_image(path) for path in paths], return_tensors="pt")}
        (seconds,) = time_in_turns(work, args.repeats, "cpu").values()
        yield Figure(f"reading and preparing, {name}", len(paths) / statistics.median(seconds), "images/s of a thread")
    torch.set_num_threads(threads)


def time_process(folder: Path, repeats: int, most: int) -> None:
    """
    Prints the images per second of all processes together, in each of which this function runs. Shards and batches are
    of one size for all numbers of processes up to `most`.
    """
    datasets.disable_progress_bars()
    dataset = datasets.load_from_disk(folder / "rows")
    model = (
        LavitVisualTokenizer.from_pretrained(folder / "model"),
        LavitImageProcessor.from_pretrained(folder / "model"),
    )
    count = int(os.environ["WORLD_SIZE"])
    size = max(len(dataset) // (2 * most), 1)
    settings = {"batch_size": size, "num_workers": 0, "rows_per_shard": size}
    seconds = []
    for run in range(repeats + 1):
        started = time.perf_counter()
        precompute_codes(dataset, folder / f"{count}-{run}", *model, **settings)  # the processes wait for each other
        seconds.append(time.perf_counter() - started)
    if os.environ["RANK"] == "0":
        print(json.dumps(len(dataset) / statistics.median(seconds[1:])))


def compare_processes(args, folder: Path) -> Iterator[Figure]:
    """Compares several processes on the CPU with one, each with one thread."""
    speeds = {}
    for count in args.processes:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += [__file__, "--process-of", str(folder), "--repeats", str(args.repeats)]
        command += ["--processes", str(max(args.processes))]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        speeds[count] = json.loads(output.splitlines()[-1])
        against = (
            (f"processes: {args.processes[0]}", speeds[count] / speeds[args.processes[0]]) if len(speeds) > 1 else ()
        )
        yield Figure(f"processes: {count}", speeds[count], "images/s", *against)


def make_rows(num_rows: int) -> Iterator[dict]:
    """Makes rows with small images, of which there are few different ones."""
    files = []
    for shade in range(64):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (shade, 255 - shade, 4 * shade)).save(file, "PNG")
        files.append(file.getvalue())
    for index in range(num_rows):
        yield {"image": {"bytes": files[index % len(files)], "path": None}, "caption": f"number {index}"}


def load_many(num_rows: int, streaming: bool, cache_dir: Path):
    features = datasets.Features({"image": datasets.Image(decode=False), "caption": datasets.Value("string")})
    given = {"gen_kwargs": {"num_rows": num_rows}, "features": features}
    if streaming:
        return datasets.IterableDataset.from_generator(make_rows, **given)
    return datasets.Dataset.from_generator(make_rows, **given, cache_dir=str(cache_dir))


def measure_memory(
    model_folder: Path, folder: Path, num_rows: int, rows_per_shard: int, streaming: bool
) -> tuple[float, float]:
    """
    Returns the MB by which the private memory grows while codes are computed, in a new process, and the rows per
    second.
    """
    datasets.disable_progress_bars()
    settings = {"rows_per_shard": rows_per_shard, "num_workers": 0, "batch_size": 256}
    model = LavitVisualTokenizer.from_pretrained(model_folder), LavitImageProcessor.from_pretrained(model_folder)
    precompute_codes(load_many(500, streaming, folder), folder / "warm", *model, **settings)
    rows = load_many(num_rows, streaming, folder)
    started = time.perf_counter()
    with watch_private_memory(every=0.02) as peak:
        precompute_codes(rows, folder / "out", *model, **settings)
    return peak[0] / 1e6, num_rows / (time.perf_counter() - started)


def compare_memory(args, folder: Path) -> Iterator[Figure]:
    """Measures the growth of the memory for datasets of several lengths, mapped and streamed."""
    tiny = argparse.Namespace(
        hidden_size=32, vision_layers=1, merger_layers=1, patch_size=8, image_size=16, dtype="float32"
    )
    model = save_model(folder / "tiny", tiny)
    for num_rows in args.num_rows:
        for streaming in (False, True):
            place = folder / f"memory-{num_rows}-{streaming}"
            place.mkdir()
            memory, speed = in_new_process(measure_memory, model, place, num_rows, args.rows_per_shard, streaming)
            shutil.rmtree(place)
            name = f"rows, {'streamed' if streaming else 'mapped'}: {num_rows}"
            yield Figure(name, memory, "MB beyond the start")
            yield Figure(name, speed, "rows/s")


PARTS = {
    "speed": compare_speed,
    "parts": measure_parts,
    "files": measure_files,
    "processes": compare_processes,
    "memory": compare_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--vision-layers", type=int, default=12)
    parser.add_argument("--merger-layers", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--image-file-size", type=int, nargs=2, default=(640, 480))
    parser.add_argument("--num-images", type=int, default=96)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    lengths = [10_000, 100_000, 1_000_000]
    parser.add_argument("--num-rows", type=int, nargs="+", default=lengths, help="lengths of datasets for the memory")
    parser.add_argument("--rows-per-shard", type=int, default=5000)
    parser.add_argument("--process-of", type=Path, help=argparse.SUPPRESS)  # what each process measures
    parser.add_argument("--plot", help="image file for a plot over the numbers of processes and of rows")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure")
    add_output(parser)
    args = parser.parse_args()
    if args.process_of is not None:
        time_process(args.process_of, args.repeats, max(args.processes))
        return
    datasets.disable_progress_bars()
    if args.device != "cpu":
        args.parts = [name for name in args.parts if name != "processes"]
    with tempfile.TemporaryDirectory() as folder:
        save_inputs(args, Path(folder))
        parts = {name: list(PARTS[name](args, Path(folder))) for name in args.parts}
    if args.plot:
        grown = parts.get("processes", []) + parts.get("memory", [])
        plot_growth(grown, args.plot, f"{args.dtype}, {args.device}, one thread in each process")
    width, height = args.image_file_size
    setting = (
        f"{args.num_images} JPEGs of {width} x {height} pixels, {args.num_workers} workers, {args.dtype}, medians of "
        f"{args.repeats} runs; for the memory, shards of {args.rows_per_shard} rows"
    )
    report(args, setting, parts, args.dtype)


if __name__ == "__main__":
    main()
