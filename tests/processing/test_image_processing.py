# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import os
import subprocess
import sys

import numpy as np
import PIL
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, ViTConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lavit_hf.processing import LavitImageProcessor, LavitImageProcessorPil
from lavit_hf.processing.image_processing_lavit import new_image_processor


WHITE = (1 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
BLACK = -torch.tensor(OPENAI_CLIP_MEAN) / torch.tensor(OPENAI_CLIP_STD)
NEW_PILLOW = int(PIL.__version__.split(".")[0]) >= 13  # shrinks the height of tall images first
GREY = (128 / 255 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)


@pytest.fixture(params=[LavitImageProcessor, LavitImageProcessorPil])
def image_processor(request):
    return request.param(size={"height": 8, "width": 8})


@pytest.fixture(scope="module")
def pixel_values(golden_folder) -> torch.Tensor:
    return load_file(golden_folder / "goldens.safetensors")["pixel_values"]


def test_pixel_values_equal_the_release(golden_images, pixel_values):
    pil = LavitImageProcessorPil(size={"height": 112, "width": 112})(golden_images, return_tensors="pt").pixel_values
    torchvision = LavitImageProcessor(size=112)(golden_images, return_tensors="pt").pixel_values
    assert pil.dtype == torchvision.dtype == torch.float32
    # The goldens were made with Pillow 13, which shrinks image 1 vertically first; others go horizontally first.
    tall, others = [1], [0, 2, 3]
    torch.testing.assert_close(pil[others], pixel_values[others], atol=1e-5, rtol=0)
    torch.testing.assert_close(torchvision[others], pixel_values[others], atol=0.02, rtol=0)
    torch.testing.assert_close(pil[tall], pixel_values[tall], atol=1e-5 if NEW_PILLOW else 0.08, rtol=0)
    torch.testing.assert_close(torchvision[tall], pixel_values[tall], atol=0.06, rtol=0)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (5, 4), 128), GREY),
        (Image.new("1", (5, 4), 1), WHITE),
        (Image.new("RGBA", (5, 4), (0, 0, 0, 0)), WHITE),
        (Image.new("RGB", (1, 1), (128, 128, 128)), GREY),
        (Image.new("RGB", (20000, 10)), BLACK),
        (np.full((4, 5), 128, np.uint8), GREY),
        (np.full((6, 5, 3), 128 / 255, np.float32), GREY),
        (np.ones((6, 5, 3), np.float64), WHITE),
        (np.zeros((6, 5, 4), np.uint8), WHITE),
        (np.zeros((6, 5, 4), np.float16), WHITE),
        (torch.full((1, 4, 5), 128, dtype=torch.uint8), GREY),
        (torch.full((3, 4, 5), 128 / 255, dtype=torch.bfloat16), GREY),
        (torch.zeros(3, 1, 5, requires_grad=True), BLACK),
        (torch.tensor(-0.0009).expand(3, 1, 5), BLACK),  # rounding errors around the ends of the range
        (torch.tensor(1.0009).expand(3, 1, 5), WHITE),
    ],
)
def test_unusual_images(image_processor, image, colour):
    values = image_processor(image, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 8, 8)
    torch.testing.assert_close(values, colour.view(1, 3, 1, 1).expand(1, 3, 8, 8), atol=1e-5, rtol=0)


SIDES = (2, 5, 6, 7, 30)  # none that can be taken for a number of channels
LEVEL = 1 / 255 / min(OPENAI_CLIP_STD)
DTYPES = (
    np.uint8,
    np.float16,
    np.float32,
    np.float64,
    ">f4",
    torch.uint8,
    torch.bfloat16,
    torch.float16,
    torch.float32,
)


