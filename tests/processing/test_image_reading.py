# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Image files: every kind, from every source, through every door, with the same pixels or an error in words."""

import base64
import contextlib
import functools
import http.server
import io
import threading
from pathlib import Path
from urllib.parse import quote

import datasets
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from lavit_hf.processing import LavitImageProcessor, LavitImageProcessorPil, load_images, read_image

from .images import COLOR, SIZE, WHITE, animation, color_key, encode, two_halves, zoo


ZOO = zoo()
AS_STORED = {"do_resize": False, "do_rescale": False, "do_normalize": False}
PROCESSORS = (LavitImageProcessor(), LavitImageProcessorPil())


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "with space and ü"
    folder.mkdir()
    for name, (content, _) in ZOO.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    handler = functools.partial(QuietHandler, directory=folder.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def processed(source) -> list[np.ndarray]:
    """Returns the image of each backend, as it stands before it is resized."""
    batches = [processor(source, return_tensors="pt", **AS_STORED).pixel_values for processor in PROCESSORS]
    assert all(batch.dtype == torch.uint8 and batch.shape[0] == 1 for batch in batches)
    return [batch[0].permute(1, 2, 0).numpy() for batch in batches]


@pytest.mark.parametrize("name", ZOO)
def test_every_door_sees_the_same_image(name, folder):
    content, color = ZOO[name]
    path = folder / name
    seen = read_image(path)
    assert (seen.mode, seen.size) == ("RGB", SIZE)
    assert np.abs(np.subtract(seen.getpixel((2, 2)), color)).max() <= 3
    if name.startswith("lying"):
        assert np.subtract(COLOR, seen.getpixel((37, 2))).max() > 50
    pixels = {
        "PIL image": read_image(Image.open(path)),
        "RGB": read_image(load_images(path)),
        "again": read_image(read_image(path)),
    }
    pixels |= {f"processor {index}": image for index, image in enumerate(processed(path))}
    pixels |= {f"processor {index} on PIL": image for index, image in enumerate(processed(Image.open(path)))}
    for door, image in pixels.items():
        assert np.array_equal(np.asarray(image), np.asarray(seen)), door


class OnlyRead:
    """The least that a binary file object can be."""

    def __init__(self, content: bytes):
        self.content = content

    def read(self) -> bytes:
        return self.content


def test_sources(folder, server):
    content, path = ZOO["rgb.png"][0], folder / "rgb.png"
    text = base64.b64encode(content).decode()
    url = f"{server}/{quote(folder.name)}/rgb.png"
    written = io.BytesIO()
    written.write(content)  # stands at its end, as after `image.save(file)`
    with fsspec.open("memory://lavit/rgb.png", "wb") as file:
        file.write(content)
    sources = [
        path,
        str(path),
        path.as_uri(),
        path.as_uri().replace("file:", "FILE:"),
        f"http://{url}",
        f"HTTP://{url}",
        f"http://{server}/{folder.name}/rgb.png",  # neither space nor ü is quoted
        "memory://lavit/rgb.png",
        f"data:image/png;base64,{text}",
        f"data:application/octet-stream;base64,{text}",
        f"DATA:;base64,{text}",
        f"data:IMAGE/png;BASE64,{text}",
        f"data:image/png,{quote(content)}",
        text,
        base64.encodebytes(content).decode(),  # in lines
        content,
        bytearray(content),
        memoryview(content),
        written,
        {"bytes": content, "path": None},
        {"bytes": content, "path": "somewhere/else.png"},
        {"bytes": None, "path": str(path)},
        {"path": path},
        Image.open(path),
        np.asarray(Image.open(path)),
        torch.from_numpy(np.array(Image.open(path))),
    ]
    expected = np.asarray(Image.open(path))
    with open(path, "rb") as file:
        for source in [*sources, file, file, OnlyRead(content)]:
            for image in (read_image(source), *processed(source)):
                assert np.array_equal(np.asarray(image), expected), str(source)[:100]
        many = PROCESSORS[1]([sources[:9], [], tuple(sources[9:])], return_tensors="pt", **AS_STORED).pixel_values
    assert (many == many[0]).all()
    assert len(many) == len(sources)


def test_files_are_closed(folder, recwarn):
    for source in (folder / "rgb.png", (folder / "rgb.png").as_uri()):
        load_images(source)
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]


