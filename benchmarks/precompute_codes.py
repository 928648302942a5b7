# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures how much of the speed of the visual tokenizer remains when a dataset is read and written, and the memory.

    python benchmarks/precompute_codes.py
    python benchmarks/precompute_codes.py --device cuda --dtype bfloat16 --hidden-size 1408 --vision-layers 40 \\
        --merger-layers 12 --patch-size 14 --num-images 4000 --num-workers 12

The images are JPEGs of `--image-file-size`, and the weights are random. "ready" calls the visual tokenizer on pixels
that are already on the device, and reads back the codes. "dataset" is `precompute_codes` from files to files. Both
take turns, so that ratios hold on a machine whose speed drifts. "parts" are the steps of an image one after the other
in one process; preparing and the steps after the vision tower are differences of two times, which may be negative.
"processes" is `precompute_codes` in several processes, each with one thread and without workers. Memory is the private
memory of a separate process, for datasets of several lengths, with images of 16 pixels and a tiny model in place of
the vision tower.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from figures import Figure, add_output, plot_growth, report
from memory import in_new_process, read_memory
from PIL import Image
from timing import time_in_turns
from transformers import ViTConfig

from lavit_hf import LavitImageProcessor, LavitVisualTokenizer, LavitVisualTokenizerConfig
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.processing import read_image


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
def time_ready(tokenizer, pixel_values: torch.Tensor, batch_size: int, count: int) -> float:
    """Returns the images per second of the visual tokenizer alone."""
    started = time.perf_counter()
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        outputs = tokenizer(pixel_values[:size])
        [codes.numpy() for codes in outputs.codes.int().cpu().split(outputs.num_codes.tolist())]
    return count / (time.perf_counter() - started)


def compare_speed(args, folder: Path) -> Iterator[Figure]:
    """Compares the speed of a dataset, with its images and without, with that of the visual tokenizer alone."""
    model = save_model(folder / "model", args)
    dataset = save_images(folder / "images", args.num_images, args.image_file_size)
    dataset.save_to_disk(folder / "rows")
    weight = np.mean([path.stat().st_size for path in (folder / "images").iterdir()]) / 1000
    yield Figure("an image file", weight, "kB")
    tokenizer = LavitVisualTokenizer.from_pretrained(model).eval().to(args.device)
    images = [read_image(row["image"]) for row in dataset.select(range(min(max(args.batch_sizes), len(dataset))))]
    processor = LavitImageProcessor.from_pretrained(model)
    pixel_values = processor(images, return_tensors="pt")["pixel_values"].to(args.device)
    time_ready(tokenizer, pixel_values, args.batch_sizes[0], args.batch_sizes[0])
    for batch_size in args.batch_sizes:
        speeds = {"ready": [], True: [], False: []}
        for repeat in range(args.repeats):
            speeds["ready"].append(time_ready(tokenizer, pixel_values, batch_size, len(dataset)))
            for keep_images in (True, False):
                output = folder / f"{batch_size}-{repeat}-{keep_images}"
                settings = {"batch_size": batch_size, "keep_images": keep_images, "num_workers": args.num_workers}
                started = time.perf_counter()
                precompute_codes(dataset, output, tokenizer, processor, **settings)
                speeds[keep_images].append(len(dataset) / (time.perf_counter() - started))
        ready, kept, dropped = (statistics.median(values) for values in speeds.values())
        yield Figure(f"ready, batch of {batch_size}", ready, "images/s")
        for name, speed in {"dataset": kept, "dataset without images": dropped}.items():
            yield Figure(f"{name}, batch of {batch_size}", speed, "images/s", "ready", speed / ready)


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
        yield Figure(name, 1000 * value / len(rows), "ms of an image", "all parts", value / total)


def time_process(folder: Path) -> None:
    """Prints the images per second of all processes together, in each of which this function runs."""
    datasets.disable_progress_bars()
    dataset = datasets.load_from_disk(folder / "rows")
    model = (
        LavitVisualTokenizer.from_pretrained(folder / "model"),
        LavitImageProcessor.from_pretrained(folder / "model"),
    )
    count = int(os.environ["WORLD_SIZE"])
    settings = {"batch_size": 8, "num_workers": 0, "rows_per_shard": -(-len(dataset) // (4 * count))}
    seconds = []
    for run in ("warm", "out"):
        started = time.perf_counter()
        precompute_codes(dataset, folder / f"{run}-{count}", *model, **settings)  # the processes wait for each other
        seconds.append(time.perf_counter() - started)
    if os.environ["RANK"] == "0":
        print(json.dumps(len(dataset) / seconds[-1]))


def compare_processes(args, folder: Path) -> Iterator[Figure]:
    """Compares several processes with one, each with one thread."""
    speeds = {}
    for count in args.processes:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += [__file__, "--process-of", str(folder)]
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
    done = threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], read_memory()["RssAnon"])

    settings = {"rows_per_shard": rows_per_shard, "num_workers": 0, "batch_size": 256}
    model = LavitVisualTokenizer.from_pretrained(model_folder), LavitImageProcessor.from_pretrained(model_folder)
    precompute_codes(load_many(500, streaming, folder), folder / "warm", *model, **settings)
    rows = load_many(num_rows, streaming, folder)
    before, started = read_memory()["RssAnon"], time.perf_counter()
    peak = [before]  # one number, so that the memory does not grow by the samples
    watcher = threading.Thread(target=watch)
    watcher.start()
    precompute_codes(rows, folder / "out", *model, **settings)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return (peak[0] - before) / 1e6, num_rows / seconds


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
    add_output(parser)
    args = parser.parse_args()
    if args.process_of is not None:
        time_process(args.process_of)
        return
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speed = list(compare_speed(args, folder))
        parts = list(measure_parts(args, folder))
        processes = list(compare_processes(args, folder))
        memory = list(compare_memory(args, folder))
    if args.plot:
        plot_growth(processes + memory, args.plot, f"{args.dtype}, {args.device}, one thread in each process")
    width, height = args.image_file_size
    setting = (
        f"{args.num_images} JPEGs of {width} x {height} pixels, {args.num_workers} workers, {args.dtype}, medians of "
        f"{args.repeats}; for the memory, shards of {args.rows_per_shard} rows"
    )
    report(args, setting, {"speed": speed, "parts": parts, "processes": processes, "memory": memory})


if __name__ == "__main__":
    main()
