# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows become sequences and batches with the tokens of inference, and an item is the same wherever it is read."""

from random import Random

import pytest
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessor, TokenizersBackend

from lavit_hf import LavitProcessor
from lavit_hf.data.rows import RowStream
from lavit_hf.processing.chat_lavit import VQA_PROMPT
from lavit_hf.training import ImagePart, LavitCollator, MixtureRows, SequenceArguments, SequenceReader, TextPart

from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, NUM_PATCHES
from .small import EVERY_KIND, iter_rows, make_dataset, make_image, make_model, make_processor, tokenize


@pytest.fixture(scope="module")
def processor() -> LavitProcessor:
    return make_processor()


def read(row: dict, kind: str, **kwargs) -> list:
    arguments = SequenceArguments([f"{kind}=1"], prompt_dropout=0.0, **kwargs)
    reader = SequenceReader(arguments)
    reader.select(Dataset.from_list([dict.fromkeys(row)]))  # the columns are there
    return reader.compose(row, "row 0", Random(0))


def real_ids(batch, index: int = 0) -> list[int]:
    return batch["input_ids"][index][batch["attention_mask"][index].bool()].tolist()


def label(processor, parts: list) -> str:
    """Returns the labels of a sequence as text."""
    labels = LavitCollator(processor, NUM_PATCHES)([parts])["labels"]
    return processor.tokenizer.decode(labels[labels != -100])


# Sequences


@pytest.mark.parametrize("markers", [True, False])
def test_prompts_are_what_the_processor_makes_at_inference(processor, markers):
    processor = LavitProcessor(processor.image_processor, processor.tokenizer, drawing_image_markers=markers)
    row, collator = make_dataset()[0], LavitCollator(processor, NUM_PATCHES)
    _, *asked, answer = read(row, "question")
    question, answer = "".join(part.text for part in asked), answer.text
    assert question in [VQA_PROMPT.format(question=text) for text in row["questions"]]
    start, placeholder, end = processor.image_start_token_id, processor.image_token_id, processor.image_end_token_id
    drawn, stop = [start, placeholder, end], [processor.tokenizer.eos_token_id]
    image = processor.image_token
    expected = {
        "caption": (image + row["caption"], "text", stop),
        "draw": (row["caption"], "image", drawn),
        "text": (row["caption"], "text", stop),
        "question": (image + question + answer, "text", stop),
        "edit": (image + row["instruction"], "image", drawn),
    }
    for kind, (prompt, mode, after) in expected.items():
        pictures = {"images": row["image"]} if image in prompt else {}
        inputs = processor(text=prompt, generation_mode=mode, return_tensors="pt", **pictures)
        batch = collator([read(row, kind)])
        assert real_ids(batch) == inputs["input_ids"][0].tolist() + after
        if pictures:
            torch.testing.assert_close(batch["pixel_values"][:1], inputs["pixel_values"])
        if kind != "question":
            assert torch.equal(batch["labels"], batch["input_ids"])
        assert (
            batch["image_inputs"]
            == {
                "caption": ["features"],
                "draw": ["codes"],
                "text": [],
                "question": ["features"],
                "edit": ["codes", "codes"],
            }[kind]
        )


def test_several_questions_are_turns_of_a_chat(processor):
    row = make_dataset()[0]
    arguments = SequenceArguments(
        ["question=1"], questions_per_sequence=9, supervise_images=False, supervise_prompts=False
    )
    sequences = [SequenceReader(arguments).compose(row, "row 0", Random(seed)) for seed in range(20)]
    # Each question has three parts after the image. All questions of the row come, in any order.
    assert {len(parts) for parts in sequences} == {1 + 3 * len(row["questions"])}
    assert len({parts[2].text for parts in sequences}) == len(row["questions"])
    _, *texts = parts = sequences[0]
    asked, answers = [part.text for part in texts[1::3]], [part.text for part in texts[2::3]]
    chat = []
    for question, answer in zip(asked, answers, strict=True):
        chat.append({"role": "user", "content": [{"type": "text", "text": question.removesuffix(" Answer:")}]})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer.strip()}]})
    chat[0]["content"].insert(0, {"type": "image"})
    prompt = processor.apply_chat_template(chat)
    inputs = processor(text=prompt, images=row["image"], return_tensors="pt")
    batch = LavitCollator(processor, NUM_PATCHES)([parts])
    assert real_ids(batch) == inputs["input_ids"][0].tolist()
    # After each answer, the only label is the end.
    assert label(processor, parts) == "".join(f"{answer}<|end|>" for answer in answers)


