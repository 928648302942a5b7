# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Image files of every kind, with what a person sees in them."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image


COLOR = (200, 40, 80)
WHITE = (255, 255, 255)
SIZE = (40, 20)


def encode(image: Image.Image, file_format: str = "PNG", **kwargs) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **kwargs)
    return file.getvalue()


def animation(file_format: str = "GIF") -> bytes:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 90, 180)]
    return encode(frames[0], file_format, save_all=True, append_images=frames[1:])


def two_halves() -> Image.Image:
    """Left `COLOR`, right blue: tells when an image lies on its side."""
    image = Image.new("RGB", SIZE, COLOR)
    image.paste((0, 0, 255), (20, 0, 40, 20))
    return image


def on_its_side(image: Image.Image, file_format: str, **kwargs) -> bytes:
    """A file as a camera held upright saves it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encode(image.transpose(Image.Transpose.ROTATE_90), file_format, exif=exif, **kwargs)


def color_key(depth: int, color: Sequence[int]) -> bytes:
    """Returns a PNG of `depth` bits, all of one color, which is its transparent color. Pillow does not write those."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width, height = SIZE
    value = b"".join(struct.pack(">H", each) for each in color)
    pixels = value * width if depth == 16 else bytes([color[0] * (255 // (2**depth - 1))]) * (width * depth // 8)
    header = struct.pack(">IIBBBBB", width, height, depth, 2 if len(color) == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", value), (b"IDAT", zlib.compress((b"\0" + pixels) * height)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def raw_psd(image: Image.Image) -> bytes:
    """Returns a PSD of an RGB image without compression, in which each channel has a part of its own."""
    header = struct.pack(">H6xHIIHH", 1, 3, image.height, image.width, 8, 3) + struct.pack(">IIIH", 0, 0, 0, 0)
    return b"8BPS" + header + b"".join(channel.tobytes() for channel in image.split())


def zoo() -> dict[str, tuple[bytes, tuple[int, int, int]]]:
    """Files by name, each with the color of its upper left quarter as RGB; lossy ones are 3 levels off at most."""
    solid = Image.new("RGB", SIZE, COLOR)
    clear = Image.new("RGBA", SIZE, (*COLOR, 0))
    half_clear = Image.new("RGBA", SIZE, (0, 0, 0, 128))
    palette = Image.new("P", SIZE, 1)
    palette.putpalette([0, 0, 0, *COLOR])
    deep = Image.fromarray(np.full((20, 40), 257 * 100, np.uint16))
    deep_halves = Image.fromarray(np.repeat([[257 * 100] * 20 + [0] * 20], 20, 0).astype(np.uint16))
    return {
        "rgb.png": (encode(solid), COLOR),
        "rgb.jpg": (encode(solid, "JPEG", quality=100, subsampling=0), COLOR),
        "cmyk.jpg": (encode(solid.convert("CMYK"), "JPEG", quality=100), COLOR),
        "cmyk.tiff": (encode(solid.convert("CMYK"), "TIFF"), COLOR),
        "rgb.sgi": (encode(solid, "SGI"), COLOR),
        "rgb.psd": (raw_psd(solid), COLOR),
        "rgb.webp": (encode(solid, "WEBP", lossless=True), COLOR),
        "rgb.bmp": (encode(solid, "BMP"), COLOR),
        "palette.png": (encode(palette), COLOR),
        "palette.gif": (encode(palette, "GIF"), COLOR),
        "clear palette.png": (encode(palette, transparency=1), WHITE),
        "half clear palette.png": (encode(palette, transparency=bytes([255, 128])), (227, 147, 167)),
        "clear palette.gif": (encode(palette, "GIF", transparency=1), WHITE),
        "clear.png": (encode(clear), WHITE),
        "clear.webp": (encode(clear, "WEBP", lossless=True, exact=True), WHITE),
        "half clear.png": (encode(half_clear), (127, 127, 127)),
        "half clear.tiff": (encode(half_clear, "TIFF"), (127, 127, 127)),
        "half clear grey.png": (encode(half_clear.convert("LA")), (127, 127, 127)),
        "clear colour.png": (encode(solid, transparency=COLOR), WHITE),
        "clear grey.png": (encode(Image.new("L", SIZE, 90), transparency=90), WHITE),
        "grey.png": (encode(Image.new("L", SIZE, 90)), (90, 90, 90)),
        "bits.png": (encode(Image.new("1", SIZE, 1)), WHITE),
        "deep.png": (encode(deep), (100, 100, 100)),
        "deep.tiff": (encode(deep, "TIFF"), (100, 100, 100)),
        "clear deep.png": (encode(deep, transparency=257 * 100), WHITE),
        "clear deep colour.png": (color_key(16, (1000, 2000, 3000)), WHITE),
        "clear grey of 4 bits.png": (color_key(4, [3]), WHITE),
        "clear grey of 2 bits.png": (color_key(2, [1]), WHITE),
        "lying.jpg": (on_its_side(two_halves(), "JPEG", quality=100, subsampling=0), COLOR),
        "lying.png": (on_its_side(two_halves(), "PNG"), COLOR),
        "lying deep.png": (on_its_side(deep_halves, "PNG"), (100, 100, 100)),
    }


def shades(inputs) -> list[int]:
    """Returns the indices of the `images` whose pixels are given."""
    values = inputs.pixel_values[:, 0, 0, 0] * 0.26862954 + 0.48145466
    return (values * 255 / 40).round().int().tolist()


def user(*content):
    return {"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}
