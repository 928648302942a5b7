# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sequences of ids as segments of text and images."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextSegment:
    """
    A piece of text in a decoded sequence.

    Args:
        text (`str`): The text.
    """

    text: str


@dataclass(frozen=True)
class ImageSegment:
    """
    An image in a decoded sequence.

    Args:
        codes (`list[int]`, *optional*):
            Numbers 0..codebook_size-1 in raster order of the kept patches, or None where the sequence holds the
            placeholders of an image that was given as pixels.
        complete (`bool`): Whether `[/IMG]` closes the image in the sequence.
    """

    codes: list[int] | None
    complete: bool


@dataclass
class Run:
    """The ids of one text, or the codes of one image, as far as they have been read."""

    is_image: bool
    complete: bool = False
    content: list[int] | None = field(default_factory=list)  # None for an image of placeholders


class RunSplitter:
    """
    Splits a sequence of ids into the runs of its texts and images, one id at a time.

    Codes without `[IMG]` before them are an image too. Neighboring images of this kind cannot be told apart and make
    one. A `[/IMG]` without an image before it is left out.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer with LaVIT's vocabulary.
        skip_special_tokens (`bool`): Whether to leave out special tokens other than those of images.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, skip_special_tokens: bool):
        self.start, self.end = tokenizer.image_start_token_id, tokenizer.image_end_token_id
        self.placeholder, self.vocab_size = tokenizer.image_token_id, len(tokenizer)
        self.skipped = set(tokenizer.all_special_ids) if skip_special_tokens else set()
        self.runs: list[Run] = []

    def read(self, token: int) -> Run | None:
        """
        Reads the next id.

        Args:
            token (`int`): The id.

        Returns:
            `Run`, *optional*: The run to which the id belongs. None if it is left out.

        Raises:
            ValueError: If the id is outside the vocabulary.
        """
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"Id {token} is outside the vocabulary of {self.vocab_size} tokens.")
        is_image = self.start <= token <= self.placeholder
        if not is_image and token in self.skipped:
            return None
        run = self.runs[-1] if self.runs else None
        continues = run is not None and run.is_image == is_image and not run.complete
        if token == self.end:
            if not continues:
                return None
            run.complete = True
            return run
        if token == self.placeholder:
            continues = continues and not run.content
        elif is_image:
            continues = continues and token != self.start and run.content is not None
        if not continues:
            run = Run(is_image)
            self.runs.append(run)
        if token == self.placeholder:
            run.content = None
        elif token != self.start:
            run.content.append(token - self.end - 1 if is_image else token)
        return run


def to_list(ids: Sequence[int] | torch.Tensor) -> list[int]:
    """Returns one sequence of ids as a list of Python integers."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        return [operator.index(token) for token in ids]
    except TypeError as error:
        raise ValueError(f"Expected one sequence of integer ids, got {str(ids)[:100]}.") from error


def split_sequence(
    ids: Sequence[int] | torch.Tensor, tokenizer: PreTrainedTokenizerBase, skip_special_tokens: bool
) -> list[TextSegment | ImageSegment]:
    """Splits one sequence of ids, see [`LavitProcessor.decode_interleaved`]."""
    splitter = RunSplitter(tokenizer, skip_special_tokens)
    for token in to_list(ids):
        splitter.read(token)
    segments = [
        ImageSegment(run.content, run.complete)
        if run.is_image
        else TextSegment(tokenizer.decode(run.content, skip_special_tokens=skip_special_tokens))
        for run in splitter.runs
    ]
    return [segment for segment in segments if segment != TextSegment("")]
