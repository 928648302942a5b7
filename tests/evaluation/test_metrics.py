# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Metrics on values known by hand or by another implementation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from lavit_hf.evaluation.answers import answer_score, normalize_answer
from lavit_hf.evaluation.cider import CiderD, tokenize_caption
from lavit_hf.evaluation.metrics import average, perplexity, rate, spearman, wilson_interval
from lavit_hf.evaluation.pixels import psnr, ssim


WORDS = st.lists(st.sampled_from("a red blue circle star at the top".split()), min_size=1, max_size=9).map(" ".join)


def test_wilson_interval():
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    for wrong in ((1.1, 10), (0.5, 0)):
        with pytest.raises(ValueError, match="from 0 to 1 of at least one"):
            wilson_interval(*wrong)


def test_rates_leave_out_what_does_not_apply():
    metric = rate([True, None, False, True], other=[None] * 4, unrelated=[False, None, True, False])
    assert (metric.value, metric.count) == (2 / 3, 3)
    assert metric.baselines == {"unrelated": 1 / 3}
    assert metric.interval == wilson_interval(2 / 3, 3)
    assert rate([None]) is None
    assert average([1.5, 2.5]).to_dict() == {"value": 2.0, "count": 2}


def test_spearman_and_perplexity():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 80]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.820783)  # as SciPy's documentation has it
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert perplexity(range(8)) == pytest.approx(8)
    assert perplexity([3, 3, 3]) == pytest.approx(1)
    assert perplexity([0, 0, 0, 1]) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_caption_words():
    assert tokenize_caption("A dog's ball, at the TOP-left: 2.") == "a dog's ball at the top left 2".split()


def test_cider_by_hand():
    # Two pictures: every n-gram of a reference is used for one of them, so each weighs log 2, which cancels.
    scorer = CiderD([["one two"], ["three four"]])
    # The same words: cosine 1 for n = 1 and 2; there are no longer n-grams.
    assert scorer.score(["one two", "three four"]) == pytest.approx([5, 5])
    # One word more: 2 of 3 words and 1 of 2 pairs are shared, and the length is off by one.
    cosines = 2 / math.sqrt(3 * 2) + 1 / math.sqrt(2 * 1)
    assert scorer.score(["one two x", ""]) == pytest.approx([10 * cosines / 4 * math.exp(-1 / 72), 0])
    # A word said thrice counts no more often than in the reference, but makes the caption's vector longer.
    assert scorer.score(["one one one", "no"])[0] == pytest.approx(10 / 4 / 3 / math.sqrt(2) * math.exp(-1 / 72))


def test_cider_weighs_by_rarity_and_takes_the_mean_over_references():
    # "the" stands in all pictures and says nothing.
    scorer = CiderD([["the cat"], ["the dog"], ["the bird"]])
    assert scorer.score(["the", "cat", "the bird"])[:2] == [0, 0]
    both, first, second = (
        CiderD([references, ["other words here"]]).score(["a red circle", "x"])[0]
        for references in (["a red circle", "one blue star"], ["a red circle"], ["one blue star"])
    )
    assert both == pytest.approx((first + second) / 2)
    assert second == 0


@given(st.lists(WORDS, min_size=2, max_size=6, unique=True))
@settings(max_examples=50, deadline=None)
def test_cider_is_at_most_ten_and_does_not_depend_on_order(captions):
    references = [[caption] for caption in captions]
    other = captions[1:] + captions[:1]
    scores = CiderD(references).score(other)
    assert all(0 <= score <= 10 + 1e-9 for score in scores)
    assert CiderD(references[::-1]).score(other[::-1]) == pytest.approx(scores[::-1])
    own = CiderD(references).score(captions)
    assert all(mine >= theirs - 1e-9 for mine, theirs in zip(own, scores, strict=True))


def test_cider_refuses():
    with pytest.raises(ValueError, match="a reference for each"):
        CiderD([["a"], []])
    with pytest.raises(ValueError, match="each of 1 pictures, got 2"):
        CiderD([["a"]]).score(["a", "b"])


def test_answers():
    assert normalize_answer(" The red,  Circle! ") == "red circle"
    assert normalize_answer("Two") == normalize_answer("2.") == "2"
    assert normalize_answer("it's 1,000.5 m") == "its 1000.5 m"
    assert normalize_answer("U.S.A.") == normalize_answer("usa") == "usa"
    assert normalize_answer("10 p.m.") == "10 pm"
    assert normalize_answer("none") == normalize_answer("zero") == "0"
    assert normalize_answer("black/white") == "black white"
    assert normalize_answer("t-shirt") == "t shirt"
    assert normalize_answer("t-shirt - red") == "tshirt red"
    assert normalize_answer("50%, 3.5 m") == "50% 3.5 m"
    assert answer_score("A Red circle.", ["red circle"]) == 1
    assert answer_score("red", ["red circle"]) == 0
    assert answer_score("grey", ["gray", "grey"]) == 1
    # VQAv2: one of ten agrees: nothing with itself left out, else a third.
    expected = [0.0, 0.3, 0.6, 0.9, 1.0]
    found = [answer_score("yes", ["yes"] * count + ["no"] * (10 - count)) for count in range(5)]
    assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match="no reference"):
        answer_score("yes", [])


def test_pixel_distances():
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 40, 32, generator=generator)
    noisy = (picture + 0.1 * torch.randn(3, 40, 32, generator=generator)).clamp(0, 1)
    assert psnr(torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 0.6)) == pytest.approx(20, abs=1e-4)
    assert psnr(picture, picture) == 100
    assert ssim(picture, picture) == pytest.approx(1)
    # torchmetrics counts windows that reach beyond the border as well.
    padded = structural_similarity_index_measure(noisy[None], picture[None], data_range=1.0, return_full_image=True)
    inner = padded[1][0, :, 5:-5, 5:-5].mean().item()
    assert ssim(noisy, picture) == pytest.approx(inner, abs=1e-5)
