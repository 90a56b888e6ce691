"""What samples of durations say: percentiles, and how sure a ratio of two medians is."""

from __future__ import annotations

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
    """A ratio of two medians with its bootstrap confidence interval."""

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
    stream = np.random.default_rng(0)
    above, below = (np.asarray(s, dtype=np.float64) for s in (numerator, denominator))
    ratios = _medians(above, stream) / _medians(below, stream)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, (tail, 1 - tail))
    return Ratio(float(np.median(above) / np.median(below)), float(low), float(high))


def _medians(values: NDArray[np.float64], stream: np.random.Generator) -> NDArray[np.float64]:
    """Medians [RESAMPLES] of resampled `values`."""
    count = len(values)
    length = max(1, round(count ** (1 / 3)))
    starts = stream.integers(count, size=(RESAMPLES, -(-count // length)))
    medians = np.empty(RESAMPLES)
    rows = max(1, _AT_ONCE // count)
    for first in range(0, RESAMPLES, rows):
        part = starts[first : first + rows, :, None]
        places = ((part + np.arange(length)) % count).reshape(len(part), -1)
        medians[first : first + rows] = np.median(values[places[:, :count]], axis=1)
    return medians
