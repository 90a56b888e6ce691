"""Percentiles and intervals, on samples whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ldm_engine.benchmarking.statistics import (
    median_of_ratios,
    ratio_of_medians,
    sign_test_confidence,
    summarize,
)


def test_percentiles_of_known_samples():
    summary = summarize([float(n) for n in range(101)])
    assert (summary.count, summary.min, summary.median) == (101, 0, 50)
    assert (summary.p90, summary.p99, summary.mean) == (90, 99, 50)


def test_one_sample_is_every_percentile():
    summary = summarize([0.5])
    assert {summary.min, summary.median, summary.p90, summary.p99, summary.mean} == {0.5}


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    stream = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        slow, fast = stream.lognormal(np.log(1.2), 0.1, 40), stream.lognormal(0, 0.1, 40)
        ratio = ratio_of_medians(slow, fast)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 1.2 <= ratio.high
    assert covered >= 180  # of 200, 190 expected


def test_a_drift_that_samples_share_widens_the_interval():
    stream = np.random.default_rng(2)
    noise = 1 + 0.1 * np.repeat(stream.standard_normal(16), 4)  # four samples of each mood
    single = ratio_of_medians(stream.permutation(noise), [1.0])
    shared = ratio_of_medians(noise, [1.0])
    assert shared.high - shared.low > single.high - single.low


def test_the_same_samples_give_the_same_interval():
    assert ratio_of_medians([1, 2, 3], [2, 3, 4]) == ratio_of_medians([1, 2, 3], [2, 3, 4])


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_clear_difference_excludes_one(factor):
    samples = np.random.default_rng(3).normal(1, 0.01, 20)
    ratio = ratio_of_medians(samples * factor, samples)
    assert (ratio.low < 1 < ratio.high) is False
    assert ratio.value == pytest.approx(factor)


@pytest.mark.parametrize("count", [6, 9, 12])
def test_the_interval_of_pairs_covers_the_true_ratio_as_often_as_it_says(count):
    stream = np.random.default_rng(4)
    covered = 0
    for _ in range(1000):
        mood = stream.lognormal(0, 0.3, count)
        slow, fast = (mood * f * stream.lognormal(0, 0.05, count) for f in (1.1, 1.0))
        ratio = median_of_ratios(slow, fast)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 1.1 <= ratio.high
    assert covered / 1000 == pytest.approx(sign_test_confidence(count), abs=0.025)
    assert sign_test_confidence(count) >= 0.95


def test_few_pairs_span_all_of_them_and_say_how_sure_that_is():
    ratio = median_of_ratios([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert (ratio.low, ratio.value, ratio.high) == (1, 2, 4)
    assert sign_test_confidence(3) == 0.75


def test_unequal_numbers_are_no_pairs():
    with pytest.raises(ValueError, match="shorter"):
        median_of_ratios([1.0, 2.0], [1.0])
