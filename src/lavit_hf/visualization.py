# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Images of what a LaVIT does: the patches that it keeps and merges, and the patches that words attend to."""

import colorsys
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch.distributions import Categorical

from .inference import prepare_prompts
from .modeling import LavitForCausalLM, LavitVisualTokenizer, LavitVisualTokenizerOutput
from .processing import LavitProcessor, read_image


MIN_SAMPLE_WIDTH = 160  # pixels, so that a line below a single small image has room for words
SWITCHING = Lock()  # held while the attention of a model, which threads may share, is another one


@dataclass(frozen=True)
class Sample:
    """
    A case to look at.

    Args:
        images (`tuple[PIL.Image.Image, ...]`): Its images, side by side.
        lines (`tuple[str, ...]`): The lines of text below them.
    """

    images: tuple[Image.Image, ...]
    lines: tuple[str, ...]


def name_tokens(count: int) -> str:
    """Returns "1 token", "2 tokens" and so on."""
    return f"{count} token" if count == 1 else f"{count} tokens"


def draw_sheet(
    samples: Sequence[Sample], side: int = 128, columns: int = 4, titles: Sequence[str] = ()
) -> Image.Image:
    """
    Draws samples in rows, with their lines of text below them.

    Args:
        samples (`list[Sample]`): At least one sample, all with the same number of images.
        side (`int`, *optional*, defaults to 128): The side of each image in pixels. Images are padded to a square.
        columns (`int`, *optional*, defaults to 4): The number of samples in a row.
        titles (`Sequence[str]`, *optional*): A title for each image of a sample, to stand above the first row.

    Returns:
        `PIL.Image.Image`: An RGB image.
    """
    font, line_height, gap = ImageFont.load_default(12), 15, 8
    width = max(len(samples[0].images) * side, MIN_SAMPLE_WIDTH)
    texts = [[part for line in sample.lines for part in textwrap.wrap(line, width // 6)] for sample in samples]
    height = side + line_height * max(map(len, texts)) + gap
    columns, start = min(columns, len(samples)), gap + (line_height if titles else 0)
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + start), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        for position, title in enumerate(titles):
            draw.text((gap + column * (width + gap) + position * side, gap // 2), title, "black", font)
    for index, (sample, lines) in enumerate(zip(samples, texts, strict=True)):
        left, top = gap + index % columns * (width + gap), start + index // columns * (height + gap)
        for position, image in enumerate(sample.images):
            # The pixels of small images stay visible.
            method = Image.Resampling.NEAREST if max(image.size) < side else Image.Resampling.BICUBIC
            square = ImageOps.pad(read_image(image), (side, side), method, color="white")
            sheet.paste(square, (left + position * side, top))
        draw.multiline_text((left, top + side + 2), "\n".join(lines), "black", font, spacing=line_height - 12)
    return sheet


def show_kept_patches(image: Image.Image, keep_mask: torch.Tensor, size: int = 448) -> Image.Image:
    """
    Shows the patches of an image that the visual tokenizer keeps. The patches that are merged into them are pale.

    Args:
        image (`PIL.Image.Image`): The image.
        keep_mask (`torch.BoolTensor` of shape `(num_patches,)`): Its row of `LavitVisualTokenizerOutput.keep_mask`.
        size (`int`, *optional*, defaults to 448): The side of the result in pixels.

    Returns:
        `PIL.Image.Image`: A square RGB image.

    Raises:
        ValueError: If the mask does not belong to a square grid of patches.
    """
    side = _grid_side(keep_mask, "keep_mask")
    shown = _highlight(_square(image, size), keep_mask.view(side, side), "white", 0.8, Image.Resampling.NEAREST)
    for patch in keep_mask.nonzero().flatten().tolist():
        ImageDraw.Draw(shown).rectangle(_box(patch, side, size), outline="white")
    return shown


def show_tokens(
    images: Sequence[Image.Image],
    keep_masks: Sequence[torch.Tensor],
    reconstructions: Sequence[Image.Image] | None = None,
    side: int = 128,
) -> Image.Image:
    """
    Shows images, their kept patches and numbers of tokens and, if given, their reconstructions from these tokens.

    Args:
        images (`list[PIL.Image.Image]`): At least one image.
        keep_masks (`list[torch.BoolTensor]` of shape `(num_patches,)`): The kept patches of each image.
        reconstructions (`list[PIL.Image.Image]`, *optional*): The reconstruction of each image.
        side (`int`, *optional*, defaults to 128): The side of each image of the result in pixels.
    """
    columns = [images, map(show_kept_patches, images, keep_masks), *([reconstructions] if reconstructions else [])]
    lines = [f"{int(mask.sum())} tokens for {len(mask)} patches" for mask in keep_masks]
    samples = [Sample(tuple(case), (line,)) for *case, line in zip(*columns, lines, strict=True)]
    return draw_sheet(samples, side, columns=5 - len(columns))


@torch.no_grad()
def find_merge_targets(
    visual_tokenizer: LavitVisualTokenizer, outputs: LavitVisualTokenizerOutput
) -> torch.LongTensor:
    """
    Finds the kept patch into which each dropped patch is merged: the one that attends most to it in the
    cross-attention of the merger, averaged over blocks and heads.

    Args:
        visual_tokenizer ([`LavitVisualTokenizer`]): The visual tokenizer, in evaluation mode.
        outputs ([`LavitVisualTokenizerOutput`]): Its outputs for B images. The vision tower does not run again.

    Returns:
        `torch.LongTensor` of shape `(B, num_patches)`: The number of a kept patch for each patch. A kept patch has its
        own number.
    """
    # transformers has no public way to read the implementation. Only "eager" attention returns weights.
    with SWITCHING:
        implementation = visual_tokenizer.config._attn_implementation
        visual_tokenizer.set_attn_implementation({"": "eager"})
        try:
            again = visual_tokenizer(
                vision_features=outputs.vision_features, keep_mask=outputs.keep_mask, output_attentions=True
            )
        finally:
            visual_tokenizer.set_attn_implementation({"": implementation})
    targets = torch.arange(outputs.keep_mask.shape[1], device=outputs.keep_mask.device).repeat(len(again.keep_mask), 1)
    weights = torch.stack([block.float().mean(1) for block in again.cross_attentions]).mean(0)  # (B, kept, dropped)
    for row, keep_mask in enumerate(outputs.keep_mask):
        kept, dropped = keep_mask.nonzero().flatten(), (~keep_mask).nonzero().flatten()
        if len(dropped):
            targets[row, dropped] = kept[weights[row, : len(kept), : len(dropped)].argmax(0)]
    return targets


def show_merging(image: Image.Image, targets: torch.Tensor, size: int = 448) -> Image.Image:
    """
    Shows which patches of an image are merged. A kept patch has a frame, and the patches that are merged into it have
    the color of this frame.

    Args:
        image (`PIL.Image.Image`): The image.
        targets (`torch.LongTensor` of shape `(num_patches,)`): Its row of the result of [`find_merge_targets`].
        size (`int`, *optional*, defaults to 448): The side of the result in pixels.

    Returns:
        `PIL.Image.Image`: A square RGB image.

    Raises:
        ValueError: If the targets do not belong to a square grid of patches.
    """
    side = _grid_side(targets, "targets")
    kept = targets.unique().tolist()
    # Steps of the golden ratio give neighbors in raster order distant hues.
    hues = {patch: (index * 0.618034) % 1 for index, patch in enumerate(kept)}
    colors = {
        patch: tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95)) for patch, hue in hues.items()
    }
    image = _square(image, size)
    tinted = image.copy()
    for patch, target in enumerate(targets.tolist()):
        if patch != target:
            ImageDraw.Draw(tinted).rectangle(_box(patch, side, size), fill=colors[target])
    shown = Image.blend(image, tinted, 0.55)
    for patch in kept:
        box, width = _box(patch, side, size), max(2, size // side // 12)
        ImageDraw.Draw(shown).rectangle(box, outline=colors[patch], width=width)
    return shown


@torch.no_grad()
def attend_to_patches(
    model: LavitForCausalLM, processor: LavitProcessor, image: Image.Image, text: str
) -> tuple[list[str], torch.FloatTensor]:
    """
    Computes how much each word after an image attends to each patch of the image, averaged over layers and heads.

    Args:
        model ([`LavitForCausalLM`]):
            The model in evaluation mode, whose language model returns its attention weights:
            `model.set_attn_implementation({"text_config": "eager"})`.
        processor ([`LavitProcessor`]): Its processor.
        image (`PIL.Image.Image`): The image that is read.
        text (`str`): The text after it, such as a caption or a question.

    Returns:
        `tuple[list[str], torch.FloatTensor]`: The words, and their weights of shape `(num_words, num_patches)`, 0 for
        patches that are not kept. A word of several tokens has the mean of their weights.

    Raises:
        ValueError: If the attention implementation returns no weights, or the text has no tokens.
    """
    inputs = prepare_prompts(processor, [text], [[image]]).to(model.device)
    outputs = model(**inputs, output_attentions=True, use_cache=False)
    if not outputs.attentions or outputs.attentions[0] is None:
        raise ValueError(
            "The attention of the language model returns no weights: call "
            "model.set_attn_implementation({'text_config': 'eager'}) first."
        )
    of_image = outputs.sequences.image_mask[0]
    weights = torch.stack([layer[0].float().mean(0) for layer in outputs.attentions]).mean(0)[:, of_image]

    first = int(of_image.nonzero().max()) + 2  # [/IMG] follows the last code
    words: list[str] = []
    rows: list[list[int]] = []
    for position, token in enumerate(outputs.sequences.input_ids[0, first:].tolist(), first):
        piece = processor.tokenizer.convert_ids_to_tokens(token)
        if not words or piece.startswith(("▁", "Ġ")):
            words.append("")
            rows.append([])
        words[-1] += piece.lstrip("▁Ġ")
        rows[-1].append(position)
    if not words:
        raise ValueError(f"text must have at least one token, got {text!r}.")
    keep_mask = outputs.sequences.image_tokens.keep_mask[0]
    seen = torch.zeros(len(words), len(keep_mask))
    seen[:, keep_mask.cpu()] = torch.stack([weights[row].mean(0) for row in rows]).cpu()
    return words, seen


def show_attention(image: Image.Image, words: Sequence[str], weights: torch.Tensor, size: int = 192) -> Image.Image:
    """
    Shows an image once for each word, bright where the word attends to it.

    Args:
        image (`PIL.Image.Image`): The image that is read.
        words (`list[str]`): The words that [`attend_to_patches`] returns.
        weights (`torch.FloatTensor` of shape `(num_words, num_patches)`): Their weights.
        size (`int`, *optional*, defaults to 192): The side of each image of the result in pixels.

    Raises:
        ValueError: If the weights do not belong to a square grid of patches.
    """
    side = _grid_side(weights[0], "weights of a word")
    image = _square(image, size)
    samples = []
    for word, row in zip(words, weights, strict=True):
        heat = (row / row.max().clamp_min(1e-12)).view(side, side)
        samples.append(Sample((_highlight(image, heat, "black", 0.75, Image.Resampling.BICUBIC),), (word,)))
    return draw_sheet(samples, size, columns=min(8, len(samples)))


def code_perplexity(codes: torch.LongTensor) -> float:
    """Computes the exponential of the entropy of the frequencies of `codes`."""
    _, counts = codes.unique(return_counts=True)
    return Categorical(counts / counts.sum()).perplexity().item()


def _grid_side(values: torch.Tensor, name: str) -> int:
    side = math.isqrt(values.numel())
    if values.ndim != 1 or side * side != values.numel():
        raise ValueError(f"{name} must be of shape (num_patches,), a square number, got {tuple(values.shape)}.")
    return side


def _square(image: Image.Image, size: int) -> Image.Image:
    return read_image(image).resize((size, size), Image.Resampling.BICUBIC)


def _highlight(
    image: Image.Image, grid: torch.Tensor, color: str, opacity: float, resample: Image.Resampling
) -> Image.Image:
    """Fades an image to a color where the values of a grid of patches, in [0, 1], are low."""
    faded = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, color), opacity)
    mask = Image.fromarray(grid.float().mul(255).byte().cpu().numpy()).resize(image.size, resample)
    return Image.composite(image, faded, mask)


def _box(patch: int, side: int, size: int) -> tuple[int, int, int, int]:
    """Returns the first and last column and row of a patch in an image of `size` pixels: left, top, right, bottom."""
    row, column = divmod(patch, side)
    left, top, right, bottom = (round(place * size / side) for place in (column, row, column + 1, row + 1))
    return left, top, right - 1, bottom - 1


__all__ = [
    "Sample",
    "attend_to_patches",
    "code_perplexity",
    "draw_sheet",
    "find_merge_targets",
    "show_attention",
    "show_kept_patches",
    "show_merging",
    "show_tokens",
]
