# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches: sequences of text and images for the language model, and images for everything else."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BaseImageProcessor

from ..diffusion.image_tokens import pad_codes
from ..modeling.labels_lavit import IGNORE_INDEX
from ..processing import LavitProcessor
from .parts import ImagePart, Part, TextPart, needs_pixels


@dataclass
class _Piece:
    """The ids and labels of a part of a sequence, its image, and its length once placeholders are codes."""

    ids: list[int]
    labels: list[int]
    length: int
    image: ImagePart | None = None


class LavitCollator:
    """
    Makes batches of sequences, with exactly the ids that the processor gives the same prompts at inference. Images are
    between `[IMG]` and `[/IMG]`, except in prompts of drawings if the processor has `drawing_image_markers=False`. A
    sequence that ends with text is followed by the end-of-sequence token; a drawing ends with its `[/IMG]`. Where a
    question follows an answer, the label of its first token is the end-of-sequence token, so that the model learns to
    end each answer, and not the last one alone. A token that begins in the answer has no label.

    An image that enters as codes and has codes becomes their ids. Any other image becomes one placeholder, which the
    model expands, or with `expand_images` one placeholder for each of its codes.

    Args:
        processor ([`LavitProcessor`]): The processor of the model. Its tokenizer needs an end-of-sequence token.
        num_patches (`int`): The largest number of codes of an image, `model.config.num_patches`.
        max_length (`int`, *optional*):
            The largest number of positions of a sequence, where an image counts as many as it has codes, and
            `num_patches` if they are not known. Longer sequences are cut at the end of their text. An image is kept or
            dropped as a whole, and kept if it ends the sequence.
        expand_images (`bool`, *optional*, defaults to `False`):
            Whether lengths are known before the model runs, as trainers of other libraries need it. Images that enter
            as features then need codes in the dataset, computed by the visual tokenizer of this model.

    Raises:
        ValueError: If the tokenizer has no end-of-sequence token, or `max_length` is too short for an image.
    """

    def __init__(
        self,
        processor: LavitProcessor,
        num_patches: int,
        max_length: int | None = None,
        expand_images: bool = False,
    ):
        if processor.tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end-of-sequence token: set `tokenizer.eos_token` first.")
        if max_length is not None and max_length < num_patches + 2:
            raise ValueError(
                f"max_length must have room for an image, {num_patches} codes and 2 markers; got {max_length}."
            )
        self.processor, self.num_patches, self.max_length = processor, num_patches, max_length
        self.expand_images = expand_images

    def __call__(self, rows: list[list[Part]]) -> dict[str, torch.Tensor | list[str]]:
        """
        Args:
            rows (`list[list[TextPart | ImagePart]]`): B sequences.

        Returns:
            `dict`: `input_ids`, `attention_mask` and `labels` (-100 where there is no label), `torch.LongTensor`s of
            shape `(B, L)`, padded on the right; `pixel_values`, a `torch.FloatTensor` of shape
            `(num_images, 3, height, width)` for the images with placeholders, in reading order; `image_inputs`, a list
            with the `image_input` of each of them.

        Raises:
            ValueError: If a sequence is empty, a code is beyond the codebook, or with `expand_images` an image has no
                codes.
        """
        texts = self._tokenize(rows)
        sequences = [self._truncate(list(self._pieces(row, texts))) for row in rows]
        pieces = [piece for sequence in sequences for piece in sequence]
        images = [piece.image for piece in pieces if piece.image is not None and needs_pixels(piece.image)]
        ids = [torch.tensor([token for piece in sequence for token in piece.ids]) for sequence in sequences]
        labels = [torch.tensor([label for piece in sequence for label in piece.labels]) for sequence in sequences]
        lengths = torch.tensor([len(row) for row in ids])
        pad_token_id = self.processor.tokenizer.pad_token_id
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            "pixel_values": self._process([image.image for image in images]),
            "image_inputs": [image.image_input for image in images],
        }

    def _tokenize(self, rows: list[list[Part]]) -> Iterator[tuple[list[int], bool]]:
        """
        Yields the ids of each text in the batch. Consecutive texts are tokenized as one; each of them gets the tokens
        whose last character belongs to it. The second value is True if the first of these tokens begins in the text
        before.
        """
        runs = [list(run) for row in rows for kind, run in groupby(row, key=type) if kind is TextPart]
        if not runs:
            return
        encoded = self.processor.tokenizer(
            ["".join(part.text for part in run) for run in runs],
            add_special_tokens=False,
            split_special_tokens=True,  # the name of a special token in a text is text
            return_offsets_mapping=True,
            verbose=False,
        )
        for run, ids, offsets in zip(runs, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            ends = list(accumulate(len(part.text) for part in run))
            dealt: list[list[int]] = [[] for _ in run]
            crosses = [False for _ in run]
            for token, (start, stop) in zip(ids, offsets, strict=True):
                index = bisect_left(ends, stop)
                dealt[index].append(token)
                crosses[index] |= index > 0 and start < ends[index - 1]
            yield from zip(dealt, crosses, strict=True)

    def _pieces(self, row: list[Part], texts: Iterator[tuple[list[int], bool]]) -> Iterator[_Piece]:
        """Yields the pieces of a row, whose texts are the next ones in `texts`."""
        if not row:
            raise ValueError("A sequence has neither text nor an image.")
        end, ends_turn, is_label = self.processor.tokenizer.eos_token_id, False, True
        for part in row:
            if isinstance(part, ImagePart):
                yield self._image_piece(part)
                ends_turn = False
                continue
            ids, crosses = next(texts)
            piece = _text_piece(ids, part.supervised)
            # A token that begins in the answer, such as ".\n", is not what the model says next.
            if ends_turn and ids and not part.supervised and not crosses:
                piece.labels[0] = end
            if ids or part.supervised:  # an empty label is an end alone
                ends_turn, is_label = part.supervised and part.ends_turn, part.supervised
            yield piece
        if isinstance(row[-1], TextPart):
            yield _text_piece([end], is_label)

    def _image_piece(self, part: ImagePart) -> _Piece:
        processor, codes = self.processor, list(part.codes or ())
        if codes and not 0 <= min(codes) <= max(codes) < processor.codebook_size:
            raise ValueError(
                f"Codes must be 0 to {processor.codebook_size - 1}, got {min(codes)} to {max(codes)}: were they "
                "computed by the visual tokenizer of this model?"
            )
        if len(codes) > self.num_patches:
            raise ValueError(f"An image has at most {self.num_patches} codes, got {len(codes)}.")
        if self.expand_images and not codes:
            raise ValueError("expand_images needs the codes of all images in the dataset, got an image without.")
        ids = [processor.visual_token_offset + code for code in codes]
        inside, labels, length = ids, ids, len(ids)
        if needs_pixels(part):
            if self.expand_images:
                # A loss that is computed outside the model, such as Trainer's label smoothing, finds the codes here.
                inside = [processor.image_token_id] * length
            else:
                inside = labels = [processor.image_token_id]
                length = length or self.num_patches
        if not part.in_drawing_prompt or processor.drawing_image_markers:
            inside, labels = (
                [processor.image_start_token_id, *tokens, processor.image_end_token_id] for tokens in (inside, labels)
            )
            length += 2
        return _Piece(inside, labels if part.supervised else [IGNORE_INDEX] * len(labels), length, part)

    def _truncate(self, pieces: list[_Piece]) -> list[_Piece]:
        if self.max_length is None or sum(piece.length for piece in pieces) <= self.max_length:
            return pieces
        drawing = pieces[-1:] if pieces[-1].image is not None else []
        room = self.max_length - sum(piece.length for piece in drawing)
        kept = []
        for piece in pieces[: len(pieces) - len(drawing)]:
            if piece.length > room:
                if piece.image is not None and piece.image.in_drawing_prompt:
                    needed = piece.length + sum(part.length for part in drawing)
                    raise ValueError(
                        f"max_length must have room for both images of an edit, {needed} tokens, got "
                        f"{self.max_length}."
                    )
                if piece.image is None:
                    kept.append(_Piece(piece.ids[:room], piece.labels[:room], room))
                break
            kept.append(piece)
            room -= piece.length
        return kept + drawing

    def _process(self, images: list) -> torch.Tensor:
        # The shape of no images is that of a blank one, since image processors store their size in several ways.
        shown = images or [Image.new("RGB", (32, 32))]
        return self.processor.image_processor(shown, return_tensors="pt")["pixel_values"][: len(images)]


def _text_piece(ids: list[int], supervised: bool) -> _Piece:
    return _Piece(ids, ids if supervised else [IGNORE_INDEX] * len(ids), len(ids))


class ImageCollator:
    """
    Makes batches of images, and of their codes where a dataset has them.

    Args:
        image_processors (`dict[str, BaseImageProcessor]`):
            Image processors by the name of the tensor that each makes, such as `{"pixel_values": image_processor}`.
        image_column (`str`, *optional*, defaults to `"image"`): The column with the `PIL.Image.Image`s.
        codes_column (`str`, *optional*):
            The column with the codes. They become `codes`, a `torch.LongTensor` of shape `(B, L)`, padded on the
            right, with their `attention_mask`.
    """

    def __init__(
        self,
        image_processors: dict[str, BaseImageProcessor],
        image_column: str = "image",
        codes_column: str | None = None,
    ):
        self.image_processors, self.image_column, self.codes_column = image_processors, image_column, codes_column

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows (`list[dict]`): B rows.

        Raises:
            ValueError: If the column of codes has an empty row.
        """
        images = [row[self.image_column] for row in rows]
        batch = {
            name: image_processor(images, return_tensors="pt")["pixel_values"]
            for name, image_processor in self.image_processors.items()
        }
        if self.codes_column is not None:
            codes = [torch.as_tensor(row[self.codes_column], dtype=torch.long) for row in rows]
            if not all(map(len, codes)):
                raise ValueError(f"Column {self.codes_column!r} must have at least one code in each row, got none.")
            batch["codes"], batch["attention_mask"] = pad_codes(codes)
        return batch
