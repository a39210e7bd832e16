"""What a comparison of two bundles finds: changes, what was compared, and what could not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "AREAS",
    "SEVERITIES",
    "Area",
    "Change",
    "Compared",
    "Findings",
    "NotCompared",
    "Severity",
    "counted",
    "shortened",
]

Area = Literal[
    "signature", "requirements", "operators", "graph", "weights", "errors", "crossing", "speed"
]
AREAS: tuple[Area, ...] = (
    "signature",
    "requirements",
    "operators",
    "graph",
    "weights",
    "errors",
    "crossing",
    "speed",
)
"""In the order of a report."""

Severity = Literal["breaking", "worse", "changed", "better"]
"""breaking: a caller fails or gets other answers; worse: further from the truth, slower, larger,
or a new hazard; changed: another, and compatible; better: the contrary of worse."""
SEVERITIES: tuple[Severity, ...] = ("breaking", "worse", "changed", "better")
"""The gravest first."""


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was."""

    area: Area
    subject: str
    """What it belongs to: a method, an artifact, an engine; empty for the bundle itself."""
    what: str
    before: str
    """In A; "-" where A has none."""
    after: str
    """In B; "-" where B has none."""
    severity: Severity
    why: str = ""
    """Why it is as grave as that, where it does not speak for itself."""


@dataclass(frozen=True)
class Compared:
    """Something that was compared, and what came of it."""

    area: Area
    subject: str
    result: str
    """For people: "equal: 103 tensors"."""
    equal: bool
    """Whether nothing at all differs."""


@dataclass(frozen=True)
class NotCompared:
    """Something that could not be compared."""

    area: Area
    subject: str
    reason: str


@dataclass
class Findings:
    """Gathers what the areas find, in their order."""

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
        """Adds a change; `sides` are A's and B's, None where it is not there."""
        before, after = ("-" if side is None else str(side) for side in sides)
        self.changes.append(Change(area, subject, what, before, after, severity, why))

    def result(self, area: Area, subject: str, text: str, *, equal: bool) -> None:
        """Adds what a comparison came to."""
        self.compared.append(Compared(area, subject, text, equal))

    def missing(self, area: Area, subject: str, reason: str) -> None:
        """Adds what could not be compared, once."""
        one = NotCompared(area, subject, reason)
        if one not in self.not_compared:
            self.not_compared.append(one)

    def count(self, area: Area, subject: str | None = None) -> int:
        """How many changes an area has, or one subject of it."""
        return sum(
            change.area == area and (subject is None or change.subject == subject)
            for change in self.changes
        )


def counted(number: int, noun: str) -> str:
    """ "1 tensor", "3 tensors"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shortened(names: Sequence[str], limit: int = 3) -> str:
    """ "a, b, c and 4 more"."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
