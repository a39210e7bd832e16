"""Several ways to export one artifact, tried in order until one verifies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from isthmus.bundle.golden import Step
from isthmus.bundle.manifest import DimRange, Hazard, Method, sizes_text
from isthmus.capture.fast_path import FAST_PATH
from isthmus.errors import Decision, ExportError
from isthmus.exporters.check import FileEngine, GoldenCheck, Verdict
from isthmus.exporters.engine_proofs import format_of, proof_of_files
from isthmus.exporters.experts import experts_hazard
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.first_difference import Difference
from isthmus.exporters.frozen_branches import (
    advice_to_accept,
    inherited,
    mark_accepted,
    unaccepted,
)
from isthmus.exporters.options import ignore_progress
from isthmus.exporters.served_sizes import (
    has_core,
    proven_sizes,
    sizes_hazard,
    without_wrong_edges,
)
from isthmus.exporters.size_guards import SizesNotServed
from isthmus.exporters.source_lines import summarize
from isthmus.exporters.torchscript.strategies import export_torchscript
from isthmus.exporters.unsupported_types import explain_unsupported_type
from isthmus.runtime.engines import engines_of

__all__ = [
    "ExportAttempt",
    "Improvement",
    "Verified",
    "fallback_hazards",
    "first_that_verifies",
]

Explain = Callable[[Step], Difference | None]
"""Returns the first layer and operator at which a call of a file leaves the model."""


_EFFECTS = ("writes_input", "changes_argument", "output_without_example", FAST_PATH)
"""The kinds of hazards that hold on every engine: effects on inputs, outputs that no golden has,
and answers of attention without its fast path."""


@dataclass(frozen=True)
class Improvement:
    """Makes a file more exact, at a price that is paid only where it answers wrongly."""

    rewrite: Callable[[Path], bool]
    """Rewrites the file of one method; returns False where there is nothing to improve."""
    description: str
    """What the file has then, for the decision that keeps the artifact."""


@dataclass(frozen=True)
class _Part:
    """An attempt that serves the core of the ranges."""

    attempt: ExportAttempt
    sizes: Mapping[str, DimRange]
    """The sizes that are left."""
    trimmed: bool = False
    """Whether the rest failed in calls, so that sizes beyond what was tried are not served."""


@dataclass(frozen=True)
class ExportAttempt:
    """A way to export an artifact."""

    name: str
    write: Callable[[ExportRequest, Method, Path], Explain | None]
    """Writes the file of one method, and returns what can explain a wrong answer of it."""
    needs: Literal["module", "torchscript"]
    """The starting point of the attempt."""
    description: str
    """A description of the exporter, for the decision that keeps the artifact."""
    improvement: Improvement | None = None
    """What is done where the files answer wrongly."""


@dataclass(frozen=True)
class Verified:
    """What is known of the files that verified."""

    decisions: tuple[Decision, ...]
    """Every decision; the last one kept the files."""
    inherited: tuple[Hazard, ...] = ()
    """What calls do to their inputs, and the hazards of the TorchScript that the files were made
    of."""
    sizes: Mapping[str, DimRange] = field(default_factory=dict)
    """The sizes that the files serve, by dimension, where these are fewer than the request's."""


def first_that_verifies(
    attempts: Sequence[ExportAttempt],
    request: ExportRequest,
    files: Sequence[tuple[Method, Path]],
    check: GoldenCheck,
    engine: FileEngine,
) -> Verified:
    """Writes the files by the first attempt that verifies.

    Args:
        attempts: The attempts, in the order in which they are tried.
        request: The model to export.
        files: Each method with the path of its file.
        check: The check that the files have to pass.
        engine: The engine that runs the files for the check.

    Raises:
        ExportError: No attempt verified; its `decisions` say why.
    """
    series = _Series(request, files, check, engine)
    for attempt in attempts:
        found = series.try_one(attempt)
        if found is not None:
            return found
    for attempt, made_from, hazards in series.written:
        reason = _passes_elsewhere(attempt, made_from, files)
        if reason:
            return _verified(series.decisions, attempt, made_from, hazards, reason)
    for part in series.parts:  # a part that fails at an edge again adds a smaller one
        found = series.try_one(part.attempt, part)
        if found is not None:
            return found
    raise _refusal(series)


