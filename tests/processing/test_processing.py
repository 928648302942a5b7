# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer, CLIPImageProcessor, SiglipImageProcessor

from lavit_hf.processing import (
    ImageSegment,
    LavitImageProcessor,
    LavitImageProcessorPil,
    LavitProcessor,
    TextSegment,
)

from .conftest import CODEBOOK_SIZE
from .images import shades, user


def test_one_image(processor, images):
    inputs = processor(text="<image>", images=images[0], return_tensors="pt")
    marks = [processor.image_start_token_id, processor.image_token_id, processor.image_end_token_id]
    assert inputs.input_ids.tolist() == [marks]
    assert inputs.attention_mask.tolist() == [[1, 1, 1]]
    assert inputs.pixel_values.shape == (1, 3, 16, 16)
    assert set(inputs) == set(processor.model_input_names)
    assert processor(images=images[0], return_tensors="pt").input_ids.tolist() == [marks]


@pytest.mark.parametrize(
    ("text", "drawing_image_markers", "expected"),
    [
        ("<image>a", True, "[IMG]<image>[/IMG]a"),
        ("[IMG]<image>[/IMG]a<image>", True, "[IMG]<image>[/IMG]a[IMG]<image>[/IMG]"),
        ("[IMG]<image>a", True, "[IMG]<image>[/IMG]a"),
        ("<image>a", False, "<image>a"),
        ("[IMG]<image>[/IMG]a<image>", False, "[IMG]<image>[/IMG]a<image>"),
    ],
)
def test_image_markers(processor, images, text, drawing_image_markers, expected):
    processor = LavitProcessor(
        processor.image_processor, processor.tokenizer, drawing_image_markers=drawing_image_markers
    )
    inputs = processor(text=text, images=images[: text.count("<image>")], generation_mode="image")
    assert processor.tokenizer.decode(inputs.input_ids[0]) == expected


def test_marks_in_prompts_of_drawings(processor, images):
    call = {"text": "<image>a", "images": images[0]}
    release = LavitProcessor(processor.image_processor, processor.tokenizer, drawing_image_markers=False)
    assert release(**call, generation_mode="image").input_ids[0][0] == processor.image_token_id
    for generation_mode in ("text", "image"):
        assert processor(**call, generation_mode=generation_mode).input_ids == processor(**call).input_ids
    assert release(**call).input_ids == processor(**call).input_ids
    assert release(text="a", generation_mode="image").input_ids == processor(text="a").input_ids


def test_samples_with_no_one_and_several_images(processor, images):
    text = ["a <image> dog<image>", "a photo", "<image> of"]
    nested = processor(text=text, images=[[images[2], images[0]], [], images[1]], return_tensors="pt")
    assert shades(nested) == [2, 0, 1]
    assert (nested.input_ids == processor.image_token_id).sum(1).tolist() == [2, 0, 1]
    assert nested.attention_mask[:, -1].tolist() == [1, 1, 1]  # padded on the left
    text = [*text, "a photo"]
    dealt = processor(text=text, images=[images[2], images[0], images[1]], return_tensors="pt")
    assert shades(dealt) == [2, 0, 1]
    for row, sample in enumerate(text[:3]):
        given = [[images[2], images[0]], None, images[1]][row]
        single = processor(text=sample, images=given, return_tensors="pt")
        assert nested.input_ids[row][nested.attention_mask[row] == 1].tolist() == single.input_ids[0].tolist()


def test_text_defaults_to_captions(processor, images):
    assert processor(images=images, return_tensors="pt").input_ids.shape == (5, 3)
    nested = processor(images=[images[:2], images[2:3]], return_tensors="pt")
    assert nested.input_ids.shape == (2, 6)
    batch = processor(images=torch.zeros(2, 3, 9, 9, dtype=torch.uint8), return_tensors="pt")
    assert batch.pixel_values.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("images", [None, [], [[], []]])
