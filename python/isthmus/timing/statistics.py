"""Medians, percentiles and confidence intervals of timings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SAMPLES_P90 = 64
"""The least samples for a p90 at 99 % confidence (MLPerf LoadGen), as in isthmus/timing.h."""
MIN_SAMPLES_P99 = 662
"""The least samples for a p99 at 99 % confidence (MLPerf LoadGen)."""


@dataclass(frozen=True)
class Summary:
    """Statistics of the durations of single calls, in milliseconds."""

    count: int
    median_ms: float
    mean_ms: float
    min_ms: float
    p90_ms: float | None
    """None with fewer than `MIN_SAMPLES_P90` samples."""
    p99_ms: float | None
    """None with fewer than `MIN_SAMPLES_P99` samples."""


@dataclass(frozen=True)
class RatioInterval:
    """A ratio of medians with its confidence interval."""

    ratio: float
    low: float
    high: float
    confidence: float

    def includes_one(self) -> bool:
        """Returns True when the two sides may be equally fast."""
        return self.low <= 1 <= self.high


def percentile(samples: Sequence[float], p: float) -> float:
    """Returns the p-th quantile, p in [0, 1], linear between order statistics.

    Raises:
        ValueError: There are no samples, or p is outside [0, 1].
    """
    if not samples:
        raise ValueError("percentile needs at least one sample, got none")
    if not 0 <= p <= 1:
        raise ValueError(f"percentile needs p between 0 and 1, got {p}")
    return float(np.quantile(np.asarray(samples, dtype=np.float64), p))


def summarize(samples_ms: Sequence[float]) -> Summary:
    """Returns median, mean, minimum and, with enough samples, percentiles.

    Raises:
        ValueError: There are no samples, or one is negative or not finite.
    """
    if not samples_ms:
        raise ValueError("summarize needs at least one sample, got none")
    bad = [value for value in samples_ms if not (math.isfinite(value) and value >= 0)]
    if bad:
        raise ValueError(f"durations must be finite and not negative, got {bad[0]}")
    count = len(samples_ms)
    return Summary(
        count=count,
        median_ms=percentile(samples_ms, 0.5),
        mean_ms=float(np.mean(samples_ms)),
        min_ms=min(samples_ms),
        p90_ms=percentile(samples_ms, 0.9) if count >= MIN_SAMPLES_P90 else None,
        p99_ms=percentile(samples_ms, 0.99) if count >= MIN_SAMPLES_P99 else None,
    )


def median_interval(
    values: Sequence[float], confidence: float, *, resamples: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile-bootstrap interval of the median (Efron 1979)."""
    sample = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(sample), size=(resamples, len(sample)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.median(sample[picks], axis=1), [tail, 1 - tail])
    return float(low), float(high)


def ratio_over_rounds(
    a: Sequence[float],
    b: Sequence[float],
    *,
    confidence: float = 0.99,
    resamples: int = 4000,
    seed: int = 0,
) -> RatioInterval:
    """Returns the median over rounds of a/b, with a percentile-bootstrap interval (Efron 1979).

    `a[i]` and `b[i]` are the medians of the two sides in round i. Both sides took a turn in that
    round, so a slow phase of the machine slows both and cancels in the ratio. Rounds are the unit
    of resampling, because the calls within a round are not independent.

    Raises:
        ValueError: There are fewer than two rounds, unequal lengths, or a value that is not
            positive.
    """
    if len(a) != len(b):
        raise ValueError(f"both sides need the same rounds, got {len(a)} and {len(b)}")
    if len(a) < 2:
        raise ValueError(f"an interval needs at least 2 rounds, got {len(a)}")
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not (np.all(np.isfinite(left)) and np.all(np.isfinite(right))):
        raise ValueError("medians of rounds must be finite")
    if np.any(left <= 0) or np.any(right <= 0):
        raise ValueError("medians of rounds must be positive")
    logs = np.log(left) - np.log(right)
    low, high = median_interval(logs.tolist(), confidence, resamples=resamples, seed=seed)
    return RatioInterval(
        ratio=math.exp(float(np.median(logs))),
        low=math.exp(low),
        high=math.exp(high),
        confidence=confidence,
    )
