# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A conversation in a terminal."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image
from rich.text import Text

import lavit_hf

from .common import (
    DEMO,
    Decoder,
    DecoderOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    ModelOption,
    SeedOption,
    StepsOption,
    app,
    console,
    load_decoder,
    load_model,
    open_image,
    progress_bars,
)


if TYPE_CHECKING:
    from ..conversation import Conversation, Piece

HELP = """\
Write to the model, and name picture files to show them: `photo.jpg what is on the table?`
A picture alone asks for a description.

  /draw TEXT   draw it, starting from pictures if you name some
  /edit TEXT   draw it, starting from the last picture
  /new         forget what was said
  /quit        end; so does Ctrl-D. Ctrl-C ends an answer."""
SHOWN_COLUMNS = 32


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


class _Terminal:
    """Shows answers, and saves their pictures."""

    def __init__(self, output: Path):
        self.output = output
        numbers = [int(path.stem) for path in output.glob("*.png") if path.stem.isdecimal()]
        self._saved = max(numbers, default=0)

    def show(self, picture: Image.Image) -> None:
        self._saved += 1
        path = self.output / f"{self._saved:03}.png"
        picture.save(path)
        if console.is_terminal and console.color_system is not None:
            console.print(picture_as_text(picture), end="")
        console.print(f"[dim]{path}[/dim]", soft_wrap=True)

    def show_drawing(self, pieces: "Iterator[Piece]", most: int) -> None:
        with progress_bars() as bars:
            task = bars.add_task("tokens", total=most)
            for piece in pieces:
                if isinstance(piece, lavit_hf.ImageSegment):
                    bars.update(task, completed=len(piece.codes))
        self.show(piece.picture)

    def show_answer(self, pieces: "Iterator[Piece]") -> None:
        for piece in pieces:
            if isinstance(piece, lavit_hf.TextSegment):
                console.print(piece.text.replace("\n", " "), end="", markup=False, soft_wrap=True)
            elif isinstance(piece, lavit_hf.StreamedPicture):
                console.print()
                self.show(piece.picture)
        console.print()


@app.command()
def chat(
    model: ModelOption = DEMO,
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for its pictures.")] = Path(
        "chat_output"
    ),
    decoder: DecoderOption = Decoder.highres,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Talk to a model in text and pictures. By default, to the small one that ships."""
    loaded, processor = load_model(model, device, dtype)
    pipeline = load_decoder(model, decoder, like=loaded)
    pipeline.set_progress_bar_config(disable=True)
    output.mkdir(parents=True, exist_ok=True)
    from transformers import set_seed

    set_seed(seed)
    conversation = lavit_hf.Conversation(loaded, processor, pipeline, seed, num_inference_steps=steps)
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


def _take(line: str, conversation: "Conversation", terminal: _Terminal) -> None:
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
        with closing(conversation.draw(text, pictures)) as pieces:
            terminal.show_drawing(pieces, conversation.model.config.num_patches)
    elif re.fullmatch(r"/\w*", command):  # and not the path of a picture
        if command not in ("/help", "/"):
            console.print(f"There is no command {command}.", markup=False, soft_wrap=True)
        console.print(HELP, markup=False, soft_wrap=True)
    else:
        text, paths = split_pictures(line)
        content = [open_image(path) for path in paths] + ([text] if text else [])
        with closing(conversation.answer(*content)) as pieces:
            terminal.show_answer(pieces)
