"""What bench measured: a row for each process, C++ against Python, and what may be concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from isthmus.document import Case, Document, Table, number, to_text
from isthmus.timing.statistics import RatioInterval, Summary, ratio_over_rounds, summarize

SCHEMA = "isthmus-bench"
SCHEMA_VERSION = 1

Language = Literal["Python", "C++"]
Verdict = Literal["C++ faster", "C++ slower", "no significant difference", ""]


@dataclass(frozen=True)
class BenchRow:
    """One process: a form of the model, in one language, on one device."""

    form: str
    """"Torch", "TorchScript" or "TorchScript optimised"; see `isthmus.bench`."""
    language: Language
    device: str
    unavailable: str = ""
    """Why there is no number; empty when there is one."""
    artifact: str = ""
    runtime: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Threads and what else was set, the same on both sides of a comparison."""
    load_ms: float | None = None
    """Reading, checking and loading the model."""
    warmup_ms: float | None = None
    """Calls that isthmus makes at load, so that the first one of the user is no slower."""
    first_call_ms: float | None = None
    """The first call after the load and its warm-up."""
    warnings: tuple[str, ...] = ()
    """What the worker saw that makes timings unsteady."""
    peak_rss_bytes: int | None = None
    """Largest resident memory of the process, its interpreter and libraries included."""
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    """Durations of the counted calls, round by round."""

    def __bool__(self) -> bool:
        """True when there are numbers."""
        return not self.unavailable

    @property
    def label(self) -> str:
        """ "TorchScript CPU in C++"."""
        return f"{self.form} {place(self.device)} in {self.language}"

    @property
    def samples_ms(self) -> list[float]:
        """All counted calls, in the order in which they were made."""
        return [sample for turn in self.rounds_ms for sample in turn]

    @property
    def round_medians_ms(self) -> list[float]:
        """The median of each round."""
        return [summarize(turn).median_ms for turn in self.rounds_ms]

    @property
    def summary(self) -> Summary | None:
        """Median and percentiles; None where there are no numbers."""
        return summarize(self.samples_ms) if self.rounds_ms else None

    def to_json(self) -> dict[str, Any]:
        """The facts for machines; durations in milliseconds."""
        return {
            **asdict(self),
            "available": bool(self),
            "summary": asdict(self.summary) if self.summary is not None else None,
        }


@dataclass(frozen=True)
class Comparison:
    """C++ against Python: the same form on the same device."""

    form: str
    device: str
    python_ms: float | None = None
    """Median."""
    cpp_ms: float | None = None
    interval: RatioInterval | None = None
    """C++ over Python; None where one side has no numbers."""
    margin: float = 0.0
    """Two processes of the very same program differ by a few per cent: less is no difference."""
    reason: str = ""
    """Why there is no interval."""

    @property
    def verdict(self) -> Verdict:
        """Faster or slower only when the whole interval is beyond the margin."""
        if self.interval is None:
            return ""
        if self.interval.high < 1 / (1 + self.margin):
            return "C++ faster"
        if self.interval.low > 1 + self.margin:
            return "C++ slower"
        return "no significant difference"

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return {**asdict(self), "verdict": self.verdict}


def compare_rows(
    python: BenchRow, cpp: BenchRow, *, confidence: float, margin: float
) -> Comparison:
    """Compares two rows whose processes took their turns in the same rounds."""
    missing = [f"{row.language}: {row.unavailable}" for row in (python, cpp) if not row]
    reasons = {reason.partition(": ")[2] for reason in missing}
    one_reason = len(missing) == 2 and len(reasons) == 1
    reason = reasons.pop() if one_reason else "; ".join(missing)
    rounds, wanted = len(cpp.round_medians_ms), rounds_for(confidence)
    if not reason and rounds < wanted:
        reason = f"{rounds} rounds are too few for a {confidence:.0%} interval; take {wanted}"
    return Comparison(
        form=python.form,
        device=python.device,
        python_ms=python.summary.median_ms if python.summary else None,
        cpp_ms=cpp.summary.median_ms if cpp.summary else None,
        interval=None
        if reason
        else ratio_over_rounds(
            cpp.round_medians_ms, python.round_medians_ms, confidence=confidence
        ),
        margin=margin,
        reason=reason,
    )


def rounds_for(confidence: float) -> int:
    """Below this, even the smallest and the largest ratio do not enclose the median that surely.

    All of n rounds lie on one side of the median with probability 2 ** (1 - n): the sign test.
    """
    return math.ceil(1 - math.log2(1 - confidence))


