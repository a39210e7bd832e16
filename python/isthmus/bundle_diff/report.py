"""The report of a comparison of two bundles, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from isthmus.bundle_diff.accuracy import Accuracy
from isthmus.bundle_diff.cross_check import CrossCheck
from isthmus.bundle_diff.findings import (
    AREAS,
    SEVERITIES,
    Change,
    Compared,
    NotCompared,
    Severity,
    counted,
    gravest_first,
)
from isthmus.bundle_diff.graph import GraphDiff
from isthmus.bundle_diff.speed import Speed
from isthmus.bundle_diff.tables import (
    accuracy_tables,
    change_tables,
    cross_check_tables,
    graph_tables,
    not_compared_tables,
    overview_table,
    speed_tables,
)
from isthmus.bundle_diff.weights import WeightsDiff
from isthmus.document import Case, Document, Table, number, to_text

__all__ = ["SCHEMA", "SCHEMA_VERSION", "DiffReport", "Side"]

SCHEMA = "isthmus-diff"
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Side:
    """A bundle of the comparison."""

    path: str
    name: str
    created: str
    producer: Mapping[str, str]


@dataclass(frozen=True)
class DiffReport:
    """The differences of two bundles; truthy when none is as grave as `fail_on`."""

    a: Side
    b: Side
    changes: tuple[Change, ...] = ()
    """The changes in the order of `AREAS`."""
    compared: tuple[Compared, ...] = ()
    not_compared: tuple[NotCompared, ...] = ()
    """The comparisons that could not be made, with the reasons."""
    accuracy: tuple[Accuracy, ...] = ()
    cross_checks: tuple[CrossCheck, ...] = ()
    speeds: tuple[Speed, ...] = ()
    graphs: tuple[GraphDiff, ...] = ()
    weights: tuple[WeightsDiff, ...] = ()
    fail_on: Severity = "worse"
    """The least grave severity that fails the report: "breaking", "worse" or "changed"."""
    ran: bool = True
    """True when the bundles were run, and not only read."""
    full: bool = False
    """True when the tables show everything, however long."""
    context: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Returns `ok`."""
        return self.ok

    @property
    def ok(self) -> bool:
        """True when no change is as grave as `fail_on`."""
        return not self.failures

    @property
    def failures(self) -> tuple[Change, ...]:
        """The changes that fail the report, the gravest first."""
        grave = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        return tuple(gravest_first(change for change in self.changes if change.severity in grave))

    @property
    def same_model(self) -> bool | None:
        """True when B gives A's answers on all goldens of A that it accepts, on every engine here.

        None when nothing could be compared.
        """
        return all(self._ran) if self._ran else None

    @property
    def _ran(self) -> list[CrossCheck]:
        return [check for check in self.cross_checks if check.results]

    @property
    def counts(self) -> dict[Severity, int]:
        """The number of changes of each severity."""
        return {
            severity: sum(change.severity == severity for change in self.changes)
            for severity in SEVERITIES
        }

    @property
    def verdict(self) -> str:
        """The verdict in a sentence."""
        counts = [f"{count} {severity}" for severity, count in self.counts.items() if count]
        total = ", ".join(counts) if counts else "nothing changed"
        text = f"{'PASSED' if self.ok else 'FAILED'}: {self._answers()}; {total}"
        outside = [failure for failure in self.failures if failure.area != "cross-check"]
        if self.same_model is not False and outside:
            first = outside[0]
            subject = f" ({first.subject})" if first.subject else ""
            text += f"; first {first.what}: {first.before} -> {first.after}{subject}"
        return text

    def _answers(self) -> str:
        if not self.ran:
            return "what the models answer was not compared"
        if self.same_model is None:
            return "nothing of B could be run on A's goldens"
        ran = self._ran
        if not self.same_model:
            # Of the outputs that fail, the one that is furthest off is the most telling.
            bad = next(check for check in ran if not check)
            worst = bad.worst
            if worst is None or worst:
                return f"B is not the same model: {bad.name}: {bad.reason}"
            return (
                f"B is not the same model: {worst.output} of golden {worst.golden} is off by"
                f" {number(worst.max_abs)}, {number(worst.strain)} x what is allowed, on {bad.name}"
            )
        left_out = any(
            entry.area == "cross-check" and "golden" in entry.subject for entry in self.not_compared
        )
        words = f"on {counted(ran[0].goldens, 'golden')}"
        words += f" and {counted(len(ran), 'engine')}" if len(ran) > 1 else ""
        same = "the same model" if not left_out else "the same model as far as it takes A's inputs"
        exact = all(check.vs_before == 0 for check in ran)
        how = "bit for bit" if exact else "within A's noise"
        return f"B is {same}, {how}, {words}"

    def change(self, what: str) -> Change:
        """Returns the first change whose `what` or `subject` contains this text.

        Raises:
            KeyError: There is none; the message lists the changes.
        """
        for change in self.changes:
            if what in change.what or what in change.subject:
                return change
        known = "; ".join(f"{change.area}: {change.what}" for change in self.changes)
        raise KeyError(f"no change {what!r}; there are: {known or 'none'}")

    def __str__(self) -> str:
        """Returns the tables, as on the console."""
        return to_text(self)

    def document(self) -> Document:
        """Returns the tables and the facts for `isthmus.document`."""
        return Document(
            title=f"isthmus diff {self.a.path} {self.b.path}",
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            context=self.context,
            tables=self._tables(),
            passed=self.ok,
            verdict=self.verdict,
            rows=tuple(
                {**asdict(change), "fails": change in self.failures} for change in self.changes
            ),
            cases=self._cases(),
            extra={
                "a": asdict(self.a),
                "b": asdict(self.b),
                "fail_on": self.fail_on,
                "counts": self.counts,
                "same_model": self.same_model,
                "compared": [asdict(entry) for entry in self.compared],
                "not_compared": [asdict(entry) for entry in self.not_compared],
                "accuracy": [row.to_json() for row in self.accuracy],
                "cross_checks": [check.to_json() for check in self.cross_checks],
                "speeds": [speed.to_json() for speed in self.speeds],
                "graphs": [{**asdict(graph), "equal": bool(graph)} for graph in self.graphs],
                "weights": [
                    {**asdict(weight), "all_equal": bool(weight)} for weight in self.weights
                ],
            },
        )

    def _tables(self) -> tuple[Table, ...]:
        """Returns what was compared, what changed by area, and what could not be compared."""
        tables = [overview_table(self.compared, self.failures)]
        numbers = {
            "graph": graph_tables(self.graphs, full=self.full),
            "errors": accuracy_tables(self.accuracy),
            "cross-check": cross_check_tables(self._ran),
            "speed": speed_tables(self.speeds),
        }
        for area in AREAS:
            changes = [change for change in self.changes if change.area == area]
            tables += change_tables(area, changes, self.failures, full=self.full)
            tables += numbers.get(area, [])
        return (*tables, *not_compared_tables(self.not_compared))

    def _cases(self) -> tuple[Case, ...]:
        """Returns a test case for each area."""
        cases = []
        for area in AREAS:
            failing = [failure for failure in self.failures if failure.area == area]
            results = [entry for entry in self.compared if entry.area == area]
            missing = [entry for entry in self.not_compared if entry.area == area]
            skipped = ""
            if not failing and not results:
                skipped = missing[0].reason if missing else "not asked for"
            cases.append(
                Case(
                    name=area,
                    failure="\n".join(
                        f"{change.severity}: {change.subject + ': ' if change.subject else ''}"
                        f"{change.what}: {change.before} -> {change.after}"
                        for change in failing
                    ),
                    skipped=skipped,
                    output="\n".join(
                        [
                            *(
                                f"{result.subject or 'the bundle'}: {result.result}"
                                for result in results
                            ),
                            *(
                                f"{entry.subject}: not compared: {entry.reason}"
                                for entry in missing
                            ),
                        ]
                    ),
                )
            )
        return tuple(cases)
