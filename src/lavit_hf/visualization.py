# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Pictures of what a LaVIT sees and does: which patches it keeps and what becomes of the others, what its words look at,
what guidance does, which codes it uses. All return a `PIL.Image.Image`, the plot a `matplotlib` figure.
"""

import colorsys
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .modeling import LavitForCausalLM, LavitVisualTokenizer, LavitVisualTokenizerOutput
from .processing import read_image


MIN_SAMPLE_WIDTH = 160  # pixels, so that lines below a single picture are no columns of syllables


@dataclass(frozen=True)
class Sample:
    """One case as a person would look at it: pictures side by side and lines of text below."""

    pictures: tuple[Image.Image, ...]
    lines: tuple[str, ...]


def draw_sheet(samples: Sequence[Sample], side: int = 128, columns: int = 4) -> Image.Image:
    """
    Args:
        samples (`list[Sample]`): At least one, all with as many pictures.
        side (`int`, *optional*, defaults to 128): Of each picture in pixels; others are padded to a square.
        columns (`int`, *optional*, defaults to 4): Samples side by side.

    Returns:
        `PIL.Image.Image`: RGB, the samples in rows with their lines of text below them.
    """
    font, line_height, gap = ImageFont.load_default(12), 15, 8
    width = max(len(samples[0].pictures) * side, MIN_SAMPLE_WIDTH)
    texts = [[part for line in sample.lines for part in textwrap.wrap(line, width // 6)] for sample in samples]
    height = side + line_height * max(map(len, texts)) + gap
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (min(columns, len(samples)) * (width + gap) + gap, rows * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (sample, lines) in enumerate(zip(samples, texts, strict=True)):
        left, top = gap + index % columns * (width + gap), gap + index // columns * (height + gap)
        for position, picture in enumerate(sample.pictures):
            # Small pictures keep their pixels.
            method = Image.Resampling.NEAREST if max(picture.size) < side else Image.Resampling.BICUBIC
            square = ImageOps.pad(read_image(picture), (side, side), method, color="white")
            sheet.paste(square, (left + position * side, top))
        draw.multiline_text((left, top + side + 2), "\n".join(lines), "black", font, spacing=line_height - 12)
    return sheet


def show_kept_patches(image: Image.Image, keep_mask: torch.Tensor, size: int = 448) -> Image.Image:
    """
    A picture in which the patches that the tokenizer keeps stand out, and those folded into them are pale.

    Args:
        image (`PIL.Image.Image`): The picture that was tokenized.
        keep_mask (`torch.BoolTensor` of shape `(num_patches,)`): As of [`LavitVisualTokenizerOutput`], one picture's.
        size (`int`, *optional*, defaults to 448): Side of the result in pixels.

    Returns:
        `PIL.Image.Image`: RGB, square, as the tokenizer sees the picture.

    Raises:
        ValueError: a mask that is not that of a square grid of patches.
    """
    side = _grid_side(keep_mask, "keep_mask")
    image = _square(image, size)
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.8)
    kept = keep_mask.bool().cpu().view(side, side)
    mask = Image.fromarray(kept.to(torch.uint8).mul(255).numpy()).resize(image.size, Image.Resampling.NEAREST)
    shown = Image.composite(image, pale, mask)
    draw = ImageDraw.Draw(shown)
    for patch in keep_mask.nonzero().flatten().tolist():
        draw.rectangle(_box(patch, side, size), outline="white")
    return shown


def show_token_counts(images: Sequence[Image.Image], keep_masks: Sequence[torch.Tensor]) -> Image.Image:
    """
    Pictures beside their kept patches, and how many tokens each takes: the more there is to see, the more.

    Args:
        images (`list[PIL.Image.Image]`): At least one picture.
        keep_masks (`list[torch.BoolTensor]` of shape `(num_patches,)`): Of each picture.
    """
    pairs = zip(images, keep_masks, strict=True)
    return draw_sheet(
        [
            Sample((image, show_kept_patches(image, mask)), (f"{int(mask.sum())} tokens for {len(mask)} patches",))
            for image, mask in pairs
        ]
    )


@torch.no_grad()
def find_merge_targets(
    visual_tokenizer: LavitVisualTokenizer, outputs: LavitVisualTokenizerOutput
) -> torch.LongTensor:
    """
    Into which kept patch each dropped one is folded: the one whose queries weigh it most in the merger's
    cross-attention, on average over blocks and heads.

    Args:
        visual_tokenizer ([`LavitVisualTokenizer`]): In evaluation mode.
        outputs ([`LavitVisualTokenizerOutput`]): What it said of B pictures. Only the merger runs again.

    Returns:
        `torch.LongTensor` of shape `(B, N)`: For each patch the number of a kept one; of a kept one its own.
    """
    weights = _merge_weights(visual_tokenizer, outputs)
    kept, folded = outputs.partition.kept, outputs.partition.folded
    taker = weights.masked_fill(~kept.mask[:, :, None], -1.0).argmax(1)  # (B, folded patches) -> which kept one

    num_patches = outputs.keep_mask.shape[1]
    kept_patches = kept.pad(outputs.partition.kept_index % num_patches)
    itself = torch.arange(num_patches, device=taker.device).expand_as(outputs.keep_mask)
    targets = itself.flatten().index_copy(
        0, outputs.partition.folded_index, folded.pack(kept_patches.gather(1, taker))
    )
    return torch.where(outputs.keep_mask, itself, targets.view_as(itself))


def _merge_weights(visual_tokenizer: LavitVisualTokenizer, outputs: LavitVisualTokenizerOutput) -> torch.Tensor:
    """(B, kept patches, folded patches), the weights of the cross-attention, summed over blocks."""
    recorded = []
    hooks = [
        layer.cross_attn.register_forward_pre_hook(lambda module, args: recorded.append((module, *args[:2])))
        for layer in visual_tokenizer.merger.layers
    ]
    try:
        visual_tokenizer.merger(outputs.vision_features, outputs.partition)
    finally:
        for hook in hooks:
            hook.remove()
    kept, folded = outputs.partition.kept, outputs.partition.folded
    weights = torch.zeros(())
    for module, hidden_states, context in recorded:
        query, key = kept.pad(module.q_proj(hidden_states)), folded.pad(module.k_proj(context))
        query, key = (module.split_heads(states).transpose(1, 2) for states in (query, key))
        scores = (query @ key.transpose(-1, -2)).float() * module.scaling
        weights = weights + scores.masked_fill(~folded.mask[:, None, None], -torch.inf).softmax(-1).mean(1)
    return weights


def show_merging(image: Image.Image, targets: torch.Tensor, size: int = 448) -> Image.Image:
    """
    A picture over which each kept patch has a color of its own, and so have the patches that are folded into it.

    Args:
        image (`PIL.Image.Image`): The picture that was tokenized.
        targets (`torch.LongTensor` of shape `(num_patches,)`): As of [`find_merge_targets`], one picture's.
        size (`int`, *optional*, defaults to 448): Side of the result in pixels.

    Returns:
        `PIL.Image.Image`: RGB, square; kept patches are as they are in a frame of their color.

    Raises:
        ValueError: targets that are not those of a square grid of patches.
    """
    side = _grid_side(targets, "targets")
    image = _square(image, size)
    targets = targets.tolist()
    kept = sorted(set(targets))
    # Neighbours in raster order get hues far apart: steps of the golden ratio.
    hues = {patch: (index * 0.618034) % 1 for index, patch in enumerate(kept)}
    colors = {
        patch: tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95)) for patch, hue in hues.items()
    }
    tint = Image.new("RGB", image.size)
    draw = ImageDraw.Draw(tint)
    for patch, target in enumerate(targets):
        draw.rectangle(_box(patch, side, size), fill=colors[target])
    shown = Image.blend(image, tint, 0.55)
    draw = ImageDraw.Draw(shown)
    frame = max(2, size // side // 12)
    for patch in kept:
        box = _box(patch, side, size)
        shown.paste(image.crop((box[0], box[1], box[2] + 1, box[3] + 1)), box[:2])
        draw.rectangle(box, outline=colors[patch], width=frame)
    return shown


def show_reconstructions(
    pictures: Sequence[Image.Image],
    keep_masks: Sequence[torch.Tensor],
    reconstructions: Sequence[Image.Image],
    side: int = 128,
) -> Image.Image:
    """
    Pictures, their kept patches, and what the pixel decoder makes of their tokens, side by side.

    Args:
        pictures, reconstructions (`list[PIL.Image.Image]`): At least one of each.
        keep_masks (`list[torch.BoolTensor]` of shape `(num_patches,)`): Of each picture.
        side (`int`, *optional*, defaults to 128): Of each picture in the result, in pixels.
    """
    samples = [
        Sample((picture, show_kept_patches(picture, mask), rebuilt), (f"{int(mask.sum())} tokens",))
        for picture, mask, rebuilt in zip(pictures, keep_masks, reconstructions, strict=True)
    ]
    return draw_sheet(samples, side, columns=2)


def show_guidance_sweep(
    model: LavitForCausalLM,
    processor,
    prompt: str,
    scales: Sequence[float] = (1.0, 1.5, 2.0, 3.0, 5.0),
    seeds: Sequence[int] = (0, 1, 2),
    **settings,
) -> Image.Image:
    """
    The same prompt drawn at several scales of guidance over the codes, a row for each seed.

    Args:
        model ([`LavitForCausalLM`]), processor ([`LavitProcessor`]): With a pixel decoder, `model.image_decoder`.
        prompt (`str`): What to draw.
        scales (`list[float]`, *optional*): Of guidance, from 1.
        seeds (`list[int]`, *optional*): Of codes and noise.
        settings: For `generate`.
    """
    inputs = processor(text=processor.escape(prompt), return_tensors="pt").to(model.device)
    samples = []
    for seed in seeds:
        for scale in scales:
            torch.manual_seed(seed)
            ids = model.generate(**inputs, generation_mode="image", guidance_scale=scale, **settings)
            codes = processor.decode_interleaved(ids[0])[-1].codes
            [picture] = model.image_decoder(codes, generator=torch.Generator().manual_seed(seed)).images
            samples.append(Sample((picture,), (f"guidance {scale:g}, {len(codes)} tokens",)))
    return draw_sheet(samples, side=192, columns=len(scales))


@torch.no_grad()
def attend_to_patches(
    model: LavitForCausalLM, processor, image: Image.Image, text: str
) -> tuple[list[str], torch.FloatTensor]:
    """
    How much each word after a picture attends to each of its patches: the mean over layers and heads.

    Args:
        model ([`LavitForCausalLM`]), processor ([`LavitProcessor`]): In evaluation mode.
        image (`PIL.Image.Image`): The picture that is read.
        text (`str`): What stands after it: a caption, a question.

    Returns:
        `tuple[list[str], torch.FloatTensor]`: Words, and their weights `(num_words, num_patches)`, 0 for patches that
        are not kept. A word of several tokens has the mean of theirs.
    """
    inputs = processor(text=processor.image_token + processor.escape(text), images=image, return_tensors="pt").to(
        model.device
    )
    keep_mask = model.model.tokenize_images(inputs["pixel_values"]).keep_mask[0]
    with _weights_are_returned(model):
        outputs = model(**inputs, output_attentions=True, use_cache=False)
    of_picture = outputs.sequences.image_mask[0]
    weights = torch.stack([layer[0].float().mean(0) for layer in outputs.attentions]).mean(0)[:, of_picture]

    first = int(of_picture.nonzero().max()) + 2  # after the last code comes [/IMG]
    words: list[str] = []
    rows: list[list[int]] = []
    for position, token in enumerate(outputs.sequences.input_ids[0, first:].tolist(), first):
        piece = processor.tokenizer.convert_ids_to_tokens(token)
        if not words or piece.startswith(("▁", "Ġ")):
            words.append("")
            rows.append([])
        words[-1] += piece.lstrip("▁Ġ")
        rows[-1].append(position)
    seen = torch.zeros(len(words), len(keep_mask))
    seen[:, keep_mask.cpu()] = torch.stack([weights[row].mean(0) for row in rows]).cpu()
    return words, seen


def show_attention(image: Image.Image, words: Sequence[str], weights: torch.Tensor, size: int = 192) -> Image.Image:
    """
    A picture for each word, bright where the word looks.

    Args:
        image (`PIL.Image.Image`): The picture that is read.
        words (`list[str]`), weights (`torch.FloatTensor` of shape `(num_words, num_patches)`):
            As of [`attend_to_patches`].
        size (`int`, *optional*, defaults to 192): Side of each picture in pixels.

    Raises:
        ValueError: weights that are not those of a square grid of patches.
    """
    side = _grid_side(weights[0], "weights of a word")
    image = _square(image, size)
    dark = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "black"), 0.75)
    samples = []
    for word, row in zip(words, weights, strict=True):
        heat = (row / row.max().clamp_min(1e-12)).view(side, side).mul(255).byte().cpu().numpy()
        mask = Image.fromarray(heat).resize(image.size, Image.Resampling.BICUBIC)
        samples.append(Sample((Image.composite(image, dark, mask),), (word,)))
    return draw_sheet(samples, size, columns=min(8, len(samples)))


def plot_code_usage(codes: Sequence[int] | torch.Tensor, codebook_size: int):
    """
    How often each code of the codebook is used, the most used first.

    Args:
        codes (`torch.LongTensor` of shape `(T,)` or `list[int]`): Codes of many pictures.
        codebook_size (`int`): How many codes there are.

    Returns:
        `matplotlib.figure.Figure`: With the share of codes that are used, and their perplexity.
    """
    from matplotlib.figure import Figure

    counts = torch.bincount(torch.as_tensor(codes).flatten().cpu(), minlength=codebook_size)
    shares = counts[counts > 0] / counts.sum()
    perplexity = torch.exp(-(shares * shares.log()).sum()).item()
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(range(codebook_size), counts.sort(descending=True).values.clamp_min(0.5).tolist(), 0.5, lw=0)
    axes.set(yscale="log", xlabel="codes, the most used first", ylabel="times used", xlim=(0, codebook_size))
    axes.set_title(
        f"{len(shares)} of {codebook_size} codes used ({len(shares) / codebook_size:.0%}), "
        f"perplexity {perplexity:.0f}, over {int(counts.sum())} tokens",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    return figure


@contextmanager
def _weights_are_returned(model: LavitForCausalLM) -> Iterator[None]:
    """Attention written out in the language model: other implementations do not tell their weights."""
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def _grid_side(values: torch.Tensor, name: str) -> int:
    side = math.isqrt(values.numel())
    if values.ndim != 1 or side * side != values.numel():
        raise ValueError(f"{name} must be of shape (num_patches,), a square number, got {tuple(values.shape)}.")
    return side


def _square(image: Image.Image, size: int) -> Image.Image:
    return read_image(image).resize((size, size), Image.Resampling.BICUBIC)


def _box(patch: int, side: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a patch in a picture of `size` pixels, all of them inside."""
    row, column = divmod(patch, side)
    left, top, right, bottom = (round(place * size / side) for place in (column, row, column + 1, row + 1))
    return left, top, right - 1, bottom - 1


__all__ = [
    "Sample",
    "attend_to_patches",
    "draw_sheet",
    "find_merge_targets",
    "plot_code_usage",
    "show_attention",
    "show_guidance_sweep",
    "show_kept_patches",
    "show_merging",
    "show_reconstructions",
    "show_token_counts",
]
