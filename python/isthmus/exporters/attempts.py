"""Several ways to export one artifact, tried in order until one verifies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from isthmus.bundle.manifest import Hazard, Method
from isthmus.errors import Decision, ExportError
from isthmus.exporters.check import FileEngine, GoldenCheck
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.options import ignore_progress
from isthmus.exporters.source_lines import summarize
from isthmus.exporters.torchscript.strategies import export_torchscript

__all__ = ["ExportAttempt", "fallback_hazards", "first_that_verifies", "refuse_state"]


@dataclass(frozen=True)
class ExportAttempt:
    """A way to export an artifact."""

    name: str
    write: Callable[[ExportRequest, Method, Path], object]
    """Writes the file of one method."""
    needs: Literal["module", "torchscript"]
    """The starting point of the attempt."""
    description: str
    """A description of the exporter, for the decision that keeps the artifact."""


def first_that_verifies(
    attempts: Sequence[ExportAttempt],
    request: ExportRequest,
    files: Sequence[tuple[Method, Path]],
    check: GoldenCheck,
    engine: FileEngine,
) -> tuple[Decision, ...]:
    """Writes the files by the first attempt that verifies, and returns every decision.

    Args:
        attempts: The attempts, in the order in which they are tried.
        request: The model to export.
        files: Each method with the path of its file.
        check: The check that the files have to pass.
        engine: The engine that runs the files for the check.

    Raises:
        ExportError: No attempt verified; its `decisions` say why.
    """
    decisions: list[Decision] = []
    for attempt in attempts:
        if attempt.needs == "module" and not request.has_source:
            continue
        try:
            if attempt.needs == "torchscript":
                request = _with_torchscript(request)
            request.progress(f"Exporting by way of {attempt.name}")
            for method, path in files:
                attempt.write(request, method, path)
        except Exception as error:  # whatever an exporter says of code that it cannot follow
            reason, where = summarize(error)
            decisions.append(Decision(attempt.name, False, f"{_kind(error)}{reason}", where))
            continue
        request.progress(f"Proving it on {len(request.goldens)} goldens")
        verdict = check.check_files(engine, [path for _, path in files])
        if verdict:
            reason = verdict.acceptance(attempt.description, "its files")
            return (*decisions, Decision(attempt.name, True, reason))
        where = verdict.failures[0].where
        decisions.append(Decision(attempt.name, False, verdict.refusal(), where))
    raise _refusal(decisions)


def _with_torchscript(request: ExportRequest) -> ExportRequest:
    if request.torchscript is not None:
        return request
    if request.module is None:
        raise ExportError("there is no TorchScript of the model to start from")
    request.progress("Making TorchScript to start from")
    torchscript = export_torchscript(replace(request, progress=ignore_progress))
    return replace(request, torchscript=torchscript)


def _refusal(decisions: Sequence[Decision]) -> ExportError:
    """Returns the error of a format that no attempt made; the first decision is its reason."""
    first = decisions[0] if decisions else Decision("", False, "there is no way to make it")
    where = f" ({first.where})" if first.where else ""
    error = ExportError(f"{first.strategy}: {first.reason}{where}")
    error.decisions = tuple(decisions)
    return error


def _kind(error: Exception) -> str:
    name = type(error).__name__
    return "" if name in ("RuntimeError", "ExportError") else f"{name}: "


def refuse_state(request: ExportRequest, format_name: str) -> None:
    """Refuses a stateful model for a format that keeps no state.

    Raises:
        ExportError: The model has state.
    """
    if request.stateful:
        raise ExportError(
            f"the model has state, which {format_name} does not keep; take the state as inputs "
            "and give it back as outputs, or stay with TorchScript"
        )


def fallback_hazards(what: str, decisions: Sequence[Decision]) -> tuple[Hazard, ...]:
    """Returns a hazard for each attempt that failed before the one that was accepted."""
    accepted = next(decision for decision in decisions if decision.accepted)
    return tuple(
        Hazard(
            "fallback",
            "info",
            f"{what} was made by way of {accepted.strategy}, for {decision.strategy} gave none: "
            f"{decision.reason}",
            decision.where,
        )
        for decision in decisions
        if not decision.accepted
    )
