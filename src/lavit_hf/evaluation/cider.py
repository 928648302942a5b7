# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""CIDEr-D (Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", arXiv 1411.5726, section 6)."""

import math
import re
from collections import Counter
from collections.abc import Sequence


MAX_NGRAM = 4
SIGMA = 6.0  # of the penalty on the difference of lengths, in words


def tokenize_caption(text: str) -> list[str]:
    """The words of a caption in lower case: runs of letters and digits, with inner apostrophes; no punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def _count_ngrams(words: list[str]) -> list[Counter]:
    """How often each n-gram stands in a caption, one counter for each n."""
    return [
        Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
        for n in range(1, MAX_NGRAM + 1)
    ]


class CiderD:
    """
    Scores captions against references, where n-grams that many pictures share count little.

    Args:
        references (`list[list[str]]`): The references of each picture. How many pictures an n-gram is used for is
            counted over these, so the score depends on which pictures are evaluated together.

    Raises:
        ValueError: no pictures, or one without references.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        if not references or not all(references):
            raise ValueError("CIDEr-D needs at least one picture, and a reference for each of them.")
        tokenized = [[tokenize_caption(text) for text in texts] for texts in references]
        counted = [[_count_ngrams(words) for words in texts] for texts in tokenized]
        self._frequency = Counter(
            ngram for texts in counted for ngram in {ngram for counts in texts for one in counts for ngram in one}
        )
        self._log_pictures = math.log(len(references))
        self._references = [
            [(self._weigh(counts), len(words)) for counts, words in zip(*both, strict=True)]
            for both in zip(counted, tokenized, strict=True)
        ]

    def _weigh(self, counts: list[Counter]) -> list[dict[tuple, float]]:
        """Term frequency times inverse document frequency; an n-gram of no reference weighs as one of a single."""
        return [
            {
                ngram: count * (self._log_pictures - math.log(max(self._frequency[ngram], 1)))
                for ngram, count in one.items()
            }
            for one in counts
        ]

    def score(self, captions: Sequence[str]) -> list[float]:
        """
        Args:
            captions (`list[str]`): One for each picture, in the order of the references.

        Returns:
            `list[float]`: 0 to 10 for each picture, the mean over its references and n = 1 to 4.

        Raises:
            ValueError: as many captions as pictures were expected.
        """
        if len(captions) != len(self._references):
            raise ValueError(f"Expected a caption for each of {len(self._references)} pictures, got {len(captions)}.")
        scores = []
        for caption, references in zip(captions, self._references, strict=True):
            words = tokenize_caption(caption)
            weights = self._weigh(_count_ngrams(words))
            similarities = [
                _similarity(weights, reference) * math.exp(-((len(words) - length) ** 2) / (2 * SIGMA**2))
                for reference, length in references
            ]
            scores.append(10 * sum(similarities) / len(similarities))
        return scores


def _similarity(caption: list[dict], reference: list[dict]) -> float:
    """The cosine, mean over n, where an n-gram cannot count more often than the reference has it."""
    cosines = []
    for own, other in zip(caption, reference, strict=True):
        norms = _norm(own) * _norm(other)
        shared = sum(min(weight, other[ngram]) * other[ngram] for ngram, weight in own.items() if ngram in other)
        cosines.append(shared / norms if norms else 0.0)
    return sum(cosines) / len(cosines)


def _norm(weights: dict[tuple, float]) -> float:
    return math.sqrt(sum(weight**2 for weight in weights.values()))


__all__ = ["CiderD", "tokenize_caption"]