def test_parts_of_a_text_may_be_no_labels(processor):
    """`datasets` fills keys that some parts lack with None."""
    parts = [
        {"text": "red circle\n", "supervised": False},
        {"text": "a blue", "supervised": None},
        {"text": " square"},
    ]
    rows = Dataset.from_list([{"parts": parts}])
    reader = SequenceReader(SequenceArguments(["text=1"], text_column="parts"))
    for row in (rows[0], {"parts": parts}):
        sequence = reader.compose(row, "row 0", Random(0))
        assert "".join(part.text for part in sequence) == "red circle\na blue square"
        assert label(processor, sequence) == "a blue square<|end|>"
    misspelled = [{"text": "red", "supervized": False}]
    for wrong in ([{"text": "red"}, "blue"], [{"supervised": False}], [{"text": None}], misspelled):
        with pytest.raises(ValueError, match="row 7: The parts of a text must be"):
            reader.compose({"parts": wrong}, "row 7", Random(0))
    for wrong in ([{"text": ""}], [{"text": "red", "supervised": False}]):
        with pytest.raises(ValueError, match="row 7: A text must have a part that is a label"):
            reader.compose({"parts": wrong}, "row 7", Random(0))
    with pytest.raises(ValueError, match="row 7: supervised must be True or False, got 0"):
        reader.compose({"parts": [{"text": "red", "supervised": 0}]}, "row 7", Random(0))


def test_a_turn_ends_with_a_label(processor):
    """Text that is no label ends nothing by itself, as a paragraph that a user leaves out of the labels."""
    answer, asked = TextPart(" a", ends_turn=True), TextPart(" b", supervised=False)
    assert label(processor, [answer, asked, answer]) == " a<|end|> a<|end|>"
    assert label(processor, [answer, TextPart("", False), asked, answer]) == " a<|end|> a<|end|>"
    assert label(processor, [TextPart(" a"), asked, TextPart(" a")]) == " a a<|end|>"
    assert label(processor, [TextPart(" a", False, ends_turn=True), asked, TextPart(" c")]) == " c<|end|>"
    assert label(processor, [answer, TextPart(" c"), asked]) == " a c"
    assert label(processor, [TextPart(" a"), TextPart("", False)]) == " a<|end|>"
    assert label(processor, [asked, TextPart("")]) == "<|end|>"
    assert label(processor, [answer, asked, TextPart("", ends_turn=True), asked]) == " a<|end|><|end|>"
    image = ImagePart(None, [1, 2], supervised=False)
    assert label(processor, [answer, image, asked, TextPart(" c")]) == " a c<|end|>"


def test_a_token_across_the_end_of_a_turn_is_no_label():
    """The tokenizers of Llama 3 and Qwen join a period with a line break, which no answer ends with."""
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<|end|>": 1, "cat": 2, ".\n": 3, "dog": 4, ".": 5, "?": 6}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\.\n|\.|\?"), "isolated")
    tokenizer = TokenizersBackend(tokenizer_object=backend, pad_token="<pad>", eos_token="<|end|>")
    joined = LavitProcessor.from_backbones(
        vision=make_processor().image_processor, text=tokenizer, codebook_size=4, image_start_token_id=7
    )
    parts = [TextPart("cat.", ends_turn=True), TextPart("\ndog?", False), TextPart("dog.", ends_turn=True)]
    labels = LavitCollator(joined, NUM_PATCHES)([parts])["labels"][0].tolist()
    assert labels == [2, -100, -100, -100, 4, 5, 1]


def test_what_is_supervised(processor):
    row = make_dataset()[0]

    def labelled(kind, **kwargs) -> str:
        return label(processor, read(row, kind, **kwargs))

    question, answer = (part.text for part in read(row, "question")[2:])
    answer, drawn = f"{answer}<|end|>", "[IMG]<image>[/IMG]"
    assert labelled("caption", supervise_images=False) == f"{row['caption']}<|end|>"
    # An image alone is the prompt of a caption, so that "Question:" must not be a label after it.
    assert labelled("question") == f"{drawn} {question}{answer}"
    assert labelled("question", supervise_prompts=False) == drawn + answer
    assert labelled("question", supervise_prompts=False, supervise_images=False) == answer
    assert labelled("draw", supervise_prompts=False, supervise_images=False) == drawn
    assert labelled("edit", supervise_images=False) == row["instruction"] + drawn