def test_no_images(processor, images):
    inputs = processor(text=["a", "a photo of a dog"], images=images, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("text", "counts", "message"),
    [
        ("<image>", 0, "The texts have 1 <image> placeholders, but 0 images"),
        ("<image>", 2, "The texts have 1 <image> placeholders, but 2 images"),
        (["<image>", "a"], 2, "The texts have 1 <image> placeholders, but 2 images"),
        (["<image>", "<image>", "<image>"], 2, "The texts have 3 <image> placeholders, but 2 images"),
        (["<image>", "<image><image>"], [2, 1], r"The texts have \[1, 2\] <image> placeholders, but \[2, 1\] images"),
        (["<image>", "<image>"], [1], r"The texts have \[1, 1\] <image> placeholders, but \[1\] images"),
        ([], 1, r"text must be a string or a non-empty list of strings, got '\[\]'"),
        ([3], 1, r"text must be a string or a non-empty list of strings, got '\[3\]'"),
        (None, 0, "needs text or images, got neither"),
    ],
)
def test_mismatches(processor, images, text, counts, message):
    images = [images[:count] for count in counts] if isinstance(counts, list) else images[:counts]
    with pytest.raises(ValueError, match=message):
        processor(text=text, images=images)


TYPED = ["is <image> a tag?", "a [IMG] circle", "[/IMG]", "<code_3> and <code_3>", "</s><|end|>", "[IMG]<image>[/IMG]"]


TYPED += ["<[IMG]image>", "<<code_3>image>"]  # a placeholder only once the special token in it is cut out


@pytest.mark.parametrize("typed", TYPED)
def test_what_a_person_types_is_text(processor, images, typed):
    """In a chat, and in a prompt that is escaped: no special token but those of the template and of images."""
    special = set(range(processor.image_start_token_id, processor.image_token_id + 1))
    special |= {processor.tokenizer.eos_token_id}
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    image = {"type": "image", "image": images[0]}
    inputs = processor.apply_chat_template([user(image, typed)], **kwargs)
    marks = [processor.image_start_token_id, processor.image_token_id, processor.image_end_token_id]
    for ids in (
        inputs.input_ids[0],
        processor(text=f"<image>{processor.escape(typed)}", images=images[0]).input_ids[0],
    ):
        ids = torch.as_tensor(ids).tolist()
        assert [token for token in ids if token in special] == marks
        assert typed in processor.tokenizer.decode(ids)
    alone = processor(text=processor.escape(typed)).input_ids[0]
    assert not special & set(alone)
    split = processor(text=typed, split_special_tokens=True).input_ids[0]
    assert split == alone
    with pytest.raises(ValueError, match="nor does return_assistant_tokens_mask"):
        processor.apply_chat_template([user(image, typed)], return_assistant_tokens_mask=True, **kwargs)
    with pytest.raises(ValueError, match="return_length does not go with texts in which special tokens are escaped"):
        processor(text=["a", processor.escape(typed)], return_length=True)


def test_truncated_placeholders_are_refused(processor, images):
    """A method of transformers without a public name tells it."""
    with pytest.raises(ValueError, match="Mismatch in `image` token count"):
        processor(text="a photo of a dog<image>", images=images[0], truncation=True, max_length=3)


def test_marks_of_a_developer_are_what_they_say(processor):
    ids = processor(text="a [IMG]<code_3>").input_ids[0]
    assert ids[-2:] == [processor.image_start_token_id, processor.visual_token_offset + 3]


@pytest.mark.parametrize("text", [["<image><image>x", "y"], ["x", "<image><image>"], ["<image>x", "<image>y"]])
def test_a_flat_list_is_dealt_out_by_placeholders(processor, images, text):
    inputs = processor(text=text, images=[images[3], images[1]], return_tensors="pt")
    assert shades(inputs) == [3, 1]
    counts = (inputs.input_ids == processor.image_token_id).sum(1).tolist()
    assert counts == [sample.count("<image>") for sample in text]


