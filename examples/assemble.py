# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Puts a language model of stage 2 and a pixel decoder of stage 3 into one folder, which transformers and diffusers load.

    python examples/assemble.py runs/shapes/lavit runs/shapes/image_decoder my-model --dtype bfloat16
"""

import argparse

import torch

from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline, LavitProcessor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of stage 2")
    parser.add_argument("image_decoder", help="folder of stage 3")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()

    dtype = getattr(torch, args.dtype)
    model = LavitForCausalLM.from_pretrained(args.model, dtype=dtype)
    pipeline = LavitImageDecoderPipeline.from_pretrained(args.image_decoder, dtype=dtype)
    codebooks = model.model.visual_tokenizer.quantizer.codebook, pipeline.feature_decoder.codebook
    if not torch.equal(*codebooks):
        raise ValueError(f"{args.model} and {args.image_decoder} do not come from the same visual tokenizer.")
    model.save_pretrained(args.output)
    LavitProcessor.from_pretrained(args.model).save_pretrained(args.output)
    pipeline.save_pretrained(args.output)


if __name__ == "__main__":
    main()
