# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The model under evaluation: how tasks ask it, batch by batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from ..diffusion import LavitImageDecoderPipeline
from ..inference import decode_codes, decode_edits, draw_codes, encode_images, write_texts
from ..modeling import LavitForCausalLM, LavitVisualTokenizerOutput
from ..modeling.arguments_lavit import check_integer
from ..modeling.codebook_lavit import check_same_codebook
from ..modeling.generation_settings_lavit import check_task_settings
from ..processing import LavitProcessor, read_image
from ..processing.chat_lavit import TURN_END
from ..visualization import Sample
from .fidelity import ClipScorer, FrechetScorer


NUM_SAMPLES_SHOWN = 16
GREEDY = {"do_sample": False, "num_beams": 1}
# The columns that tasks read and that a dataset may have under other names.
COLUMNS = ("image", "caption", "questions", "answers", "question_kinds")


@dataclass(frozen=True)
class EvaluationSettings:
    """
    Settings of an evaluation. Captions and answers are generated greedily, drawings are sampled.

    Args:
        batch_size (`int`, *optional*, defaults to 32): The number of rows (or questions) in one forward.
        seed (`int`, *optional*, defaults to 0): The seed of sampled codes and of the noise of the pixel decoder.
        max_caption_tokens (`int`, *optional*, defaults to 64): The largest number of tokens of a caption.
        max_answer_tokens (`int`, *optional*, defaults to 32): The largest number of tokens of an answer.
        image_generation (`dict`, *optional*):
            Settings of drawing codes, such as `guidance_scale`, `temperature` and `top_k`, over those of the model's
            `generation_config.image_generation`.
        plan_generation (`dict` or `False`, *optional*): Same as in [`plan_drawings`].
        image_decoding (`dict`, *optional*):
            Arguments of the pixel decoder, such as `num_inference_steps` and `guidance_scale`.
        columns (`dict[str, str]`, *optional*):
            The dataset's columns for `image`, `caption`, `questions`, `answers` and `question_kinds`, if they have
            other names. A row may have one caption or a list, and one question or a list. A question may have one
            answer or a list.
        clip_model (`str`, *optional*): The folder of a CLIP model, which adds a CLIP score of drawings.
        fid_features (`str` or `nn.Module`, *optional*):
            A module, or a file that was saved by TorchScript, that maps `(B, 3, 299, 299)` uint8 images to `(B, d)`
            features. It adds a Fréchet distance of drawings and reconstructions.
        progress (`bool`, *optional*, defaults to `False`): Whether to show progress bars.

    Raises:
        ValueError: If a number is out of its range, or a column is unknown.
    """

    batch_size: int = 32
    seed: int = 0
    max_caption_tokens: int = 64
    max_answer_tokens: int = 32
    image_generation: Mapping[str, Any] = field(default_factory=dict)
    plan_generation: dict[str, Any] | Literal[False] | None = None
    image_decoding: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    clip_model: str | None = None
    fid_features: str | nn.Module | None = None
    progress: bool = False

    def __post_init__(self):
        for name in ("batch_size", "max_caption_tokens", "max_answer_tokens"):
            check_integer(name, getattr(self, name), 1)
        if self.plan_generation is not False:
            check_task_settings("plan_generation", self.plan_generation)
        if unknown := [name for name in self.columns if name not in COLUMNS]:
            raise ValueError(f"columns must be names for {', '.join(COLUMNS)}, got {unknown[0]!r}.")