def test_empty_texts(processor):
    inputs = processor(text="", return_tensors="pt")
    assert inputs.input_ids.shape == (1, 0)
    assert inputs.input_ids.dtype == inputs.attention_mask.dtype == torch.int64
    batch = processor(text=["", "a"], return_tensors="pt")
    assert batch.attention_mask.tolist() == [[0], [1]]


@pytest.mark.parametrize("arguments", [{"imges": 1}, {"generation_modes": "image"}, {"selection": "sample"}])
def test_unknown_arguments(processor, arguments):
    with pytest.raises(TypeError, match=next(iter(arguments))):
        processor(text="a", **arguments)


def test_arguments_of_other_kinds_of_input_are_taken(processor, images):
    """As transformers' processors take them: clients of many kinds of models pass the same to each."""
    chat = [user({"type": "image", "image": images[1]}, "what?")]
    given = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    others = {"num_frames": 2, "fps": None, "sampling_rate": 16000}
    expected = processor.apply_chat_template(chat, **given)
    inputs = processor.apply_chat_template(chat, **given, processor_kwargs=others)
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_lone_surrogates(processor):
    with pytest.raises(ValueError, match="Text 1 has a lone surrogate, .* at position 2"):
        processor(text=["a", "b \ud83d c"])


def to_ids(processor, segments) -> list[int]:
    ids = []
    for segment in segments:
        if isinstance(segment, TextSegment):
            ids += processor.tokenizer(segment.text, add_special_tokens=False).input_ids
        else:
            codes = [processor.visual_token_offset + code for code in segment.codes]
            ids += [processor.image_start_token_id, *codes, *[processor.image_end_token_id] * segment.complete]
    return ids


texts = st.builds(TextSegment, st.text("ab é\n🎈", min_size=1))


image_segments = st.builds(ImageSegment, st.lists(st.integers(0, CODEBOOK_SIZE - 1)), st.booleans())


@settings(deadline=None)
@given(segments=st.lists(st.one_of(texts, image_segments), max_size=6), pads=st.integers(0, 2))
def test_decode_interleaved_inverts_encoding(processor, segments, pads):
    both_texts = [isinstance(a, TextSegment) and isinstance(b, TextSegment) for a, b in pairwise(segments)]
    assume(not any(both_texts))  # two texts in a row are one text
    padding = [processor.tokenizer.pad_token_id] * pads
    ids = padding + to_ids(processor, segments) + padding
    assert processor.decode_interleaved(ids) == segments
    assert processor.batch_decode_interleaved(torch.tensor([ids], dtype=torch.long)) == [segments]


def test_decode_interleaved_with_and_without_marks(processor):
    start, end, offset = processor.image_start_token_id, processor.image_end_token_id, processor.visual_token_offset
    dog = processor.tokenizer("dog", add_special_tokens=False).input_ids
    cases = [
        (
            [offset, offset + 7, *dog],
            [ImageSegment([0, 7], False), TextSegment("dog")],
        ),  # the image of a drawing prompt
        ([offset + 1, end, end, end], [ImageSegment([1], True)]),  # generated after an [IMG] of the prompt
        ([*dog, start, end, start, offset], [TextSegment("dog"), ImageSegment([], True), ImageSegment([0], False)]),
        ([start, offset, *dog, offset], [ImageSegment([0], False), TextSegment("dog"), ImageSegment([0], False)]),
        ([end], []),
        ([], []),
    ]
    for ids, expected in cases:
        assert processor.decode_interleaved(ids) == expected
    image = processor.image_token_id
    given = [start, image, image, image, end, *dog, image, start, offset]
    assert processor.decode_interleaved(given) == [
        ImageSegment(None, True),
        TextSegment("dog"),
        ImageSegment(None, False),
        ImageSegment([0], False),
    ]
    eos = processor.tokenizer.eos_token_id
    assert processor.decode_interleaved([*dog, eos]) == [TextSegment("dog")]
    assert processor.decode_interleaved([*dog, eos], skip_special_tokens=False) == [TextSegment("dog<|end|>")]


