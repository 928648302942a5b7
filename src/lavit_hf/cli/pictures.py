# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What one does with single pictures: caption, ask, draw, reconstruct, encode."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.progress import Progress

import lavit_hf

from .common import (
    DEMO,
    AspectOption,
    Decoder,
    DecoderOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    ImagesArgument,
    ModelOption,
    OutputOption,
    SeedOption,
    Selection,
    StepsOption,
    app,
    check_output,
    console,
    load_decoder,
    load_model,
    open_image,
    output_size,
    progress_bars,
)


class _TokenBar:
    """A streamer of `generate`: a bar that goes on with each token."""

    def __init__(self, bars: Progress, most: int):
        self.bars, self.task, self._in_prompt = bars, bars.add_task("tokens", total=most), True

    def put(self, value) -> None:
        self.bars.advance(self.task, not self._in_prompt)
        self._in_prompt = False

    def end(self) -> None:
        # A picture has as many tokens as it needs: the most is seldom reached.
        self.bars.update(self.task, total=self.bars.tasks[self.task].completed)


def decode_pixels(pipeline, codes: list[list[int]], seed: int, bars: Progress, **settings) -> list[Image.Image]:
    """Draws each picture's codes with noise of its own, and shows how far it is."""
    import torch

    pipeline.set_progress_bar_config(disable=True)
    task = bars.add_task("pixels", total=None)

    def advance(pipe, step, timestep, tensors):
        bars.update(task, total=pipe.num_timesteps, completed=step + 1)
        return {}

    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(codes))]
    return pipeline(image_tokens=codes, generator=generators, callback_on_step_end=advance, **settings).images


def _save(images: list[Image.Image], codes: list[list[int]], output: Path) -> None:
    console.print(f"{', '.join(str(len(row)) for row in codes)} tokens")
    for index, image in enumerate(images):
        path = output if len(images) == 1 else output.with_stem(f"{output.stem}-{index}")
        image.save(path)
        console.print(f"{path} ({image.width} x {image.height})", soft_wrap=True)


def write_text(model, processor, image: Image.Image, text: str, **settings) -> str:
    """What the model says after a picture and a `text` that a person typed."""
    inputs = processor(text=processor.image_token + processor.escape(text), images=image, return_tensors="pt").to(
        model.device
    )
    ids = model.generate(**inputs, return_full_text=False, **settings)
    return processor.decode(ids[0], skip_special_tokens=True).strip()


def draw_codes(model, processor, prompt: str, pictures: list[Image.Image] | None = None, **settings):
    """The codes of each picture drawn after `pictures` and a prompt."""
    text = processor.image_token * len(pictures or []) + processor.escape(prompt)
    inputs = processor(text=text, images=pictures or None, generation_mode="image", return_tensors="pt")
    ids = model.generate(**inputs.to(model.device), generation_mode="image", **settings)
    return [processor.decode_interleaved(row)[-1].codes for row in ids]