@st.composite
def arrays(draw):
    """An array of any dtype, layout and memory, with the image file that holds the same."""
    height, width = draw(st.sampled_from(SIDES)), draw(st.sampled_from(SIDES))
    channels, dtype = draw(st.sampled_from((1, 3, 4))), draw(st.sampled_from(DTYPES))
    highest = draw(st.sampled_from((1, 30, 255)))  # 1: almost black, whatever the dtype
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pixels = rng.integers(0, highest, (height, width, channels), endpoint=True).astype(np.uint8)
    if draw(st.booleans()):
        pixels[:] = pixels[:1, :1]
    floating = dtype not in (np.uint8, torch.uint8)
    values = pixels.astype(np.float64) / 255 if floating else pixels
    values = torch.from_numpy(values).to(dtype) if isinstance(dtype, torch.dtype) else values.astype(dtype)
    if floating:  # what few bits round to
        known = values.double().numpy() if isinstance(dtype, torch.dtype) else values.astype(np.float64)
        pixels = np.rint(known * 255).astype(np.uint8)
    layout = draw(st.sampled_from(("HWC", "CHW", "HW") if channels == 1 else ("HWC", "CHW")))
    if isinstance(dtype, torch.dtype):
        values = values.permute(2, 0, 1) if layout == "CHW" else values
    else:
        values = values.transpose(2, 0, 1) if layout == "CHW" else values
        if draw(st.booleans()):
            values = values[::-1, :, ::-1].copy()[::-1, :, ::-1]  # negative strides
        values.flags.writeable = draw(st.booleans())
    values = values[..., 0] if layout == "HW" else values
    return values, Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def nest(draw, images: list):
    """The images as lists in lists, in their order."""
    if len(images) > 1 and draw(st.booleans()):
        cut = draw(st.integers(0, len(images)))
        return [nest(draw, images[:cut]), tuple(nest(draw, images[cut:]))]
    return images


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_an_array_is_the_image_that_a_file_of_it_holds(data):
    """Property: dtype, layout, memory, nesting and backend change nothing, and no image changes another."""
    cases = data.draw(st.lists(arrays(), min_size=1, max_size=4))
    images = nest(data.draw, [values for values, _ in cases])
    size = {"height": data.draw(st.sampled_from(SIDES)), "width": data.draw(st.sampled_from(SIDES))}
    files = [LavitImageProcessorPil(size=size)(file, return_tensors="pt").pixel_values for _, file in cases]
    for do_rescale in (True, False):
        kwargs = {"do_rescale": do_rescale, "return_tensors": "pt"}
        scale_is_mixed = len({values.dtype in (np.uint8, torch.uint8) for values, _ in cases}) > 1
        if not do_rescale and (scale_is_mixed or cases[0][0].dtype in (np.uint8, torch.uint8)):
            continue
        pil = LavitImageProcessorPil(size=size)(images, **kwargs).pixel_values
        torchvision = LavitImageProcessor(size=size)(images, **kwargs).pixel_values
        torch.testing.assert_close(pil, torch.cat(files), atol=1e-5, rtol=0)
        if NEW_PILLOW:
            torch.testing.assert_close(torchvision, pil, atol=2 * LEVEL + 1e-5, rtol=0)
        else:
            as_arrays = [np.asarray(file) for _, file in cases]
            expected = LavitImageProcessor(size=size)(as_arrays, return_tensors="pt").pixel_values
            torch.testing.assert_close(torchvision, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("processor", [LavitImageProcessor(), LavitImageProcessorPil()], ids=lambda p: p.backend)
def test_a_batch_is_its_images(processor):
    batch = torch.rand(3, 3, 6, 5)
    expected = torch.cat([processor(image, return_tensors="pt").pixel_values for image in batch])
    for images in (batch, batch.numpy(), list(batch), [batch[:1], batch[1:]], batch.permute(0, 2, 3, 1)):
        assert torch.equal(processor(images, return_tensors="pt").pixel_values, expected)


def test_what_the_model_draws_goes_back_as_it_is(image_processor):
    """`decode_image_tokens` gives floats in [0, 1], the pipeline of diffusers the same as PIL images."""
    pixels = torch.rand(2, 3, 9, 7)
    files = VaeImageProcessor.numpy_to_pil(pixels.permute(0, 2, 3, 1).numpy())
    expected = image_processor(files, return_tensors="pt").pixel_values
    assert torch.equal(image_processor(pixels, return_tensors="pt").pixel_values, expected)
    unscaled = image_processor(pixels, do_rescale=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(unscaled, expected, atol=1e-6, rtol=0)


def test_without_rescaling_each_range_stays(image_processor):
    kwargs = {"do_rescale": False, "do_normalize": False, "do_resize": False, "return_tensors": "pt"}
    levels = torch.arange(48, dtype=torch.uint8).view(3, 2, 8)
    assert torch.equal(image_processor(levels, **kwargs).pixel_values[0].byte(), levels)
    values = image_processor(levels / 255, **kwargs).pixel_values[0]
    torch.testing.assert_close(values, levels / 255, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"Image 1 is in 0\.\.255 and image 0 in \[0, 1\], .*do_rescale=False"):
        image_processor([levels / 255, levels], **kwargs)


def test_ambiguous_layouts_are_refused_unless_told(image_processor):
    """3 x W x 3: three rows of RGB, or three channels of three columns."""
    pixels = torch.arange(45, dtype=torch.uint8).view(3, 5, 3)
    kwargs = {"do_resize": False, "do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    for image in (pixels, pixels.numpy(), pixels / 255):
        with pytest.raises(ValueError, match=r"Image 1 has shape \(3, 5, 3\), which can be \(C, H, W\) as well as"):
            image_processor([torch.zeros(3, 5, 6), image])
    first = image_processor(pixels, input_data_format="channels_first", **kwargs).pixel_values
    last = image_processor(pixels, input_data_format="channels_last", **kwargs).pixel_values
    assert torch.equal(first[0], pixels)
    assert torch.equal(last[0], pixels.permute(2, 0, 1))
    one_pixel = np.array([[[1, 2, 3]]], np.uint8)
    assert image_processor(one_pixel, input_data_format="channels_last", **kwargs).pixel_values.flatten().tolist() == [
        1,
        2,
        3,
    ]
    with pytest.raises(ValueError, match=r"Image 0 has shape \(6, 5, 3\), which is not channels_first"):
        image_processor(torch.zeros(6, 5, 3), input_data_format="channels_first")
    with pytest.raises(ValueError, match="middle"):
        image_processor(pixels, input_data_format="middle")


def test_channels_are_kept_where_asked(image_processor):
    rgba = np.arange(120, dtype=np.uint8).reshape(5, 6, 4)
    kwargs = {"do_convert_rgb": False, "do_resize": False, "do_rescale": False, "do_normalize": False}
    for image in (rgba, Image.fromarray(rgba)):
        kept = image_processor(image, return_tensors="pt", **kwargs).pixel_values[0]
        assert np.array_equal(kept.permute(1, 2, 0), rgba)
    with pytest.raises(ValueError, match="Image 0 has 4 channels, but image_mean is"):
        image_processor(rgba, do_convert_rgb=False)
    with pytest.raises(ValueError, match="Image 0 has 1 channels, but image_std is"):
        image_processor(Image.new("L", (4, 4)), do_convert_rgb=False, image_mean=0.5)
    with pytest.raises(ValueError, match="Image 0 has mode 'P'; without `do_convert_rgb` expected L, RGB or RGBA"):
        image_processor(Image.new("P", (4, 4)), **kwargs)


NOT_A_NUMBER = torch.zeros(3, 4, 5).index_fill(1, torch.tensor(2), torch.nan)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 4, 5), 128.0), r"is float32 with values from 128 to 128, .* \[0, 1\]"),
        (np.linspace(0, 255, 60).reshape(4, 5, 3), r"is float64 with values from 0 to 255"),
        (np.linspace(-1, 1, 60).reshape(4, 5, 3), r"is float64 with values from -1 to 1"),
        (torch.full((3, 4, 5), 2, dtype=torch.bfloat16), "is bfloat16 with values from 2 to 2"),
        (torch.full((3, 4, 5), torch.inf), "is float32 with values from inf to inf"),
        (-np.full((4, 5, 3), np.inf, np.float16), "is float16 with values from -inf to -inf"),
        (NOT_A_NUMBER, r"has values that are not numbers \(NaN\)"),
        (NOT_A_NUMBER.half(), "has values that are not numbers"),
        (NOT_A_NUMBER.numpy(), "has values that are not numbers"),
        (np.zeros((4, 5, 3), np.uint16), "has dtype uint16; expected uint8 in 0..255, or floating in"),
        (np.zeros((4, 5, 3), np.int64), "has dtype int64"),
        (torch.zeros(3, 4, 5, dtype=torch.long), "has dtype int64"),
        (np.zeros((4, 5), bool), "has dtype bool"),
        (torch.zeros(4, 5, dtype=torch.bool), "has dtype bool"),
        (np.zeros((4, 5, 3), np.complex64), "has dtype complex64"),
        (np.zeros((4, 5, 3), object), "has dtype object"),
        (np.array(["a"]), "has dtype <U1"),
        (torch.zeros(4), r"has shape \(4,\); expected \(H, W\), \(H, W, C\) or \(C, H, W\)"),
        (torch.tensor(0.5), r"has shape \(\); expected"),
        (np.zeros((6, 5, 2), np.uint8), r"has shape \(6, 5, 2\); expected .* 1, 3 or 4 channels"),
        (np.zeros((5, 6, 7)), r"has shape \(5, 6, 7\); expected"),
        (torch.zeros(1, 1, 3, 5, 6), r"has shape \(1, 1, 3, 5, 6\); expected"),
        (np.zeros((0, 5, 3), np.uint8), r"has no pixels: its shape is \(0, 5, 3\)"),
        (torch.zeros(3, 5, 0), r"has no pixels: its shape is \(3, 5, 0\)"),
        (torch.zeros(0), r"has no pixels"),
        ([0, 1], "is of type int; expected a PIL image"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_arrays_that_are_no_images_are_named(image_processor, image, message, nested):
    fine = [Image.new("RGB", (4, 4)), torch.zeros(2, 3, 5, 6)]
    images = [fine, [image]] if nested else [*fine, image]
    with pytest.raises(ValueError, match=rf"^Image 3 {message}"):
        image_processor(images)


@pytest.mark.parametrize("images", [[], [[], []], (), torch.zeros(0, 3, 4, 5)])
def test_no_images_are_told(image_processor, images):
    with pytest.raises(ValueError, match="No images were given"):
        image_processor(images)


def test_unknown_arguments_are_refused(image_processor):
    with pytest.raises(TypeError, match="selecton"):
        image_processor(Image.new("RGB", (4, 4)), selecton=1)
    with pytest.raises(TypeError, match="unknown arguments: sise"):
        type(image_processor)(sise=8)
    with pytest.raises(ValueError, match="data_format"):
        image_processor(Image.new("RGB", (4, 4)), data_format="channels_last")
    saved = image_processor.to_dict()
    assert type(image_processor).from_dict(saved).to_dict() == saved


def test_an_attribute_of_ones_own_is_saved_and_loaded(image_processor, tmp_path):
    """As in transformers: a file of another version, or of another library, may have entries that are no arguments."""
    image_processor.note = "pixels of the first flight"
    image_processor.save_pretrained(tmp_path)
    loaded = type(image_processor).from_pretrained(tmp_path, size={"height": 8, "width": 6})
    assert (loaded.note, loaded.size.height) == (image_processor.note, 8)
    loaded, unused = type(image_processor).from_dict(image_processor.to_dict(), return_unused_kwargs=True)
    assert (loaded.to_dict(), unused) == (image_processor.to_dict(), {})


REMOTE = """
import sys
sys.modules["torchvision"] = None  # cannot be imported
from transformers import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(processor).__name__, processor(sys.argv[2], return_tensors="pt").pixel_values.flatten().tolist())
assert "lavit_hf" not in sys.modules
"""


def test_each_backend_is_saved_with_both(image_processor, tmp_path):
    """Files of either load as either, and without torchvision and this package as the other."""
    image_processor.save_pretrained(tmp_path)
    for backend, loaded_class in (("torchvision", LavitImageProcessor), ("pil", LavitImageProcessorPil)):
        loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        assert type(loaded) is loaded_class
        assert loaded.to_dict() == image_processor.to_dict()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    Image.effect_noise((9, 7), 90).save(tmp_path / "image.png")
    command = [sys.executable, "-c", REMOTE, str(tmp_path), str(tmp_path / "image.png")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    expected = LavitImageProcessorPil(size=8)(tmp_path / "image.png", return_tensors="pt").pixel_values
    assert result.stdout == f"LavitImageProcessorPil {expected.flatten().tolist()}\n", result.stderr


def test_a_configuration_of_a_vision_tower_gives_the_size():
    processor = new_image_processor(ViTConfig(image_size=48))
    assert (processor.size.height, processor.size.width) == (48, 48)
    assert new_image_processor(ViTConfig(image_size=48), image_size=32).size.height == 32
