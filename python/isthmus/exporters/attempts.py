"""Ways to one artifact, tried in order until one verifies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from isthmus.errors import Decision, ExportError
from isthmus.exporters.check import Verdict
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.source_lines import summarize

__all__ = ["ExportAttempt", "first_that_verifies"]


@dataclass(frozen=True)
class ExportAttempt:
    """One way to make an artifact."""

    name: str
    make: Callable[[ExportRequest], list[Path]]
    """Gives the methods' files."""
    needs: Literal["module", "script"]
    """Whether it starts from the module or from its TorchScript."""
    what: str
    """For the decision that is kept."""


def first_that_verifies(
    attempts: Sequence[ExportAttempt],
    subject: ExportRequest,
    prove: Callable[[Sequence[Path]], Verdict],
    progress: Callable[[str], None],
) -> tuple[list[Path], list[Decision]]:
    """Files of the first way that gives the goldens' answers, and every decision.

    Raises:
        ExportError: None did; its `decisions` say why.
    """
    decisions: list[Decision] = []
    for attempt in attempts:
        if attempt.needs == "module" and subject.module is None:
            continue
        try:
            if attempt.needs == "script":
                subject = _with_script(subject, progress)
            progress(f"Exporting by way of {attempt.name}")
            files = attempt.make(subject)
        except Exception as error:  # whatever an exporter says of code that it cannot follow
            reason, where = summarize(error)
            decisions.append(Decision(attempt.name, False, f"{_kind(error)}{reason}", where))
            continue
        progress(f"Proving it on {len(subject.goldens)} goldens")
        verdict = prove(files)
        if verdict:
            reason = (
                f"{attempt.what}; loaded again from its files, it equals eager on all "
                f"{verdict.goldens} goldens, {verdict.calls} calls{verdict.cosines.note}"
            )
            decisions.append(Decision(attempt.name, True, reason))
            return files, decisions
        first = verdict.failures[0]
        decisions.append(
            Decision(
                attempt.name,
                False,
                f"{len(verdict.failures)} of {verdict.goldens} goldens fail; {first}",
                first.where,
            )
        )
    raise refusal(decisions)


def _with_script(subject: ExportRequest, progress: Callable[[str], None]) -> ExportRequest:
    if subject.scripted is not None:
        return subject
    if subject.make_script is None:
        raise ExportError("there is no TorchScript of the model to start from")
    progress("ExportPlan TorchScript to start from")
    return replace(subject, scripted=subject.make_script(), make_script=None)


def refusal(decisions: Sequence[Decision]) -> ExportError:
    """The error of a format of which no way verified; the first decision is its reason."""
    first = decisions[0] if decisions else Decision("", False, "there is no way to make it")
    where = f" ({first.where})" if first.where else ""
    error = ExportError(f"{first.strategy}: {first.reason}{where}")
    error.decisions = tuple(decisions)
    return error


def _kind(error: Exception) -> str:
    name = type(error).__name__
    return "" if name in ("RuntimeError", "ExportError") else f"{name}: "
