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
        text (`str`): The claim.
        own (`str`): The row that is better according to the claim.
        rivals (`tuple[str, ...]`): The rows that it is compared with.
        headings (`tuple[str, ...]`): The measures that are shown.
        primary (`tuple[str, ...]`, *optional*):
            The measures among them that decide. There are none where intervals lack noise that a verdict needs.
        note (`str`, *optional*): A limit of the comparison.
        here (`str`, *optional*): The head of the page says by this how the claim is tested.
        told (`Mapping[str, str]`, *optional*):
            The head of the page describes rivals by these words, and leaves out the others.
    """

    text: str
    own: str
    rivals: tuple[str, ...]
    headings: tuple[str, ...]
    primary: tuple[str, ...] = ()
    note: str = ""
    here: str = ""
    told: Mapping[str, str] = field(default_factory=dict)


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
        "`lavit` learns drawings and edits as well, and has codes in its vocabulary. The paper's claim is about equal "
        "steps, in which `lavit_text_only` reads 2.4 times as many captions and questions. `lavit_text_only_equal` "
        "reads as many as `lavit`: it tells whether drawings help or harm what is learned from the same text. Its "
        "smaller batches have the learning rate of `lavit_text_only`, which was not tuned for them. Unlike in the "
        "paper, images that are read are labels in no row.",
        "Here, drawings and edits are added to what is learned, and reading is tested:",
        {
            "lavit_text_only": "which reads 2.4 times as many captions and questions in as many steps",
            "lavit_text_only_equal": "which reads as many captions and questions",
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
        "Here, reading is tested, of models that learn to draw by either; "
        "[drawings](#what-the-results-say-about-the-claims) have no verdict:",
        {"regression": "with another share of text in its loss"},
    ),
    Claim(
        "A number of tokens that follows the content beats a fixed one.",
        BASE,
        ("fixed_k", "fixed_all"),
        READ_MEASURES + DRAWN_MEASURES + RECONSTRUCTED,
        note=f"{ONE_TRAINING} `fixed_all` has all tokens, and the paper claims to equal it. The section on tokens "
        "against quality compares lengths within one visual tokenizer.",
        here="Here, mean lengths are equal. There is no verdict, since visual tokenizers are trained once:",
        told={"fixed_k": "which has a visual tokenizer and a pixel decoder of its own"},
    ),
)
# They describe and have no verdict: the rows differ in parts that were trained once, or in several ways.
COMPARISONS = (
    Claim(
        "Folding the dropped patches into the kept ones beats leaving them out.",
        BASE,
        ("dynamic_dropped",),
        READ_MEASURES + DRAWN_MEASURES + RECONSTRUCTED,
        note=f"{ONE_TRAINING} The operations of `dynamic_dropped` include cross-attention that adds zero.",
    ),
    Claim(
        "Reading features of the merger beats reading codes.",
        BASE,
        ("discrete_input",),
        READ_MEASURES,
        note="There is no verdict, since merger and codebook were trained once.",
    ),
    Claim(
        "Reading features of a merger from stage 1 beats reading patches through a new adapter, with labels in text "
        "alone.",
        "lavit_text_only",
        ("adapter_linear", "adapter_mlp", "adapter_resampler"),
        READ_MEASURES,
        note="There is no verdict, since the merger was trained once, in stage 1. Adapters have the positions and the "
        "whitened features from there, and are new otherwise.",
    ),
    Claim(
        "LaVIT as a whole reads better than adapter models.",
        BASE,
        ("adapter_linear", "adapter_mlp", "adapter_resampler"),
        READ_MEASURES,
        note="There is no verdict, since the rows differ in several ways. Adapter models read more captions and "
        "questions in as many steps, since they draw nothing.",
    ),
)
