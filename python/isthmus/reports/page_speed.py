"""The page's section on bench: a strip for each process, and C++ against Python."""

from __future__ import annotations

import math
from typing import Any

from isthmus.reports import charts
from isthmus.timing.bench_report import BenchReport, Comparison
from isthmus.timing.bench_row import BenchRow, place

__all__ = ["fastest", "median_ms", "speed_section"]

_CONTEXT = ("clock governor", "load average before", "inputs", "method", "difference")
"""The entries of bench's context that the page shows."""


def median_ms(row: BenchRow) -> float:
    """Returns the median of a row in milliseconds; infinity without calls."""
    return row.summary.median_ms if row.summary is not None else math.inf


def fastest(speed: BenchReport | None) -> BenchRow | None:
    """Returns the row with the least median; None if nothing was timed."""
    timed = [row for row in speed.rows if row.rounds_ms] if speed is not None else []
    return min(timed, key=median_ms, default=None)


def speed_section(speed: BenchReport, markup: Any) -> dict[str, Any]:
    """Returns what the section shows; `markup` marks safe HTML."""
    timed = [row for row in speed.rows if row.rounds_ms]
    axis = charts.axis_for([charts.reach(row.samples_ms) for row in timed], "ms")
    groups: dict[tuple[str, str], list[BenchRow]] = {}
    for row in timed:
        groups.setdefault((row.title, row.device), []).append(row)
    verdicts = {
        (comparison.title, comparison.device): comparison for comparison in speed.comparisons
    }
    missing: dict[str, list[str]] = {}
    for row in speed.rows:
        if not row.rounds_ms:
            missing.setdefault(row.unavailable or "no calls", []).append(row.label)
    return {
        "axis": markup(axis.picture()),
        "beyond": sum(sample > axis.edge for row in timed for sample in row.samples_ms),
        "calls": sum(len(row.samples_ms) for row in timed),
        "rows": timed,
        "groups": [
            {
                "name": f"{title} on {place(device)}",
                "verdict": comparison_text(verdicts.get((title, device))),
                "rows": [
                    {
                        "row": row,
                        "strip": markup(charts.latency_strip(row.samples_ms, axis, row.language)),
                    }
                    for row in rows
                ],
            }
            for (title, device), rows in groups.items()
        ],
        "missing": list(missing.items()),
        "context": {key: value for key, value in speed.context.items() if key in _CONTEXT},
        "notes": speed.notes,
    }


def comparison_text(comparison: Comparison | None) -> str:
    """Formats a verdict: "C++ faster: 0.59 x the time of Python (99 % interval 0.57 to 0.61)"."""
    if comparison is None or (
        comparison.interval is None and None in (comparison.python_ms, comparison.cpp_ms)
    ):
        return ""
    interval = comparison.interval
    if interval is None:
        return comparison.reason
    return (
        f"{comparison.verdict}: {interval.ratio:.2f} x the time of Python"
        f" ({interval.confidence:.0%} interval {interval.low:.2f} to {interval.high:.2f})"
    )