@app.command()
def caption(
    images: ImagesArgument,
    model: ModelOption = DEMO,
    prompt: Annotated[str, typer.Option(help="What the caption begins with.")] = "",
    num_beams: Annotated[int, typer.Option(min=1, help="Beams of the search.")] = 2,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="Least length.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most length.")] = 36,
    full_text: Annotated[bool, typer.Option("--full-text", help="Go on after the first sentence.")] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Describe pictures. The defaults are those of the authors' evaluation."""
    pictures = [open_image(path) for path in images]
    loaded, processor = load_model(model, device, dtype)
    for path, picture in zip(images, pictures, strict=True):
        text = write_text(
            loaded,
            processor,
            picture,
            prompt,
            num_beams=num_beams,
            min_new_tokens=min(min_new_tokens, max_new_tokens),
            max_new_tokens=max_new_tokens,
        )
        text = text if full_text else text.partition(".")[0]
        console.print(f"{path}: {prompt} {text}" if prompt else f"{path}: {text}", soft_wrap=True, markup=False)


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="Picture file.", show_default=False)],
    question: Annotated[str, typer.Argument(help='Say "What is on the table?"', show_default=False)],
    model: ModelOption = DEMO,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams of the search.")] = 5,
    min_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=0, help="Least length. Default: 2 as the authors evaluate; 1 for the small model that ships."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most length.")] = 10,
    full_text: Annotated[bool, typer.Option("--full-text", help="Go on after the first line.")] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Answer a question about a picture. The defaults are those of the authors' evaluation."""
    picture = open_image(image)
    if min_new_tokens is None:
        min_new_tokens = 1 if model == DEMO else 2
    loaded, processor = load_model(model, device, dtype)
    text = write_text(
        loaded,
        processor,
        picture,
        processor.vqa_prompt.format(question=question),
        num_beams=num_beams,
        min_new_tokens=min(min_new_tokens, max_new_tokens),
        max_new_tokens=max_new_tokens,
        length_penalty=0.0,
        early_stopping=num_beams > 1,
    )
    console.print(text if full_text else text.partition("\n")[0], soft_wrap=True, markup=False)


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    model: ModelOption = DEMO,
    output: OutputOption = Path("drawing.png"),
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Picture to start from; may be given several times.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="How many different drawings.")] = 1,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How closely the codes follow the prompt. Default: the model's.")
    ] = None,
    decoder: DecoderOption = Decoder.highres,
    aspect_ratio: AspectOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """
    Draw what a prompt says, from pictures too: `lavit-hf draw "in the style of a woodcut" -i cat.png -m lavit-7b`.
    """
    check_output(output)
    pictures = [open_image(path) for path in image or []]
    loaded, processor = load_model(model, device, dtype)
    pipeline = load_decoder(model, decoder, like=loaded)
    size = output_size(pipeline, aspect_ratio)
    from transformers import set_seed

    set_seed(seed)
    settings: dict[str, Any] = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    with progress_bars() as bars:
        settings |= {"num_return_sequences": num_images, "streamer": _TokenBar(bars, loaded.config.num_patches)}
        codes = draw_codes(loaded, processor, prompt, pictures, **settings)
        images = decode_pixels(pipeline, codes, seed, bars, num_inference_steps=steps, **size)
    _save(images, codes, output)


@app.command()
def reconstruct(
    image: Annotated[Path, typer.Argument(help="Picture file.", show_default=False)],
    model: ModelOption = DEMO,
    output: OutputOption = Path("reconstruction.png"),
    decoder: DecoderOption = Decoder.highres,
    aspect_ratio: AspectOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Turn a picture into tokens and these into a picture again: what the tokens keep of it."""
    check_output(output)
    picture = open_image(image)
    tokenizer, processor = load_model(model, device, dtype, lavit_hf.LavitVisualTokenizer)
    pipeline = load_decoder(model, decoder, like=tokenizer)
    size = output_size(pipeline, aspect_ratio)
    [(codes, _)] = tokenize(tokenizer, processor, [picture], None, seed)
    with progress_bars() as bars:
        images = decode_pixels(pipeline, [codes], seed, bars, num_inference_steps=steps, **size)
    _save(images, [codes], output)


def tokenize(tokenizer, processor, pictures, selection: Selection | None, seed: int):
    """Codes and kept patches of each picture."""
    import torch

    with torch.no_grad():
        outputs = tokenizer(
            processor.image_processor(pictures, return_tensors="pt")["pixel_values"].to(tokenizer.device),
            selection=selection.value if selection else None,
            generator=torch.Generator().manual_seed(seed),
        )
    return [(codes.tolist(), mask) for codes, mask in zip(outputs.split(), outputs.keep_mask, strict=True)]


@app.command()
def encode(
    images: ImagesArgument,
    model: ModelOption = DEMO,
    selection: Annotated[Selection | None, typer.Option(help="How patches are kept. Default: the model's.")] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder to which each picture is written with its kept patches shown."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Print the codes of pictures, a line of JSON for each: `{"image": ..., "num_codes": ..., "codes": [...]}`."""
    from ..visualization import show_kept_patches

    pictures = [open_image(path) for path in images]
    if overlay is not None:
        # Pictures of one name come from several folders.
        names = Counter(path.stem for path in images)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"--overlay names pictures by their files, and {names[twice[0]]} are called {twice[0]}.")
        overlay.mkdir(parents=True, exist_ok=True)
    tokenizer, processor = load_model(model, device, dtype, lavit_hf.LavitVisualTokenizer)
    tokenized = tokenize(tokenizer, processor, pictures, selection, seed)
    for path, picture, (codes, keep_mask) in zip(images, pictures, tokenized, strict=True):
        print(json.dumps({"image": str(path), "num_codes": len(codes), "codes": codes}))
        if overlay is not None:
            show_kept_patches(picture, keep_mask).save(overlay / f"{path.stem}.png")
