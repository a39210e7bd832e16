"""The result of replay: what is to blame, with the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from isthmus.document import Case, Document, Table, number, to_text
from isthmus.goldens.compare import OutputParity, worst
from isthmus.proof.replay.answer import Answer
from isthmus.proof.replay.blame import Blame, Evidence, Finding

if TYPE_CHECKING:
    from isthmus.proof.replay.difference import InputDifference
    from isthmus.proof.verify_report import VerifyReport

__all__ = ["ReplayReport"]

SCHEMA = "isthmus-replay"
SCHEMA_VERSION = 2

_MAX_CALLS = 20
"""The most calls in the table for people; the JSON document has all."""


@dataclass(frozen=True)
class ReplayReport:
    """Recorded answers, engines and inputs; truthy when nothing is wrong."""

    recording: str
    bundle: str
    answers: tuple[Answer, ...]
    parity: VerifyReport | None
    """The engines here on the recorded inputs; None if there was nothing to run."""
    differences: tuple[InputDifference, ...] = ()
    """The inputs of one call against those expected."""
    compared_call: str = ""
    """The name of that call; empty when no input was expected."""
    has_model: bool = False
    context: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Returns True if every recorded answer is right, and the input the one expected."""
        return self.blame == "nobody"

    @property
    def ok(self) -> bool:
        """True when every recorded answer is right, and the input the one expected."""
        return bool(self)

    @property
    def blame(self) -> Blame:
        """The part that is wrong; "nobody" if nothing is."""
        return self._finding[0]

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        return self._finding[1]

    @property
    def wrong_inputs(self) -> tuple[InputDifference, ...]:
        """The inputs that are not the ones expected."""
        return self._evidence.wrong_inputs

    @cached_property
    def _evidence(self) -> Evidence:
        return Evidence(self.answers, self.parity, self.differences, self.has_model)

    @cached_property
    def _finding(self) -> Finding:
        return self._evidence.finding()

    def document(self) -> Document:
        """Returns what reporters print; see `isthmus.document`."""
        parity = self.parity.document() if self.parity is not None else None
        tables = [self._differences_table()] if self.differences else []
        tables.append(self._answers_table())
        if self.parity is not None:
            tables.append(_engines_table(self.parity))
        remedies = (
            f"remedy for {difference.name}: {difference.remedy}"
            for difference in self.wrong_inputs
            if difference.remedy
        )
        reasons = (
            f"{row.label} on {row.device}: {row.reason}" for row in self._evidence.wrong_rows
        )
        return Document(
            title=f"isthmus replay {self.recording}",
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            context=self.context,
            tables=tuple(tables),
            passed=bool(self),
            verdict=self.verdict,
            rows=tuple(answer.to_json() for answer in self.answers),
            cases=(*map(_case, self.answers), *(parity.cases if parity is not None else ())),
            notes=(*self.notes, *remedies, *reasons),
            extra={
                "blame": self.blame,
                "compared_call": self.compared_call,
                "differences": [difference.to_json() for difference in self.differences],
                "engines": list(parity.rows) if parity is not None else [],
            },
        )

    def __str__(self) -> str:
        """Returns the tables as printed on the console."""
        return to_text(self)

    def _differences_table(self) -> Table:
        return Table(
            title=f"The input of call {self.compared_call} against the one expected",
            columns=("input", "kind", "what"),
            rows=tuple(
                (difference.name, difference.kind, difference.sentence)
                for difference in self.differences
            ),
            marks=tuple(map(bool, self.differences)),
        )

    def _answers_table(self) -> Table:
        wrong_first = sorted(self.answers, key=bool)
        shown = wrong_first[:_MAX_CALLS]
        more = len(self.answers) - len(shown)
        marks = {"right": True, "unknown": None}
        return Table(
            title="Recorded answers" + (f" ({more} more not shown)" if more else ""),
            columns=("call", "engine", "device", "verdict", "x eager's own", "of allowed", "why"),
            rows=tuple(
                (
                    answer.call,
                    answer.engine,
                    answer.device,
                    answer.status,
                    *_numbers(worst(answer.results)),
                    answer.reason,
                )
                for answer in shown
            ),
            marks=tuple(marks.get(answer.status, False) for answer in shown),
            numeric=frozenset(("x eager's own", "of allowed")),
        )


def _engines_table(parity: VerifyReport) -> Table:
    """Returns a table of the engines here on the recorded inputs."""
    return Table(
        title="The same inputs here",
        columns=("engine", "device", "verdict", "x eager's own", "of allowed", "why"),
        rows=tuple(
            (row.label, row.device, row.status, *_numbers(row.worst), row.reason)
            for row in parity.rows
        ),
        marks=tuple(None if row.status == "absent" else bool(row) for row in parity.rows),
        numeric=frozenset(("x eager's own", "of allowed")),
    )


def _numbers(result: OutputParity | None) -> tuple[str, str]:
    if result is None:
        return "-", "-"
    return number(result.noise_units), f"{result.strain:.1%}"


def _case(answer: Answer) -> Case:
    wrong = answer.status not in ("right", "unknown")
    return Case(
        name=f"recorded {answer.call}",
        failure=answer.reason or answer.status if wrong else "",
        skipped="" if answer.status != "unknown" else answer.reason or "no reference",
    )
