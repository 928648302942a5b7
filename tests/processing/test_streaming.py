# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Text and images as `generate` makes them."""

from queue import Empty
from threading import Thread

import pytest
import torch
from PIL import Image
from transformers import LogitsProcessorList

from lavit_hf import ImageSegment, LavitIteratorStreamer, StreamedImage, TextSegment
from lavit_hf.processing.streaming_lavit import stream as stream_in_thread

from ..modeling.test_interleaved import OpenOften
from ..training.small import make_model, make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def model(processor):
    return make_model(processor)


def stream(model, streamer, prompt, **settings) -> tuple[list, torch.Tensor]:
    """The pieces of one generation in a thread of its own, and its ids."""
    result = {}

    def generate():
        result["ids"] = model.generate(**prompt, **settings, streamer=streamer)

    thread = Thread(target=generate)
    thread.start()
    pieces = list(streamer)
    thread.join()
    return pieces, result["ids"][0]


def join(pieces: list) -> list[TextSegment | ImageSegment]:
    """Text put together again, and the last state of each image."""
    joined = []
    for piece in pieces:
        is_open = bool(joined) and isinstance(joined[-1], ImageSegment) and not joined[-1].complete
        if isinstance(piece, TextSegment) and joined and isinstance(joined[-1], TextSegment):
            joined[-1] = TextSegment(joined[-1].text + piece.text)
        elif isinstance(piece, ImageSegment) and is_open:
            assert piece.codes[: len(joined[-1].codes)] == joined[-1].codes
            joined[-1] = piece
        elif not isinstance(piece, StreamedImage):
            joined.append(piece)
    return joined


def paint(codes: list[int]) -> Image.Image:
    return Image.new("L", (len(codes), 1), codes[-1])


@pytest.mark.parametrize("mode", ["text", "image", "interleaved"])
def test_pieces_are_what_is_generated(model, processor, mode):
    torch.manual_seed(3)
    settings = {"generation_mode": mode, "do_sample": True, "max_new_tokens": 60, "guidance_scale": 1.0}
    prompt = processor(text="red above blue", return_tensors="pt")
    often = LogitsProcessorList([OpenOften(3.0, processor.image_start_token_id)])
    for whole in (False, True):
        streamer = LavitIteratorStreamer(processor, skip_prompt=not whole)
        pieces, ids = stream(model, streamer, prompt, **settings, logits_processor=often)
        written = ids if whole else ids[prompt["input_ids"].shape[1] :]
        expected = processor.decode_interleaved(written)
        assert join(pieces) == expected
        assert len(pieces) > len(expected)


def test_images_and_previews(model, processor):
    streamer = LavitIteratorStreamer(processor, decode_image=paint, preview_every=3)
    prompt = processor(text="red above blue", return_tensors="pt")
    for _ in range(2):  # it can be used again
        settings = {"generation_mode": "image", "min_new_tokens": 8, "max_new_tokens": 18}
        pieces, ids = stream(model, streamer, prompt, **settings)
        codes = processor.decode_interleaved(ids)[-1].codes
        images = [piece for piece in pieces if isinstance(piece, StreamedImage)]
        lengths = [*range(3, len(codes) + 1, 3), len(codes)]
        assert [piece.image.width for piece in images] == lengths
        assert [piece.complete for piece in images] == [False] * (len(lengths) - 1) + [True]
        assert pieces[-1].image.tobytes() == paint(codes).tobytes()


def test_a_streamer_after_an_early_close(model, processor):
    """It gives nothing of the sequence that was left."""
    streamer = LavitIteratorStreamer(processor)
    settings = {"do_sample": False, "min_new_tokens": 12, "max_new_tokens": 12}
    left = stream_in_thread(model, streamer, **processor(text="blue above red", return_tensors="pt"), **settings)
    next(left)
    left.close()
    prompt = processor(text="red above blue", return_tensors="pt")
    expected, _ = stream(model, LavitIteratorStreamer(processor), prompt, **settings)
    assert list(stream_in_thread(model, streamer, **prompt, **settings)) == expected


def test_an_image_that_the_prompt_began(processor):
    streamer = LavitIteratorStreamer(processor)
    first = processor.visual_token_offset
    streamer.put(torch.tensor([[5, processor.image_start_token_id, first + 3]]))
    streamer.put(torch.tensor([first + 4]))
    streamer.put(torch.tensor([processor.image_end_token_id]))
    streamer.end()
    assert list(streamer) == [ImageSegment([3, 4], False), ImageSegment([3, 4], True)]


def test_images_without_codes_are_no_pieces(processor):
    """Neither `[IMG]` alone nor the placeholder of a given image: a consumer decodes the codes of each piece."""
    streamer = LavitIteratorStreamer(processor, skip_prompt=False)
    first = processor.visual_token_offset
    streamer.put(torch.tensor([[processor.image_token_id, processor.image_start_token_id]]))
    streamer.put(torch.tensor([first + 4]))
    streamer.end()
    assert list(streamer) == [ImageSegment([4], False)]


def test_refusals(processor):
    for settings in ({"preview_every": 3}, {"preview_every": 0, "decode_image": paint}):
        with pytest.raises(ValueError, match=f"must be at least 1, got {settings['preview_every']}"):
            LavitIteratorStreamer(processor, **settings)
    streamer = LavitIteratorStreamer(processor, timeout=0.01)
    with pytest.raises(ValueError, match="one sequence, got 2"):
        streamer.put(torch.ones(2, 3).long())
    with pytest.raises(Empty):
        next(iter(streamer))