def test_decode_interleaved_errors(processor):
    size = len(processor.tokenizer)
    with pytest.raises(ValueError, match=f"Id {size} is outside the vocabulary of {size} tokens"):
        processor.decode_interleaved([size])
    with pytest.raises(ValueError, match="Id -100 is outside"):
        processor.decode_interleaved([-100])
    with pytest.raises(ValueError, match="one sequence of integer ids"):
        processor.decode_interleaved(torch.zeros(2, 3, dtype=torch.long))


def test_pipelines_get_text_without_codes(processor):
    ids = to_ids(processor, [ImageSegment([1, 2], True), TextSegment("a dog")])
    assert processor.post_process_image_text_to_text(torch.tensor([ids])) == ["a dog"]


def test_vocabulary_of_the_release(release_processor):
    names = ("image_start_token_id", "image_end_token_id", "visual_token_offset", "codebook_size", "image_token_id")
    assert [getattr(release_processor, name) for name in names] == [32000, 32001, 32002, 16384, 48386]


def test_tokenizer_without_images_is_refused(byte_level_tokenizer):
    with pytest.raises(ValueError, match="has no `image_start_token`"):
        LavitProcessor(LavitImageProcessor(), byte_level_tokenizer)


def test_from_backbones(byte_level_tokenizer, tmp_path):
    def build(vision, **kwargs):
        kwargs = {"text": byte_level_tokenizer, "codebook_size": 4, **kwargs}
        return LavitProcessor.from_backbones(vision=vision, **kwargs).image_processor

    CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=32, image_mean=[0.5] * 3).save_pretrained(tmp_path)
    clip = build(str(tmp_path))
    assert (clip.size.height, clip.size.width, clip.image_mean) == (32, 32, (0.5, 0.5, 0.5))
    siglip = build(SiglipImageProcessor(), image_size={"height": 16, "width": 24}, image_std=[0.1] * 3)
    assert (siglip.size.height, siglip.size.width, siglip.image_std) == (16, 24, (0.1, 0.1, 0.1))
    assert build(None, image_size=48).size.height == 48
    unusual = CLIPImageProcessor(do_normalize=False, do_rescale=False, rescale_factor=1 / 127.5)
    assert [getattr(build(unusual), name) for name in ("do_normalize", "do_rescale")] == [False, False]
    assert build(unusual).rescale_factor == unusual.rescale_factor
    with pytest.raises(ValueError, match="No image size is known for vision=None"):
        build(None)


def test_save_and_load(processor, images, tmp_path):
    processor = LavitProcessor(processor.image_processor, processor.tokenizer, drawing_image_markers=False)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is LavitProcessor
    assert type(loaded.image_processor) is LavitImageProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.chat_template == processor.chat_template
    call = {"text": "a <image>dog", "images": images[2], "generation_mode": "image", "return_tensors": "pt"}
    before, after = processor(**call), loaded(**call)
    assert processor.image_start_token_id not in after.input_ids
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert AutoTokenizer.from_pretrained(tmp_path).image_token_id == processor.image_token_id
    pil = AutoProcessor.from_pretrained(tmp_path, backend="pil").image_processor
    assert type(pil) is LavitImageProcessorPil
    assert pil.size == processor.image_processor.size


REMOTE = """
import sys
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = processor(text="<image>", images=Image.new("RGB", (4, 4)), return_tensors="pt")
print(inputs.input_ids.tolist(), list(inputs.pixel_values.shape), "lavit_hf" in sys.modules)
"""


def test_saved_code_runs_without_this_package(processor, tmp_path):
    processor.save_pretrained(tmp_path / "repository")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", REMOTE, str(tmp_path / "repository")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    ids = processor(text="<image>", images=torch.zeros(3, 5, 5, dtype=torch.uint8)).input_ids
    assert result.stdout.strip() == f"{ids} [1, 3, 16, 16] False", result.stderr
