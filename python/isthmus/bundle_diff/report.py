"""What a comparison of two bundles found, and its verdict."""

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
)
from isthmus.bundle_diff.graph import GraphDiff
from isthmus.bundle_diff.speed import Speed
from isthmus.bundle_diff.weights import WeightsDiff
from isthmus.document import Case, Document, number, to_text

__all__ = ["SCHEMA", "SCHEMA_VERSION", "DiffReport", "Side"]

SCHEMA = "isthmus-diff"
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Side:
    """One of the two bundles."""

    path: str
    name: str
    created: str
    producer: Mapping[str, str]


@dataclass(frozen=True)
class DiffReport:
    """All that differs between two bundles; truthy when nothing is as grave as `fail_on`."""

    a: Side
    b: Side
    changes: tuple[Change, ...] = ()
    """In the order of `AREAS`."""
    compared: tuple[Compared, ...] = ()
    not_compared: tuple[NotCompared, ...] = ()
    """With the reason; nothing is left out in silence."""
    accuracy: tuple[Accuracy, ...] = ()
    crossings: tuple[CrossCheck, ...] = ()
    speeds: tuple[Speed, ...] = ()
    graphs: tuple[GraphDiff, ...] = ()
    weights: tuple[WeightsDiff, ...] = ()
    fail_on: Severity = "worse"
    """The least grave severity that fails the report: "breaking", "worse" or "changed"."""
    ran: bool = True
    """Whether anything was run; else only what can be read was compared."""
    full: bool = False
    """Whether the tables show everything, however long."""
    context: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """The same as `ok`."""
        return self.ok

    @property
    def ok(self) -> bool:
        """True when no change is as grave as `fail_on`."""
        return not self.failures

    @property
    def failures(self) -> tuple[Change, ...]:
        """Changes that fail the report, the gravest first."""
        grave = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        found = [change for change in self.changes if change.severity in grave]
        return tuple(sorted(found, key=lambda one: SEVERITIES.index(one.severity)))

    @property
    def same_model(self) -> bool | None:
        """Whether B gives A's answers, on all of A's goldens that it takes, by every engine here.

        None where that could not be told.
        """
        ran = [crossing for crossing in self.crossings if crossing.results]
        return all(ran) if ran else None

    @property
    def counts(self) -> dict[Severity, int]:
        """How many changes of each severity."""
        return {
            severity: sum(change.severity == severity for change in self.changes)
            for severity in SEVERITIES
        }

    @property
    def verdict(self) -> str:
        """One sentence."""
        counts = [f"{count} {severity}" for severity, count in self.counts.items() if count]
        total = ", ".join(counts) if counts else "nothing changed"
        text = f"{'PASSED' if self.ok else 'FAILED'}: {self._answers()}; {total}"
        outside = [failure for failure in self.failures if failure.area != "crossing"]
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
        ran = [crossing for crossing in self.crossings if crossing.results]
        if not self.same_model:
            # Where an engine fails only some outputs, the one that is furthest off says most.
            bad = next(one for one in ran if not one)
            worst = bad.worst
            if worst is None or worst:
                return f"B is not the same model: {bad.name}: {bad.reason}"
            return (
                f"B is not the same model: {worst.output} of golden {worst.golden} is off by"
                f" {number(worst.max_abs)}, {number(worst.strain)} x what is allowed, on {bad.name}"
            )
        left_out = any(
            one.area == "crossing" and "golden" in one.subject for one in self.not_compared
        )
        words = f"on {counted(ran[0].goldens, 'golden')}"
        words += f" and {counted(len(ran), 'engine')}" if len(ran) > 1 else ""
        same = "the same model" if not left_out else "the same model as far as it takes A's inputs"
        exact = all(one.vs_before == 0 for one in ran)
        how = "bit for bit" if exact else "within A's noise"
        return f"B is {same}, {how}, {words}"

    def change(self, what: str) -> Change:
        """The first change of which this is a part of the text, "what" or subject.

        Raises:
            KeyError: There is none; tells those there are.
        """
        for one in self.changes:
            if what in one.what or what in one.subject:
                return one
        known = "; ".join(f"{change.area}: {change.what}" for change in self.changes)
        raise KeyError(f"no change {what!r}; there are: {known or 'none'}")

    def __str__(self) -> str:
        """The tables, as on the console."""
        return to_text(self)

    def document(self) -> Document:
        """See `isthmus.report`."""
        from isthmus.bundle_diff.tables import tables_of

        return Document(
            title=f"isthmus diff {self.a.path} {self.b.path}",
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            context=self.context,
            tables=tables_of(self),
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
                "compared": [asdict(one) for one in self.compared],
                "not_compared": [asdict(one) for one in self.not_compared],
                "accuracy": [one.to_json() for one in self.accuracy],
                "crossings": [crossing.to_json() for crossing in self.crossings],
                "speeds": [speed.to_json() for speed in self.speeds],
                "graphs": [{**asdict(graph), "equal": bool(graph)} for graph in self.graphs],
                "weights": [
                    {**asdict(weight), "all_equal": bool(weight)} for weight in self.weights
                ],
            },
        )

    def _cases(self) -> tuple[Case, ...]:
        """A test case for each area."""
        cases = []
        for area in AREAS:
            failing = [failure for failure in self.failures if failure.area == area]
            results = [one for one in self.compared if one.area == area]
            missing = [one for one in self.not_compared if one.area == area]
            skipped = ""
            if not failing and not results:
                skipped = missing[0].reason if missing else "not asked for"
            cases.append(
                Case(
                    name=area,
                    failure="\n".join(
                        f"{one.severity}: {one.subject + ': ' if one.subject else ''}{one.what}:"
                        f" {one.before} -> {one.after}"
                        for one in failing
                    ),
                    skipped=skipped,
                    output="\n".join(
                        [
                            *(
                                f"{result.subject or 'the bundle'}: {result.result}"
                                for result in results
                            ),
                            *(f"{one.subject}: not compared: {one.reason}" for one in missing),
                        ]
                    ),
                )
            )
        return tuple(cases)
