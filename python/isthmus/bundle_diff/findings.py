"""The findings of a comparison: changes, what was compared, and what could not be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = [
    "AREAS",
    "SEVERITIES",
    "Area",
    "Change",
    "Compared",
    "Findings",
    "NotCompared",
    "Section",
    "Severity",
    "counted",
    "gravest_first",
    "shortened",
]

Area = Literal[
    "signature", "requirements", "operators", "graph", "weights", "errors", "cross-check", "speed"
]
AREAS: tuple[Area, ...] = get_args(Area)
"""The areas in the order of a report."""

Severity = Literal["breaking", "worse", "changed", "better"]
"""breaking: a caller fails or gets other answers; worse: further from the truth, slower, larger,
or a new hazard; changed: different and compatible; better: the contrary of worse."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The severities, the gravest first."""


@dataclass(frozen=True)
class Change:
    """A difference between the bundles."""

    area: Area
    subject: str
    """The method, artifact or engine that it belongs to; empty for the bundle itself."""
    what: str
    before: str
    """The value in A; "-" where A has none."""
    after: str
    """The value in B; "-" where B has none."""
    severity: Severity
    why: str = ""
    """The reason for the severity, where it is not obvious."""


def gravest_first(changes: Iterable[Change]) -> list[Change]:
    """Returns the changes in the order of `SEVERITIES`."""
    return sorted(changes, key=lambda change: SEVERITIES.index(change.severity))


@dataclass(frozen=True)
class Compared:
    """A comparison that was made, and its result."""

    area: Area
    subject: str
    result: str
    """The result for people: "equal: 103 tensors"."""
    equal: bool
    """True when nothing at all differs."""


@dataclass(frozen=True)
class NotCompared:
    """A comparison that could not be made."""

    area: Area
    subject: str
    reason: str


@dataclass
class Findings:
    """Collects the findings of the areas in their order."""

    changes: list[Change] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    not_compared: list[NotCompared] = field(default_factory=list)

    def change(
        self,
        area: Area,
        subject: str,
        what: str,
        sides: Sequence[object],
        severity: Severity,
        why: str = "",
    ) -> None:
        """Adds a change; `sides` are the values of A and B, None where there is none."""
        before, after = ("-" if side is None else str(side) for side in sides)
        self.changes.append(Change(area, subject, what, before, after, severity, why))

    def result(self, area: Area, subject: str, text: str, *, equal: bool) -> None:
        """Adds the result of a comparison."""
        self.compared.append(Compared(area, subject, text, equal))

    def section(self, area: Area, subject: str = "") -> Section:
        """Returns a view that adds findings of one area on one subject."""
        return Section(self, area, subject)

    def missing(self, area: Area, subject: str, reason: str) -> None:
        """Adds a comparison that could not be made, unless it is there already."""
        entry = NotCompared(area, subject, reason)
        if entry not in self.not_compared:
            self.not_compared.append(entry)

    def count(self, area: Area) -> int:
        """Returns the number of changes of an area."""
        return sum(change.area == area for change in self.changes)


@dataclass
class Section:
    """Adds findings of one area on one subject, and counts the changes among them."""

    findings: Findings
    area: Area
    subject: str
    changes: int = 0

    def change(self, what: str, sides: Sequence[object], severity: Severity, why: str = "") -> None:
        """Adds a change; see `Findings.change`."""
        self.changes += 1
        self.findings.change(self.area, self.subject, what, sides, severity, why)

    def lists(self, gone: str, new: str, removed: Sequence[str], added: Sequence[str]) -> None:
        """Adds a change for the names that only A has, and one for those that only B has."""
        if removed:
            self.change(f"{gone}: {shortened(removed)}", (len(removed), None), "changed")
        if added:
            self.change(f"{new}: {shortened(added)}", (None, len(added)), "changed")

    def result(self, text: str, *, equal: bool | None = None) -> None:
        """Adds the result of the comparison; it is equal by default when there is no change."""
        equal = not self.changes if equal is None else equal
        self.findings.result(self.area, self.subject, text, equal=equal)

    def missing(self, reason: str) -> None:
        """Adds a comparison that could not be made; see `Findings.missing`."""
        self.findings.missing(self.area, self.subject, reason)


def counted(number: int, noun: str) -> str:
    """Returns "1 tensor" or "3 tensors"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shortened(names: Sequence[str], limit: int = 3) -> str:
    """Returns "a, b, c and 4 more"."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
