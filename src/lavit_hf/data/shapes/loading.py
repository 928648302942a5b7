# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The scenes as a dataset of the library `datasets`, rendered once and cached, or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from random import Random
from typing import TYPE_CHECKING

from .captions import describe_layout, describe_scene
from .edits import edit_scene
from .own_words import is_own_words
from .prompts import request_scene
from .questions import ask_questions
from .rendering import annotate_scene, render_scene
from .scenes import SPLITS, Scene, sample_scene, scene_rng


if TYPE_CHECKING:
    import datasets

# Part of the key of the cache. Raise it with every change of the rows.
DATASET_VERSION = 10
ROWS_PER_SHARD = 500
NUM_CAPTIONS = 4
NUM_PROMPTS = 4
NUM_PLANS = 3
PLANS_SEED = 1_000_000  # apart from the seeds that anyone would give


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
    Makes scenes with captions, questions and edits. Nothing is downloaded.

    Args:
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"validation"` or `"test"`. No scene of one split, edited or not, is in another.
        num_rows (`int`, *optional*, defaults to 10000):
            The number of rows. A longer dataset begins with the rows of a shorter one.
        seed (`int`, *optional*, defaults to 0): The seed. Other seeds give other rows of the same splits.
        image_size (`int`, *optional*, defaults to 64): The side of the images in pixels.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to render while iterating, in shards of 500 rows, instead of once into the cache.
        cache_dir (`str`, *optional*): The cache of a dataset that is not streamed. Default: that of `datasets`.
        num_proc (`int`, *optional*): The number of processes that render a dataset that is not streamed.

    Returns:
        `datasets.Dataset`, or with `streaming` a `datasets.IterableDataset` with the same rows:
        - `index` (int): the index of the scene for [`sample_scene`];
        - `image`, `edited_image` (RGB images): the scene before and after the edit;
        - `annotation` (gray image): the label of each pixel of `image`, an index of `LABELS`;
        - `caption` (str), `instruction` (str), `edit_kind` (str);
        - `captions`, `edited_captions` (lists of 4 str): in several wordings, of which `caption` is the first;
        - `prompts` (list of 4 str): requests to draw `image`, in freer words than those of captions;
        - `planned_prompts` (list of 6 dicts): requests to draw three other scenes of the split, each followed by the
          layout of its scene, as segments of `text` of which the layouts are `supervised`;
        - `layout`, `edited_layout` (str): the objects in the order of reading, as [`describe_layout`] lists them;
        - `questions`, `answers`, `question_kinds` (lists of at most 8 str);
        - `scene`, `edited_scene` (lists of dicts): the objects, with `shape`, `color`, `size`, `place`, and `x`, `y`,
          `radius` as fractions of the side.

    Raises:
        ValueError: If `split` is unknown, or `num_rows` is less than 1.
        ImportError: If `datasets` is not installed.
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
    """Yields the rows of [`load_shapes`] with indices in `ranges`, each from its start to before its end."""
    for start, end in ranges:
        for index in range(start, end):
            yield make_row(index, split, seed, image_size)


def make_row(index: int, split: str = "train", seed: int = 0, image_size: int = 64) -> dict:
    """Makes one row of [`load_shapes`], with PIL images."""
    scene = sample_scene(index, split, seed)
    questions = ask_questions(scene, scene_rng(index, split, seed, "questions"))
    edit = edit_scene(scene, scene_rng(index, split, seed, "edit"))

    def write(make: Callable[[Scene, Random], str], scene: Scene, purpose: str, how_many: int) -> list[str]:
        texts = (make(scene, scene_rng(index, split, seed, f"{purpose} {number}")) for number in count())
        return list(islice((text for text in texts if not is_own_words(text)), how_many))

    captions = write(describe_scene, scene, "caption", NUM_CAPTIONS)
    prompts = write(request_scene, scene, "prompt", NUM_PROMPTS)
    layout = describe_layout(scene)
    return {
        "index": index,
        "image": render_scene(scene, image_size),
        "annotation": annotate_scene(scene, image_size),
        "caption": captions[0],
        "captions": captions,
        "prompts": prompts,
        "planned_prompts": _plan_others(index, split, seed),
        "layout": layout,
        "scene": list_objects(scene),
        "questions": [question.text for question in questions],
        "answers": [question.answer for question in questions],
        "question_kinds": [question.kind for question in questions],
        "instruction": edit.instruction,
        "edit_kind": edit.kind,
        "edited_image": render_scene(edit.scene, image_size),
        "edited_captions": write(describe_scene, edit.scene, "edited caption", NUM_CAPTIONS),
        "edited_layout": describe_layout(edit.scene),
        "edited_scene": list_objects(edit.scene),
    }


def _plan_others(index: int, split: str, seed: int) -> list[dict]:
    """Returns requests to draw scenes and their layouts, from which a model learns to plan at little cost."""
    segments = []
    for number in range(NUM_PLANS):
        scene = sample_scene(index, split, PLANS_SEED * (seed + 1) + number)
        rng = scene_rng(index, split, seed, f"plan {number}")
        texts = (request_scene(scene, rng) for _ in count())
        request = next(text for text in texts if not is_own_words(text))
        segments.append({"text": f"{request}\n", "supervised": False})
        segments.append({"text": f"{describe_layout(scene)}\n", "supervised": True})
    return segments


def list_objects(scene: Scene) -> list[dict]:
    """Returns the objects of a scene in plain types, as in the columns `scene` and `edited_scene`."""
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
            "prompts": datasets.List(text),
            "planned_prompts": datasets.List({"text": text, "supervised": datasets.Value("bool")}),
            "layout": text,
            "scene": datasets.List(item),
            "questions": datasets.List(text),
            "answers": datasets.List(text),
            "question_kinds": datasets.List(text),
            "instruction": text,
            "edit_kind": text,
            "edited_image": datasets.Image(),
            "edited_captions": datasets.List(text),
            "edited_layout": text,
            "edited_scene": datasets.List(item),
        }
    )