@dataclass(frozen=True)
class BenchReport:
    """All rows and comparisons; truthy when at least one row has numbers."""

    bundle: str
    rows: tuple[BenchRow, ...]
    comparisons: tuple[Comparison, ...]
    context: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """True when something was measured."""
        return any(self.rows)

    @property
    def ok(self) -> bool:
        """The same, by name."""
        return bool(self)

    @property
    def verdict(self) -> str:
        """One sentence."""
        found = [comparison for comparison in self.comparisons if comparison.interval is not None]
        if not self:
            return f"nothing could be timed: {self.rows[0].unavailable if self.rows else 'no rows'}"
        if not found:
            return f"{sum(map(bool, self.rows))} rows timed, none in both languages"
        return "; ".join(
            f"{one.form} {place(one.device)}: {one.verdict}"
            f" ({one.interval.ratio:.2f}x the time of Python)"
            for one in found
            if one.interval is not None
        )

    def row(self, form: str, language: str, device: str = "cpu") -> BenchRow:
        """One row.

        Raises:
            KeyError: There is none; names those there are.
        """
        for row in self.rows:
            if (row.form, row.language, row.device) == (form, language, device):
                return row
        names = ", ".join(row.label for row in self.rows)
        raise KeyError(f"no row {form!r} in {language} on {device!r}; there are: {names}")

    def comparison(self, form: str, device: str = "cpu") -> Comparison:
        """One comparison.

        Raises:
            KeyError: There is none.
        """
        for one in self.comparisons:
            if (one.form, one.device) == (form, device):
                return one
        raise KeyError(f"no comparison of {form!r} on {device!r}")

    def plot(self, path: str | Path) -> None:
        """Draws the distributions as PNG or SVG, told by the file's ending."""
        from isthmus.timing.plot import plot_report

        plot_report(self, Path(path))

    def __str__(self) -> str:
        """The tables, as on the console."""
        return to_text(self)

    def document(self) -> Document:
        """See `isthmus.report`."""
        return Document(
            title=f"isthmus bench {self.bundle}",
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            context=self.context,
            tables=(
                *_comparison_table(
                    tuple(
                        comparison
                        for comparison in self.comparisons
                        if None not in (comparison.python_ms, comparison.cpp_ms)
                    )
                ),
                _row_table(tuple(row for row in self.rows if not row.unavailable)),
                *_absent_table(tuple(row for row in self.rows if row.unavailable)),
            ),
            passed=bool(self),
            verdict=self.verdict,
            rows=tuple(row.to_json() for row in self.rows),
            cases=tuple(Case(row.label, skipped=row.unavailable) for row in self.rows),
            notes=(*_runtimes(self.rows), *self.notes, *_warnings(self.rows)),
            extra={"comparisons": [comparison.to_json() for comparison in self.comparisons]},
        )


def place(device: str) -> str:
    """ "CPU", "GPU" or "GPU 1", as people call it."""
    kind, _, index = device.partition(":")
    name = {"cpu": "CPU", "cuda": "GPU"}.get(kind, device)
    return f"{name} {index}" if index not in ("", "0") else name


def _runtimes(rows: tuple[BenchRow, ...]) -> list[str]:
    names = dict.fromkeys(row.runtime for row in rows if row.runtime)
    return [f"runtimes: {', '.join(names)}"] if names else []


def _warnings(rows: tuple[BenchRow, ...]) -> list[str]:
    """Each once, with the rows that it belongs to."""
    found = dict.fromkeys(text for row in rows for text in row.warnings)
    return [
        f"{text} ({', '.join(row.label for row in rows if text in row.warnings)})" for text in found
    ]


def _comparison_table(comparisons: Sequence[Comparison]) -> list[Table]:
    if not comparisons:
        return []
    rows = []
    for one in comparisons:
        interval = one.interval
        rows.append(
            (
                f"{one.form} {place(one.device)}",
                number(one.python_ms, 4),
                number(one.cpp_ms, 4),
                number(interval.ratio if interval else None),
                f"{interval.low:.3f} to {interval.high:.3f}" if interval else "-",
                one.verdict or one.reason,
            )
        )
    confidence = next(
        (comparison.interval.confidence for comparison in comparisons if comparison.interval), 0.99
    )
    table = Table(
        title="C++ against Python, median milliseconds a call",
        columns=("form", "Python", "C++", "C++/Python", f"{confidence:.0%} interval", "verdict"),
        rows=tuple(rows),
        marks=tuple(
            {"C++ faster": True, "C++ slower": False}.get(comparison.verdict)
            for comparison in comparisons
        ),
        numeric=frozenset({"Python", "C++", "C++/Python", f"{confidence:.0%} interval"}),
    )
    return [table]


def _row_table(rows: tuple[BenchRow, ...]) -> Table:
    names = ("median", "p90", "p99", "min", "calls", "load", "warm-up", "first call", "peak MB")
    lines = []
    for row in rows:
        summary = row.summary
        cells: tuple[str, ...] = ("-",) * len(names)
        if summary is not None:
            cells = (
                number(summary.median_ms, 4),
                number(summary.p90_ms, 4),
                number(summary.p99_ms, 4),
                number(summary.min_ms, 4),
                str(summary.count),
                number(row.load_ms, 4),
                number(row.warmup_ms, 4),
                number(row.first_call_ms, 4),
                number(row.peak_rss_bytes / 1e6, 4) if row.peak_rss_bytes is not None else "-",
            )
        lines.append((row.label, *cells))
    return Table(
        title="Each process, milliseconds",
        columns=("row", *names),
        rows=tuple(lines),
        numeric=frozenset(names),
    )


def _absent_table(rows: tuple[BenchRow, ...]) -> list[Table]:
    if not rows:
        return []
    lines = tuple((row.label, row.unavailable) for row in rows)
    return [Table(title="Without a number", columns=("row", "why"), rows=lines)]
