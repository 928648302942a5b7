# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The claims of the paper and further comparisons, with the rows and measures that the study compares for each."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .budgets import BASE


# Headings of the table.
READ_MEASURES = ("captions", "CIDEr", "questions")
DRAWN_MEASURES = ("drawn objects", "drawing", "edited objects", "edits")
RECONSTRUCTED = ("reconstruction", "PSNR")


@dataclass(frozen=True)
class Claim:
    """
    A claim that one row is better than others.

    Args:
        text (`str`): The claim of the paper, or the question of another comparison.
        own (`str`): The row that is better according to the claim.
        rivals (`tuple[str, ...]`): The rows that it is compared with.
        headings (`tuple[str, ...]`): The measures that are shown.
        primary (`tuple[str, ...]`, *optional*):
            The measures among them that decide. There are none where intervals lack noise that a verdict needs.
        note (`str`, *optional*): A limit of the comparison.
        here (`str`, *optional*): The head of the page says by this how the claim is tested.
        told (`Mapping[tuple[str, str], str]`, *optional*):
            The differences that the head of the page has, by rival and measure, with words that describe the rival.
    """

    text: str
    own: str
    rivals: tuple[str, ...]
    headings: tuple[str, ...]
    primary: tuple[str, ...] = ()
    note: str = ""
    here: str = ""
    told: Mapping[tuple[str, str], str] = field(default_factory=dict)


ONE_TRAINING = (
    "Each kind of selection has one visual tokenizer and one pixel decoder. The intervals have none of the variation "
    "between trainings of these, so that there is no verdict: a row is higher or lower with these parts."
)
# The three claims of the paper.
CLAIMS = (
    Claim(
        "Supervising images and text alike beats supervising text alone.",
        BASE,
        ("lavit_text_only", "lavit_text_only_equal"),
        READ_MEASURES,
        ("questions",),
        "`lavit` learns drawings and edits as well, and has codes in its vocabulary. In as many steps, "
        "`lavit_text_only` reads more captions and questions. `lavit_text_only_equal` reads as many as `lavit`, and "
        "tells whether drawings help or harm what is learned from the same text. Its smaller batches have the "
        "learning rate of `lavit_text_only`, which was not tuned for them. In the paper, the codes of images that are "
        "read are labels as well, and in no row here.",
        "Tested here: reading, where drawings and edits are added to what is learned. Unlike in the paper, images "
        "that are read are no labels. `lavit_text_only` reads more text, so that its difference is that of the amount "
        "of text as well; see the first further comparison.",
        {
            ("lavit_text_only_equal", "questions"): "which reads as many captions and questions",
            ("lavit_text_only", "questions"): "which reads 2.4 times as many captions and questions in as many steps",
        },
    ),
    Claim(
        "Predicting discrete codes beats regressing the next visual vector.",
        BASE,
        ("regression",),
        READ_MEASURES + DRAWN_MEASURES,
        ("questions",),
        "The verdict is about reading alone, of models that learn to draw by codes or by vectors, with this one "
        "visual tokenizer, which was trained for codes. Text has another share of the loss of `regression`, and "
        "its softmax has no codes. Drawings and edits have no verdict: each row has one pixel decoder, and the "
        "intervals have none of the variation between trainings of these.",
        "Tested here: two models of which one learns to draw codes and the other vectors. The verdict is about "
        "reading.",
        {
            ("regression", "questions"): "whose loss has another share of text",
            ("regression", "drawn objects"): "whose pixel decoder takes vectors that are not quantized",
        },
    ),
    Claim(
        "A number of tokens that follows the content beats a fixed one.",
        BASE,
        ("fixed_k", "fixed_all"),
        READ_MEASURES + DRAWN_MEASURES + RECONSTRUCTED,
        note=f"{ONE_TRAINING} The number of tokens follows the number of objects (r = 0.91 over the test set), so "
        "that a row with adaptive numbers can tell how many objects there are from how many tokens there are. The "
        "section on tokens against quality compares lengths within one visual tokenizer.",
        here="Tested here: models whose visual tokenizers and pixel decoders are trained once.",
        told={
            (row, heading): words
            for row, words in (
                ("fixed_k", "which has the same mean number of tokens"),
                ("fixed_all", "which has all tokens, at more operations"),
            )
            for heading in ("questions", "drawn objects", "edited objects", "PSNR")
        },
    ),
)
# They describe and have no verdict: what is compared was trained once, or the rows differ in several ways.
COMPARISONS = (
    Claim(
        "Does folding the dropped patches into the kept ones beat leaving them out?",
        BASE,
        ("dynamic_dropped",),
        READ_MEASURES + DRAWN_MEASURES + RECONSTRUCTED,
        note=f"{ONE_TRAINING} The operations of `dynamic_dropped` include cross-attention that adds zero.",
    ),
    Claim(
        "Does reading features of the merger beat reading codes?",
        BASE,
        ("discrete_input",),
        READ_MEASURES + DRAWN_MEASURES,
        note="There is no verdict: what is compared, the merger and the codebook, was trained once, whereas the rows "
        "of the first two claims differ in what the language model learns. Both rows draw the same codes by the same "
        "pixel decoder, and read the image before an edit as codes, so that edits compare them least.",
    ),
    Claim(
        "Does reading more captions and questions in as many steps beat reading fewer, with labels in text alone?",
        "lavit_text_only",
        ("lavit_text_only_equal",),
        READ_MEASURES,
        note="There is no verdict, since this comparison was added when its results were known. The difference is "
        "what `lavit` gives up for drawings and edits in as many steps. The smaller batches have a learning rate that "
        "was not tuned for them.",
        here="Tested here: two rows that draw nothing. The difference tells how much of that between `lavit` and "
        "`lavit_text_only` comes from the amount of text.",
        told={("lavit_text_only_equal", "questions"): "which reads as few captions and questions as `lavit`"},
    ),
    Claim(
        "Does reading features of a merger from stage 1 beat reading patches through a new adapter, with labels in "
        "text alone?",
        "lavit_text_only",
        ("adapter_linear", "adapter_mlp", "adapter_resampler"),
        READ_MEASURES,
        note="There is no verdict, since the merger was trained once, in stage 1. Adapters have the positions and the "
        "whitened features from there, and are new otherwise.",
    ),
    Claim(
        "Does LaVIT as a whole read better than adapter models?",
        BASE,
        ("adapter_linear", "adapter_mlp", "adapter_resampler"),
        READ_MEASURES,
        note="There is no verdict, since the rows differ in several ways. Adapter models read more captions and "
        "questions in as many steps, since they draw nothing.",
        here="Tested here: reading, at as many steps, in which adapter models read more captions and questions.",
        told={
            ("adapter_linear", "questions"): "as in LLaVA",
            ("adapter_mlp", "questions"): "as in LLaVA 1.5",
            ("adapter_resampler", "questions"): "a mix of Flamingo's and BLIP-2's",
        },
    ),
)
