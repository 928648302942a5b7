# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Compares the work of a training step that is easily overlooked with that of another version of the library.

    git worktree add ../before COMMIT
    python benchmarks/hidden_work.py --before ../before/src

Each version runs in a process of its own, and they take turns. The least time of each part is compared. The models
have random weights.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, Value
from rich.console import Console
from rich.table import Table
from timing import time_in_turns
from transformers import CLIPVisionConfig, LlamaConfig


ROOT = Path(__file__).parent.parent
NUM_ROWS, IMAGE_BYTES = 512, 200_000


def codebook_update():
    """Updates the release's codebook, of which no code is dead, by the vectors of 32 images."""
    from lavit_hf import LavitVisualTokenizerConfig
    from lavit_hf.modeling.codebook_lavit import LavitCodebookUpdater

    updater = LavitCodebookUpdater(LavitVisualTokenizerConfig(codebook_size=16384, code_dim=32))
    codebook = torch.nn.functional.normalize(torch.randn(16384, 32), dim=-1)
    codes = torch.randperm(16384)
    return lambda: updater(codebook, codebook[codes], codes)


def step_without_images():
    """Computes gradients of 4 texts of 64 tokens, beside a vision tower of 12 layers with 256 patches."""
    from lavit_hf import LavitForCausalLM

    size = {"num_hidden_layers": 12, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    vision = CLIPVisionConfig(image_size=224, patch_size=14, **size)
    text = LlamaConfig(vocab_size=1000, **(size | {"num_hidden_layers": 4}))
    model = LavitForCausalLM.from_backbones(vision, text, codebook_size=1024, num_merger_layers=4).train()
    ids, images = torch.randint(1000, (4, 64)), torch.zeros(0, 3, 224, 224)
    return lambda: model(ids, images, labels=ids, skip_logits=True).loss.backward()


def grouping_by_length():
    """Sorts 512 rows with images of 200 kB by their lengths."""
    from lavit_hf.training import MixtureRows, SequenceArguments

    columns = {"image": [{"bytes": os.urandom(IMAGE_BYTES), "path": None}] * NUM_ROWS}
    columns["caption"] = [f"row {index}" for index in range(NUM_ROWS)]
    dataset = Dataset.from_dict(columns, Features({"image": Image(decode=False), "caption": Value("string")}))
    rows = MixtureRows(dataset, SequenceArguments(), batch_size=NUM_ROWS // 8)

    def group():
        rows._window = (-1, -1, None)
        rows.locate(0)

    return group


PARTS = {part.__name__: part for part in (codebook_update, step_without_images, grouping_by_length)}


def measure(source: Path, runs: int) -> dict[str, float]:
    """Returns the least seconds of each part with the library in `source`, from another process."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve())}
    command = [sys.executable, __file__, "--runs", str(runs), "--measure"]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the sources of the other version")
    parser.add_argument("--runs", type=int, default=5, help="runs of each part in each process")
    parser.add_argument("--turns", type=int, default=2, help="processes of each version")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--measure", action="store_true", help="measure this version alone, and print JSON")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.measure:
        seconds = time_in_turns({name: part() for name, part in PARTS.items()}, args.runs, "cpu")
        print(json.dumps({name: min(values) for name, values in seconds.items()}))
        return
    if args.before is None:
        parser.error("--before must be given")
    sources = {"before": args.before, "after": ROOT / "src"}
    found = {name: [] for name in sources}
    for _ in range(args.turns):
        for name, source in sources.items():
            found[name].append(measure(source, args.runs))
    table = Table("part", "before", "after", "ratio")
    results = {}
    for part in PARTS:
        before, after = (min(turn[part] for turn in found[name]) for name in sources)
        results[part] = {"before": before, "after": after, "ratio": before / after}
        table.add_row(part, f"{before * 1e3:.1f} ms", f"{after * 1e3:.1f} ms", f"{before / after:.2f}")
    Console().print(table)
    if args.output is not None:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
