# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Renders scenes by signed distances, with antialiased edges."""

import math

import numpy as np
from PIL import Image

from .scenes import LABELS, Background, Scene, ShapeObject


# The lengths of shapes in radii, from which `SHAPE_EXTENT` in `scenes.py` follows.
SQUARE_HALF_SIDE = 0.87
TRIANGLE_RADIUS = 1.2
STAR_RADIUS = 1.15
STAR_INNER = 0.47  # of the outer radius
CROSS_HALF_WIDTH = 0.37
RING_HOLE = 0.53

# Areas in squared radii, from which a radius can be read.
SHAPE_AREA = {
    "circle": math.pi,
    "square": 4 * SQUARE_HALF_SIDE**2,
    "triangle": 0.75 * math.sqrt(3) * TRIANGLE_RADIUS**2,
    "star": 5 * math.sin(math.pi / 5) * STAR_INNER * STAR_RADIUS**2,
    "cross": 8 * CROSS_HALF_WIDTH - 4 * CROSS_HALF_WIDTH**2,
    "ring": math.pi * (1 - RING_HOLE**2),
}
# Lengths of the edges in radii.
SHAPE_PERIMETER = {
    "circle": 2 * math.pi,
    "square": 8 * SQUARE_HALF_SIDE,
    "triangle": 3 * math.sqrt(3) * TRIANGLE_RADIUS,
    "star": 10 * STAR_RADIUS * math.hypot(STAR_INNER * math.sin(math.pi / 5), 1 - STAR_INNER * math.cos(math.pi / 5)),
    "cross": 8.0,
    "ring": 2 * math.pi * (1 + RING_HOLE),
}


def render_scene(scene: Scene, image_size: int = 64) -> Image.Image:
    """
    Draws a scene.

    Args:
        scene ([`Scene`]): The scene to draw.
        image_size (`int`, *optional*, defaults to 64): The side of the image in pixels, at least 16.

    Returns:
        `PIL.Image.Image`: An RGB image of `image_size` x `image_size`.
    """
    if image_size < 16:
        raise ValueError(f"`image_size` is {image_size}, expected at least 16: smaller shapes cannot be told apart.")
    pixels = render_background(scene.background, image_size)
    for item in scene.objects:
        rows, columns, alpha = _object_coverage(item, image_size)
        window = pixels[rows, columns]
        window += alpha[..., None] * (np.array(item.rgb, dtype=np.float32) - window)
    return Image.fromarray((pixels + 0.5).clip(0, 255).astype(np.uint8))


def annotate_scene(scene: Scene, image_size: int = 64) -> Image.Image:
    """
    Labels the pixels of [`render_scene`], as in datasets for semantic segmentation. Same arguments as `render_scene`.

    Returns:
        `PIL.Image.Image`: A gray image (mode "L") of `image_size` x `image_size` with the index in `LABELS` of each
        pixel, 0 for the background.
    """
    labels = np.zeros((image_size, image_size), dtype=np.uint8)
    for item in scene.objects:
        rows, columns, alpha = _object_coverage(item, image_size)
        labels[rows, columns][alpha >= 0.5] = LABELS.index(item.label)
    return Image.fromarray(labels)


def _object_coverage(item: ShapeObject, image_size: int) -> tuple[slice, slice, np.ndarray]:
    """Returns the rows and columns of pixels around an object, and the fraction of each that it covers."""
    x, y, radius = (value * image_size for value in (item.x, item.y, item.radius))
    reach = 1.25 * radius + 1
    left, top = (max(math.floor(value - reach), 0) for value in (x, y))
    right, bottom = (min(math.ceil(value + reach), image_size) for value in (x, y))
    # The center of a pixel lies half a pixel from its corner.
    dx = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    return slice(top, bottom), slice(left, right), coverage(item.shape, dx, dy, np.float32(radius))


def coverage(shape: str, dx: np.ndarray, dy: np.ndarray, radius, softness=1.0) -> np.ndarray:
    """
    Returns the fraction of each pixel that a shape covers.

    Args:
        shape (`str`): One of `SHAPES`.
        dx, dy (`np.ndarray`): Centers of pixels relative to that of the shape, in pixels. Their shapes broadcast.
        radius (`float` or `np.ndarray`): The radius in pixels, which broadcasts with them.
        softness (`float` or `np.ndarray`): The width of the edge in pixels. 1 is a sharp, antialiased edge.
    """
    return np.clip(0.5 - signed_distance(shape, dx, dy, radius) / softness, 0, 1)


