# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures how long a tokenizer with 16384 codes takes to load, in comparison with the same tokenizer without codes.

    python benchmarks/loading.py

Each load runs in a separate process, without its imports. The two take turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from figures import Figure, add_output, report
from memory import in_new_process
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lavit_hf import LavitImageProcessorPil, LavitProcessor
from lavit_hf.processing import extend_tokenizer


def make_text_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Makes a byte-level tokenizer with as many words as the released one; the words themselves do not matter."""
    words = {f"word{index}": index for index in range(vocab_size - 1)} | {"</s>": vocab_size - 1}
    backend = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="</s>")


def load(folder: Path) -> tuple[float, int]:
    """Returns the seconds that a tokenizer takes to load, and the number of its tokens."""
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return time.perf_counter() - started, len(tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codebook-size", type=int, default=16384)
    parser.add_argument("--text-size", type=int, default=32000)
    parser.add_argument("--runs", type=int, default=5)
    add_output(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folders = {"text alone": Path(root) / "text", "text and codes": Path(root) / "lavit"}
        text = make_text_tokenizer(args.text_size)
        text.save_pretrained(folders["text alone"])
        processor = LavitProcessor(LavitImageProcessorPil(), extend_tokenizer(text, args.codebook_size))
        processor.save_pretrained(folders["text and codes"])
        seconds, sizes = {name: [] for name in folders}, {}
        for _ in range(args.runs):
            for name, folder in folders.items():
                second, sizes[name] = in_new_process(load, folder)
                seconds[name].append(second)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    figures = []
    for name, median in medians.items():
        against = () if name == "text alone" else ("text alone", medians["text alone"] / median)
        figures += [Figure(name, sizes[name], "tokens"), Figure(name, median, "s", *against)]
    report(args, f"Median of {args.runs}", {"tokenizers": figures})


if __name__ == "__main__":
    main()
