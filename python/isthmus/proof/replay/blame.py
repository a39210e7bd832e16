"""Finds what is wrong: the input, an engine, the program or the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from isthmus.proof.replay.answer import Answer

if TYPE_CHECKING:
    from isthmus.proof.replay.difference import InputDifference
    from isthmus.proof.verify_report import VerifyReport, VerifyRow

__all__ = ["Blame", "Evidence", "Finding"]

Blame = Literal["nobody", "input", "engine", "program", "model", "unknown"]
"""The values mean: engine: it gives wrong answers here too; program: the engine does not give the
recorded answer here for the same input; model: it does not run on the input; unknown: engines
differ, and without the model (--model) the right one is not known."""

Finding = tuple[Blame, str]
"""The blame, and the verdict in a sentence."""


@dataclass(frozen=True)
class Evidence:
    """The facts that a replay has gathered, and the finding that explains them."""

    answers: tuple[Answer, ...]
    parity: VerifyReport | None
    """The engines here on the recorded inputs; None if none ran."""
    differences: tuple[InputDifference, ...]
    """The inputs of one call against those expected; empty if none were expected."""
    has_model: bool

    def finding(self) -> Finding:
        """Returns the first finding that explains the evidence, the most certain kind first."""
        return (
            self._wrong_answers()
            or self._wrong_engines()
            or self._refusals()
            or self._failing_model()
            or self._wrong_input()
            or self._all_right()
        )

    @property
    def wrong_inputs(self) -> tuple[InputDifference, ...]:
        """The inputs that are not the ones expected."""
        return tuple(difference for difference in self.differences if not difference)

    @property
    def wrong_rows(self) -> tuple[VerifyRow, ...]:
        """The engines here that are wrong on the recorded inputs, or failed."""
        return tuple(row for row in self._rows if row.status in ("failed", "error"))

    @property
    def _rows(self) -> tuple[VerifyRow, ...]:
        return self.parity.rows if self.parity is not None else ()

    def _wrong_answers(self) -> Finding | None:
        """Judges the first wrong recorded answer by what the same engine gives here."""
        for answer in self.answers:
            if answer.status in ("wrong", "failed"):
                return self._wrong_answer(answer)
        return None

    def _wrong_answer(self, answer: Answer) -> Finding:
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

    def _wrong_engines(self) -> Finding | None:
        """Judges the engines here that are wrong although no recorded answer is."""
        wrong = self.wrong_rows
        if not wrong:
            return None
        names = ", ".join(dict.fromkeys(row.label for row in wrong))
        if self.has_model:
            return "engine", (
                f"{names} wrong on the recorded inputs; what was recorded is right in"
                f" {self._right_count} of {len(self.answers)} calls"
            )
        recorded = {answer.engine for answer in self.answers}
        if any(row.engine in recorded and row.language == "C++" for row in wrong):
            return "program", (
                f"{names} does not give here what was recorded for the same input: look at the"
                " program and at what differs between that machine and this one (isthmus-run"
                " doctor)"
            )
        return "unknown", (
            f"{names} does not give what {', '.join(sorted(recorded))} gave: one of them is wrong;"
            " pass the model (--model) to know which"
        )

    def _refusals(self) -> Finding | None:
        refused = [answer for answer in self.answers if answer.status == "refused"]
        if not refused:
            return None
        return "input", (
            f"your input differs: {len(refused)} of {len(self.answers)} calls were refused before"
            f" the engine saw them: {refused[0].reason}"
        )

    def _failing_model(self) -> Finding | None:
        failing = [answer for answer in self.answers if answer.status == "model fails"]
        if not failing:
            return None
        return "model", (
            f"the model itself does not run on the input of call {failing[0].call}:"
            f" {failing[0].reason}"
        )

    def _wrong_input(self) -> Finding | None:
        wrong = self.wrong_inputs
        if not wrong:
            return None
        what = "; ".join(f"{difference.name} {difference.sentence}" for difference in wrong)
        return "input", f"{self._right_sentence()}, your input differs: {what}"

    def _all_right(self) -> Finding:
        if self.differences:
            return "nobody", f"{self._right_sentence()}, and the input is the one expected"
        return "nobody", (
            f"{self._right_sentence()}: if the answers are not what you expect, your input differs"
            " (--expect FILE says how)"
        )

    @property
    def _right_count(self) -> int:
        return sum(map(bool, self.answers))

    def _right_sentence(self) -> str:
        if self.has_model:
            count = f"{self._right_count} of {len(self.answers)}"
            return f"the model is right ({count} recorded answers are its)"
        names = ", ".join(dict.fromkeys(row.label for row in self._rows if row))
        if not names:
            return "nothing here could run the calls again"
        return f"the model as exported is right ({names} gave the recorded answers again)"

    def _row(self, answer: Answer) -> VerifyRow | None:
        """Returns the row of the same engine in C++ here, if it ran that input."""
        for row in self._rows:
            if row.engine == answer.engine and row.language == "C++" and row.status != "absent":
                ran = {result.golden for result in row.results}
                if answer.golden in ran or row.status == "error":
                    return row
        return None

    @staticmethod
    def _fails_here(row: VerifyRow, answer: Answer) -> bool:
        return row.status == "error" or any(
            not result for result in row.results if result.golden == answer.golden
        )
