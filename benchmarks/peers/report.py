"""The tables, the JSON and the verdict of the comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from shared import interval_text

from isthmus.document import Document, Table, number

from .judge import Claim
from .limit import Limit
from .rows import STREAM, Row, Start, auto_of, rank


@dataclass(frozen=True)
class PeersResult:
    """The results; truthy when all claims are reached."""

    rows: tuple[Row, ...]
    starts: tuple[Start, ...]
    claims: tuple[Claim, ...]
    limit: Limit
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    unjudged: str = ""
    """The reason why there is no verdict."""

    def __bool__(self) -> bool:
        return self.passed

    @property
    def passed(self) -> bool:
        """True when there are claims and all are reached."""
        return not self.unjudged and bool(self.claims) and all(self.claims)

    @property
    def verdict(self) -> str:
        """The verdict in a sentence."""
        reached = sum(map(bool, self.claims))
        if self.unjudged:
            return f"NOT JUDGED: {self.unjudged}; {reached} of {len(self.claims)} figures fit"
        word = "REACHED" if self.passed else "MISSED"
        return f"{word}: {reached} of {len(self.claims)} figures are as wanted"

    @property
    def cases(self) -> list[tuple[str, str]]:
        """The models and shapes, or streams, in the order of measurement."""
        return list(dict.fromkeys((row.model, row.case) for row in self.rows))

    def of(self, model: str, case: str) -> list[Row]:
        """Returns the rows of a case, each contender once."""
        mine = [row for row in self.rows if (row.model, row.case) == (model, case)]
        return [row for row in mine if not (row.contender.auto and row.heat)]

    def ranked(self, model: str, case: str) -> list[Row]:
        """Returns the rows with numbers, the fastest first."""
        timed = [row for row in self.of(model, case) if row]
        return sorted(timed, key=lambda row: rank(row, self.rows))

    def _over_auto(self, row: Row, *, speed: bool = False) -> str:
        """Returns the row's time (or speed) over that of `auto` in C++ in the same heat."""
        auto = auto_of(row, self.rows)
        if auto is None:
            return "-"
        if auto is row:
            return "1"
        return interval_text(auto.over(row) if speed else row.over(auto))

    def document(self) -> Document:
        """Returns the tables and the facts for `isthmus.document`."""
        tables = [
            self._stream(model) if case == STREAM else self._shape(model, case)
            for model, case in self.cases
        ]
        return Document(
            title="peers: isthmus and what one would pick instead",
            schema="isthmus-benchmark-peers",
            schema_version=2,
            context=self.facts,
            tables=(*tables, *self._starts(), *self._absent(), self._claims()),
            passed=self.passed,
            verdict=self.verdict,
            rows=tuple(row.to_json(auto_of(row, self.rows)) for row in self.rows),
            notes=(*self.notes, *self._doubts()),
            extra={
                "limit": asdict(self.limit),
                "starts": [start.to_json() for start in self.starts],
                "claims": [claim.to_json() for claim in self.claims],
            },
        )

    def _doubts(self) -> list[str]:
        """Returns notes on numbers that are too good to be true."""
        over = [
            row.label
            for row in self.rows
            if row and row.contender.precision == "fp32" and self._share(row) > 1.05
        ]
        if not over:
            return []
        return [f"the limit was measured too low: above it are {', '.join(dict.fromkeys(over))}"]

    def _share(self, row: Row) -> float:
        """Returns the row's share of the matrix product's rate."""
        return row.flops / row.summary.median_ms / self.limit.gflops / 1e6

    def _shape(self, model: str, case: str) -> Table:
        rows = self.ranked(model, case)
        lines = []
        for row in rows:
            summary = row.summary
            seconds = summary.median_ms / 1e3
            lines.append(
                (
                    row.label,
                    number(summary.median_ms, 4),
                    number(summary.p90_ms, 4),
                    number(summary.p99_ms, 4),
                    self._over_auto(row),
                    number(row.per_second, 4),
                    f"{self._share(row):.0%}",
                    f"{row.weight_bytes / seconds / self.limit.gbytes / 1e9:.0%}",
                    number(row.load_ms, 3),
                    number(row.peak_rss_bytes / 1e6, 3),
                    row.accuracy,
                )
            )
        columns = (
            f"{model}, {case}", "median ms", "p90", "p99", "over auto (C++)", "sentences/s",
            "of product", "of copy", "load ms", "peak MB", "error",
        )  # fmt: skip
        return _table(f"{model}, {case} tokens: milliseconds a call", columns, lines, rows)

    def _stream(self, model: str) -> Table:
        rows = self.ranked(model, STREAM)
        columns = (
            f"{model}, stream", "sentences/s", "seconds", "times auto (C++)",
            "tokens computed", "padding", "of product", "load ms", "peak MB", "error",
        )  # fmt: skip
        lines = [
            (
                row.label,
                number(row.per_second, 4),
                number(row.summary.median_ms / 1e3, 4),
                self._over_auto(row, speed=True),
                str(row.elements),
                f"{1 - row.tokens / row.elements:.1%}" if row.elements else "-",
                f"{self._share(row):.0%}",
                number(row.load_ms, 3),
                number(row.peak_rss_bytes / 1e6, 3),
                row.accuracy,
            )
            for row in rows
        ]
        sentences = rows[0].sentences if rows else 0
        return _table(f"{model}: a stream of {sentences} sentences", columns, lines, rows)

    def _starts(self) -> list[Table]:
        tables = []
        for model in dict.fromkeys(start.model for start in self.starts):
            starts = [start for start in self.starts if start.model == model and start.seconds]
            starts.sort(key=lambda start: statistics.median(start.seconds))
            columns = (f"{model}, process start to first answer", "median s", "min s", "peak MB")
            lines = [
                (
                    start.contender.label,
                    number(statistics.median(start.seconds)),
                    number(min(start.seconds)),
                    number(start.peak_rss_bytes / 1e6),
                )
                for start in starts
            ]
            title = f"{model}: process start to first answer"
            tables.append(_table(title, columns, lines, starts))
        return tables

    def _absent(self) -> list[Table]:
        lines = dict.fromkeys(
            (row.model, row.case, row.label, row.reason) for row in self.rows if not row
        )
        lines |= dict.fromkeys(
            (start.model, "start", start.contender.label, start.reason)
            for start in self.starts
            if start.reason
        )
        if not lines:
            return []
        columns = ("model", "case", "contender", "why there is no number")
        return [Table("Without a number", columns, tuple(lines), prose=True)]

    def _claims(self) -> Table:
        lines = tuple(
            (
                claim.model,
                claim.case,
                claim.what,
                claim.bound,
                interval_text(claim.interval) if claim.interval else "-",
                "reached" if claim else f"short by {claim.short}" if claim.short else claim.reason,
            )
            for claim in self.claims
        )
        return Table(
            "What was wanted",
            ("model", "case", "figure", "wanted", "found", ""),
            lines,
            marks=tuple(map(bool, self.claims)),
        )


def _table(
    title: str,
    columns: tuple[str, ...],
    lines: Iterable[tuple[str, ...]],
    contenders: Iterable[Row | Start],
) -> Table:
    """Returns a table that marks isthmus's own rows."""
    return Table(
        title,
        columns,
        tuple(lines),
        marks=tuple(True if row.contender.ours else None for row in contenders),
        numeric=frozenset(columns[1:]),
    )
