"""What replay found: who is to blame, with the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from isthmus.document import Case, Document, Table, number, to_text
from isthmus.goldens.compare import OutputParity, worst

if TYPE_CHECKING:
    from isthmus.proof.replay.difference import InputDifference
    from isthmus.proof.verify_report import VerifyReport, VerifyRow

SCHEMA = "isthmus-replay"
SCHEMA_VERSION = 2

_SHOWN = 20
"""Calls in the table for people; all are in the JSON."""

Status = Literal["right", "wrong", "refused", "failed", "model fails", "unknown"]
"""wrong: not the reference's answer; refused: the checks kept the input from the engine; failed:
the engine threw; model fails: the model itself does not run on it; unknown: no reference."""

Blame = Literal["nobody", "input", "engine", "program", "model", "unknown"]
"""engine: it gives wrong answers here too; program: what was recorded is not what the engine gives
for the same input here; model: it does not run on the input; unknown: without the model (--model),
engines differ and nobody can say which is right."""


@dataclass(frozen=True)
class Answer:
    """One recorded call's answer, judged; truthy when it is right."""

    call: str
    engine: str
    device: str
    status: Status
    reason: str = ""
    golden: str = ""
    """Name under which the engines here were given the same input."""
    results: tuple[OutputParity, ...] = ()

    def __bool__(self) -> bool:
        """The verdict."""
        return self.status == "right"

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return {**asdict(self), "results": [asdict(result) for result in self.results]}


