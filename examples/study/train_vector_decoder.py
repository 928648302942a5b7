# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains the pixel decoder of the regression: stage 3 on the vectors of images in place of their codes, as Emu trains its
own on continuous embeddings.

    PYTHONPATH=examples python -m study.train_vector_decoder examples/study/decoder.yaml \\
        --output_dir runs/study/decoders/vectors
"""

import torch
import train_image_decoder
from transformers import TrainingArguments

from lavit_hf.diffusion.image_tokens import pad_codes
from lavit_hf.training import DataArguments, LavitImageDecoderForTraining, parse_recipe, run_script
from lavit_hf.training.image_decoder import LavitImageDecoderOutput

from .regression import codebook_of


class VectorDecoderForTraining(LavitImageDecoderForTraining):
    """The loss of stage 3 given the vectors that the visual tokenizer has before it quantizes them."""

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


def main():
    arguments = parse_recipe(train_image_decoder.ModelArguments, DataArguments, TrainingArguments)
    train_image_decoder.train(*arguments, VectorDecoderForTraining)


if __name__ == "__main__":
    run_script(main)
