"""What samples of durations say: percentiles, and how sure a ratio of two medians is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
_AT_ONCE = 1 << 20  # samples in memory: an hour of steps has many


@dataclass(frozen=True)
class Summary:
    """Percentiles of `count` samples, in the samples' unit."""

    count: int
    min: float
    median: float
    p90: float
    p99: float  #: with fewer than about 100 samples, next to the largest
    mean: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of durations with its confidence interval."""

    value: float
    low: float
    high: float


def summarize(samples: Sequence[float]) -> Summary:
    """The percentiles of at least one sample."""
    values = np.asarray(samples, dtype=np.float64)
    median, p90, p99 = np.percentile(values, (50, 90, 99))
    return Summary(
        len(values),
        float(values.min()),
        float(median),
        float(p90),
        float(p99),
        float(values.mean()),
    )


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """median(numerator) / median(denominator), with a 95 % interval from the samples alone.

    A circular block bootstrap (Politis and Romano, 1992): samples that follow each other resemble
    each other on a machine whose speed drifts, and resampling them one by one would call noise
    certain. The blocks are n**(1/3) long. The random stream is fixed: the same samples give the
    same interval.
    """
    above, below = (np.asarray(s, dtype=np.float64) for s in (numerator, denominator))
    stream = np.random.default_rng(0)
    ratios = _medians(above, _block_starts(len(above), stream)) / _medians(
        below, _block_starts(len(below), stream)
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, (tail, 1 - tail))
    return Ratio(float(np.median(above) / np.median(below)), float(low), float(high))


def median_of_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The median of the ratios of samples taken in turn, with its interval by the sign test.

    Each pair was taken in the same mood of the machine, which cancels out. The interval lies
    between two of the sorted ratios and needs no assumption about their distribution; its
    confidence is ``sign_test_confidence``. With fewer than six pairs it spans all of them, and
    holds less than 95 %.

    Raises:
        ValueError: if the numbers of samples differ.
    """
    pairs = zip(numerators, denominators, strict=True)
    ratios = sorted(above / below for above, below in pairs)
    left_out = _left_out(len(ratios))
    return Ratio(float(np.median(ratios)), ratios[left_out], ratios[-1 - left_out])


def sign_test_confidence(count: int) -> float:
    """How sure the interval of ``median_of_ratios`` is with `count` pairs."""
    return 1 - 2 * _tail(count, _left_out(count))


def _left_out(count: int) -> int:
    """How many of the sorted ratios lie outside of the interval, on each side."""
    left_out = 0
    while 1 - 2 * _tail(count, left_out + 1) >= CONFIDENCE:
        left_out += 1
    return left_out


def _tail(count: int, left_out: int) -> float:
    """That at most `left_out` of `count` ratios lie below the true median."""
    return sum(math.comb(count, k) for k in range(left_out + 1)) / 2.0**count


def _block_starts(count: int, stream: np.random.Generator) -> NDArray[np.int64]:
    """Where the blocks begin that the resamples of `count` samples consist of: [RESAMPLES, .]."""
    return stream.integers(count, size=(RESAMPLES, -(-count // _block_length(count))))


def _medians(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Medians [RESAMPLES] of `values` resampled in blocks from `starts`."""
    count = len(values)
    medians = np.empty(RESAMPLES)
    rows = max(1, _AT_ONCE // count)
    for first in range(0, RESAMPLES, rows):
        part = starts[first : first + rows, :, None]
        places = ((part + np.arange(_block_length(count))) % count).reshape(len(part), -1)
        medians[first : first + rows] = np.median(values[places[:, :count]], axis=1)
    return medians


def _block_length(count: int) -> int:
    return max(1, round(float(np.cbrt(count))))
