# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Scenes, their pixels and the dataset."""

import json
import sys
from itertools import combinations
from random import Random

import numpy as np
import pytest
from PIL import Image

from lavit_hf.data.shapes import (
    COLORS,
    LABELS,
    PLACES,
    SHAPES,
    SPLITS,
    Scene,
    annotate_scene,
    edit_scene,
    load_shapes,
    parse_caption,
    render_scene,
    sample_scene,
)
from lavit_hf.data.shapes.loading import make_row
from lavit_hf.data.shapes.own_words import is_own_words
from lavit_hf.data.shapes.rendering import SHAPE_AREA, SHAPE_PERIMETER, render_background, signed_distance
from lavit_hf.data.shapes.scenes import BACKGROUNDS, GAP, SHAPE_EXTENT, SIZE_RADIUS, fits, object_gap


def names_of(scene):
    return frozenset((item.shape, item.color, item.size, item.place) for item in scene.objects)


def test_scenes_keep_the_rules():
    scenes = [sample_scene(index) for index in range(400)]
    counts = [len(scene.objects) for scene in scenes]
    assert {count: counts.count(count) > 70 for count in counts} == dict.fromkeys((1, 2, 3, 4), True)
    for scene in scenes:
        assert len({item.place for item in scene.objects}) == len(scene.objects)
        for item in scene.objects:
            assert fits(item, [other for other in scene.objects if other is not item])
            assert abs(item.radius - SIZE_RADIUS[item.size]) < 0.01
            for value in (item.x, item.y):  # at least 5 of 64 pixels from the lines of the grid
                assert min(abs(value - 1 / 3), abs(value - 2 / 3)) > 5 / 64
    kinds = [[(item.shape, item.color) for item in scene.objects] for scene in scenes]
    largest = [max(map(names.count, names)) for names in kinds]
    assert 0.16 < sum(count > 1 for count in largest) / len(scenes) < 0.3  # 0.3 of those with several objects
    assert set(largest) == {1, 2, 3, 4}
    seen = [item for scene in scenes for item in scene.objects]
    assert {item.shape for item in seen} == set(SHAPES)
    assert {item.color for item in seen} == set(COLORS)
    assert {item.place for item in seen} == set(PLACES)
    assert {scene.background.kind for scene in scenes} == set(BACKGROUNDS)


def test_scenes_are_deterministic():
    scene = sample_scene(3, "test", seed=5)
    assert sample_scene(3, "test", seed=5) == scene
    assert len({sample_scene(*arguments) for arguments in [(3, "test", 5), (4, "test", 5), (3, "test", 6)]}) == 3
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_the_rows_are_those_of_this_version():
    """The content of rows may change with `DATASET_VERSION` only: datasets are cached under it."""
    row = make_row(0)
    assert row["caption"].startswith("this picture shows a large cyan circle in the center, a small cyan square")
    assert (row["instruction"], row["questions"][0]) == ("make the red circle large", "is there a large cyan ring?")
    assert row["prompts"][0].startswith(
        "a large circle, a box which is small-sized, a tiny little circle. colors: cyan,"
    )
    assert np.asarray(row["image"]).mean() == pytest.approx(185.3, abs=0.5)


def test_planned_prompts_are_requests_of_other_scenes_with_their_layouts():
    for index in range(40):
        row = make_row(index)
        requests, plans = row["planned_prompts"][::2], row["planned_prompts"][1::2]
        assert [part["supervised"] for part in row["planned_prompts"]] == [False, True] * 3
        assert len({plan["text"] for plan in plans} | {f"{row['layout']}\n"}) == 4
        for request, plan in zip(requests, plans, strict=True):
            assert request["text"].count("\n") == plan["text"].count("\n") == 1
            assert not is_own_words(request["text"])
            described = parse_caption(plan["text"])
            assert all(None not in (item.color, item.size, item.place) for item in described)
            layout = [f"{item.place}: {item.size} {item.color} {item.shape}" for item in described]
            assert plan["text"] == ", ".join(layout) + "\n"


def test_splits_share_no_scene():
    names = {}
    for split in SPLITS:
        scenes = [sample_scene(index, split) for index in range(120)]
        edits = [edit_scene(scene, Random(index)).scene for index, scene in enumerate(scenes)]
        assert {scene.split for scene in scenes + edits} == {split}
        names[split] = {names_of(scene) for scene in scenes + edits}
    for one, other in combinations(SPLITS, 2):
        assert not names[one] & names[other]


def test_split_ignores_order_and_jitter():
    scene = next(scene for scene in map(sample_scene, range(99)) if len(scene.objects) == 4)
    assert Scene(scene.objects[::-1], sample_scene(0).background).split == scene.split


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_agree_with_the_shapes(shape):
    radius = 100.0
    x = np.arange(-150, 150) + 0.5
    distance = signed_distance(shape, x, x[:, None], radius)
    inside = distance < 0
    rows, columns = np.nonzero(inside)
    side, up, down, reach = (extent * radius for extent in SHAPE_EXTENT[shape])
    assert (columns.max() + 1 - 150, 150 - columns.min()) == (pytest.approx(side, abs=1.1),) * 2
    assert (150 - rows.min(), rows.max() + 1 - 150) == (pytest.approx(up, abs=1.5), pytest.approx(down, abs=1.1))
    assert np.hypot(x[rows], x[columns]).max() <= reach
    assert inside.sum() == pytest.approx(SHAPE_AREA[shape] * radius**2, rel=0.01)
    assert (abs(distance) < 2).sum() / 4 == pytest.approx(SHAPE_PERIMETER[shape] * radius, rel=0.03)
    assert (x[rows].mean(), x[columns].mean()) == (pytest.approx(0, abs=1), pytest.approx(0, abs=1))


