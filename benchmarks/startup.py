# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How long it takes until something happens: imports, and the first caption of the small model that ships.

    python benchmarks/startup.py

Each is a process of its own, Python's start counted; they take turns, and a first turn warms the disk's cache up.
"""

import argparse
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table
from timing import time_in_turns


AUTO_CLASSES = "from transformers import AutoModelForCausalLM, AutoProcessor"
CAPTION = f"""
import lavit_hf
{AUTO_CLASSES}
from lavit_hf.data.shapes import render_scene, sample_scene
model = AutoModelForCausalLM.from_pretrained(lavit_hf.demo_checkpoint())
processor = AutoProcessor.from_pretrained(lavit_hf.demo_checkpoint())
inputs = processor(text="<image>", images=render_scene(sample_scene(6, "test")), return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=64, return_full_text=False)
print(processor.decode(ids[0], skip_special_tokens=True))
"""
PROGRAMS = {
    "import transformers": "import transformers",
    "import lavit_hf": "import lavit_hf",
    "Auto classes of transformers": AUTO_CLASSES,
    "the same, with lavit_hf": f"import lavit_hf; {AUTO_CLASSES}",
    "first caption": CAPTION,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    def start(program: str) -> None:
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    runs = {name: lambda program=program: start(program) for name, program in PROGRAMS.items()}
    seconds = time_in_turns(runs, args.runs, "cpu")
    base = statistics.median(seconds["import transformers"])
    table = Table("", "median s", "least s", "most s", "ratio")
    for name, times in seconds.items():
        median = statistics.median(times)
        table.add_row(name, *(f"{value:.2f}" for value in (median, min(times), max(times), median / base)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
