# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Metrics on cases that are computed by hand or by another implementation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from lavit_hf.evaluation.cider import cider_d, tokenize_caption
from lavit_hf.evaluation.drawings import psnr, ssim
from lavit_hf.evaluation.metrics import Metric, average, rate, wilson_interval
from lavit_hf.evaluation.questions import answer_score, normalize_answer
from lavit_hf.visualization import code_perplexity


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
    assert rate([None], groups=["one"]) is None
    assert average([1.5, 2.5]) == Metric(2.0, 2)


@pytest.mark.parametrize(
    ("true", "draw"),
    [
        pytest.param(0.7, lambda rng: (rng.random(200) < 0.7, None), id="yes or no"),
        pytest.param(0.7, lambda rng: (rng.beta(7, 3, 200), None), id="scores"),
        pytest.param(0.7, lambda rng: (np.repeat(rng.random(40) < 0.7, 5), np.repeat(range(40), 5)), id="groups"),
        pytest.param(0.99, lambda rng: (rng.random(150) < 0.99, np.repeat(range(50), 3)), id="near one"),
    ],
)
def test_intervals_hold_the_true_value_in_19_of_20_samples(true, draw):
    rng = np.random.default_rng(0)
    samples = (draw(rng) for _ in range(2000))
    intervals = [rate(map(float, outcomes), groups=groups).interval for outcomes, groups in samples]
    # Few cases have few possible shares, so that the level is not met exactly.
    assert 0.93 < np.mean([low <= true <= high for low, high in intervals]) < 0.985


def test_equal_groups_are_as_good_as_single_cases():
    assert rate([1.0] * 6, groups=[1, 1, 2, 2, 3, 3]).interval == wilson_interval(1.0, 3)
    within = rate([1.0, 1.0, 0.0, 0.0, 1.0, 1.0], groups=[1, 1, 2, 2, 3, 3]).interval
    alone = wilson_interval(2 / 3, 3)
    assert within[0] < alone[0] < alone[1] < within[1]
    assert rate([1.0, 0.0] * 4, groups=[1, 1, 2, 2, 3, 3, 4, 4]).interval == wilson_interval(0.5, 4)
    assert rate([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], groups=[1, 1, 2, 2, 3, 3]).interval == wilson_interval(2 / 3, 6)
    assert rate([0.5] * 8).interval == wilson_interval(0.5, 8)


def test_perplexity():
    assert code_perplexity(torch.arange(8)) == pytest.approx(8)
    assert code_perplexity(torch.tensor([3, 3, 3])) == pytest.approx(1)
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert code_perplexity(torch.tensor([0, 0, 0, 1])) == pytest.approx(expected)


def test_caption_words():
    assert tokenize_caption("A dog's ball, at the TOP-left: 2.") == "a dog's ball at the top left 2".split()


def test_cider_by_hand():
    # Two images: every n-gram of a reference belongs to one of them, so each weighs log 2, which cancels.
    references = [["one two"], ["three four"]]
    # The same words: cosine 1 for n = 1 and 2; there are no longer n-grams.
    assert cider_d(["one two", "three four"], references) == pytest.approx([5, 5])
    # One word more: 2 of 3 words and 1 of 2 pairs are shared, and the length is off by one.
    cosines = 2 / math.sqrt(3 * 2) + 1 / math.sqrt(2 * 1)
    assert cider_d(["one two x", ""], references) == pytest.approx([10 * cosines / 4 * math.exp(-1 / 72), 0])
    # A word said thrice counts no more often than in the reference, but makes the caption's vector longer.
    assert cider_d(["one one one", "no"], references)[0] == pytest.approx(
        10 / 4 / 3 / math.sqrt(2) * math.exp(-1 / 72)
    )


def test_cider_weighs_by_rarity_and_takes_the_mean_over_references():
    # "the" belongs to all images and says nothing.
    assert cider_d(["the", "cat", "the bird"], [["the cat"], ["the dog"], ["the bird"]])[:2] == [0, 0]
    both, first, second = (
        cider_d(["a red circle", "x"], [references, ["other words here"]])[0]
        for references in (["a red circle", "one blue star"], ["a red circle"], ["one blue star"])
    )
    assert both == pytest.approx((first + second) / 2)
    assert second == 0


@given(st.lists(WORDS, min_size=2, max_size=6, unique=True))
@settings(max_examples=50, deadline=None)
def test_cider_is_at_most_ten_and_does_not_depend_on_order(captions):
    references = [[caption] for caption in captions]
    other = captions[1:] + captions[:1]
    scores = cider_d(other, references)
    assert all(0 <= score <= 10 + 1e-9 for score in scores)
    assert cider_d(other[::-1], references[::-1]) == pytest.approx(scores[::-1])
    own = cider_d(captions, references)
    assert all(mine >= theirs - 1e-9 for mine, theirs in zip(own, scores, strict=True))


def test_cider_refuses():
    with pytest.raises(ValueError, match="a reference for each"):
        cider_d(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="each of 1 images, got 2"):
        cider_d(["a", "b"], [["a"]])


@given(st.text(max_size=6), st.text(max_size=6).filter(str.strip))
def test_only_equal_words_score(answer, reference):
    """An answer of nothing but articles and marks, such as the letter A of a choice, is no empty one."""
    if answer_score(answer, [reference]):
        assert normalize_answer(answer) == normalize_answer(reference) != ""
    assert answer_score(" ", [reference]) == 0
    assert answer_score(reference, [reference]) == 1


def test_answers():
    assert normalize_answer(" The red,  Circle! ") == "red circle"
    assert normalize_answer("A") == normalize_answer("(A)") == normalize_answer("a.") == "a"
    assert normalize_answer("a") != normalize_answer("the") != normalize_answer("") == ""
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
    images = torch.rand(2, 3, 40, 32, generator=generator)
    noisy = (images + 0.1 * torch.randn(2, 3, 40, 32, generator=generator)).clamp(0, 1)
    grey, lighter = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.6)
    assert psnr(torch.cat([grey, grey]), torch.cat([lighter, grey])) == pytest.approx([20, 100], abs=1e-4)
    assert ssim(images, images) == pytest.approx([1, 1])
    assert ssim(noisy, images)[1] == pytest.approx(_windowed_similarity(noisy[1], images[1]), abs=1e-5)
    with pytest.raises(ValueError, match=r"at least 11 pixels a side, got \(10, 12\)"):
        ssim(images[..., :10, :12], images[..., :10, :12])


def _windowed_similarity(image: torch.Tensor, reference: torch.Tensor) -> float:
    """The structural similarity by its definition: Gaussian windows of 11 x 11 pixels within the image."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = window.outer(window) / window.sum().square()
    x, y = image.double()[:, None], reference.double()[:, None]
    x_mean, y_mean, xx, yy, xy = (conv2d(v, window[None, None]) for v in (x, y, x * x, y * y, x * y))
    luminance = (2 * x_mean * y_mean + 0.01**2) / (x_mean**2 + y_mean**2 + 0.01**2)
    contrast = (2 * (xy - x_mean * y_mean) + 0.03**2) / (xx - x_mean**2 + yy - y_mean**2 + 0.03**2)
    return (luminance * contrast).mean().item()