class _Series:
    """Tries attempts one after the other, and logs why each was kept or refused."""

    def __init__(
        self,
        request: ExportRequest,
        files: Sequence[tuple[Method, Path]],
        check: GoldenCheck,
        engine: FileEngine,
    ) -> None:
        self.decisions: list[Decision] = []
        self.written: list[tuple[ExportAttempt, ExportRequest, tuple[Hazard, ...]]] = []
        """The attempts whose files failed the check."""
        self.parts: list[_Part] = []
        """The attempts that serve the core of the ranges."""
        self.last_of_parts: Decision | None = None
        """The last refusal of an attempt for a part of the sizes."""
        self._request = request
        self._files = files
        self._check = check
        self._engine = engine
        self._torchscript_failed = False

    def try_one(self, attempt: ExportAttempt, part: _Part | None = None) -> Verified | None:
        """Writes the files by one attempt and checks them; returns None when they are refused.

        Args:
            attempt: The attempt.
            part: The only sizes that the files have to serve.
        """
        if attempt.needs == "module" and not self._request.has_source:
            return None
        if attempt.needs == "torchscript" and self._torchscript_failed:
            return None
        hazards: tuple[Hazard, ...] = ()
        sizes = part.sizes if part is not None else {}
        try:
            if attempt.needs == "torchscript":
                self._torchscript_failed = True
                self._request = _with_torchscript(self._request)
                hazards = _inherited(self._request)
                self._torchscript_failed = False
            request = self._request.within(sizes)
            request.progress(f"Exporting by way of {attempt.name}")
            explain = {
                method.name: attempt.write(request, method, path) for method, path in self._files
            }
        except SizesNotServed as error:
            if error.guards.understood:
                self._add_part(attempt, sizes, error.guards.served)
            self._refuse(attempt, error, part)
            return None
        except Exception as error:  # whatever an exporter says of code that it cannot follow
            self._refuse(attempt, error, part)
            return None
        check = replace(self._check, goldens=request.goldens, sweep=request.sweep)
        try:
            verdict, what = self._checked(attempt, check, request)
        except Exception as error:  # whatever a runtime says of files that it cannot load
            self._refuse(attempt, error, part, "it cannot be loaded again: ")
        else:
            if verdict:
                reason = verdict.acceptance(what, "its files")
                if attempt.needs == "module" and request.module is not None:
                    hazards = experts_hazard(request.module)
                if part is not None and part.trimmed:
                    sizes = proven_sizes(sizes, self._request.dims, verdict)
                found = _verified(self.decisions, attempt, request, hazards, reason)
                return replace(found, sizes=sizes)
            self._add_part(attempt, sizes, without_wrong_edges(request, verdict), trimmed=True)
            self._log(attempt, *_explained(verdict, check, explain), part)
        if part is None:
            self.written.append((attempt, request, hazards))
        return None

    def _checked(
        self, attempt: ExportAttempt, check: GoldenCheck, request: ExportRequest
    ) -> tuple[Verdict, str]:
        """Returns the verdict on the files, improved where they need it, and how they were made."""
        paths = [path for _, path in self._files]
        request.progress(f"Proving it on {len(request.goldens)} goldens")
        verdict = check.check_files(self._engine, paths)
        improvement = attempt.improvement
        if verdict or improvement is None or not any([*map(improvement.rewrite, paths)]):
            return verdict, attempt.description
        request.progress(f"Proving it with {improvement.description}")
        verdict = check.check_files(self._engine, paths)
        return verdict, f"{attempt.description}, {improvement.description}"

    def _add_part(
        self,
        attempt: ExportAttempt,
        before: Mapping[str, DimRange],
        left: Mapping[str, DimRange],
        *,
        trimmed: bool = False,
    ) -> None:
        """Notes a part of the sizes that is to be tried, where it is new and has the core."""
        sizes = {**before, **left}
        if sizes != before and has_core(self._request, sizes):
            self.parts.append(_Part(attempt, sizes, trimmed))

    def _refuse(
        self, attempt: ExportAttempt, error: Exception, part: _Part | None, prefix: str = ""
    ) -> None:
        reason, where = summarize(error)
        known = explain_unsupported_type(str(error), [path for _, path in self._files])
        reason = known or f"{prefix}{_kind(error)}{reason}"
        self._log(attempt, reason, "" if known else where, part)

    def _log(self, attempt: ExportAttempt, reason: str, where: str, part: _Part | None) -> None:
        if part is not None:
            reason = f"for {sizes_text(part.sizes)} only: {reason}"
        self.decisions.append(Decision(attempt.name, False, reason, where))
        if part is not None:
            self.last_of_parts = self.decisions[-1]


