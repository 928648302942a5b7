# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures the time that packing saves in the forward and the backward of stage 2.

    python benchmarks/packing.py
    python benchmarks/packing.py --device cuda --hidden-size 768 --layers 12 --batch-size 256

A new Llama around the visual tokenizer of the small model trains on the mixture of the recipe of the shapes model, of
which a few rows get their codes first. Every way computes the losses and the gradients of the same sequences:

- padded: the sequences of a batch in rows of their own, in random order
- by length: likewise, with batches of similar lengths
- packed: in random order, side by side in rows as long as the longest sequence

All ways take turns in one process, over all batches in each turn.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import yaml
from figures import ROOT, Figure, add_output, report
from timing import speedup, time_in_turns
from transformers import LlamaConfig

from lavit_hf import LavitForCausalLM, LavitProcessor
from lavit_hf.data.loading import load_rows
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.demo import demo_checkpoint
from lavit_hf.training import LavitCollator, MixtureRows, SequenceArguments, prefers_bfloat16


WAYS = ("padded", "by length", "packed")
RECIPE = ROOT / "examples" / "recipes" / "shapes" / "pretrain.yaml"


def load_mixture(tokenizer, processor: LavitProcessor, num_rows: int, folder: Path) -> MixtureRows:
    """Loads the sequences of the recipe."""
    columns = ("image", "edited_image")
    rows = load_rows("shapes", num_rows=num_rows)
    precompute_codes(rows, folder, tokenizer, processor.image_processor, image_columns=columns, num_workers=0)
    fields = SequenceArguments.__dataclass_fields__
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    settings = {name: value for name, value in recipe.items() if name in fields}
    settings["mixture"] = [f"{kind}={weight}" for kind, weight in settings["mixture"].items()]
    return MixtureRows(load_rows(folder), SequenceArguments(**settings))


def build_model(args, num_text_tokens: int) -> LavitForCausalLM:
    text = LlamaConfig(
        hidden_size=args.hidden_size,
        intermediate_size=3 * args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        vocab_size=num_text_tokens,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation=args.attention,
    )
    torch.manual_seed(0)
    return LavitForCausalLM.from_backbones(str(demo_checkpoint()), text).train().to(args.device)


def run(model: LavitForCausalLM, batches: list[dict], pack: bool, dtype: torch.dtype) -> tuple[float, int]:
    """Returns the sum of all losses, and the number of positions that were computed."""
    total, positions = 0.0, 0
    for batch in batches:
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            outputs = model(**batch, supervise_images=True, skip_logits=True, pack=pack)
        outputs.loss.backward()
        total, positions = total + outputs.token_losses.sum().item(), positions + outputs.labels.numel()
    model.zero_grad(set_to_none=True)
    return total, positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-batches", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--attention", default="eager", help="attn_implementation; the recipe's is the default")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: the faster one")
    parser.add_argument("--device", default="cpu")
    add_output(parser)
    args = parser.parse_args()

    name = args.dtype or ("bfloat16" if prefers_bfloat16(args.device.partition(":")[0]) else "float32")
    processor = LavitProcessor.from_pretrained(demo_checkpoint())
    model = build_model(args, processor.image_start_token_id)
    with tempfile.TemporaryDirectory() as folder:
        num_rows = args.batch_size * args.num_batches
        rows = load_mixture(model.model.visual_tokenizer, processor, num_rows, Path(folder) / "codes")
        sequences = [rows[index] for index in range(num_rows)]
    collate = LavitCollator(processor, model.config.num_patches)
    measure = LavitCollator(processor, model.config.num_patches, expand_images=True)
    lengths = [int(measure([sequence])["attention_mask"].sum()) for sequence in sequences]
    by_length = [sequences[index] for index in sorted(range(num_rows), key=lengths.__getitem__)]

    def batches(items: list) -> list[dict]:
        groups = (items[start : start + args.batch_size] for start in range(0, num_rows, args.batch_size))
        return [
            {key: value.to(args.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            for batch in map(collate, groups)
        ]

    given = {"padded": batches(sequences), "by length": batches(by_length), "packed": batches(sequences)}
    results = {}

    def turn(way: str) -> None:
        results[way] = run(model, given[way], way == "packed", getattr(torch, name))

    seconds = time_in_turns({way: lambda way=way: turn(way) for way in WAYS}, args.runs, args.device)
    figures = []
    for way in WAYS:
        against = () if way == "padded" else ("padded", speedup(seconds["padded"], seconds[way]))
        figures.append(Figure(way, statistics.median(seconds[way]) / args.num_batches, "s per step", *against))
        figures.append(Figure(way, results[way][1] / args.num_batches, "positions per step"))
    setting = (
        f"{args.num_batches} batches of {args.batch_size} sequences, {name}, {args.attention} attention, median of "
        f"{args.runs}; sums of losses " + ", ".join(f"{way} {loss:.0f}" for way, (loss, _) in results.items())
    )
    report(args, setting, {"packing": figures}, name)


if __name__ == "__main__":
    main()