def test_columns_in_any_order(processor):
    row, collator = make_dataset()[0], LavitCollator(processor, NUM_PATCHES)
    arguments = {"supervise_prompts": False, "supervise_images": False}

    def parts(*columns) -> list:
        return read(row, "interleaved", sequence_columns=list(columns), **arguments)

    story = parts("caption", "image", "caption", "instruction", "edited_image", "caption")
    drawn, caption, instruction = "[IMG]<image>[/IMG]", row["caption"], row["instruction"]
    batch = collator([story])
    written = f"{drawn}{caption}\n{instruction}{drawn}{caption}<|end|>"
    assert processor.tokenizer.decode(real_ids(batch)) == caption + written
    assert label(processor, story) == written
    assert batch["image_inputs"] == ["codes", "codes"]

    # Images are read if all of them come before the text. Otherwise, they are drawn.
    assert collator([parts("image", "caption")])["image_inputs"] == ["features"]
    assert collator([parts("image", "caption", "image")])["image_inputs"] == ["codes", "codes"]
    assert label(processor, parts("image", "caption", "image")) == drawn + caption + drawn
    with pytest.raises(ValueError, match="'captions'"):
        parts("captions", "image")
    with pytest.raises(ValueError, match="sequence_columns need the kind 'interleaved'"):
        SequenceArguments(["caption=1"], sequence_columns=["caption"])


def test_interleaved_segments(processor):
    def inputs(*segments, **kwargs) -> list:
        row = {"segments": [{"type": "image", "image": make_image("red", "blue")} | s for s in segments]}
        return read(row, "interleaved", **kwargs)

    text, picture = {"type": "text", "text": "red", "image": None}, {}
    assert [part.image_input for part in inputs(picture, picture, text)[:2]] == ["features"] * 2
    first, _, second = inputs(picture, text, picture, supervise_images=False)
    assert (first.image_input, second.image_input) == ("codes", "codes")
    assert first.supervised
    assert second.supervised
    first, asked, said = inputs({"codes": [3, 4], "supervised": False}, text | {"supervised": False}, text)
    assert (first.codes, first.image_input, first.supervised) == ([3, 4], "features", False)
    assert first.image is not None
    assert not asked.supervised
    assert said.supervised
    ids = real_ids(LavitCollator(processor, NUM_PATCHES)([inputs(text, {"codes": [3, 4]}, text)]))
    assert processor.tokenizer.decode(ids) == "red[IMG]<code_3><code_4>[/IMG]red<|end|>"
    row = {"segments": [{"type": "image", "codes": [3]}, {"type": "text", "text": "red"}]}
    assert read(row, "interleaved")[0].image_input == "codes"  # there is no image
    with pytest.raises(ValueError, match="'text' or 'image', got 'video'"):
        inputs({"type": "video"})
    with pytest.raises(ValueError, match="A segment of type 'text' needs a text, got {'type': 'text'"):
        inputs({"type": "text"})
    with pytest.raises(ValueError, match="Segments must be a list of mappings, got '"):
        read({"segments": '[{"type": "text", "text": "red"}]'}, "interleaved")


def test_texts_cannot_name_what_is_no_text(processor):
    collator = LavitCollator(processor, NUM_PATCHES)
    ids = real_ids(collator([[TextPart("say [IMG] and <image> and <|end|>")]]))
    assert max(ids) < processor.image_start_token_id
    assert ids.count(processor.tokenizer.eos_token_id) == 1
    assert processor.tokenizer.decode(ids[:-1]) == "say [IMG] and <image> and <|end|>"
    assert max(real_ids(collator([[TextPart("say <code_3>")]]))) < processor.image_start_token_id


def test_images_expanded_by_their_codes(processor):
    """Trainers of other libraries need one placeholder for each code, which precomputed codes provide."""
    image, model = make_image("red", "blue"), make_model(processor)
    pixel_values = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    codes = model.model.visual_tokenizer(pixel_values).codes.tolist()
    row = [ImagePart(image, codes, image_input="features"), TextPart("red above blue")]
    short, long = (LavitCollator(processor, NUM_PATCHES, expand_images=expand)([row]) for expand in (False, True))
    assert (long["input_ids"] == processor.image_token_id).sum() == len(codes)
    offset = processor.visual_token_offset
    assert long["labels"][0, 1 : len(codes) + 1].tolist() == [offset + code for code in codes]
    outputs = model(**long)
    assert outputs.logits.shape[:2] == long["labels"].shape
    torch.testing.assert_close(outputs.loss, model(**short).loss)
    with pytest.raises(ValueError, match="expand_images needs the codes"):
        LavitCollator(processor, NUM_PATCHES, expand_images=True)([[ImagePart(image, image_input="features")]])


def test_no_images_of_another_image_processor(processor, monkeypatch):
    """A batch of text alone has pixels as well, of the shape that the image processor gives."""
    other = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE)
    monkeypatch.setattr(processor, "image_processor", other)
    batch = LavitCollator(processor, NUM_PATCHES)([[TextPart("red above blue")]])
    assert batch["pixel_values"].shape == (0, 3, IMAGE_SIZE, IMAGE_SIZE)