def _verified(
    decisions: Sequence[Decision],
    attempt: ExportAttempt,
    request: ExportRequest,
    hazards: Sequence[Hazard],
    reason: str,
) -> Verified:
    effects = tuple(note for note in request.notes if note.kind in _EFFECTS)
    others = (hazard for hazard in hazards if hazard.kind not in _EFFECTS)
    return Verified((*decisions, Decision(attempt.name, True, reason)), (*effects, *others))


def _passes_elsewhere(
    attempt: ExportAttempt, request: ExportRequest, files: Sequence[tuple[Method, Path]]
) -> str:
    """Returns why files that failed on the first engine are kept: another one gives the answers.

    Empty where none does.
    """
    paths = [path for _, path in files]
    if len(engines_of(format_of(paths))) < 2:
        return ""
    for method, path in files:
        attempt.write(request, method, path)  # a later attempt has replaced them
    proof = proof_of_files(request, paths)
    if proof is None:
        return ""
    return (
        f"{attempt.description}; {proof.engine} ({proof.runtime}) gives eager's answers on all "
        f"{len(request.goldens)} goldens"
    )


def _explained(
    verdict: Verdict, check: GoldenCheck, explain: Mapping[str, Explain | None]
) -> tuple[str, str]:
    """Returns the reason of a failed verdict with the operator that caused it, and its line."""
    reason, failure = verdict.refusal(), verdict.failures[0]
    goldens = [g for g in (*check.goldens, *check.sweep) if g.name == failure.golden]
    if failure.where or not failure.output or not goldens:
        return reason, failure.where
    difference = None
    for step in goldens[0].steps[:1]:
        look = explain.get(step.method)
        with contextlib.suppress(Exception):  # an explanation may fail without harm
            difference = look(step) if look is not None else None
    if difference is None:
        return reason, ""
    return f"{reason}; {difference.sentence}", difference.where


def _with_torchscript(request: ExportRequest) -> ExportRequest:
    if request.torchscript is not None:
        return request
    if request.module is None:
        raise ExportError("there is no TorchScript of the model to start from")
    request.progress("Making TorchScript to start from")
    torchscript = export_torchscript(replace(request, progress=ignore_progress))
    return replace(request, torchscript=torchscript)


def _inherited(request: ExportRequest) -> tuple[Hazard, ...]:
    """Returns the hazards of the TorchScript that the request starts from.

    Raises:
        ExportError: It keeps a branch on values that the caller has not accepted.
    """
    assert request.torchscript is not None
    hazards = inherited(request.torchscript.artifact)
    frozen = unaccepted(hazards, request.options.accept)
    if frozen:
        error = ExportError(f"{frozen[0].message}; {advice_to_accept(frozen)} takes it as it is")
        error.where = frozen[0].where
        raise error
    return mark_accepted(hazards)


def _refusal(series: _Series) -> ExportError:
    """Returns the error of a format that no attempt made.

    The first decision is its reason, and where a part of the sizes was tried, that try's as well.
    """
    none = Decision("", False, "there is no way to make it")
    shown = [series.decisions[0] if series.decisions else none]
    if series.last_of_parts is not None:
        shown.append(series.last_of_parts)
    error = ExportError(
        "; ".join(
            f"{decision.strategy}: {decision.reason}"
            + (f" ({decision.where})" if decision.where else "")
            for decision in shown
        )
    )
    error.decisions = tuple(series.decisions)
    error.last_of_parts = series.last_of_parts
    return error


def _kind(error: Exception) -> str:
    name = type(error).__name__
    known = isinstance(error, ExportError) or name == "RuntimeError"
    return "" if known else f"{name}: "


def fallback_hazards(what: str, verified: Verified) -> tuple[Hazard, ...]:
    """Returns the inherited hazards, and one for each attempt that failed before the accepted."""
    accepted = verified.decisions[-1]
    failed = tuple(
        Hazard(
            "fallback",
            "info",
            f"{what} was made by way of {accepted.strategy}, for {decision.strategy} gave none: "
            f"{decision.reason}",
            decision.where,
        )
        for decision in verified.decisions[:-1]
        if decision.strategy != accepted.strategy
    )
    fewer = sizes_hazard(what, verified.sizes)
    return tuple(dict.fromkeys((*verified.inherited, *failed, *fewer)))
