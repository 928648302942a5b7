# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The claims of the paper, with the rows and the measures that decide them, named before anything was measured."""

from dataclasses import dataclass

from .budgets import BASE


# Headings of the table.
READ_MEASURES = ("captions", "questions")
DRAWN_MEASURES = ("drawn objects", "drawing", "edited objects", "edits")


@dataclass(frozen=True)
class Claim:
    """
    A claim, with the rows that it compares.

    Args:
        text (`str`): The claim.
        own (`str`): The row that is better according to the claim.
        rivals (`tuple[str, ...]`): The rows that it is compared with.
        headings (`tuple[str, ...]`): The measures that tell.
        primary (`tuple[str, ...]`): The measures among them that decide, named before anything was measured.
        note (`str`, *optional*): A limit of the comparison.
        decided (`tuple[str, ...]`, *optional*):
            The rivals that decide the claim. By default, all. Empty where intervals lack noise that a verdict needs.
    """

    text: str
    own: str
    rivals: tuple[str, ...]
    headings: tuple[str, ...]
    primary: tuple[str, ...]
    note: str = ""
    decided: tuple[str, ...] | None = None


ONE_TRAINING = (
    "Each kind of selection has one visual tokenizer and one pixel decoder, which all seeds share. The intervals have "
    "none of the noise of training these, so that they do not decide the claim: a row is higher or lower with these "
    "parts."
)
CLAIMS = (
    Claim(
        "Supervising images and text alike beats supervising text alone.",
        BASE,
        ("lavit_text_only", "lavit_text_only_equal"),
        READ_MEASURES,
        ("questions",),
    ),
    Claim(
        "Predicting discrete codes beats regressing the next visual vector.",
        BASE,
        ("regression",),
        READ_MEASURES + DRAWN_MEASURES,
        ("questions", "drawn objects"),
        "Both have the visual tokenizer that was trained for codes. Each has one pixel decoder for all seeds: the "
        "intervals of drawings have none of the noise of training these.",
    ),
    Claim(
        "A number of tokens that follows the content beats a fixed one.",
        BASE,
        ("fixed_k", "fixed_all"),
        (*READ_MEASURES, *DRAWN_MEASURES, "reconstruction"),
        ("questions", "drawn objects"),
        f"{ONE_TRAINING} `fixed_all` has three times as many tokens, and the paper claims to equal it.",
        decided=(),
    ),
    Claim(
        "Folding the dropped patches into the kept ones beats leaving them out.",
        BASE,
        ("dynamic_dropped",),
        (*READ_MEASURES, *DRAWN_MEASURES, "reconstruction"),
        ("questions", "drawn objects"),
        f"{ONE_TRAINING} The operations of `dynamic_dropped` include cross-attention that adds zero.",
        decided=(),
    ),
    Claim(
        "Reading features of the merger beats reading codes.", BASE, ("discrete_input",), READ_MEASURES, ("questions",)
    ),
    Claim(
        "Reading features of a merger from stage 1 beats reading patches through a new adapter, with labels in text "
        "alone.",
        "lavit_text_only",
        ("adapter_linear", "adapter_mlp", "adapter_resampler"),
        READ_MEASURES,
        ("questions",),
    ),
)
