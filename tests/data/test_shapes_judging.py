# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The judge reads what was rendered, through mild damage, and refuses what is no shape."""

import math
import re
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from lavit_hf.data.shapes import (
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    DescribedObject,
    OwnWords,
    Scene,
    edit_scene,
    edits,
    keeps_background,
    load_own_words,
    loading,
    match_objects,
    questions,
    read_scene,
    render_scene,
    sample_scene,
    scene_matches,
)
from lavit_hf.data.shapes.loading import list_objects, make_row
from lavit_hf.data.shapes.own_words import is_own_words
from lavit_hf.data.shapes.scenes import COLOR_RGB, sample_object
from lavit_hf.data.shapes.small_talk import respell


FIELDS = ("shape", "color", "size", "place")


def share_read(images, scenes):
    return np.mean(
        [scene_matches(scene.objects, read_scene(image), FIELDS) for image, scene in zip(images, scenes, strict=True)]
    )


def damaged(image, seed):
    noise = np.random.default_rng(seed).normal(0, 6, (64, 64, 3))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1)), dtype=float) + noise
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def test_reads_rendered_scenes():
    scenes = [sample_scene(index, "test") for index in range(200)]
    assert share_read([render_scene(scene) for scene in scenes], scenes) >= 0.99


def test_positions_and_radii_are_close():
    for index in range(20):
        scene = sample_scene(index)
        for item in read_scene(render_scene(scene)):
            (truth,) = [other for other in scene.objects if other.place == item.place]
            assert (item.x, item.y) == (pytest.approx(truth.x, abs=0.01), pytest.approx(truth.y, abs=0.01))
            assert item.radius == pytest.approx(truth.radius, abs=0.005)


def test_reads_through_blur_and_noise():
    scenes = [sample_scene(index, "test") for index in range(80)]
    images = [damaged(render_scene(scene), seed) for seed, scene in enumerate(scenes)]
    assert share_read(images, scenes) >= 0.97


@pytest.mark.parametrize("image_size", [32, 48, 224])
def test_reads_other_sizes(image_size):
    scenes = [sample_scene(index, "validation") for index in range(25)]
    assert share_read([render_scene(scene, image_size) for scene in scenes], scenes) == 1


def drawn(*polygons, color="red"):
    """An image of polygons around its middle, their points in pixels of 64."""
    image = Image.new("RGB", (512, 512), (150, 150, 156))
    for points in polygons:
        ImageDraw.Draw(image).polygon([(256 + 8 * x, 256 + 8 * y) for x, y in points], fill=COLOR_RGB[color])
    return image.resize((64, 64), Image.Resampling.BOX)


def regular(corners, radius, turn=0.0, x=0.0, y=0.0):
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    return [(x + radius * math.sin(angle), y - radius * math.cos(angle)) for angle in angles]


