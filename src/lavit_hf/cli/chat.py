# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `chat`."""

import re
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import torch
from PIL import Image

from ..conversation import DRAW, Conversation, Piece
from ..processing import ImageSegment, TextSegment, read_image
from ..visualization import name_tokens
from . import options
from .loading import console, load_with_decoder, progress, save_image, warn_of_unknown_words


HELP = """\
Write to the model, and name image files to show them: `photo.jpg what is on the table?`
An image alone asks for a description. `draw a small blue star on the right` draws.

  /draw TEXT   draw what the text says, after images if some are named
  /edit TEXT   change the last image as the text says, or one that is named
  /save FILE   save the last image under a name of your own
  /reset       forget the conversation
  /help        show this
  /quit        end; so does Ctrl-D. Ctrl-C ends an answer."""


def split_images(line: str) -> tuple[str, list[Path]]:
    """
    Splits a line into its text and the image files that it names. Names with spaces stand between double quotes.

    Raises:
        ValueError: If a word ends like an image file, but there is no such file.
    """
    words, paths = [], []
    for word in re.findall(r'"[^"]*"|\S+', line):
        path = Path(word.strip('"').rstrip("?!.,;:")).expanduser()  # such as "what is in photo.png?"
        if path.suffix.lower() not in Image.registered_extensions():
            words.append(word)
        elif path.is_file():
            paths.append(path)
        else:
            raise ValueError(f"there is no image {path}")
    return " ".join(words), paths


def chat(
    model: options.Model = options.DEMO,
    output: options.ImageFolder = Path("chat_output"),
    decoder: options.PixelDecoder = options.Decoder.highres,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = "",
    dtype: options.Dtype = "auto",
) -> None:
    """Talk to a model in text and images."""
    options.check_folder(output)
    loaded, processor, pipeline = load_with_decoder(model, decoder, device, dtype, required=False)
    torch.manual_seed(seed)
    conversation = Conversation(loaded, processor, pipeline, seed, num_inference_steps=steps)
    console.print(HELP + "\n", soft_wrap=True)
    if pipeline is None:
        console.print("This model has no pixel decoder: it reads and writes, and draws nothing.\n", soft_wrap=True)
    if processor.domain:
        console.print(f"This model knows {processor.domain['description']}.\n", soft_wrap=True)
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            line = "/quit"
        if line == "/quit":
            return
        try:
            if pieces := _reply(line, conversation):
                _show(pieces, output)
        except (ValueError, OSError) as error:
            console.print(str(error), style="red", soft_wrap=True)
        except KeyboardInterrupt:
            console.print()


def _reply(line: str, conversation: Conversation) -> Generator[Piece, None, None] | None:
    """Returns the model's reply to a line, piece by piece, or `None` if it is not for the model."""
    if drawing := DRAW.fullmatch(line):
        line = f"/draw {drawing[1]}"
    command, _, rest = line.partition(" ")
    if command in ("/draw", "/edit"):
        text, paths = split_images(rest)
        images = [read_image(path) for path in paths]
        if not text:
            raise ValueError(f"{command} needs a text, such as {command} a red circle")
        warn_of_unknown_words(conversation.processor, text)
        if command == "/draw":
            return conversation.draw(text, images)
        if len(images) > 1:
            raise ValueError(f"/edit takes one image, got {len(images)}")
        return conversation.edit(text, images[0] if images else None)
    if command == "/save":
        _save(rest.strip('" '), conversation)
    elif command == "/reset":
        conversation.messages.clear()
    elif re.fullmatch(r"/\w*", command):  # any other command, unlike the path of an image
        if command != "/help":
            console.print(f"{command} is not a command.", style="red")
        console.print(HELP, soft_wrap=True)
    elif line:
        text, paths = split_images(line)
        images = [read_image(path) for path in paths]
        if not warn_of_unknown_words(conversation.processor, text) or images or conversation.images:
            return conversation.answer(*images, *([text] if text else []))
    return None


def _save(name: str, conversation: Conversation) -> None:
    """Saves the last image of a conversation."""
    if not name or not conversation.images:
        raise ValueError("/save needs a file, such as /save star.png, and an image in the conversation")
    path = options.check_image_output(Path(name).expanduser())
    if path.exists():
        raise ValueError(f"{path} exists: choose another file")
    options.check_folder(path.parent)
    save_image(conversation.images[-1], path)
    console.print(path, style="dim", soft_wrap=True)


def _show(pieces: Generator[Piece, None, None], output: Path) -> None:
    """Prints a reply as it comes, and saves its images."""
    with closing(pieces):
        for piece in pieces:
            if isinstance(piece, TextSegment):
                console.print(piece.text.replace("\n", " "), end="", soft_wrap=True)
            elif isinstance(piece, ImageSegment):
                if progress.is_terminal:  # elsewhere, the counts would stand side by side
                    progress.print(f"\r{name_tokens(len(piece.codes or ()))} ", end="")
            else:
                numbers = [int(path.stem) for path in output.glob("*.png") if path.stem.isdecimal()]
                path = output / f"{max(numbers, default=0) + 1:03}.png"
                save_image(piece.image, path)
                console.print(f"\n{path}", style="dim", soft_wrap=True)
    console.print()