def test_gap_never_says_more_than_there_is():
    for scene in map(sample_scene, range(25)):
        for pair in combinations(scene.objects, 2):
            masks = []
            for item in pair:
                x = (np.arange(128) + 0.5) / 128
                masks.append(
                    np.argwhere(signed_distance(item.shape, x - item.x, x[:, None] - item.y, item.radius) < 0)
                )
            distance = np.linalg.norm(masks[0][:, None] - masks[1], axis=-1).min() / 128
            assert GAP <= object_gap(*pair) <= distance + 1.5 / 128


def test_rendering():
    scene = sample_scene(1)
    small, large = render_scene(scene), render_scene(scene, image_size=256)
    assert (small.size, small.mode, large.size) == ((64, 64), "RGB", (256, 256))
    assert small.tobytes() == render_scene(scene).tobytes()
    for index in range(30):
        scene = sample_scene(index)
        shrunk = np.asarray(render_scene(scene, image_size=192).resize((64, 64), Image.Resampling.BOX), dtype=float)
        assert abs(np.asarray(render_scene(scene), dtype=float) - shrunk).mean() < 2
        for item in scene.objects:
            if item.shape != "ring":
                x, y = int(item.x * 256), int(item.y * 256)
                assert render_scene(scene, 256).getpixel((x, y)) == item.rgb
    with pytest.raises(ValueError, match="image_size.*8"):
        render_scene(scene, image_size=8)


def test_annotations_say_what_each_pixel_shows():
    for index in range(30):
        scene = sample_scene(index)
        labels = annotate_scene(scene)
        assert (labels.size, labels.mode) == ((64, 64), "L")
        found = {LABELS[value] for value in np.unique(labels)}
        assert found == {"background", *(f"{item.size} {item.color} {item.shape}" for item in scene.objects)}
        for item in scene.objects:
            pixels = (np.asarray(labels) == LABELS.index(item.label)).sum()
            radii = [64 * other.radius for other in scene.objects if other.label == item.label]
            edge = SHAPE_PERIMETER[item.shape] * sum(radii)  # of whose pixels either neighbour may have the label
            area = sum(SHAPE_AREA[item.shape] * radius**2 for radius in radii)
            assert pixels == pytest.approx(area, abs=0.3 * edge)
            # Pixels have a label where the paint is.
            painted = np.asarray(render_scene(scene))[np.asarray(labels) == LABELS.index(item.label)]
            paints = np.array([other.rgb for other in scene.objects if other.label == item.label], dtype=float)
            assert np.median(np.abs(painted[:, None] - paints).min(axis=1)) < 3


def test_backgrounds_are_muted():
    for index in range(100):
        pixels = render_background(sample_scene(index).background, 64)
        assert (pixels.max(-1) - pixels.min(-1)).max() <= 32
        assert pixels.min() > 0
        assert pixels.max() < 255


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return load_shapes("validation", num_rows=12, image_size=32, cache_dir=str(tmp_path_factory.mktemp("shapes")))


def test_dataset(rows):
    assert rows.num_rows == 12
    assert rows.split == "validation"
    for index, row in enumerate(rows):
        scene = sample_scene(index, "validation")
        assert row["index"] == index
        assert row["image"].tobytes() == render_scene(scene, 32).tobytes()
        assert [item["place"] for item in row["scene"]] == [item.place for item in scene.objects]
        assert row["scene"][0]["x"] == scene.objects[0].x
        assert 5 <= len(row["questions"]) == len(row["answers"]) == len(row["question_kinds"]) <= 8
        assert len(set(row["prompts"])) > 1
        assert row["annotation"].tobytes() == annotate_scene(scene, 32).tobytes()
        assert row["edited_scene"] != row["scene"]
        for scene_column, column in (("scene", "captions"), ("edited_scene", "edited_captions")):
            names = {item["shape"] for item in row[scene_column]}
            assert len(row[column]) == 4
            assert all({said.shape for said in parse_caption(caption)} == names for caption in row[column])
        assert row["captions"][0] == row["caption"]
        assert row["edited_image"].tobytes() != row["image"].tobytes()


def test_streaming_gives_the_same_rows(rows, monkeypatch):
    monkeypatch.setattr("lavit_hf.data.shapes.loading.ROWS_PER_SHARD", 5)
    stream = load_shapes("validation", num_rows=12, image_size=32, streaming=True)
    assert stream.num_shards == 3
    assert stream.features == rows.features
    for streamed, row in zip(stream, rows, strict=True):
        for name in ("image", "edited_image", "annotation"):
            assert streamed.pop(name).tobytes() == row.pop(name).tobytes()
        assert streamed == row
    shards = [row["index"] for shard in range(3) for row in stream.shard(3, shard)]
    assert shards == list(range(12))


def test_cache_tells_arguments_apart(tmp_path):
    arguments = {"num_rows": 3, "image_size": 32, "cache_dir": str(tmp_path)}
    first, again, other = (load_shapes(**arguments, seed=seed) for seed in (0, 0, 1))
    assert first.cache_files == again.cache_files != other.cache_files
    assert first["caption"] == again["caption"] != other["caption"]


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="'dev', expected one of train, validation, test"):
        sample_scene(0, "dev")
    with pytest.raises(ValueError, match="`index` is -1"):
        sample_scene(-1)
    with pytest.raises(ValueError, match="'dev', expected one of train, validation, test"):
        load_shapes("dev")
    with pytest.raises(ValueError, match="`num_rows` is 0"):
        load_shapes(num_rows=0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="lavit-hf\\[train\\]"):
        load_shapes(num_rows=1)
