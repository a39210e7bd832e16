"""Medians, percentiles and intervals of timings: what may be said with how many samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SAMPLES_P90 = 64
"""MLPerf LoadGen's floor for a p90 at 99 % confidence; as in cpp/include/isthmus/timing.h."""
MIN_SAMPLES_P99 = 662
"""The same for a p99."""


@dataclass(frozen=True)
class Summary:
    """Durations of single calls, in milliseconds."""

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
        """True when the two sides may be equally fast."""
        return self.low <= 1 <= self.high


def percentile(samples: Sequence[float], p: float) -> float:
    """The p-th quantile, p in [0, 1], linear between order statistics.

    Raises:
        ValueError: No samples, or p outside [0, 1].
    """
    if not samples:
        raise ValueError("percentile needs at least one sample, got none")
    if not 0 <= p <= 1:
        raise ValueError(f"percentile needs p between 0 and 1, got {p}")
    return float(np.quantile(np.asarray(samples, dtype=np.float64), p))


def summarize(samples_ms: Sequence[float]) -> Summary:
    """Median, mean, minimum and, with enough samples, percentiles.

    Raises:
        ValueError: No samples, or one that is not a finite, positive number.
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
    """Percentile-bootstrap interval of the median of independent values (Efron 1979)."""
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
    """Median over rounds of a/b, with a percentile-bootstrap interval (Efron 1979).

    `a[i]` and `b[i]` are the medians of the two sides in round i. Both took their turn in that
    round, so what slowed the machine down for a while slowed both, and the ratio within a round is
    free of it; rounds are the unit that is resampled: calls within one are not independent.

    Raises:
        ValueError: Fewer than two rounds, unequal lengths, or a value that is not positive.
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