@dataclass(frozen=True)
class ReplayReport:
    """Recorded answers, engines and inputs; truthy when nothing and nobody is to blame."""

    recording: str
    bundle: str
    answers: tuple[Answer, ...]
    parity: VerifyReport | None
    """Every engine here on the recorded inputs; None where there were none to run."""
    differences: tuple[InputDifference, ...] = ()
    """Each input of one call against the one expected."""
    compared_call: str = ""
    """Which call that is; empty when nothing was expected."""
    has_model: bool = False
    context: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether every recorded answer is right, and the input the one expected."""
        return self.blame == "nobody"

    @property
    def ok(self) -> bool:
        """The same, by name."""
        return bool(self)

    @property
    def blame(self) -> Blame:
        """Whose fault."""
        return self._found[0]

    @property
    def verdict(self) -> str:
        """Whose fault, in a sentence."""
        return self._found[1]

    @property
    def wrong_inputs(self) -> tuple[InputDifference, ...]:
        """Inputs that are not the ones expected."""
        return tuple(difference for difference in self.differences if not difference)

    def document(self) -> Document:
        """See `isthmus.report`."""
        parity = self.parity.document() if self.parity is not None else None
        tables = [self._differences_table()] if self.differences else []
        tables.append(self._answers_table())
        if self.parity is not None:
            tables.append(_here_table(self.parity))
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
            notes=(
                *self.notes,
                *(
                    f"remedy for {wrong_input.name}: {wrong_input.remedy}"
                    for wrong_input in self.wrong_inputs
                    if wrong_input.remedy
                ),
                *(f"{row.label} on {row.device}: {row.reason}" for row in self._engines_wrong()),
            ),
            extra={
                "blame": self.blame,
                "compared_call": self.compared_call,
                "differences": [difference.to_json() for difference in self.differences],
                "engines": list(parity.rows) if parity is not None else [],
            },
        )

    def __str__(self) -> str:
        """The tables, as on the console."""
        return to_text(self)

    # --- the verdict --------------------------------------------------------------------------

    @property
    def _found(self) -> tuple[Blame, str]:
        """The first that explains it, from what is sure to what is not."""
        for finding in (self._of_engine, self._of_refusals, self._of_model, self._of_input):
            found = finding()
            if found is not None:
                return found
        return self._of_nobody()

    def _of_engine(self) -> tuple[Blame, str] | None:
        """Recorded answers that are wrong: does the engine give them here too?"""
        for answer in self.answers:
            if answer.status not in ("wrong", "failed"):
                continue
            row = self._row(answer)
            what = f"call {answer.call} got a wrong answer from {answer.engine}"
            if answer.status == "failed":
                what = f"call {answer.call} failed in {answer.engine}"
            if row is None:
                if not self.has_model and answer.status == "failed":
                    return "unknown", f"{what} ({answer.reason}); pass the model to know more"
                return "engine", (
                    f"{what}: {answer.reason}. {answer.engine} cannot be run here to see whether"
                    " it does so again"
                )
            if self._fails_here(row, answer):
                return "engine", (
                    f"{answer.engine} is wrong: {what}, and it is wrong here too on the same input"
                    f" ({answer.reason}). isthmus verify --explain names the layer"
                )
            return "program", (
                f"the model and {answer.engine} are right: {what} there, but for the same input"
                f" {answer.engine} gives the model's answer here ({answer.reason}). Look at the"
                " program (memory that is freed or written while the model runs), and at what"
                " differs between that machine and this one (isthmus-run doctor)"
            )
        return self._of_reproduction()

    def _of_reproduction(self) -> tuple[Blame, str] | None:
        """What the engines here say of recorded answers, or of the recorded inputs."""
        bad = self._engines_wrong()
        if not bad:
            return None
        names = ", ".join(dict.fromkeys(row.label for row in bad))
        if self.has_model:
            right = sum(map(bool, self.answers))
            return "engine", (
                f"{names} wrong on the recorded inputs; what was recorded is right in {right} of"
                f" {len(self.answers)} calls"
            )
        own = {answer.engine for answer in self.answers}
        if any(row.engine in own and row.language == "C++" for row in bad):
            return "program", (
                f"{names} does not give here what was recorded for the same input: look at the"
                " program and at what differs between that machine and this one (isthmus-run"
                " doctor)"
            )
        return "unknown", (
            f"{names} does not give what {', '.join(sorted(own))} gave: one of them is wrong; pass"
            " the model (--model) to know which"
        )

    def _of_refusals(self) -> tuple[Blame, str] | None:
        refused = [answer for answer in self.answers if answer.status == "refused"]
        if not refused:
            return None
        return "input", (
            f"your input differs: {len(refused)} of {len(self.answers)} calls were refused before"
            f" the engine saw them: {refused[0].reason}"
        )

    def _of_model(self) -> tuple[Blame, str] | None:
        failing = [answer for answer in self.answers if answer.status == "model fails"]
        if not failing:
            return None
        return "model", (
            f"the model itself does not run on the input of call {failing[0].call}:"
            f" {failing[0].reason}"
        )

    def _of_input(self) -> tuple[Blame, str] | None:
        wrong = self.wrong_inputs
        if not wrong:
            return None
        what = "; ".join(f"{one.name} {one.sentence}" for one in wrong)
        return "input", f"{self._right_sentence()}, your input differs: {what}"

    def _of_nobody(self) -> tuple[Blame, str]:
        if self.differences:
            return "nobody", f"{self._right_sentence()}, and the input is the one expected"
        return "nobody", (
            f"{self._right_sentence()}: if the answers are not what you expect, your input differs"
            " (--expect FILE says how)"
        )

    def _right_sentence(self) -> str:
        if self.has_model:
            right = sum(map(bool, self.answers))
            return f"the model is right ({right} of {len(self.answers)} recorded answers are its)"
        ran = [] if self.parity is None else [row for row in self.parity.rows if row]
        names = ", ".join(dict.fromkeys(row.label for row in ran))
        if not names:
            return "nothing here could run the calls again"
        return f"the model as exported is right ({names} gave the recorded answers again)"

    # --- the engines here ---------------------------------------------------------------------

    def _row(self, answer: Answer) -> VerifyRow | None:
        """The same engine in C++ here, where it ran that input."""
        rows = self.parity.rows if self.parity is not None else ()
        for row in rows:
            if row.engine == answer.engine and row.language == "C++" and row.status != "absent":
                known = {result.golden for result in row.results}
                if answer.golden in known or row.status == "error":
                    return row
        return None

    @staticmethod
    def _fails_here(row: VerifyRow, answer: Answer) -> bool:
        mine = [result for result in row.results if result.golden == answer.golden]
        return row.status == "error" or any(not one for one in mine)

    def _engines_wrong(self) -> list[VerifyRow]:
        rows = self.parity.rows if self.parity is not None else ()
        return [row for row in rows if row.status in ("failed", "error")]

    # --- tables -------------------------------------------------------------------------------

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
        bad = [answer for answer in self.answers if not answer]
        good = [answer for answer in self.answers if answer]
        shown = (bad + good)[:_SHOWN]
        more = len(self.answers) - len(shown)
        marks = {"right": True, "unknown": None}
        return Table(
            title="Recorded answers" + (f" ({more} more not shown)" if more else ""),
            columns=("call", "engine", "device", "verdict", "x eager's own", "of allowed", "why"),
            rows=tuple(
                (one.call, one.engine, one.device, one.status, *_numbers(one), one.reason)
                for one in shown
            ),
            marks=tuple(marks.get(one.status, False) for one in shown),
            numeric=frozenset(("x eager's own", "of allowed")),
        )


def _here_table(parity: VerifyReport) -> Table:
    """Each way of running the bundle here, on the recorded inputs."""
    return Table(
        title="The same inputs here",
        columns=("engine", "device", "verdict", "x eager's own", "of allowed", "why"),
        rows=tuple(
            (
                row.label,
                row.device,
                row.status,
                number(row.worst.noise_units) if row.worst else "-",
                f"{row.worst.strain:.1%}" if row.worst else "-",
                row.reason,
            )
            for row in parity.rows
        ),
        marks=tuple(None if row.status == "absent" else bool(row) for row in parity.rows),
        numeric=frozenset(("x eager's own", "of allowed")),
    )


def _numbers(answer: Answer) -> tuple[str, str]:
    found = worst(answer.results)
    if found is None:
        return "-", "-"
    return number(found.noise_units), f"{found.strain:.1%}"


def _case(answer: Answer) -> Case:
    bad = answer.status not in ("right", "unknown")
    return Case(
        name=f"recorded {answer.call}",
        failure=answer.reason or answer.status if bad else "",
        skipped="" if answer.status != "unknown" else answer.reason or "no reference",
    )