def box(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize(
    "polygons",
    [
        [regular(3, 7.5, math.pi)],
        [box(-9, -3, 9, 3)],
        [box(-6.5, -6.5, 6.5, -2), box(-2.2, -6.5, 2.2, 6.5)],
        [box(-6.5, 2, 6.5, 6.5), box(-6.5, -6.5, -2, 6.5)],
        [regular(3, 7.5), regular(60, 4.5, x=3.5, y=-2.5)],
        [regular(60, 5, x=-2, y=-2), box(-2, -2, 6.5, 6.5)],
        [[(0, 0), *[point for point in regular(60, 6.5) if point[0] >= 0 or point[1] >= 0]]],
        [regular(60, 2)],
    ],
    ids=["inverted triangle", "bar", "T", "L", "triangle and circle", "circle and square", "cut circle", "dot"],
)
def test_refuses_what_is_no_shape(polygons, scale):
    image = drawn(*[[(x * scale, y * scale) for x, y in points] for points in polygons])
    assert [(item.shape, item.color) for item in read_scene(image)] == [(None, "red")]


@pytest.mark.parametrize("color", COLORS)
def test_accepts_what_others_draw(color):
    (circle,) = read_scene(drawn(regular(60, 6.3), color=color))
    (square,) = read_scene(drawn(box(-9, -8, 7, 9), color=color))
    assert (circle.shape, circle.color, circle.size, circle.place) == ("circle", color, "small", "center")
    assert (square.shape, square.color, square.size, square.place) == ("square", color, "large", "center")


def test_what_counts_as_an_object():
    assert read_scene(Image.new("RGB", (64, 64), (120, 124, 118))) == []
    assert read_scene(drawn(box(-1, -1, 1, 1))) == []
    filled = read_scene(Image.new("RGB", (64, 64), COLOR_RGB["blue"]))
    assert [(item.shape, item.color) for item in filled] == [(None, "blue")]
    touching = drawn(box(-12, -6, 0, 6))
    touching.paste(drawn(box(0, -6, 12, 6), color="blue").crop((32, 0, 64, 64)), (32, 0))
    assert [(item.color, item.shape) for item in read_scene(touching)] == [("red", "square"), ("blue", "square")]


def test_matching():
    red_circle, blue_star = DescribedObject("circle", "red", None, "top"), DescribedObject("star", "blue")
    seen = [DescribedObject("star", "blue", "small", "left"), DescribedObject("circle", "red", "large", "left")]
    assert scene_matches([red_circle, blue_star], seen)
    assert not scene_matches([red_circle, blue_star], seen, ("shape", "color", "place"))
    assert match_objects([red_circle, blue_star], seen, ("shape", "color", "place")) == 1
    assert not scene_matches([red_circle], seen)
    assert not scene_matches([red_circle, red_circle], [seen[1], seen[0]])
    # A vague description gives way to a precise one, whatever their order.
    assert scene_matches([DescribedObject("star"), blue_star], [seen[0], DescribedObject("star", "red")])
    assert scene_matches([], [])
    malformed = read_scene(drawn(regular(3, 7.5, math.pi)))
    assert not any(scene_matches([DescribedObject(shape, "red")], malformed) for shape in SHAPES)


def test_matching_takes_rows_of_the_dataset():
    scene = sample_scene(2)
    assert scene_matches(list_objects(scene), read_scene(render_scene(scene)), FIELDS)


def test_a_background_is_kept_or_not():
    noise = np.random.default_rng(0)
    for index in range(40):
        scene, other = sample_scene(index, "test"), sample_scene(index + 1, "test")
        before, after = render_scene(scene), render_scene(edit_scene(scene, Random(index)).scene)
        assert keeps_background(before, after)
        assert keeps_background(before.resize((128, 128)), after)
        pixels = np.asarray(after, dtype=float)
        noisy = (pixels + noise.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        assert keeps_background(before, Image.fromarray(noisy))
        pixels = pixels.copy()
        pixels[:32, :32] += 25 if pixels.mean() < 160 else -25
        assert not keeps_background(before, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        assert not keeps_background(before, render_scene(replace(scene, background=other.background)))
        flooded = np.asarray(after).copy()
        flooded[:, :52] = COLOR_RGB["blue"]
        assert not keeps_background(before, Image.fromarray(flooded))


def test_own_words_are_judged():
    cases = load_own_words()
    kinds = [case.kind for case in cases]
    assert (len(cases), *map(kinds.count, ("drawing", "question", "edit"))) == (200, 110, 50, 40)
    assert len({case.text for case in cases}) == 200
    for index, case in enumerate(cases):
        if case.kind == "question":
            assert case.answers
            assert case.scene is not None
        if case.kind == "edit":
            assert not case.is_drawn(read_scene(render_scene(case.scene))), case.text  # something is to be changed
        if case.kind == "drawing" and not case.relations:
            drawn = draw(case.objects, index)
            assert case.is_drawn(read_scene(render_scene(drawn))), case.text
            fewer = Scene(drawn.objects[1:], drawn.background)
            assert not case.is_drawn(read_scene(render_scene(fewer))), case.text
    assert [case.scene for case in load_own_words()] == [case.scene for case in cases]


def test_own_words_are_left_out_of_the_rows(monkeypatch):
    """They are left out whatever their case and marks. Some would be there otherwise."""
    own = {re.sub("[^a-z0-9]+", " ", case.text.lower()).strip() for case in load_own_words()}
    names = ("captions", "edited_captions", "prompts", "questions")

    def texts():
        rows = [make_row(index) for index in range(300)]
        found = [
            text for row in rows for text in (row["instruction"], *(text for name in names for text in row[name]))
        ]
        return {re.sub("[^a-z0-9]+", " ", text.lower()).strip() for text in found}

    assert not texts() & own
    for module in (edits, loading, questions):
        monkeypatch.setattr(module, "is_own_words", lambda text: False)
    assert texts() & own
    assert is_own_words("Please, what COLOUR is the star")
    unmarked = [re.sub("[-'’]", "", case.text) for case in load_own_words()]
    assert all(map(is_own_words, unmarked))
    talked = [respell(case.text.lower(), Random(seed)) for case in load_own_words() for seed in range(30)]
    assert all(map(is_own_words, talked))
    assert any(re.search(r"\bu\b|&|\bw/", text) for text in talked)
    assert not is_own_words("what color is the other star?")


def draw(described, index):
    """Makes a scene of described objects, whose open fields it draws."""
    rng = Random(index)
    while True:
        objects, places = [], [item.place for item in described]
        for item in described:
            place = item.place or rng.choice([place for place in PLACES if place not in places])
            places.append(place)
            color, size = item.color or rng.choice(COLORS), item.size or rng.choice(SIZES)
            objects.append(sample_object(rng, item.shape, color, size, place, [one for one in objects if one]))
        if None not in objects:
            return Scene(tuple(objects), sample_scene(index, "test").background)


@pytest.mark.parametrize(
    ("relation", "places", "is_true"),
    [
        ("above", ("top", "bottom left"), True),
        ("above", ("top left", "center"), True),
        ("left of", ("top left", "center"), True),
        ("next to", ("top left", "center"), False),
        ("left of", ("top", "bottom right"), False),
        ("above", ("left", "top"), False),
        ("above", ("left", "right"), False),
        ("below", ("bottom", "center"), True),
        ("left of", ("left", "top right"), True),
        ("right of", ("left", "center"), False),
        ("next to", ("left", "center"), True),
        ("next to", ("left", "right"), False),
        ("next to", ("top left", "bottom right"), False),
    ],
)
def test_relations_are_judged(relation, places, is_true):
    described = (DescribedObject("star", "red"), DescribedObject("ring", "red"))
    case = OwnWords("drawing", "", objects=described, relations=((0, relation, 1),))
    placed = [
        DescribedObject(item.shape, item.color, "small", place) for item, place in zip(described, places, strict=True)
    ]
    for index in range(5):
        found = read_scene(render_scene(draw(placed, index)))
        assert case.is_drawn(found) == case.is_drawn(found[::-1]) == is_true
