# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A conversation in which both sides write text and show images."""

import inspect
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal

import torch
from PIL import Image
from transformers import BatchFeature

from .diffusion import LavitImageDecoderPipeline
from .inference import decode_codes, decode_edits, encode_images, plan_drawings, prepare_prompts
from .modeling import LavitForCausalLM
from .modeling.codebook_lavit import check_same_codebook
from .modeling.generation_settings_lavit import end_ids
from .processing import (
    ImageSegment,
    LavitIteratorStreamer,
    LavitProcessor,
    StreamedImage,
    TextSegment,
    read_image,
    stream,
)
from .processing.chat_lavit import TURN_END, turn_end_ids


MAX_NEW_TEXT = 128
# A message that asks for a drawing, whose text is the group. The command and the page draw for it.
DRAW = re.compile(r"(?:please )?draw (?:me )?(.+)", re.IGNORECASE)
Piece = TextSegment | ImageSegment | StreamedImage


class Conversation:
    """
    A conversation, kept as messages of a chat template. The model reads the latest ones that fit into its context, and
    no more images than the `max_images` of the processor's `domain`.

    ```python
    conversation = Conversation(model, processor, pipe)
    for piece in conversation.answer(image, "what color is the star?"):
        ...  # TextSegment, ImageSegment, StreamedImage
    for piece in conversation.edit("make the star green", image):
        ...
    ```

    Args:
        model ([`LavitForCausalLM`]): The model.
        processor ([`LavitProcessor`]): Its processor.
        pipeline ([`LavitImageDecoderPipeline`], *optional*):
            Its pixel decoder, without which the model answers in text alone and nothing is drawn.
        seed (`int`, *optional*, defaults to 0): The seed of the noise of images.
        settings: Arguments of the pixel decoder, such as `num_inference_steps`.

    Raises:
        ValueError: If the processor has another vocabulary than the model, or the pixel decoder another codebook.
        TypeError: If the pixel decoder does not have one of the settings.
    """

    def __init__(
        self,
        model: LavitForCausalLM,
        processor: LavitProcessor,
        pipeline: LavitImageDecoderPipeline | None = None,
        seed: int = 0,
        **settings,
    ):
        processor.check_vocabulary(model.config)
        if pipeline is not None:
            check_same_codebook(model, pipeline.feature_decoder)
        known = inspect.signature(LavitImageDecoderPipeline.__call__).parameters
        if unknown := settings.keys() - known.keys():
            raise TypeError(f"settings must be arguments of the pixel decoder, got {sorted(unknown)[0]!r}.")
        self.model, self.processor, self.pipeline = model, processor, pipeline
        self.seed, self.settings = seed, settings
        self.messages: list[dict] = []
        # The pixels of the last prompt, with their features and their numbers of codes.
        self._read: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    @property
    def images(self) -> list[Image.Image]:
        """The images of all messages, in order."""
        return _images_of(self.messages)

    def add(self, role: str, *content: str | Image.Image) -> None:
        """
        Adds a message.

        Args:
            role (`str`): `"user"` or `"assistant"`.
            content (`str` or `Image.Image`): The texts and images of the message, in order.
        """
        parts = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in content
        ]
        self.messages.append({"role": role, "content": parts})

    def answer(self, *content: str | Image.Image, preview_every: int | None = None) -> Generator[Piece, None, None]:
        """
        Answers a message piece by piece. The last of `messages` is the answer so far. If the answer fails or the
        iterator is closed before its end, `messages` are those before the call.

        Args:
            content (`str` or `Image.Image`):
                The texts and images of the user's message, in order. Default: the last message that was added.
            preview_every (`int`, *optional*): The number of codes after which an unfinished image is shown again.

        Raises:
            ValueError: If the last message is not one of the user that has an image or a text, or leaves no room in
                the context.
        """
        before = len(self.messages)
        answer: list[dict] = []
        try:
            if content:
                self.add("user", *content)
            if not _asks(self.messages):
                raise ValueError("answer needs a message of the user at the end: give texts or images, or add one.")
            inputs, room = self._prompt()
            # An image is drawn only where the largest has room.
            draws = self.pipeline is not None and room >= self.model.config.num_patches + 2
            settings = {
                "generation_mode": "interleaved" if draws else "text",
                "max_new_tokens": room,
                # The template begins the next turn behind the end of this one.
                "eos_token_id": [
                    *end_ids(self.model.generation_config.eos_token_id),
                    *turn_end_ids(self.processor.tokenizer),
                ],
            }
            pieces = self._stream(inputs, self._decode, preview_every, **settings)
            self.messages.append({"role": "assistant", "content": answer})
            for piece in pieces:
                if isinstance(piece, StreamedImage) and piece.complete:
                    answer.append({"type": "image", "image": piece.image})
                elif isinstance(piece, TextSegment) and answer and answer[-1]["type"] == "text":
                    answer[-1]["text"] += piece.text
                elif isinstance(piece, TextSegment):
                    # The template writes the space before a text, and below the end of a turn.
                    answer.append({"type": "text", "text": piece.text.removeprefix(" ")})
                yield piece
        except BaseException:  # also if the iterator is closed
            del self.messages[before:]
            raise
        if answer and answer[-1]["type"] == "text":
            answer[-1]["text"] = answer[-1]["text"].rstrip(TURN_END)

    def draw(
        self,
        prompt: str,
        images: Sequence[Image.Image] = (),
        preview_every: int | None = None,
        plan_generation: dict[str, Any] | Literal[False] | None = None,
        **settings,
    ) -> Generator[Piece, None, None]:
        """
        Draws a prompt code by code, and then keeps the request and the drawing as messages.

        Args:
            prompt (`str`): The prompt.
            images (`list[PIL.Image.Image]`, *optional*): Images before the prompt.
            preview_every (`int`, *optional*): The number of codes after which the unfinished image is shown again.
            plan_generation (`dict` or `False`, *optional*): Same as in [`plan_drawings`].
            settings: Arguments of `generate`, such as `guidance_scale`.

        Raises:
            ValueError: If there is no pixel decoder.
        """
        yield from self._draw(prompt, images, self._decode, preview_every, plan_generation, **settings)

    def edit(
        self,
        instruction: str,
        image: Any = None,
        preview_every: int | None = None,
        plan_generation: dict[str, Any] | Literal[False] | None = None,
        **settings,
    ) -> Generator[Piece, None, None]:
        """
        Draws an image with a change, and then keeps the request and the result as messages. The parts of the image in
        which its codes stay the same are kept.

        Args:
            instruction (`str`): The change.
            image (an image as [`read_image`] takes it, *optional*):
                The image before the change. Default: the last one of the conversation.
            preview_every, plan_generation, settings: Same as in [`~Conversation.draw`].

        Raises:
            ValueError: If the instruction is empty, or there is no image or no pixel decoder.
        """
        if not instruction.strip():
            raise ValueError("instruction must say what to change, got an empty text.")
        if image is None and not self.images:
            raise ValueError("edit needs an image: give one, or draw one first.")
        image = read_image(self.images[-1] if image is None else image)
        source = encode_images(self.model.model.visual_tokenizer, self.processor, [image]).codes.tolist()

        def decode(codes: list[int]) -> Image.Image:
            return decode_edits(self._image_decoder, [image], [source], [codes], self.seed, **self.settings)[0]

        yield from self._draw(instruction, [image], decode, preview_every, plan_generation, **settings)

    def _draw(
        self, prompt: str, images, decode, preview_every, plan_generation, **settings
    ) -> Generator[Piece, None, None]:
        _ = self._image_decoder  # before time is spent
        texts = plan_drawings(self.model, self.processor, [prompt], [images], plan_generation)
        inputs = prepare_prompts(self.processor, texts, [images], generation_mode="image")
        for piece in self._stream(inputs, decode, preview_every, generation_mode="image", **settings):
            if isinstance(piece, StreamedImage) and piece.complete:
                self.add("user", *images, prompt)
                self.add("assistant", piece.image)
            yield piece

    @property
    def _image_decoder(self) -> LavitImageDecoderPipeline:
        if self.pipeline is None:
            raise ValueError("Drawing needs a pixel decoder, and this conversation has none.")
        return self.pipeline

    @property
    def _room(self) -> int:
        return self.model.config.num_patches + 2 + MAX_NEW_TEXT

    def _decode(self, codes: list[int]) -> Image.Image:
        return decode_codes(self._image_decoder, [codes], self.seed, **self.settings)[0]

    def _stream(
        self, inputs: BatchFeature, decode: Callable[[list[int]], Image.Image], preview_every: int | None, **settings
    ) -> Iterator[Piece]:
        streamer = LavitIteratorStreamer(self.processor, decode_image=decode, preview_every=preview_every)
        # A stream has one sequence, whatever is saved with the model.
        settings = {"num_beams": 1, "num_return_sequences": 1} | settings
        return stream(self.model, streamer, **inputs.to(self.model.device), **settings)

    def _prompt(self) -> tuple[BatchFeature, int]:
        """Prepares the latest messages that fit into the context, and counts the new tokens for which it has room."""
        longest = getattr(self.model.config.text_config, "max_position_embeddings", None) or math.inf
        most_images = (self.processor.domain or {}).get("max_images", math.inf)
        turns = _latest_images(_split_turns(self.messages), most_images)
        shorter = [_from_turn(turns, first) for first in range(len(turns))]

        def fits(messages: list[dict]) -> bool:
            return self._prepare(messages)[1] + self._room <= longest

        inputs, most = self._prepare(shorter[0])
        if most + self._room > longest and len(turns) > 1:
            # Lengths fall with each turn that is left out, so that few of the messages are prepared.
            inputs, _ = self._prepare(shorter[bisect_left(shorter[:-1], True, lo=1, key=fits)])
        length = inputs["input_ids"].shape[1] + self._replace_pixels(inputs)
        if length >= longest and len(turns) > 1:  # an image of an earlier turn may take all room
            inputs, _ = self._prepare(turns[-1])
            length = inputs["input_ids"].shape[1] + self._replace_pixels(inputs)
        if length >= longest:
            raise ValueError(
                f"The context of the model holds {longest} tokens, but the last message has {length}, which leaves no "
                "room for an answer."
            )
        return inputs, int(min(self._room, longest - length))

    def _prepare(self, messages: list[dict]) -> tuple[BatchFeature, int]:
        """Prepares a prompt, and counts the most tokens that it may have."""
        inputs: Any = self.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        most = inputs["input_ids"].shape[1]
        if self.processor.visual_tokenizer is None:  # each image is one placeholder so far
            most += len(_images_of(messages)) * self.model.config.num_patches
        return inputs, most

    def _replace_pixels(self, inputs: BatchFeature) -> int:
        """
        Puts features in place of the pixels of images, so that the tower reads each image in one turn only. Returns
        how many codes they have beyond their placeholders.
        """
        if "pixel_values" not in inputs or "vision_features" in inputs:  # no images, or the processor has read them
            return 0
        tokenizer = self.model.model.visual_tokenizer
        read: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        for pixels in inputs.pop("pixel_values"):
            # Pixels are compared, since the same object may hold another image by now.
            known = next((known for known in self._read + read if torch.equal(known[0], pixels)), None)
            if known is None:
                with torch.no_grad():
                    features, keep_mask = tokenizer.select_patches(pixels[None].to(tokenizer.device))
                known = pixels, features, int(keep_mask.sum())
            read.append(known)
        self._read = read
        inputs["vision_features"] = torch.cat([features for _, features, _ in read])
        return sum(num_codes - 1 for _, _, num_codes in read)


