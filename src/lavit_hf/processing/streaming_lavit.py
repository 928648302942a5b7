# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Streaming of the text and the images that `generate` makes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event

import torch
from PIL import Image
from transformers import StoppingCriteriaList, TextIteratorStreamer

from .processing_lavit import LavitProcessor
from .segments_lavit import ImageSegment, RunSplitter, TextSegment


@dataclass(frozen=True)
class StreamedImage:
    """
    An image that is decoded while its codes are generated.

    Args:
        image (`PIL.Image.Image`): The image of the codes so far.
        complete (`bool`): Whether these are all codes of the image. Otherwise, this is a preview.
    """

    image: Image.Image
    complete: bool


class LavitIteratorStreamer(TextIteratorStreamer):
    """
    A streamer to iterate over while `generate` runs in another thread, see [`stream`]. It follows one sequence and
    gives:

    - a [`TextSegment`] for each piece of text that is final, mostly a word;
    - an [`ImageSegment`] with the codes so far, complete or not, for each token of an image;
    - with `decode_image`, a [`StreamedImage`] after the last of them, and one every `preview_every` codes.

    Images are decoded in the thread that iterates.

    ```python
    streamer = LavitIteratorStreamer(processor, decode_image=lambda codes: pipe(codes).images[0])
    for piece in stream(model, streamer, **inputs, generation_mode="image"):
        ...
    ```

    Args:
        processor ([`LavitProcessor`]): The processor of the model.
        decode_image (`Callable[[list[int]], Image.Image]`, *optional*): Decodes codes 0..codebook_size-1 to an image.
        preview_every (`int`, *optional*): The number of codes after which an unfinished image is decoded again.
        skip_prompt (`bool`, *optional*, defaults to `True`):
            Whether to leave out the prompt. The codes of an image that it begins are part of that image.
        kwargs:
            `timeout`, the number of seconds to wait for the next piece before `queue.Empty` is raised, and arguments
            of `tokenizer.decode`. Special tokens are skipped by default.

    Raises:
        ValueError: If previews are asked without `decode_image`, or after less than one code.
    """

    # `text_queue`, `stop_signal` and `decode_kwargs` are those of `TextIteratorStreamer`, which has no public way to
    # put anything else than text into its queue.

    def __init__(
        self,
        processor: LavitProcessor,
        decode_image: Callable[[list[int]], Image.Image] | None = None,
        preview_every: int | None = None,
        skip_prompt: bool = True,
        **kwargs,
    ):
        if preview_every is not None and (decode_image is None or preview_every < 1):
            raise ValueError(f"preview_every needs decode_image and must be at least 1, got {preview_every}.")
        super().__init__(processor.tokenizer, **{"skip_special_tokens": True} | kwargs)
        self.decode_image, self.preview_every, self.leave_out_prompt = decode_image, preview_every, skip_prompt
        self._begin()

    def _begin(self) -> None:
        self.in_prompt = True
        self.splitter = RunSplitter(self.tokenizer, self.decode_kwargs["skip_special_tokens"])

    def put(self, value: torch.Tensor) -> None:
        """
        Takes ids from `generate`.

        Args:
            value (`torch.LongTensor`): The prompt, of shape `(1, sequence_length)`, or a new token, of shape `(1,)`.

        Raises:
            ValueError: If there is more than one sequence.
        """
        if value.ndim > 1 and len(value) > 1:
            raise ValueError(f"LavitIteratorStreamer follows one sequence, got {len(value)}.")
        is_left_out, self.in_prompt = self.in_prompt and self.leave_out_prompt, False
        for token in value.flatten().tolist():
            run = self.splitter.read(token)
            if is_left_out or run is None:
                continue
            if run.is_image:
                super().end()  # the text before the image is final
                if run.content:  # neither [IMG] alone nor a placeholder has codes
                    self.text_queue.put(ImageSegment(list(run.content), run.complete))
            else:
                super().put(torch.tensor([token]))

    def end(self) -> None:
        """Ends the sequence. The streamer can then be used for another one."""
        super().end()
        self.text_queue.put(self.stop_signal)
        self._begin()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:  # the text that `TextStreamer` takes for final
            self.text_queue.put(TextSegment(text))

    def __iter__(self) -> Iterator[TextSegment | ImageSegment | StreamedImage]:
        while (piece := self.text_queue.get(timeout=self.timeout)) is not self.stop_signal:
            yield piece
            if self.decode_image is None or not isinstance(piece, ImageSegment):
                continue
            if piece.complete or (self.preview_every and len(piece.codes) % self.preview_every == 0):
                yield StreamedImage(self.decode_image(piece.codes), piece.complete)


def stream(model, streamer: LavitIteratorStreamer, **kwargs) -> Iterator[TextSegment | ImageSegment | StreamedImage]:
    """
    Runs `model.generate` in a thread and gives the pieces of its sequence while they are generated. Closing the
    iterator, or leaving the loop over it, ends the generation at its next token.

    Args:
        model ([`LavitForCausalLM`]): The model.
        streamer ([`LavitIteratorStreamer`]): The streamer that turns ids into pieces.
        kwargs: Arguments of `generate`.

    Returns:
        `Iterator[TextSegment | ImageSegment | StreamedImage]`: The pieces, see [`LavitIteratorStreamer`].

    Raises:
        Exception: The error of `generate`, if there is one, after all pieces before it.
    """
    closed = Event()

    def is_closed(input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.Tensor:
        return torch.full((len(input_ids),), closed.is_set(), device=input_ids.device)

    criteria = StoppingCriteriaList([is_closed, *(kwargs.pop("stopping_criteria", None) or [])])
    kwargs.setdefault("tokenizer", streamer.tokenizer)  # for `stop_strings`, which a model may have of its own

    def generate():
        try:
            model.generate(**kwargs, streamer=streamer, stopping_criteria=criteria)
        except BaseException:
            streamer.end()  # otherwise the loop over the streamer would wait forever
            raise

    with ThreadPoolExecutor(max_workers=1) as pool:
        generation = pool.submit(generate)
        try:
            yield from streamer
            generation.result()
        finally:
            closed.set()
            wait([generation])
            while not streamer.text_queue.empty():  # the streamer may be used for another sequence
                streamer.text_queue.get()