BROKEN = [
    (None, "is missing; expected a PIL image, a path"),
    ({"bytes": None, "path": None}, "is missing; expected"),
    ({"path": 5}, "is of type int; expected"),
    ({"url": "x"}, "is a dict of url; expected 'bytes' and 'path'"),
    ({"bytes": "abc"}, "cannot be read: No such file"),
    ({"bytes": 7}, "is of type int; expected"),
    (7, "is of type int; expected a PIL image"),
    ({1, 2}, "is of type set; expected"),
    (b"", "cannot be read: its 0 bytes are of no known image format"),
    (b"junk", "cannot be read: its 4 bytes are of no known image format"),
    ({"bytes": b"junk", "path": "a.png"}, r"\(a.png\) cannot be read: its 4 bytes"),
    (io.BytesIO(b"junk"), "cannot be read: its 4 bytes"),
    (io.StringIO("junk"), r"cannot be read: its read\(\) gives str; open the file in binary mode"),
    ("no/such/file.png", r"\(no/such/file.png\) cannot be read: No such file, nor is it the base64 of an image"),
    ("dogs", r"\(dogs\) cannot be read: No such file"),  # four letters are the base64 of three bytes
    ("", "cannot be read: No such file"),
    ("\0", "cannot be read: No such file"),
    ("\ud800", "cannot be read: No such file"),
    ("x" * 100_000, r"\(x{40}[.]{3}\) cannot be read: No such file"),
    (Path("no/such/file.png"), r"\(no/such/file.png\) cannot be read: .*No such file"),
    (Path(__file__).parent, r"cannot be read: .*Is a directory"),
    (str(Path(__file__).parent), r"cannot be read: .*Is a directory"),
    (__file__, "cannot be read: its [0-9]+ bytes are of no known image format"),
    ("file:///no/such/file.png", "cannot be read: .*No such file"),
    ("http://127.0.0.1:1/a.png", "cannot be read: .*refused"),
    ("http://[", "cannot be read: "),
    ("nothing://at/all.png", "cannot be read: Protocol not known: nothing"),
    ("data:image/png;base64", "needs a comma before its content"),
    ("data:image/png;base64,AAAA", "cannot be read: its 3 bytes"),
    (animation("GIF"), "has 3 frames, expected one: save one of them as an image"),
    (animation("PNG"), "has 3 frames"),
    (animation("WEBP"), "has 3 frames"),
    (animation("TIFF"), "has 3 frames"),
    (encode(Image.effect_noise((64, 64), 50))[:900], "cannot be read: .*truncated"),
    (encode(Image.new("F", (4, 4)), "TIFF"), "has mode 'F'; convert it to RGB first"),
    (Image.new("I", (4, 4)), "has mode 'I'; convert it to RGB first"),
    (Image.new("LAB", (4, 4)), "has mode 'LAB'; convert it to RGB first"),
    (Image.new("RGB", (0, 4)), "has no pixels: its width is 0, its height 4"),
]


