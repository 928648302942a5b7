# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""CIDEr-D (Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", arXiv 1411.5726, section 6)."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean


MAX_NGRAM = 4
SIGMA = 6.0  # of the Gaussian penalty on the difference of lengths, in words


def tokenize_caption(text: str) -> list[str]:
    """Splits a caption into lower case words: runs of letters and digits with inner apostrophes, no punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def _count_ngrams(text: str) -> list[Counter]:
    """Counts the n-grams of a caption, with one counter for each n."""
    words = tokenize_caption(text)
    return [
        Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
        for n in range(1, MAX_NGRAM + 1)
    ]


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """
    Scores captions against references. N-grams that the references of many images contain count little, so that the
    score depends on the images that are evaluated together.

    Args:
        captions (`list[str]`): The caption of each image.
        references (`list[list[str]]`): The references of each image.

    Returns:
        `list[float]`: A score from 0 to 10 for each image, the mean over its references and over n = 1 to 4.

    Raises:
        ValueError: If there are no images, an image has no references, or the numbers of images differ.
    """
    if not references or not all(references):
        raise ValueError("CIDEr-D needs at least one image, and a reference for each of them.")
    if len(captions) != len(references):
        raise ValueError(f"Expected a caption for each of {len(references)} images, got {len(captions)}.")
    counts = [[_count_ngrams(text) for text in texts] for texts in references]
    frequency = Counter(ngram for texts in counts for ngram in {ngram for text in texts for n in text for ngram in n})

    def weigh(count: Counter) -> dict[tuple, float]:
        """Computes term frequency times inverse document frequency."""
        return {ngram: times * math.log(len(references) / max(frequency[ngram], 1)) for ngram, times in count.items()}

    scores = []
    for caption, texts in zip(map(_count_ngrams, captions), counts, strict=True):
        similarities = []
        for text in texts:
            cosines = [_clipped_cosine(weigh(own), weigh(other)) for own, other in zip(caption, text, strict=True)]
            difference = caption[0].total() - text[0].total()  # of the lengths in words
            similarities.append(fmean(cosines) * math.exp(-(difference**2) / (2 * SIGMA**2)))
        scores.append(10 * fmean(similarities))
    return scores


def _clipped_cosine(caption: dict[tuple, float], reference: dict[tuple, float]) -> float:
    """Computes the cosine of two vectors of weights. An n-gram counts no more often than the reference contains it."""
    norms = math.hypot(*caption.values()) * math.hypot(*reference.values())
    shared = sum(min(w, reference[ngram]) * reference[ngram] for ngram, w in caption.items() if ngram in reference)
    return shared / norms if norms else 0.0
