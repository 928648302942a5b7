# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A conversation in which both sides write and show pictures."""

from collections.abc import Generator, Iterator, Sequence

import torch
from PIL import Image

from .diffusion import LavitImageDecoderPipeline
from .modeling import LavitForCausalLM
from .processing import ImageSegment, LavitIteratorStreamer, LavitProcessor, StreamedPicture, TextSegment, stream
from .processing.chat_lavit import TURN_END


MAX_NEW_TEXT = 128
Piece = TextSegment | ImageSegment | StreamedPicture


class Conversation:
    """
    What was said and shown, as messages of a chat template.

    ```python
    conversation = Conversation(model, processor, pipe)
    for piece in conversation.answer(picture, "what color is the star?"):
        ...  # TextSegment, ImageSegment, StreamedPicture
    for piece in conversation.draw("make the star green", [picture]):
        ...
    ```

    Args:
        model ([`LavitForCausalLM`]), processor ([`LavitProcessor`]), pipeline ([`LavitImageDecoderPipeline`]):
            A LaVIT, its processor and its pixel decoder.
        seed (`int`, *optional*, defaults to 0): Of the noise of pictures.
        settings: For the pixel decoder, say `num_inference_steps`.
    """

    def __init__(
        self,
        model: LavitForCausalLM,
        processor: LavitProcessor,
        pipeline: LavitImageDecoderPipeline,
        seed: int = 0,
        **settings,
    ):
        processor.check_vocabulary(model.config)
        self.model, self.processor, self.pipeline = model, processor, pipeline
        self.seed, self.settings = seed, settings
        self.messages: list[dict] = []

    @property
    def pictures(self) -> list[Image.Image]:
        """All of them, in order."""
        parts = (part for message in self.messages for part in message["content"])
        return [part["image"] for part in parts if part["type"] == "image"]

    def add(self, role: str, *content: str | Image.Image) -> None:
        """
        Puts a message at the end, as if it had been said.

        Args:
            role (`str`): Who said it: `"user"` or `"assistant"`.
            content (`str` or `Image.Image`): Its texts and pictures, in their order.
        """
        parts = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in content
        ]
        self.messages.append({"role": role, "content": parts})

    def answer(self, *content: str | Image.Image, preview_every: int | None = None) -> Generator[Piece, None, None]:
        """
        What the model says to `content` and all before it, piece by piece; then both are messages. What goes
        unanswered, because something failed or the iterator was closed, is none. Without content, to the last message.

        Args:
            content (`str` or `Image.Image`): The user's texts and pictures, in their order.
            preview_every (`int`, *optional*): A picture is also shown unfinished, each time it has so many more codes.
        """
        if content:
            self.add("user", *content)
        eos = self.model.generation_config.eos_token_id
        settings = {
            "generation_mode": "interleaved",
            "max_new_tokens": self._room,
            # After an answer the template goes on to the next turn.
            "eos_token_id": [
                *(eos if isinstance(eos, list) else [eos]),
                self.processor.tokenizer.encode(TURN_END)[-1],
            ],
        }
        said: list[str | Image.Image] = []
        try:
            for piece in self._stream(self._prompt(), preview_every, **settings):
                if isinstance(piece, TextSegment):
                    before = said.pop() if said and isinstance(said[-1], str) else ""
                    said.append(before + piece.text)
                elif isinstance(piece, StreamedPicture) and piece.complete:
                    said.append(piece.picture)
                yield piece
            if said and isinstance(said[-1], str):
                said[-1] = said[-1].removesuffix(TURN_END)
            # The template writes the end of a turn, and a space before each text.
            self.add("assistant", *(part.removeprefix(" ") if isinstance(part, str) else part for part in said))
        finally:
            if self.messages and self.messages[-1]["role"] == "user":
                self.messages.pop()

    def draw(
        self, prompt: str, pictures: Sequence[Image.Image] = (), preview_every: int | None = None, **settings
    ) -> Generator[Piece, None, None]:
        """
        A drawing of `prompt` that starts from `pictures`, code by code; then request and drawing are messages.

        Args:
            prompt (`str`): What to draw, or how to edit the picture.
            pictures (`list[PIL.Image.Image]`, *optional*): What to start from.
            preview_every (`int`, *optional*): Show the unfinished picture every so many codes.
            settings: For `generate`, say `guidance_scale`.
        """
        inputs = self.processor(
            text=self.processor.image_token * len(pictures) + self.processor.escape(prompt),
            images=list(pictures) or None,
            generation_mode="image",
            return_tensors="pt",
        )
        for piece in self._stream(inputs, preview_every, generation_mode="image", **settings):
            if isinstance(piece, StreamedPicture) and piece.complete:
                self.add("user", *pictures, prompt)
                self.add("assistant", piece.picture)
            yield piece

    @property
    def _room(self) -> int:
        return self.model.config.num_patches + 2 + MAX_NEW_TEXT

    def _stream(self, inputs, preview_every: int | None, **settings) -> Iterator[Piece]:
        streamer = LavitIteratorStreamer(self.processor, decode_image=self._decode, preview_every=preview_every)
        return stream(self.model, streamer, **inputs.to(self.model.device), **settings)

    def _decode(self, codes: list[int]) -> Image.Image:
        return self.pipeline([codes], generator=torch.Generator().manual_seed(self.seed), **self.settings).images[0]

    def _prompt(self):
        """The inputs of the latest messages for which the model's context has room."""
        longest = getattr(self.model.config.text_config, "max_position_embeddings", None)
        while True:
            inputs = self.processor.apply_chat_template(
                self.messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
            )
            length = inputs["input_ids"].shape[1]
            if self.processor.visual_tokenizer is None:  # each image is one placeholder so far
                length += len(self.pictures) * self.model.config.num_patches
            if longest is None or length + self._room <= longest or len(self.messages) <= 1:
                return inputs
            del self.messages[:2]  # a question and its answer


__all__ = ["Conversation"]