@pytest.mark.parametrize(("source", "message"), BROKEN, ids=[f"{s!r}".split(" at 0x")[0][:40] for s, _ in BROKEN])
def test_what_is_no_image_is_named_with_its_cause(source, message):
    for processor in PROCESSORS:
        with pytest.raises(ValueError, match=rf"^Image 1 .*{message}") as raised:
            processor([two_halves(), source])
        assert " at 0x" not in str(raised.value)
    with pytest.raises(ValueError, match=rf"^row 3 .*{message}"):
        read_image(source, "row 3")


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor.backend)
def test_an_image_of_too_many_pixels_is_refused(processor, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    bomb = encode(two_halves())
    for source in (bomb, base64.b64encode(bomb).decode()):
        with pytest.raises(ValueError, match="Image 0 .*cannot be read: .*decompression bomb"):
            processor(source)


def test_one_frame_of_an_animation_is_an_image():
    frames = Image.open(io.BytesIO(animation()))
    frames.seek(1)
    for image in processed(frames.copy()):
        assert tuple(image[0, 0]) == (90, 0, 0)


def test_files_with_parts_that_are_no_frames():
    preview = Image.new("RGB", (4, 4))
    mpo = encode(two_halves(), "MPO", save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(mpo)).n_frames == 2
    assert read_image(mpo).size == SIZE


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_pillow(mode):
    """Opaque is as Pillow converts it, transparent is over white, and all doors agree."""
    source = Image.effect_noise((8, 8), 90).convert("RGB")
    if "A" in mode.upper():
        source.putalpha(Image.new("L", (8, 8), 128))
    image = source.convert("LA").convert(mode) if mode == "La" else source.convert("P" if mode == "PA" else mode)
    image = image.convert(mode)
    read = np.asarray(read_image(image)).astype(int)
    assert all(np.array_equal(pixels, read) for pixels in processed(image))
    if mode.upper() in ("LA", "RGBA"):
        straight = np.asarray(image.convert(mode.upper()).convert("RGBA")).astype(float)
        alpha = straight[..., 3:] / 255
        assert np.abs(read - (alpha * straight[..., :3] + (1 - alpha) * 255)).max() <= 1
    elif mode != "PA":
        assert np.array_equal(read, np.asarray(image.convert("RGB")))


def test_a_palette_with_opacity():
    """`Image.quantize` makes one of an image with an alpha channel. A file of it has another kind of palette."""
    image = Image.new("RGBA", (8, 8), (*COLOR, 0)).quantize(4)
    assert image.palette.mode == "RGBA"
    assert read_image(image).getpixel((0, 0)) == read_image(encode(image)).getpixel((0, 0)) == WHITE
    assert all((pixels == WHITE).all() for pixels in processed(image))


def test_images_whose_files_hold_less_than_their_modes():
    """A palette that is missing, and a transparent color of 16 bits beside pixels that were loaded with 8."""
    image = Image.new("P", (8, 8))
    image.palette = None
    with pytest.raises(ValueError, match="The image has mode 'P' and no palette"):
        read_image(image)
    image = Image.open(io.BytesIO(color_key(16, (1000, 2000, 3000))))
    image.load()
    assert read_image(image).getpixel((0, 0)) == WHITE


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "TGA"])
def test_damaged_files_are_errors_in_words_and_nothing_else(kind):
    generator = np.random.default_rng(0)
    content = encode(Image.fromarray(generator.integers(0, 255, (30, 30, 3), dtype=np.uint8)), kind)
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = generator.integers(0, min(len(damaged), 400), 6)
        damaged[places] = generator.integers(0, 255, 6)
        with contextlib.suppress(ValueError):
            assert read_image(damaged.tobytes()).mode == "RGB"


def test_the_processor_takes_every_source(processor, folder):
    """As an argument and in a conversation, where transformers' own names for sources count."""
    content, path = ZOO["half clear.png"][0], str(folder / "half clear.png")
    text = base64.b64encode(content).decode()
    expected = processor.image_processor(path, return_tensors="pt").pixel_values
    for source in (path, Path(path), content, io.BytesIO(content), {"bytes": content, "path": None}, text):
        for images in (source, [source], [[source]]):
            inputs = processor(text="<image>a dog", images=images, return_tensors="pt")
            assert torch.equal(inputs.pixel_values, expected)
    column = datasets.Dataset.from_dict({"image": [path] * 2}).cast_column("image", datasets.Image())["image"]
    assert torch.equal(processor(images=column, return_tensors="pt").pixel_values, expected.repeat(2, 1, 1, 1))
    parts = [{"image": Image.open(path)}, {"url": Path(path).as_uri()}, {"path": path}, {"base64": text}]
    for part in parts:
        messages = [{"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": "what?"}]}]
        kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        assert torch.equal(processor.apply_chat_template(messages, **kwargs).pixel_values, expected)


def test_the_processor_names_an_image_by_its_place(processor):
    fine = Image.new("RGB", (4, 4))
    for images in ([fine, [fine, b"junk"]], [[fine], [fine, b"junk"]]):
        with pytest.raises(ValueError, match="Image 2 cannot be read: its 4 bytes"):
            processor(text=["<image>", "<image><image>"], images=images)
    with pytest.raises(ValueError, match="Image 1 has shape .* `input_data_format`"):
        processor(text="<image><image>", images=[fine, torch.zeros(3, 5, 3)])
