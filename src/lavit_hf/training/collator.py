# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sequences of text and pictures to the tensors that the language model trains on."""

from dataclasses import dataclass
from itertools import groupby

import torch

from ..modeling.expansion_lavit import IGNORE_INDEX
from ..processing import LavitProcessor
from .rows import Part, PicturePart, TextPart


@dataclass
class _Piece:
    """Ids of a part of a sequence, `length` positions once placeholders are codes, and the picture if it is one."""

    ids: list[int]
    supervised: bool
    length: int
    picture: PicturePart | None = None


class LavitCollator:
    """
    Makes batches of sequences, token by token what the processor makes of the same prompts at inference: pictures
    between `[IMG]` and `[/IMG]`, in prompts of drawings as the processor's `drawing_image_markers` says. Text at the
    end of a sequence is followed by the end-of-sequence token; a drawing ends by its `[/IMG]`.

    An image that enters as codes and has codes goes in as ids. Any other image is one placeholder, which the model
    expands, or with `expand_images`, where its codes are known, one placeholder for each code.

    Args:
        processor ([`LavitProcessor`]): Of the model. Its tokenizer needs an end of sequence.
        num_patches (`int`): The most codes of a picture, `model.config.num_patches`.
        max_length (`int`, *optional*):
            Longest sequence, in positions. A picture counts as many as it has codes, and `num_patches` where these are
            not known yet. Longer ones are cut at the end of their text; a picture stays or goes as a whole, and one
            that ends a sequence, a drawing, stays.
        expand_images (`bool`, *optional*, defaults to `False`):
            Whether lengths are known before the model runs, as trainers of other libraries need it. Images that enter
            as features then need their codes in the dataset, made by this model's visual tokenizer.

    Raises:
        ValueError: a tokenizer without end of sequence; a `max_length` too short for a picture.
    """

    def __init__(
        self,
        processor: LavitProcessor,
        num_patches: int,
        max_length: int | None = None,
        expand_images: bool = False,
    ):
        if processor.tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end of sequence: set `tokenizer.eos_token` first.")
        if max_length is not None and max_length < num_patches + 2:
            raise ValueError(
                f"max_length must have room for a picture, {num_patches} codes and 2 marks; got {max_length}."
            )
        self.processor, self.num_patches, self.max_length = processor, num_patches, max_length
        self.expand_images = expand_images

    def __call__(self, rows: list[list[Part]]) -> dict[str, torch.Tensor | list[str]]:
        """
        Args:
            rows (`list[list[TextPart | PicturePart]]`): B sequences.

        Returns:
            `dict`: `input_ids`, `attention_mask` and `labels` (-100 where nothing is predicted), (B, L) int64, padded
            on the right; `pixel_values` (num_images, 3, height, width) float32 of the placeholders in reading order,
            which may be none; `image_inputs`, how each of them goes in, a list of strings.

        Raises:
            ValueError: an empty sequence; a code beyond the codebook; with `expand_images`, an image without codes.
        """
        texts = iter(self._tokenize(rows))
        sequences = [self._truncate(self._pieces(row, texts)) for row in rows]
        ids = [[token for piece in sequence for token in piece.ids] for sequence in sequences]
        labels = [[token for piece in sequence for token in self._labels(piece)] for sequence in sequences]
        pictures = [piece.picture for sequence in sequences for piece in sequence if piece.picture is not None]
        pictures = [picture for picture in pictures if not _is_coded(picture)]
        lengths = torch.tensor([len(row) for row in ids])
        return {
            "input_ids": _pad(ids, self.processor.tokenizer.pad_token_id),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "labels": _pad(labels, IGNORE_INDEX),
            "pixel_values": self._pixel_values([picture.image for picture in pictures]),
            "image_inputs": [picture.image_input for picture in pictures],
        }

    def estimate_length(self, row: list[Part]) -> float:
        """How many positions a sequence takes, roughly: what is alike in length goes into one batch."""
        unknown = self.num_patches / 3  # what training usually aims at
        return sum(
            len(part.text) / 4 if isinstance(part, TextPart) else len(part.codes or ()) or unknown for part in row
        )

    def _tokenize(self, rows: list[list[Part]]) -> list[list[list[int]]]:
        """Of each run of text between pictures, which is tokenized as a whole, the ids of each of its parts."""
        runs = [
            list(run)
            for row in rows
            for is_text, run in groupby(row, key=lambda part: isinstance(part, TextPart))
            if is_text
        ]
        if not runs:
            return []
        encoded = self.processor.tokenizer(
            ["".join(part.text for part in run) for run in runs],
            add_special_tokens=False,
            split_special_tokens=True,  # the name of a special token in a text is text
            return_offsets_mapping=True,
            verbose=False,
        )
        return [
            self._deal_out(run, *tokens)
            for run, *tokens in zip(runs, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _deal_out(self, run: list[TextPart], ids: list[int], offsets: list[tuple[int, int]]) -> list[list[int]]:
        """Gives each part the tokens whose last character is its own."""
        dealt: list[list[int]] = [[] for _ in run]
        part, end = 0, len(run[0].text)
        for token, (_, stop) in zip(ids, offsets, strict=True):
            while stop > end:
                part += 1
                end += len(run[part].text)
            dealt[part].append(token)
        return dealt

    def _pieces(self, row: list[Part], texts) -> list[_Piece]:
        """The pieces of a row; `texts` goes on to the next of its runs of text."""
        if not row:
            raise ValueError("A sequence holds neither text nor a picture.")
        pieces = []
        for is_text, run in groupby(row, key=lambda part: isinstance(part, TextPart)):
            if is_text:
                pieces += [_Piece(ids, part.supervised, len(ids)) for part, ids in zip(run, next(texts), strict=True)]
            else:
                pieces += [self._picture_piece(part) for part in run]
        if isinstance(row[-1], TextPart):
            pieces.append(_Piece([self.processor.tokenizer.eos_token_id], row[-1].supervised, 1))
        return pieces

    def _picture_piece(self, part: PicturePart) -> _Piece:
        processor = self.processor
        if part.codes is None:
            if self.expand_images:
                raise ValueError("expand_images needs the codes of all images in the dataset, got an image without.")
            inside, length = [processor.image_token_id], self.num_patches
        elif not _is_coded(part):
            length = len(part.codes) if self.expand_images else self.num_patches
            inside = [processor.image_token_id] * (length if self.expand_images else 1)
        else:
            if not 0 <= min(part.codes) <= max(part.codes) < processor.codebook_size:
                raise ValueError(
                    f"Codes must be 0 to {processor.codebook_size - 1}, got {min(part.codes)} to {max(part.codes)}: "
                    "was the dataset tokenized with this model's visual tokenizer?"
                )
            inside, length = [processor.visual_token_offset + code for code in part.codes], len(part.codes)
        if part.in_drawing_prompt and not processor.drawing_image_markers:
            return _Piece(inside, part.supervised, length, part)
        ids = [processor.image_start_token_id, *inside, processor.image_end_token_id]
        return _Piece(ids, part.supervised, length + 2, part)

    def _truncate(self, pieces: list[_Piece]) -> list[_Piece]:
        if self.max_length is None or sum(piece.length for piece in pieces) <= self.max_length:
            return pieces
        drawing = pieces[-1:] if pieces[-1].picture is not None else []
        room = self.max_length - sum(piece.length for piece in drawing)
        kept = []
        for piece in pieces[: len(pieces) - len(drawing)]:
            if piece.length > room:
                if piece.picture is None:
                    kept.append(_Piece(piece.ids[:room], piece.supervised, room))
                break
            kept.append(piece)
            room -= piece.length
        return kept + drawing

    def _labels(self, piece: _Piece) -> list[int]:
        if not piece.supervised:
            return [IGNORE_INDEX] * len(piece.ids)
        if piece.picture is None or not self.expand_images:
            return piece.ids
        # Whoever computes a loss without the model, as Trainer's label smoothing does, finds the codes here.
        codes = iter(piece.picture.codes)
        placeholder, offset = self.processor.image_token_id, self.processor.visual_token_offset
        return [offset + next(codes) if token == placeholder else token for token in piece.ids]

    def _pixel_values(self, images: list) -> torch.Tensor:
        if images:
            return self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        size = self.processor.image_processor.size
        return torch.zeros(0, 3, size["height"], size["width"])


def _is_coded(picture: PicturePart) -> bool:
    """Whether an image goes in as the ids of its codes."""
    return picture.codes is not None and picture.image_input == "codes"


def _pad(rows: list[list[int]], fill: int) -> torch.Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


__all__ = ["LavitCollator"]
