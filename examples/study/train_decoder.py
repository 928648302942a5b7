# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains pixel decoders of the study that take other conditions than codes of the selector's own lengths: the vectors of
the regression, or codes of random numbers of patches.

    PYTHONPATH=examples python -m study.train_decoder examples/study/decoder.yaml --conditions vectors \\
        --output_dir runs/study/decoders/vectors
"""

from dataclasses import dataclass, field

import torch
import train_image_decoder
from transformers import TrainingArguments

from lavit_hf.diffusion.image_tokens import pad_codes
from lavit_hf.training import DataArguments, LavitImageDecoderForTraining, parse_recipe, run_script
from lavit_hf.training.image_decoder import LavitImageDecoderOutput

from .lengths import draw_budgets
from .regression import codebook_of


class VectorDecoderForTraining(LavitImageDecoderForTraining):
    """
    The loss of stage 3 given the vectors that the visual tokenizer has before it quantizes them, as Emu trains its own
    decoder on continuous embeddings.
    """

    def forward(self, images: torch.FloatTensor, pixel_values: torch.FloatTensor) -> LavitImageDecoderOutput:
        """
        Computes the loss.

        Args:
            images (`torch.FloatTensor` of shape `(B, 3, H, W)`): The images to draw, in [-1, 1].
            pixel_values (`torch.FloatTensor` of shape `(B, 3, S, S)`):
                The same images as the visual tokenizer takes them.

        Returns:
            [`LavitImageDecoderOutput`]
        """
        with torch.no_grad():
            tokens = self.visual_tokenizer.tokenize_images(pixel_values)
        with codebook_of(self.pipeline, tokens.vectors.split(tokens.num_codes.tolist())) as rows:
            codes, attention_mask = pad_codes([torch.tensor(each, device=images.device) for each in rows])
            return super().forward(images, codes=codes, attention_mask=attention_mask)


class AnyLengthDecoderForTraining(LavitImageDecoderForTraining):
    """
    The loss of stage 3 given the codes of a random number of each image's patches.

    Args:
        args, kwargs: Same as in [`LavitImageDecoderForTraining`].
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        draw_budgets(self)


CONDITIONS = {"vectors": VectorDecoderForTraining, "any_length": AnyLengthDecoderForTraining}


@dataclass
class DecoderArguments(train_image_decoder.ModelArguments):
    conditions: str = field(
        default="vectors", metadata={"help": f"What it is trained on: one of {', '.join(CONDITIONS)}."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.conditions not in CONDITIONS:
            raise ValueError(f"conditions must be one of {', '.join(CONDITIONS)}, got {self.conditions!r}.")


def main():
    arguments = parse_recipe(DecoderArguments, DataArguments, TrainingArguments)
    train_image_decoder.train(*arguments, CONDITIONS[arguments[0].conditions])


if __name__ == "__main__":
    run_script(main)
