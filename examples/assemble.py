# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Puts the language model of stage 2 and the pixel decoder of stage 3 into one folder, which transformers and diffusers
load, evaluates it, and writes its model card.

    python examples/assemble.py runs/shapes/lavit runs/shapes/image_decoder my-model --dtype float16 --dataset shapes
"""

import argparse
import json
import re
from pathlib import Path

import rich
import torch
from rich.markdown import Markdown

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitProcessor,
)
from lavit_hf.data.loading import load_rows
from lavit_hf.evaluation import EvaluationReport, evaluate
from lavit_hf.training import check_whole, write_model_card


USAGE = """\
from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline, LavitProcessor
from lavit_hf.inference import decode_codes, draw_codes

model, processor = LavitForCausalLM.from_pretrained(path), LavitProcessor.from_pretrained(path)

# Read
inputs = processor(text="<image>", images=image, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=64, return_full_text=False)
print(processor.decode(ids[0], skip_special_tokens=True))

# Draw
pipe = LavitImageDecoderPipeline.from_pretrained(path)
[image] = decode_codes(pipe, draw_codes(model, processor, [prompt]))
"""


# As in "modeling_lavit.LavitForCausalLM", which names a class and the file beside the configuration that defines it.
CLASS_REFERENCE = r'"\w+_lavit\w*\.(\w+)"'
IMPORT = '''\
"""The classes that load this model with `trust_remote_code`: those of lavit_hf, which has to be installed."""

from lavit_hf import *  # noqa: F403
'''


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of stage 2")
    parser.add_argument("image_decoder", help="folder of stage 3")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"], help="dtype of the files"
    )
    parser.add_argument("--dataset", help="dataset to evaluate it on, as lavit-hf evaluate does")
    parser.add_argument("--split", default="test", help="split of this dataset")
    parser.add_argument("--num_samples", type=int, default=1000, help="number of rows to evaluate it on")
    parser.add_argument("--title", default="LaVIT", help="title of the card")
    parser.add_argument("--without_code", action="store_true", help="import lavit_hf for trust_remote_code")
    parser.add_argument("--license", help="license of the card, as the Hub calls it, such as apache-2.0")
    parser.add_argument("--domain", type=Path, help="JSON file with the `domain` of LavitProcessor, if it is narrow")
    parser.add_argument("--description", type=Path, help="Markdown file with the description of the model")
    return parser.parse_args()


def assemble(args: argparse.Namespace) -> None:
    dtype = getattr(torch, args.dtype)
    check_whole(args.model)
    if args.dataset:
        load_rows(args.dataset, args.split, num_rows=1)  # a wrong split is found before anything is written
    model = LavitForCausalLM.from_pretrained(args.model, dtype=dtype)
    pipeline = LavitImageDecoderPipeline.from_pretrained(args.image_decoder, dtype=dtype)
    codebooks = model.model.visual_tokenizer.quantizer.codebook, pipeline.feature_decoder.codebook
    if not torch.equal(*codebooks):
        raise ValueError(f"{args.model} and {args.image_decoder} do not have the same visual tokenizer.")
    processor = LavitProcessor.from_pretrained(args.model)
    if args.domain is not None:
        processor.domain = json.loads(args.domain.read_text(encoding="utf-8"))
    model.save_pretrained(args.output, processor=processor, image_decoder=pipeline)
    # The dtype of the files is not that of the computation, which stays the same.
    config = LavitConfig.from_pretrained(args.output)
    decoder_config = LavitFeatureDecoderConfig.from_pretrained(args.output / "feature_decoder")
    trained = LavitConfig.from_pretrained(args.model).dtype
    for part in (config, config.text_config, config.visual_tokenizer_config, decoder_config):
        part.dtype = trained
    config.save_pretrained(args.output)
    decoder_config.save_pretrained(args.output / "feature_decoder")
    if args.without_code:
        import_code(args.output)


def import_code(folder: Path) -> None:
    """Puts an import of lavit_hf in place of the code that loads a folder with `trust_remote_code`."""
    for path in folder.glob("*_lavit*.py"):
        path.unlink()
    for path in folder.glob("*config.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(CLASS_REFERENCE, r'"lavit.\1"', text), encoding="utf-8")
    (folder / "lavit.py").write_text(IMPORT, encoding="utf-8")


def evaluate_model(args: argparse.Namespace) -> EvaluationReport:
    model, processor = LavitForCausalLM.from_pretrained(args.output), LavitProcessor.from_pretrained(args.output)
    pipeline = LavitImageDecoderPipeline.from_pretrained(args.output, dtype=model.dtype)
    options = {"split": args.split, "num_samples": args.num_samples, "progress": True}
    report = evaluate(model, processor, pipeline, args.dataset, **options)
    rich.print(Markdown(report.to_markdown()))
    (args.output / "evaluation.json").write_text(report.to_json(), encoding="utf-8")
    report.save_samples(args.output / "samples")
    return report


def training_of(stages: dict[str, str]) -> dict[str, str]:
    """Returns how each stage was trained, from the model card in its folder."""
    tables = {}
    for name, folder in stages.items():
        card = Path(folder, "README.md")
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        if table := re.search(r"^## Training\n\n(.+?)\n\n", text, re.S | re.M):
            tables[name] = table[1]
    return tables


def main():
    args = parse_arguments()
    description = "One language model that reads and draws images (arXiv 2309.04669)."
    if args.description is not None:
        description = args.description.read_text(encoding="utf-8").strip()
    assemble(args)
    report = evaluate_model(args) if args.dataset else None
    write_model_card(
        args.output,
        title=args.title,
        description=description,
        usage=USAGE,
        training=training_of({"language model": args.model, "pixel decoder": args.image_decoder}),
        evaluation=report,
        license=args.license,
        pipeline_tag="any-to-any",
        images=[f"samples/{task}.png" for task in report.samples] if report else [],
    )


if __name__ == "__main__":
    main()
