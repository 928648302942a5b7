# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A conversation in which both sides write and show pictures."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.text import Text
from transformers import StoppingCriteria, StoppingCriteriaList, set_seed

from ..demo import demo_checkpoint
from ..processing import ImageSegment, LavitIteratorStreamer, StreamedPicture, TextSegment
from ..processing.chat_lavit import TURN_END
from .common import (
    Decoder,
    DecoderOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    SeedOption,
    StepsOption,
    app,
    console,
    load_decoder,
    load_model,
    open_image,
    progress_bars,
)
from .pictures import decode_pixels, draw_codes


HELP = """\
Write to the model, and name picture files to show them: `photo.jpg what is on the table?`
A picture alone asks for a description.

  /draw TEXT   draw it, starting from pictures if you name some
  /edit TEXT   draw it, starting from the last picture
  /new         forget what was said
  /quit        end; so does Ctrl-D. Ctrl-C ends an answer."""
SHOWN_COLUMNS = 32
MAX_NEW_TEXT = 128


def split_pictures(line: str) -> tuple[str, list[Path]]:
    """
    A line's text, and the picture files that it names; names with spaces stand between double quotes.

    Raises:
        ValueError: a name that ends like a picture file, but there is no such file.
    """
    words, paths = [], []
    for word in re.findall(r'"[^"]*"|\S+', line):
        path = Path(word.strip('"')).expanduser()
        if path.suffix.lower() not in Image.registered_extensions():
            words.append(word)
        elif path.is_file():
            paths.append(path)
        else:
            raise ValueError(f"there is no picture {path}")
    return " ".join(words), paths


def picture_as_text(image: Image.Image, columns: int = SHOWN_COLUMNS) -> Text:
    """A picture in half blocks, two pixels to a character, for any terminal with colors."""
    rows = max(1, round(columns * image.height / image.width / 2))
    pixels = image.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX).load()
    text = Text()
    for row in range(rows):
        for column in range(columns):
            above, below = ("#{:02x}{:02x}{:02x}".format(*pixels[column, 2 * row + half]) for half in (0, 1))
            text.append("▀", style=f"{above} on {below}")
        text.append("\n")
    return text


class _StopWhenAsked(StoppingCriteria):
    def __init__(self):
        self.asked = Event()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        return torch.full((len(input_ids),), self.asked.is_set(), device=input_ids.device)


class Conversation:
    """
    What was said and shown, as messages of a chat template.

    Args:
        model, processor, pipeline: A LaVIT, its processor and its pixel decoder.
        seed (`int`): Of the noise of pictures.
        settings: For the pixel decoder.
    """

    def __init__(self, model, processor, pipeline, seed: int, **settings):
        self.model, self.processor, self.pipeline = model, processor, pipeline
        self.seed, self.settings = seed, settings
        self.messages: list[dict] = []

    @property
    def pictures(self) -> list[Image.Image]:
        """All of them, in order."""
        parts = (part for message in self.messages for part in message["content"])
        return [part["image"] for part in parts if part["type"] == "image"]

    def add(self, role: str, *content: str | Image.Image) -> None:
        parts = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in content
        ]
        self.messages.append({"role": role, "content": parts})

    def answer(self) -> Iterator[TextSegment | ImageSegment | StreamedPicture]:
        """What the model says to the messages, piece by piece, and then it is one of them."""
        streamer = LavitIteratorStreamer(self.processor, decode_image=self._decode)
        tokenizer, eos = self.processor.tokenizer, self.model.generation_config.eos_token_id
        stop = _StopWhenAsked()
        settings = {
            "generation_mode": "interleaved",
            "max_new_tokens": self._room,
            # After an answer the template goes on to the next turn.
            "eos_token_id": [*(eos if isinstance(eos, list) else [eos]), tokenizer.encode(TURN_END)[-1]],
            "stopping_criteria": StoppingCriteriaList([stop]),
            "streamer": streamer,
        }
        inputs = self._prompt().to(self.model.device)

        def generate():
            try:
                self.model.generate(**inputs, **settings)
            except BaseException:
                streamer.end()  # or who iterates would wait forever
                raise

        content = []
        with ThreadPoolExecutor(max_workers=1) as pool:
            generation = pool.submit(generate)
            try:
                for piece in streamer:
                    if isinstance(piece, TextSegment):
                        content.append(piece.text)
                    elif isinstance(piece, StreamedPicture):
                        content.append(piece.picture)
                    yield piece
                generation.result()
                self.add("assistant", *content)
            finally:
                stop.asked.set()
                if self.messages[-1]["role"] == "user":
                    self.messages.pop()  # it went unanswered

    def draw(self, prompt: str, pictures: list[Image.Image]) -> Image.Image:
        """A drawing of `prompt`, starting from pictures; request and drawing are messages then."""
        [codes] = draw_codes(self.model, self.processor, prompt, pictures)
        with progress_bars() as bars:
            [image] = decode_pixels(self.pipeline, [codes], self.seed, bars, **self.settings)
        self.add("user", *pictures, prompt)
        self.add("assistant", image)
        return image

    @property
    def _room(self) -> int:
        return self.model.config.num_patches + 2 + MAX_NEW_TEXT

    def _prompt(self):
        """The inputs of the latest messages for which the model's context has room."""
        longest = getattr(self.model.config.text_config, "max_position_embeddings", None)
        while True:
            inputs = self.processor.apply_chat_template(
                self.messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
            )
            length = inputs["input_ids"].shape[1] + len(self.pictures) * self.model.config.num_patches
            if longest is None or length + self._room <= longest or len(self.messages) <= 1:
                return inputs
            del self.messages[:2]  # a question and its answer

    def _decode(self, codes: list[int]) -> Image.Image:
        return self.pipeline([codes], generator=torch.Generator().manual_seed(self.seed), **self.settings).images[0]


