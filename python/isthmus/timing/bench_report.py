"""The result of bench: a row for each process, and the comparison of C++ with Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from isthmus.document import Case, Document, Table, number, to_text
from isthmus.runtime.engines import RowKind, engine_title
from isthmus.timing.bench_row import BenchRow, place
from isthmus.timing.statistics import RatioInterval, ratio_over_rounds

SCHEMA = "isthmus-bench"
SCHEMA_VERSION = 2

Verdict = Literal["C++ faster", "C++ slower", "no significant difference", ""]


@dataclass(frozen=True)
class Comparison:
    """C++ against Python: the same engine on the same artifact and device."""

    engine: str
    kind: RowKind
    device: str
    python_ms: float | None = None
    """The median in Python, in milliseconds."""
    cpp_ms: float | None = None
    """The median in C++, in milliseconds."""
    interval: RatioInterval | None = None
    """The time of C++ over that of Python; None where one side has no numbers."""
    margin: float = 0.0
    """The relative difference up to which both count as equally fast."""
    reason: str = ""
    """The reason why there is no interval."""

    @property
    def title(self) -> str:
        """The engine's name for people: "TorchScript optimised"."""
        return engine_title(self.engine, self.kind)

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
        """Returns JSON values."""
        return {**asdict(self), "kind": self.kind.value, "verdict": self.verdict}


def compare_rows(
    python: BenchRow, cpp: BenchRow, *, confidence: float, margin: float
) -> Comparison:
    """Compares two rows whose processes took their turns in the same rounds."""
    missing = [f"{row.language}: {row.unavailable}" for row in (python, cpp) if not row]
    reasons = {reason.partition(": ")[2] for reason in missing}
    shared_reason = len(missing) == 2 and len(reasons) == 1
    reason = reasons.pop() if shared_reason else "; ".join(missing)
    rounds, wanted = len(cpp.round_medians_ms), rounds_for(confidence)
    if not reason and rounds < wanted:
        reason = f"{rounds} rounds are too few for a {confidence:.0%} interval; take {wanted}"
    return Comparison(
        engine=python.engine,
        kind=python.kind,
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
    """Returns the least number of rounds for an interval of this confidence.

    All of n rounds lie on one side of the median with probability 2 ** (1 - n) (sign test): with
    fewer rounds, even the smallest and the largest ratio do not enclose the median that surely.
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
        """The same as `bool(report)`."""
        return bool(self)

    @property
    def verdict(self) -> str:
        """The conclusion in one sentence."""
        compared = [
            f"{comparison.title} {place(comparison.device)}: {comparison.verdict}"
            f" ({comparison.interval.ratio:.2f}x the time of Python)"
            for comparison in self.comparisons
            if comparison.interval is not None
        ]
        if not self:
            return f"nothing could be timed: {self.rows[0].unavailable if self.rows else 'no rows'}"
        if not compared:
            return f"{sum(map(bool, self.rows))} rows timed, none in both languages"
        return "; ".join(compared)

    def row(self, title: str, language: str, device: str = "cpu") -> BenchRow:
        """Returns the row of this title, such as "TorchScript optimised".

        Raises:
            KeyError: There is none; names those that exist.
        """
        for row in self.rows:
            if (row.title, row.language, row.device) == (title, language, device):
                return row
        names = ", ".join(row.label for row in self.rows)
        raise KeyError(f"no row {title!r} in {language} on {device!r}; there are: {names}")

    def comparison(self, title: str, device: str = "cpu") -> Comparison:
        """Returns the comparison of this title, such as "TorchScript optimised".

        Raises:
            KeyError: There is none.
        """
        for comparison in self.comparisons:
            if (comparison.title, comparison.device) == (title, device):
                return comparison
        raise KeyError(f"no comparison of {title!r} on {device!r}")

    def plot(self, path: str | Path) -> None:
        """Draws the distributions as PNG or SVG, by the ending of the file's name.

        Raises:
            InvalidInput: Another ending, nothing to draw, or no matplotlib.
        """
        from isthmus.timing.plot import plot_rows

        heading = f"{self.bundle}, {self.context.get('inputs', '')}\n{self.context.get('cpu', '')}"
        plot_rows(self.rows, heading, Path(path))

    def __str__(self) -> str:
        """Returns the tables as printed on the console."""
        return to_text(self)

    def document(self) -> Document:
        """Returns the report as a document to print; see `isthmus.document`."""
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


def _runtimes(rows: tuple[BenchRow, ...]) -> list[str]:
    names = dict.fromkeys(row.runtime for row in rows if row.runtime)
    return [f"runtimes: {', '.join(names)}"] if names else []


def _warnings(rows: tuple[BenchRow, ...]) -> list[str]:
    """Returns each warning once, with the rows that it belongs to."""
    texts = dict.fromkeys(text for row in rows for text in row.warnings)
    return [
        f"{text} ({', '.join(row.label for row in rows if text in row.warnings)})" for text in texts
    ]


def _comparison_table(comparisons: Sequence[Comparison]) -> list[Table]:
    if not comparisons:
        return []
    rows = []
    for comparison in comparisons:
        interval = comparison.interval
        rows.append(
            (
                f"{comparison.title} {place(comparison.device)}",
                number(comparison.python_ms, 4),
                number(comparison.cpp_ms, 4),
                number(interval.ratio if interval else None),
                f"{interval.low:.3f} to {interval.high:.3f}" if interval else "-",
                comparison.verdict or comparison.reason,
            )
        )
    confidence = next(
        (comparison.interval.confidence for comparison in comparisons if comparison.interval), 0.99
    )
    table = Table(
        title="C++ against Python, median milliseconds a call",
        columns=("engine", "Python", "C++", "C++/Python", f"{confidence:.0%} interval", "verdict"),
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
