# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The model under evaluation: how it is asked, batch by batch, and what the tasks have in common."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import nn
from tqdm import tqdm
from transformers import GenerationConfig

from ..data.loading import read_picture
from ..diffusion import LavitImageDecoderPipeline
from ..modeling import LavitForCausalLM, LavitVisualTokenizerOutput
from ..modeling.freezing_lavit import evaluation_mode
from ..processing import LavitProcessor
from ..visualization import Sample
from .metrics import Metric


NUM_SAMPLES_SHOWN = 16
GREEDY = {"do_sample": False, "num_beams": 1}


@dataclass(frozen=True)
class EvaluationSettings:
    """
    How an evaluation is done. Captions and answers are greedy; drawings are sampled.

    Args:
        batch_size (`int`, *optional*, defaults to 32): Rows (or questions) in one forward.
        seed (`int`, *optional*, defaults to 0): Of sampled codes and of the pixel decoder's noise.
        max_caption_tokens (`int`, *optional*, defaults to 64): Most tokens of a caption.
        max_answer_tokens (`int`, *optional*, defaults to 10): Most tokens of an answer.
        guidance_scale, temperature (`float`, *optional*), top_k (`int`, *optional*):
            Of drawing codes. Default: those of the model, `generation_config.image_generation`.
        num_inference_steps (`int`, *optional*), decoder_guidance_scale (`float`, *optional*):
            Of turning codes into pixels. Default: the pixel decoder's.
        image_column, caption_column, question_column, answer_column, kind_column (`str`, *optional*):
            The dataset's columns. Captions may be a list per row; a question may come with one answer or a list of
            them, and a row with a list of questions, which then has lists of answers and kinds.
        clip_model (`str`, *optional*): Folder of a CLIP model; drawings then get a CLIP score.
        fid_features (`str` or `nn.Module`, *optional*):
            What turns `(B, 3, 299, 299)` uint8 pictures into `(B, d)` features: a module, or a file that TorchScript
            saved. Drawings and reconstructions then get a Fréchet distance.
        progress (`bool`, *optional*, defaults to `False`): Whether to show progress bars.

    Raises:
        ValueError: a number that makes no sense, by name.
    """

    batch_size: int = 32
    seed: int = 0
    max_caption_tokens: int = 64
    max_answer_tokens: int = 10
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    num_inference_steps: int | None = None
    decoder_guidance_scale: float | None = None
    image_column: str = "image"
    caption_column: str = "caption"
    question_column: str = "questions"
    answer_column: str = "answers"
    kind_column: str = "question_kinds"
    clip_model: str | None = None
    fid_features: str | nn.Module | None = None
    progress: bool = False

    def __post_init__(self):
        for name in ("batch_size", "max_caption_tokens", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class TaskResult:
    """What a task measures, by name, and some of its cases."""

    metrics: dict[str, Metric | None]
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """A model with its processor, perhaps a pixel decoder, and how they are to be asked."""

    model: LavitForCausalLM
    processor: LavitProcessor
    pipeline: LavitImageDecoderPipeline | None
    settings: EvaluationSettings

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """
        Everything in evaluation mode, without gradients and bars, and without the model's own settings of generation,
        apart from those of drawing. On leaving, all is as before, random numbers too.
        """
        modules = [self.model]
        if self.pipeline is not None:
            modules += [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]
        cuda = [self.model.device] if self.model.device.type == "cuda" else []
        own = self.model.generation_config
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "guidance_scale", "image_generation")
        self.model.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in names})
        try:
            with torch.random.fork_rng(devices=cuda), torch.no_grad(), self._no_bars(), evaluation_mode(*modules):
                yield
        finally:
            self.model.generation_config = own

    @contextmanager
    def _no_bars(self) -> Iterator[None]:
        if self.pipeline is None:
            yield
            return
        bars = getattr(self.pipeline, "_progress_bar_config", {})
        self.pipeline.set_progress_bar_config(disable=True)
        try:
            yield
        finally:
            self.pipeline.set_progress_bar_config(**bars)

    def batches(self, items: Sequence, task: str) -> Iterator[tuple[int, list]]:
        """(number of its first item, items) of each batch."""
        size = self.settings.batch_size
        starts = range(0, len(items), size)
        for start in tqdm(starts, desc=task, leave=False, disable=not self.settings.progress):
            yield start, [items[index] for index in range(start, min(start + size, len(items)))]

    def picture(self, row: dict, number: int, column: str | None = None) -> Image.Image:
        """The picture of a row, RGB and upright. Its number is for the error that names a broken one."""
        column = column or self.settings.image_column
        return read_picture(row[column], f"row {number}, column {column!r}")

    def pictures(self, rows: Sequence[dict], first: int, column: str | None = None) -> list[Image.Image]:
        """The pictures of neighbouring rows."""
        return [self.picture(row, first + offset, column) for offset, row in enumerate(rows)]

    def captions(self, row: dict) -> list[str]:
        """The captions of a row, of which there may be one or a list. Raises a ValueError where there is none."""
        captions = row[self.settings.caption_column]
        if not captions:
            raise ValueError(
                f"Every row needs a caption in column {self.settings.caption_column!r}, got {captions!r}."
            )
        return [captions] if isinstance(captions, str) else list(captions)

    def write(self, prompts: list[str], pictures: list[Image.Image], max_new_tokens: int) -> list[str]:
        """What the model says greedily after each prompt, which holds one picture."""
        inputs = self.processor(text=prompts, images=pictures, return_tensors="pt").to(self.model.device)
        ids = self.model.generate(**inputs, return_full_text=False, max_new_tokens=max_new_tokens, **GREEDY)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def drawing_settings(self) -> dict:
        """What is given to `generate` for a drawing, the model's own defaults included."""
        own = {"do_sample": True, "guidance_scale": self.model.generation_config.guidance_scale or 1.0}
        own |= getattr(self.model.generation_config, "image_generation", None) or {}
        given = {name: getattr(self.settings, name) for name in ("guidance_scale", "temperature", "top_k")}
        return own | {name: value for name, value in given.items() if value is not None}

    def draw(self, prompts: list[str], first: int, pictures: list[Image.Image] | None = None) -> list[Image.Image]:
        """What the model draws for each prompt. `first`: number of the first, which the seeds depend on."""
        inputs = self.processor(text=prompts, images=pictures, generation_mode="image", return_tensors="pt")
        torch.manual_seed(self.settings.seed + first)
        ids = self.model.generate(
            **inputs.to(self.model.device),
            generation_mode="image",
            image_generation=self.drawing_settings(),
            return_full_text=False,
        )
        return self.decode([self.processor.decode_interleaved(row)[0].codes for row in ids], first)

    def encode(self, pictures: list[Image.Image]) -> LavitVisualTokenizerOutput:
        """What the visual tokenizer makes of pictures, by its own way of selection."""
        pixel_values = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        torch.manual_seed(self.settings.seed)  # a tokenizer may sample
        return self.model.model.visual_tokenizer(pixel_values.to(self.model.device))

    def decode(self, codes: list[list[int]], first: int) -> list[Image.Image]:
        """Pictures from their codes, each with noise of its own that does not depend on the batch."""
        seeds = range(self.settings.seed + first, self.settings.seed + first + len(codes))
        return self.pipeline(
            image_tokens=codes,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.decoder_guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images


def shift(items: Sequence) -> list:
    """Each case's neighbour, as something that has nothing to do with it; nothing where there is but one."""
    return [*items[1:], items[0]] if len(items) > 1 else []


__all__ = ["EvaluationSettings", "Subject", "TaskResult", "shift"]
