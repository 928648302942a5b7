# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The scenes as a dataset of the `datasets` library: rendered once and cached, or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .captions import describe_scene
from .edits import edit_scene
from .questions import ask_questions
from .rendering import annotate_scene, render_scene
from .scenes import SPLITS, Scene, sample_scene, scene_rng


if TYPE_CHECKING:
    import datasets

# Part of the cache's key: raise it with every change of what a row holds.
DATASET_VERSION = 3
ROWS_PER_SHARD = 500
NUM_CAPTIONS = 4


def load_shapes(
    split: str = "train",
    num_rows: int = 10_000,
    seed: int = 0,
    image_size: int = 64,
    streaming: bool = False,
    cache_dir: str | None = None,
    num_proc: int | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Scenes with captions, questions and edits, all made here: nothing is downloaded.

    Args:
        split (`str`): "train", "validation" or "test". No scene of one split, edited or not, is in another.
        num_rows (`int`): Rows; a longer dataset begins with the rows of a shorter one.
        seed (`int`): Other seeds give other rows of the same splits.
        image_size (`int`): Side of the pictures in pixels.
        streaming (`bool`): Render while iterating, a shard of 500 rows at a time, instead of once into the cache.
        cache_dir (`str`, *optional*): Where a dataset that is not streamed is kept; `datasets` knows a place.
        num_proc (`int`, *optional*): Processes that render a dataset that is not streamed.

    Returns:
        A `datasets.Dataset`, or with `streaming` a `datasets.IterableDataset` of equal rows:
        - `index` (int): what [`sample_scene`] made the row's scene from;
        - `image`, `edited_image` (RGB pictures): the scene before and after the edit;
        - `annotation` (grey picture): what each pixel of `image` shows, as an index into `LABELS`;
        - `caption` (str), `instruction` (str), `edit_kind` (str);
        - `captions`, `edited_captions` (lists of 4 str): in several wordings, `caption` is the first of them;
        - `questions`, `answers`, `question_kinds` (lists of 6 str);
        - `scene`, `edited_scene` (lists of dicts): the objects, with `shape`, `color`, `size`, `place`, and `x`, `y`,
          `radius` as fractions of the side.

    Raises:
        ValueError: `split` is unknown, or `num_rows` is less than 1.
        ImportError: `datasets` is not installed.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}, expected one of {', '.join(SPLITS)}.")
    if num_rows < 1:
        raise ValueError(f"`num_rows` is {num_rows}, expected at least 1.")
    try:
        import datasets
    except ImportError as error:
        raise ImportError("`load_shapes` needs the library datasets: pip install 'lavit-hf[train]'.") from error

    ranges = [(start, min(start + ROWS_PER_SHARD, num_rows)) for start in range(0, num_rows, ROWS_PER_SHARD)]
    arguments = {
        "generator": generate_rows,
        "features": _features(datasets),
        "gen_kwargs": {"ranges": ranges, "split": split, "seed": seed, "image_size": image_size},
        "split": datasets.NamedSplit(split),
    }
    if streaming:
        return datasets.IterableDataset.from_generator(**arguments)
    key = (DATASET_VERSION, split, num_rows, seed, image_size)
    return datasets.Dataset.from_generator(
        **arguments,
        cache_dir=cache_dir,
        num_proc=num_proc,
        fingerprint=datasets.fingerprint.Hasher.hash(key),
    )


def generate_rows(ranges: list[tuple[int, int]], split: str, seed: int, image_size: int) -> Iterator[dict]:
    """The rows of [`load_shapes`] with indices in `ranges`, each from its start to before its end."""
    for start, end in ranges:
        for index in range(start, end):
            yield make_row(index, split, seed, image_size)


def make_row(index: int, split: str = "train", seed: int = 0, image_size: int = 64) -> dict:
    """One row of [`load_shapes`], the pictures as PIL images."""
    scene = sample_scene(index, split, seed)
    questions = ask_questions(scene, scene_rng(index, split, seed, "questions"))
    edit = edit_scene(scene, scene_rng(index, split, seed, "edit"))
    purposes = ["caption", *(f"caption {number}" for number in range(1, 2 * NUM_CAPTIONS))]
    rngs = [scene_rng(index, split, seed, purpose) for purpose in purposes]
    captions = [describe_scene(scene, rng) for rng in rngs[:NUM_CAPTIONS]]
    return {
        "index": index,
        "image": render_scene(scene, image_size),
        "annotation": annotate_scene(scene, image_size),
        "caption": captions[0],
        "captions": captions,
        "scene": list_objects(scene),
        "questions": [question.text for question in questions],
        "answers": [question.answer for question in questions],
        "question_kinds": [question.kind for question in questions],
        "instruction": edit.instruction,
        "edit_kind": edit.kind,
        "edited_image": render_scene(edit.scene, image_size),
        "edited_captions": [describe_scene(edit.scene, rng) for rng in rngs[NUM_CAPTIONS:]],
        "edited_scene": list_objects(edit.scene),
    }


def list_objects(scene: Scene) -> list[dict]:
    """The objects in plain types: what the columns `scene` and `edited_scene` hold."""
    names = ("shape", "color", "size", "place", "x", "y", "radius")
    return [{name: getattr(item, name) for name in names} for item in scene.objects]


def _features(datasets) -> datasets.Features:
    text, number = datasets.Value("string"), datasets.Value("float64")
    item = dict.fromkeys(("shape", "color", "size", "place"), text) | dict.fromkeys(("x", "y", "radius"), number)
    return datasets.Features(
        {
            "index": datasets.Value("int64"),
            "image": datasets.Image(),
            "annotation": datasets.Image(),
            "caption": text,
            "captions": datasets.List(text),
            "scene": datasets.List(item),
            "questions": datasets.List(text),
            "answers": datasets.List(text),
            "question_kinds": datasets.List(text),
            "instruction": text,
            "edit_kind": text,
            "edited_image": datasets.Image(),
            "edited_captions": datasets.List(text),
            "edited_scene": datasets.List(item),
        }
    )