def _split_turns(messages: list[dict]) -> list[list[dict]]:
    """Splits messages into turns, each of which begins with a message of the user."""
    turns: list[list[dict]] = []
    for message in messages:
        if turns and message["role"] != "user":
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _latest_images(turns: list[list[dict]], most: float) -> list[list[dict]]:
    """Returns the latest turns with `most` images in all. All images of the last turn are kept."""
    most = max(most, len(_images_of(turns[-1])))
    while 0 < most <= len(_images_of(chain(*turns[1:]))):
        turns = turns[1:]
    surplus = len(_images_of(chain(*turns))) - most
    latest: list[list[dict]] = []
    for turn in turns:
        latest.append([])
        for message in turn:  # an edit has its image before and after the change
            content = []
            for part in message["content"]:
                if part["type"] == "image" and surplus > 0:
                    surplus -= 1
                else:
                    content.append(part)
            latest[-1].append(message | {"content": content})
    return latest


def _from_turn(turns: list[list[dict]], first: int) -> list[dict]:
    """Returns the messages from a turn on. If they have no image, the last one before them goes to their first."""
    messages = [*chain(*turns[first:])]
    if not _images_of(messages) and (shown := _images_of(chain(*turns[:first]))):
        image = {"type": "image", "image": shown[-1]}
        messages = [messages[0] | {"content": [image, *messages[0]["content"]]}, *messages[1:]]
    return messages


def _asks(messages: list[dict]) -> bool:
    """Returns whether the last message is one of the user, and says something."""
    if not messages or messages[-1]["role"] != "user":
        return False
    return any(part["type"] == "image" or part["text"].strip() for part in messages[-1]["content"])


def _images_of(messages: Iterable[dict]) -> list[Image.Image]:
    """Returns the images of messages, in order."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
