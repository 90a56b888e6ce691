"""Percentiles and intervals, on samples whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ldm_engine.benchmarking.statistics import ratio_of_medians, summarize


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