def signed_distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius) -> np.ndarray:
    """Returns the distance from the edge of a shape in pixels, negative inside, exact near edges. Same arguments as
    [`coverage`]."""
    if shape == "circle":
        return np.sqrt(dx * dx + dy * dy) - radius
    if shape == "ring":
        distance = np.sqrt(dx * dx + dy * dy)
        return np.maximum(distance - radius, RING_HOLE * radius - distance)
    across = np.abs(dx)
    if shape == "square":
        return np.maximum(across, np.abs(dy)) - SQUARE_HALF_SIDE * radius
    if shape == "cross":
        down, half_width = np.abs(dy), CROSS_HALF_WIDTH * radius
        lying = np.maximum(across - radius, down - half_width)
        standing = np.maximum(across - half_width, down - radius)
        return np.minimum(lying, standing)
    if shape == "triangle":
        half_height = TRIANGLE_RADIUS * radius / 2
        return np.maximum(across * np.float32(math.sqrt(0.75)) - dy / 2, dy) - half_height
    if shape == "star":
        return _star_distance(across, dy, STAR_RADIUS * radius)
    raise ValueError(f"`shape` is {shape!r}, expected circle, square, triangle, star, cross or ring.")


def _star_distance(across: np.ndarray, dy: np.ndarray, outer) -> np.ndarray:
    """Returns the distance from the edge of a star, whose ten edges are mirror images of one."""
    # Mirrored twice at the line 36 degrees right of the upper tip, every point lies between that line and the tip.
    mirror_x, mirror_y = np.float32(math.cos(math.pi / 5)), np.float32(math.sin(math.pi / 5))
    for _ in range(2):
        beyond = 2 * np.maximum(across * mirror_x + dy * mirror_y, 0)
        across, dy = np.abs(across - beyond * mirror_x), dy - beyond * mirror_y
    corner_x, corner_y = STAR_INNER * math.sin(math.pi / 5), -STAR_INNER * math.cos(math.pi / 5)
    edge_x, edge_y = corner_x, corner_y + 1
    length = math.hypot(edge_x, edge_y)
    normal_x, normal_y = np.float32(edge_y / length), np.float32(-edge_x / length)
    return across * normal_x + (dy + outer) * normal_y


def render_background(background: Background, image_size: int) -> np.ndarray:
    """Renders the background alone, (image_size, image_size, 3) float32 in 0..255."""
    first, second = (np.array(rgb, dtype=np.float32) for rgb in (background.rgb, background.second_rgb))
    share = _background_share(background, image_size)[..., None]
    return first + np.broadcast_to(share, (image_size, image_size, 1)) * (second - first)


def _background_share(background: Background, image_size: int) -> np.ndarray:
    """Returns the fraction of the second color in each pixel, which broadcasts to (image_size, image_size)."""
    x = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size
    y = x[:, None]
    # Phases may depend on the angle, since no kind uses both.
    turn = background.angle / (2 * math.pi)
    # The slope of the edges of a pattern, so that they span one pixel.
    steepness = background.period * image_size
    match background.kind:
        case "plain":
            return np.zeros((1, 1), dtype=np.float32)
        case "gradient":
            along = math.cos(background.angle) * (x - 0.5) + math.sin(background.angle) * (y - 0.5)
            return np.clip(0.5 + along, 0, 1)
        case "stripes":
            eighth = round(turn * 4) * math.pi / 4
            along = math.cos(eighth) * x + math.sin(eighth) * y
            return np.clip(0.5 + steepness * _wave(along / background.period + turn), 0, 1)
        case "checkerboard":
            across, down = _wave(x / background.period + turn), _wave(y / background.period + turn)
            return np.clip(0.5 + steepness * np.sign(across * down) * np.minimum(abs(across), abs(down)), 0, 1)
        case "dots":
            across, down = (np.abs(_wave(value / background.period + turn)) for value in (x, y))
            radius = 0.28
            distance = np.hypot(0.25 - across, 0.25 - down) * 2
            return np.clip(0.5 + steepness * (radius - distance), 0, 1)
        case "noise":
            grid = np.random.default_rng(background.seed).random((9, 9), dtype=np.float32)
            return np.asarray(Image.fromarray(grid).resize((image_size, image_size), Image.Resampling.BICUBIC))
    raise ValueError(f"`background.kind` is {background.kind!r}, which no renderer knows.")


def _wave(turns: np.ndarray) -> np.ndarray:
    """Returns a triangle wave of period 1 and slope +-1, between -0.25 and 0.25."""
    return np.abs(turns % 1 - 0.5) - 0.25