@pytest.mark.parametrize("mixture", [["caption=1"], ["question=1"], ["caption=1", "draw=1"]])
def test_precomputed_codes_are_expanded_in_every_mixture(processor, mixture):
    """Codes are known also if all images are read as features."""
    dataset = tokenize(make_dataset(4), make_model(processor).model.visual_tokenizer)
    rows = MixtureRows(dataset, SequenceArguments(mixture=mixture))
    batch = LavitCollator(processor, NUM_PATCHES, expand_images=True)([rows[index] for index in range(len(rows))])
    assert (batch["input_ids"] == processor.image_token_id).sum() > len(batch["pixel_values"])


def test_codes_and_images_in_one_batch(processor):
    picture = ImagePart(make_image("red", "blue"), image_input="features")
    collator = LavitCollator(processor, NUM_PATCHES)
    batch = collator([[TextPart("red"), ImagePart(codes=[5, 0])], [picture, TextPart("blue above")]])
    assert batch["pixel_values"].shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert batch["image_inputs"] == ["features"]
    offset = processor.visual_token_offset
    assert real_ids(batch)[1:] == [offset - 2, offset + 5, offset, offset - 1]
    assert (batch["labels"] == -100).equal(batch["attention_mask"] == 0)
    assert batch["attention_mask"][:, 0].all()
    assert collator([[TextPart("red")]])["pixel_values"].shape == (0, 3, IMAGE_SIZE, IMAGE_SIZE)
    with pytest.raises(ValueError, match=f"0 to {CODEBOOK_SIZE - 1}, got 3 to {CODEBOOK_SIZE}"):
        collator([[ImagePart(codes=[3, CODEBOOK_SIZE])]])


def test_long_sequences_are_cut_in_text_alone(processor):
    collator = LavitCollator(processor, NUM_PATCHES, max_length=20)
    long, codes, picture = (
        TextPart("red above blue " * 20),
        ImagePart(codes=[1] * 9),
        ImagePart(make_image("red", "red")),
    )
    mark = processor.image_start_token_id

    def cut(*parts) -> list[int]:
        ids = real_ids(collator([list(parts)]))
        return [token for token in ids if token >= mark - 1]

    drawing = [mark, *[mark + 3] * 9, mark + 1]
    assert len(real_ids(collator([[long]]))) == 20
    assert cut(long, codes) == drawing  # the prompt is cut, not the drawing
    assert len(real_ids(collator([[long, codes]]))) == 20
    assert cut(codes, long) == drawing
    assert cut(codes, TextPart("red"), codes, TextPart("red")) == drawing
    # An image of unknown length counts as the longest one.
    ids = real_ids(collator([[long, picture]]))
    assert ids[-3:] == [mark, processor.image_token_id, mark + 1]
    assert len(ids) - 1 + NUM_PATCHES == 20
    before = ImagePart(make_image("red", "red"), in_drawing_prompt=True)
    with pytest.raises(ValueError, match=r"both images of an edit, \d+ tokens, got 20"):
        collator([[before, TextPart("red"), picture]])
    with pytest.raises(ValueError, match="16 codes and 2 markers; got 17"):
        LavitCollator(processor, NUM_PATCHES, max_length=17)


# Rows


def test_a_stream_has_the_sequences_of_its_rows(processor):
    dataset, arguments = make_dataset(), SequenceArguments(EVERY_KIND)
    stream = RowStream(dataset.to_iterable_dataset(num_shards=2), SequenceReader(arguments), seed=1)
    items = list(stream)
    assert len(items) == len(dataset)
    assert list(stream) == items
    collator = LavitCollator(processor, NUM_PATCHES)
    loader = torch.utils.data.DataLoader(stream, batch_size=4, num_workers=2, collate_fn=collator)
    assert sum(len(batch["input_ids"]) for batch in loader) == len(dataset)
    stream.set_epoch(1)
    assert list(stream) != items


# From precomputed codes


@torch.no_grad()
def test_precomputed_codes_give_the_same_loss(processor):
    model = make_model(processor)
    pixels = make_dataset()
    codes = tokenize(pixels, model.model.visual_tokenizer)
    collator, losses, widths = LavitCollator(processor, NUM_PATCHES), [], []
    for dataset in (pixels, codes):
        rows = MixtureRows(dataset, SequenceArguments(EVERY_KIND), seed=3)
        batch = collator(iter_rows(rows))
        losses.append(model(**batch).loss)
        widths.append(len(batch["pixel_values"]))
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    assert widths[1] < widths[0]  # images that are read are still needed


def test_without_images_all_enter_as_codes(processor):
    codes = tokenize(make_dataset(4), make_model(processor).model.visual_tokenizer, drop=True)
    with pytest.raises(ValueError, match="'caption' need a column 'image'; the dataset has .*image_codes"):
        MixtureRows(codes, SequenceArguments(["caption=1"]))
    batch = LavitCollator(processor, NUM_PATCHES)(
        iter_rows(MixtureRows(codes, SequenceArguments(EVERY_KIND, image_inputs="codes")))
    )
    assert len(batch["pixel_values"]) == 0