class _Terminal:
    """Shows answers, and saves their pictures."""

    def __init__(self, output: Path):
        self.output = output
        self._saved = len(list(output.glob("*.png")))

    def show(self, picture: Image.Image) -> None:
        self._saved += 1
        path = self.output / f"{self._saved:03}.png"
        picture.save(path)
        if console.is_terminal and console.color_system is not None:
            console.print(picture_as_text(picture), end="")
        console.print(f"[dim]{path}[/dim]", soft_wrap=True)

    def show_answer(self, pieces: Iterator[TextSegment | ImageSegment | StreamedPicture]) -> None:
        for piece in pieces:
            if isinstance(piece, TextSegment):
                console.print(piece.text.replace("\n", " "), end="", markup=False, soft_wrap=True)
            elif isinstance(piece, StreamedPicture):
                console.print()
                self.show(piece.picture)
        console.print()


@app.command()
def chat(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder or Hub repository of a LaVIT. Default: the demo's.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for its pictures.")] = Path("chat_output"),
    decoder: DecoderOption = Decoder.highres,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Talk to a model in text and pictures. By default, to the small one that ships."""
    path = model or str(demo_checkpoint())
    loaded, processor = load_model(path, device, dtype)
    pipeline = load_decoder(path, decoder, like=loaded)
    pipeline.set_progress_bar_config(disable=True)
    output.mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    conversation = Conversation(loaded, processor, pipeline, seed, num_inference_steps=steps)
    terminal = _Terminal(output)
    console.print(HELP + "\n", markup=False, soft_wrap=True)
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line == "/quit":
            return
        try:
            _take(line, conversation, terminal)
        except (ValueError, OSError) as error:
            console.print(str(error), markup=False, style="red", soft_wrap=True)
        except KeyboardInterrupt:
            console.print()


def _take(line: str, conversation: Conversation, terminal: _Terminal) -> None:
    command, _, rest = line.partition(" ")
    if not line:
        return
    if command == "/new":
        conversation.messages.clear()
    elif command in ("/draw", "/edit"):
        text, paths = split_pictures(rest)
        pictures = [open_image(path) for path in paths]
        if command == "/edit" and not pictures:
            pictures = conversation.pictures[-1:]
            if not pictures:
                raise ValueError("/edit needs a picture: name a file, or draw one first")
        if not text:
            raise ValueError(f"{command} needs a text, say {command} a red circle")
        terminal.show(conversation.draw(text, pictures))
    elif re.fullmatch(r"/\w*", command):  # and not the path of a picture
        console.print(HELP, markup=False, soft_wrap=True)
    else:
        text, paths = split_pictures(line)
        conversation.add("user", *[open_image(path) for path in paths], *([text] if text else []))
        with closing(conversation.answer()) as pieces:
            terminal.show_answer(pieces)
