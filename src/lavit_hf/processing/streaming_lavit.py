# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What `generate` writes and draws, as it goes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from threading import Event

import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer
from transformers.generation.streamers import BaseStreamer

from .processing_lavit import LavitProcessor
from .tokenization_lavit import ImageSegment, TextSegment


@dataclass(frozen=True)
class StreamedPicture:
    """Pixels of the codes so far; `complete` tells whether those are all of the picture's, or this is a preview."""

    picture: Image.Image
    complete: bool


class _Text(TextStreamer):
    """transformers' rules of when a word is whole, with a function to hand it to."""

    def __init__(self, tokenizer, take: Callable[[str], None], **decode_kwargs):
        super().__init__(tokenizer, skip_prompt=False, **decode_kwargs)
        self._take = take

    def on_finalized_text(self, text: str, stream_end: bool = False):
        if text:
            self._take(text)


class LavitIteratorStreamer(BaseStreamer):
    """
    A streamer to iterate over while `generate` runs in another thread, see [`stream`]. It gives, of one sequence:

    - a [`TextSegment`] for each piece of text that stands fast, mostly a word;
    - an [`ImageSegment`] with the codes so far, `complete` or not, whenever one more is known;
    - where `decode_image` is given, a [`StreamedPicture`] after the last of them, and one every `preview_every` codes.

    Pictures are decoded in the thread that iterates.

    ```python
    streamer = LavitIteratorStreamer(processor, decode_image=lambda codes: pipe(codes).images[0])
    for piece in stream(model, streamer, **inputs, generation_mode="image"):
        ...
    ```

    Args:
        processor ([`LavitProcessor`]): Knows the vocabulary.
        decode_image (`Callable[[list[int]], Image.Image]`, *optional*): A picture from codes 0..codebook_size-1.
        preview_every (`int`, *optional*): Decode a picture that is not complete every so many codes.
        skip_prompt (`bool`, *optional*, defaults to `True`):
            Whether to leave the prompt out. The codes of a picture that it begins are part of that picture.
        timeout (`float`, *optional*): Most seconds to wait for the next piece; `queue.Empty` is raised then.
        decode_kwargs: For `tokenizer.decode`; special tokens are skipped unless it says otherwise.

    Raises:
        ValueError: previews without `decode_image`, or every less than one code; more than one sequence.
    """

    def __init__(
        self,
        processor: LavitProcessor,
        decode_image: Callable[[list[int]], Image.Image] | None = None,
        preview_every: int | None = None,
        skip_prompt: bool = True,
        timeout: float | None = None,
        **decode_kwargs,
    ):
        if preview_every is not None and (decode_image is None or preview_every < 1):
            raise ValueError(f"preview_every needs decode_image and must be at least 1, got {preview_every}.")
        self.decode_image, self.preview_every = decode_image, preview_every
        self.skip_prompt, self.timeout = skip_prompt, timeout
        self._processor = processor
        self._queue: Queue[TextSegment | ImageSegment | None] = Queue()
        decode_kwargs = {"skip_special_tokens": True} | decode_kwargs
        self._text = _Text(processor.tokenizer, lambda text: self._queue.put(TextSegment(text)), **decode_kwargs)
        self._codes: list[int] | None = None  # of the open picture
        self._in_prompt = True

    # As `generate` calls it

    def put(self, value: torch.Tensor) -> None:
        """Takes a `value` of ids: the prompt's (1, L), then those of each new token (1,)."""
        if value.ndim > 1 and len(value) > 1:
            raise ValueError(f"LavitIteratorStreamer follows one sequence, got {len(value)}.")
        skipped, self._in_prompt = self._in_prompt and self.skip_prompt, False
        for token in value.flatten().tolist():
            self._take(token, skipped)

    def end(self) -> None:
        """Hands out what is left."""
        self._text.end()
        if self._codes is not None:
            self._queue.put(ImageSegment(self._codes, complete=False))
        self._queue.put(None)
        self._codes, self._in_prompt = None, True

    def _take(self, token: int, skipped: bool) -> None:
        processor = self._processor
        first_code = processor.visual_token_offset
        if token == processor.image_start_token_id:
            self._text.end()
            self._codes = []
        elif self._codes is not None and token == processor.image_end_token_id:
            if not skipped:
                self._queue.put(ImageSegment(self._codes, complete=True))
            self._codes = None
        elif self._codes is not None and first_code <= token < processor.image_token_id:
            self._codes = [*self._codes, token - first_code]
            if not skipped:
                self._queue.put(ImageSegment(self._codes, complete=False))
        elif not skipped and token != processor.image_token_id:
            self._text.put(torch.tensor([token]))

    # As one iterates

    def __iter__(self) -> Iterator[TextSegment | ImageSegment | StreamedPicture]:
        while (piece := self._queue.get(timeout=self.timeout)) is not None:
            yield piece
            if isinstance(piece, ImageSegment) and piece.codes and self._is_shown(piece):
                yield StreamedPicture(self.decode_image(piece.codes), piece.complete)

    def _is_shown(self, piece: ImageSegment) -> bool:
        if self.decode_image is None:
            return False
        return piece.complete or bool(self.preview_every and len(piece.codes) % self.preview_every == 0)


class _StopWhenAsked(StoppingCriteria):
    def __init__(self):
        self.asked = Event()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        return torch.full((len(input_ids),), self.asked.is_set(), device=input_ids.device)


def stream(model, streamer: LavitIteratorStreamer, **kwargs) -> Iterator[TextSegment | ImageSegment | StreamedPicture]:
    """
    Runs `model.generate` in a thread and gives what it writes and draws, as it goes. Closing the iterator, or leaving
    the loop over it, ends the generation at its next token.

    Args:
        model ([`LavitForCausalLM`]): The model.
        streamer ([`LavitIteratorStreamer`]): What turns ids into pieces.
        kwargs: Of `generate`.

    Raises:
        Exception: whatever `generate` raises, once all pieces before it are given.
    """
    stop = _StopWhenAsked()
    criteria = StoppingCriteriaList([stop, *(kwargs.pop("stopping_criteria", None) or [])])

    def generate():
        try:
            model.generate(**kwargs, streamer=streamer, stopping_criteria=criteria)
        except BaseException:
            streamer.end()  # or who iterates would wait forever
            raise

    with ThreadPoolExecutor(max_workers=1) as pool:
        generation = pool.submit(generate)
        try:
            yield from streamer
            generation.result()
        finally:
            stop.asked.set()


__all__ = ["LavitIteratorStreamer", "StreamedPicture", "stream"]
