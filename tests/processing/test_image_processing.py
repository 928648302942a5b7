# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import base64
import io

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lavit_hf.processing import LavitImageProcessor, LavitImageProcessorPil


WHITE = (1 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
BLACK = -torch.tensor(OPENAI_CLIP_MEAN) / torch.tensor(OPENAI_CLIP_STD)
GREY = (128 / 255 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)


@pytest.fixture(params=[LavitImageProcessor, LavitImageProcessorPil])
def image_processor(request):
    return request.param(size={"height": 8, "width": 8})


@pytest.fixture(scope="module")
def pixel_values(golden_folder) -> torch.Tensor:
    return load_file(golden_folder / "goldens.safetensors")["pixel_values"]


def png(picture: Image.Image, **kwargs) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **kwargs)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_pixel_values_equal_the_release(golden_pictures, pixel_values):
    pil = LavitImageProcessorPil(size={"height": 112, "width": 112})(golden_pictures, return_tensors="pt").pixel_values
    torchvision = LavitImageProcessor(size=112)(golden_pictures, return_tensors="pt").pixel_values
    assert pil.dtype == torchvision.dtype == torch.float32
    # The goldens were made with Pillow 13, which shrinks picture 1 vertically first; others go horizontally first.
    tall, others = [1], [0, 2, 3]
    torch.testing.assert_close(pil[others], pixel_values[others], atol=1e-5, rtol=0)
    torch.testing.assert_close(torchvision[others], pixel_values[others], atol=0.02, rtol=0)
    new_pillow = int(PIL.__version__.split(".")[0]) >= 13
    torch.testing.assert_close(pil[tall], pixel_values[tall], atol=1e-5 if new_pillow else 0.08, rtol=0)
    torch.testing.assert_close(torchvision[tall], pixel_values[tall], atol=0.06, rtol=0)


TRANSPARENT_PALETTE = Image.new("P", (5, 5))
TRANSPARENT_PALETTE.putpalette([10, 20, 30] + [0] * 765)


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (Image.new("L", (5, 4), 128), GREY),
        (Image.new("1", (5, 4), 1), WHITE),
        (Image.new("CMYK", (5, 4)), WHITE),
        (Image.new("LA", (5, 4), (0, 0)), WHITE),
        (Image.new("RGBA", (5, 4), (0, 0, 0, 0)), WHITE),
        (opened(png(TRANSPARENT_PALETTE, transparency=0)), WHITE),
        (opened(png(Image.new("RGB", (5, 4)), transparency=(0, 0, 0))), WHITE),
        (opened(png(Image.fromarray(np.full((4, 5), 128 * 257, np.uint16)))), GREY),
        (Image.new("RGB", (1, 1), (128, 128, 128)), GREY),
        (Image.new("RGB", (20000, 10)), BLACK),
        (np.full((4, 5), 128, np.uint8), GREY),
        (np.full((6, 5, 3), 128, np.float32), GREY),
        (np.zeros((6, 5, 4), np.uint8), WHITE),
        (torch.full((1, 4, 5), 128, dtype=torch.uint8), GREY),
    ],
)
def test_unusual_pictures(image_processor, picture, colour):
    values = image_processor(picture, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 8, 8)
    torch.testing.assert_close(values, colour.view(1, 3, 1, 1).expand(1, 3, 8, 8), atol=1e-5, rtol=0)


def test_sources_and_nesting_give_the_same_pixels(image_processor, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8))
    path = tmp_path / "picture.png"
    path.write_bytes(png(picture))
    url = "data:image/png;base64," + base64.b64encode(png(picture)).decode()
    values = image_processor([[picture, str(path)], [], [path, url]], return_tensors="pt").pixel_values
    assert values.shape[0] == 4
    assert all(torch.equal(value, values[0]) for value in values)


def test_photos_are_read_upright(image_processor):
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # rotate by 270 degrees to see it upright
    photo = opened(png(upright.transpose(Image.Transpose.ROTATE_90), exif=exif))
    values = image_processor([photo, upright], return_tensors="pt").pixel_values
    assert torch.equal(values[0], values[1])


def animation() -> bytes:
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 90, 180)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (lambda: opened(animation()), r"Picture 1 has 3 frames; .*seek"),
        (lambda: opened(png(Image.effect_noise((64, 64), 50))[:900]), "Picture 1 cannot be read: .*truncated"),
        (lambda: "no/such/file.png", "Picture 1 .'no/such/file.png'. cannot be read: .*No such file"),
        (lambda: __file__, "Picture 1 .*cannot be read: cannot identify"),
        (lambda: "data:image/png;base64,AAAA", "Picture 1 .*cannot be read"),
        (lambda: None, "Picture 1 is of type NoneType; expected"),
        (lambda: Image.new("F", (4, 4)), "Picture 1 has mode 'F'"),
        (lambda: np.zeros((4, 4), np.uint16), "Picture 1 has dtype uint16; expected uint8"),
        (lambda: torch.zeros(4), r"Picture 1 has shape \(4,\); expected"),
    ],
)
def test_errors_name_the_picture_and_the_reason(image_processor, picture, message):
    with pytest.raises(ValueError, match=message):
        image_processor([Image.new("RGB", (4, 4)), picture()])


def test_one_frame_of_an_animation_is_a_picture(image_processor):
    frames = opened(animation())
    frames.seek(1)
    assert image_processor(frames.copy(), return_tensors="pt").pixel_values.shape == (1, 3, 8, 8)
