# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Lets a model continue a description with text and images, in one sequence: it draws the scene, describes its drawing,
says how to change it, draws the change, and describes it once more. Writes a sheet of such sequences, by default of
the small model that ships:

    python examples/interleave.py docs/interleaved.png
"""

import argparse
from pathlib import Path

import torch

from lavit_hf import (
    ImageSegment,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitProcessor,
    TextSegment,
    demo_checkpoint,
)
from lavit_hf.cli.options import check_image_output
from lavit_hf.data.shapes.loading import make_row
from lavit_hf.inference import decode_codes
from lavit_hf.visualization import Sample, draw_sheet


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="image file to write")
    parser.add_argument("--model", default=demo_checkpoint(), help="folder or repository of a LaVIT")
    parser.add_argument("--num_sequences", type=int, default=10, help="number of captions to continue")
    parser.add_argument("--max_images", type=int, default=2, help="largest number of images in a sequence")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    args = parse_arguments()
    check_image_output(args.output)
    model, processor = LavitForCausalLM.from_pretrained(args.model), LavitProcessor.from_pretrained(args.model)
    pipeline = LavitImageDecoderPipeline.from_pretrained(args.model, dtype=model.dtype)
    pipeline.set_progress_bar_config(disable=True)
    captions = [make_row(index, "test")["caption"] for index in range(args.num_sequences)]
    torch.manual_seed(args.seed)
    ids = model.generate(
        **processor(text=captions, return_tensors="pt"),
        generation_mode="interleaved",
        first_modality="image",
        max_images=args.max_images,
        max_new_tokens=args.max_images * (model.config.num_patches + 2) + 120,
        temperature=0.7,  # of text, for instructions of many kinds; codes are sampled as the model's settings say
        do_sample=True,
    )
    samples = []
    for segments in processor.batch_decode_interleaved(ids):
        codes = [segment.codes for segment in segments if isinstance(segment, ImageSegment)]
        texts = [segment.text.strip() for segment in segments if isinstance(segment, TextSegment)]
        samples.append(Sample(tuple(decode_codes(pipeline, codes, args.seed)), tuple(f"“{text}”" for text in texts)))
    draw_sheet(samples, columns=5).save(args.output)


if __name__ == "__main__":
    main()