@dataclass(frozen=True)
class Subject:
    """
    A model under evaluation.

    Args:
        model ([`LavitForCausalLM`]): The model, in evaluation mode.
        processor ([`LavitProcessor`]): Its processor.
        pipeline ([`LavitImageDecoderPipeline`], *optional*): Its pixel decoder.
        settings ([`EvaluationSettings`]): The settings.
        samples (`list[Sample]`, *optional*): The first cases of a task, which [`~Subject.show`] adds.
        drawn_codes (`list[int]`, *optional*): The number of codes of each drawing, which [`~Subject.draw`] adds.
        clip ([`ClipScorer`], *optional*): Scores drawings by their captions, if `settings` name a CLIP model.
        frechet ([`FrechetScorer`], *optional*): Scores drawings and reconstructions, if `settings` name features.
    """

    model: LavitForCausalLM
    processor: LavitProcessor
    pipeline: LavitImageDecoderPipeline | None
    settings: EvaluationSettings
    samples: list[Sample] = field(default_factory=list)
    drawn_codes: list[int] = field(default_factory=list)
    clip: ClipScorer | None = None
    frechet: FrechetScorer | None = None

    def check_image_decoder(self) -> None:
        """
        Checks that the pixel decoder suits the model, before time is spent.

        Raises:
            ValueError: If it has another codebook.
        """
        if self.pipeline is not None:
            check_same_codebook(self.model, self.pipeline.feature_decoder)

    def batches(self, items: Sequence, task: str) -> Iterator[tuple[int, list]]:
        """
        Yields the number of the first item and the items of each batch of `items`. The progress bar names the `task`.
        """
        size = self.settings.batch_size
        for start in tqdm(range(0, len(items), size), desc=task, leave=False, disable=not self.settings.progress):
            yield start, [items[index] for index in range(start, min(start + size, len(items)))]

    def read_images(self, rows: Sequence[dict], first: int, column: str = "image") -> list[Image.Image]:
        """
        Reads the images in a `column` of neighboring `rows` as RGB. The number of the `first` row is for errors.
        """
        name = self.settings.columns.get(column, column)
        return [read_image(row[column], f"row {first + index}, column {name!r}") for index, row in enumerate(rows)]

    def show(self, *images: Iterable[Image.Image], lines: Iterable[str]) -> None:
        """Keeps cases as samples, until there are enough: the `images` of each, and the `lines` below them."""
        for *case, text in zip(*images, lines, strict=True):
            if len(self.samples) < NUM_SAMPLES_SHOWN:
                self.samples.append(Sample(tuple(case), tuple(text.splitlines())))

    def write(self, texts: list[str], images: list[Image.Image], max_new_tokens: int) -> list[str]:
        """
        Generates text greedily, at most `max_new_tokens` tokens after each of the `images` and its text in `texts`.
        """
        before = [[image] for image in images]
        return write_texts(self.model, self.processor, texts, before, max_new_tokens=max_new_tokens, **GREEDY)

    def answer(self, questions: Iterable[str], images: list[Image.Image]) -> list[str]:
        """Answers one of `questions` about each of `images`, in one line."""
        texts = [self.processor.vqa_prompt.format(question=question) for question in questions]
        written = self.write(texts, images, self.settings.max_answer_tokens)
        return [text.partition(TURN_END)[0].strip() for text in written]

    def drawing_settings(self) -> dict:
        """Returns the settings of drawing codes, including the model's own."""
        own = self.model.generation_config.to_dict()["image_generation"]
        return {"do_sample": True, **own, **self.settings.image_generation}

    def draw(self, texts: list[str], first: int, images: list[Image.Image] | None = None) -> list[Image.Image]:
        """
        Draws an image after each of `texts`, or edits `images` by the texts. The seeds depend on the number `first`.
        """
        torch.manual_seed(self.settings.seed + first)
        before = images and [[image] for image in images]
        settings = self.drawing_settings()
        plans = self.settings.plan_generation
        codes = draw_codes(self.model, self.processor, texts, before, plan_generation=plans, image_generation=settings)
        self.drawn_codes.extend(map(len, codes))
        if not images:
            return self.decode(codes, first)
        source = [image_codes.tolist() for image_codes in self.encode(images).split()]
        seed, decoding = self.settings.seed + first, self.settings.image_decoding
        return decode_edits(self.pipeline, images, source, codes, seed, **decoding)

    def encode(self, images: list[Image.Image]) -> LavitVisualTokenizerOutput:
        """Encodes `images` by the visual tokenizer's own way of selection."""
        torch.manual_seed(self.settings.seed)  # a tokenizer may sample
        return encode_images(self.model.model.visual_tokenizer, self.processor, images)

    def decode(self, codes: list[list[int]], first: int) -> list[Image.Image]:
        """
        Decodes images from their `codes`. The noise of an image depends on the index of its row, which is `first` for
        the first image, and not on its batch.
        """
        return decode_codes(self.pipeline, codes, self.settings.seed + first, **self.settings.image_decoding)
