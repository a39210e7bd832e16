"""Exports each format in each precision, in a process of its own, and tells how each went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from isthmus.bundle.format_result import FormatResult
from isthmus.capture.file_module import FileModule
from isthmus.capture.quantised import quantised_parts
from isthmus.errors import Decision, ExportError
from isthmus.exporters.aoti.adopt_aoti import adopted_aoti
from isthmus.exporters.aoti.aoti_file import AotiFile
from isthmus.exporters.aoti.export_aoti import export_aoti
from isthmus.exporters.engine_proofs import proven
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.exported.export_program import export_program
from isthmus.exporters.exported.exported_file import ExportedFile, adopted_program
from isthmus.exporters.exported_program import export_module
from isthmus.exporters.first_difference import first_difference
from isthmus.exporters.onnx.adopt_onnx import adopted_onnx
from isthmus.exporters.onnx.export_onnx import export_onnx
from isthmus.exporters.onnx.int8 import WHY_NOT, export_int8
from isthmus.exporters.onnx.onnx_file import OnnxFile
from isthmus.exporters.options import ExportOptions, Progress
from isthmus.exporters.remedies import advice_on
from isthmus.exporters.source_lines import summarize
from isthmus.exporters.subprocess_export import can_isolate, isolated
from isthmus.exporters.torchscript.strategies import export_torchscript

__all__ = ["ExportPlan", "decisions_of", "export_artifact", "formats_that_could"]

_IS_WRONG = "goldens fail"
_TRIED = 8
"""The number of goldens on which another way of export is tried before it is advised."""


@dataclass(frozen=True)
class ExportPlan:
    """The artifacts to export: each format of the options, in the precision of each request."""

    options: ExportOptions
    requests: Sequence[ExportRequest]
    """One request for each precision."""

    def run(self) -> tuple[list[ExportedArtifact], tuple[FormatResult, ...]]:
        """Exports all of them, all precisions of the first format first.

        A failure, a crash or a time-out loses one artifact and nothing else. An artifact that is
        exported is what later ones start from.
        """
        steps = [(name, request) for name in self.options.formats for request in self.requests]
        # A single TorchScript export has nothing to lose, and stays where a debugger can follow it.
        # A file that is adopted is kept as it is.
        in_process = (
            [name for name, _ in steps] == ["torchscript"]
            or isinstance(self.requests[0].module, FileModule)
            or not can_isolate()
        )
        exported: list[ExportedArtifact] = []
        results: list[FormatResult] = []
        for name, request in steps:
            result = FormatResult(name, False, 0.0, request.precision)
            progress = self.options.progress
            if len(steps) > 1:
                progress = partial(_labelled, progress, result.label)
            work = partial(export_artifact, name, _with_exported(request, exported))
            start = time.perf_counter()
            try:
                if in_process:
                    artifact = work(progress)
                else:
                    artifact = isolated(work, seconds=self.options.time_limit, progress=progress)
                artifact = proven(replace(request, progress=progress), artifact)
            except Exception as error:  # becomes the result's reason
                result = _failed(result, error)
            else:
                exported.append(artifact)
                result = _succeeded(result, artifact)
            results.append(replace(result, seconds=time.perf_counter() - start))
        return exported, tuple(results)


def export_artifact(name: str, request: ExportRequest, progress: Progress) -> ExportedArtifact:
    """Exports one format in the request's precision.

    Raises:
        ExportError: Nothing verified, or the format does not have that precision.
        ImportError: A package that the format needs is not installed.
    """
    request = replace(request, progress=progress)
    if request.precision == "int8":
        if name in WHY_NOT:
            raise ExportError(WHY_NOT[name])
        return export_int8(request)
    if isinstance(request.module, OnnxFile):
        return adopted_onnx(request.module, request)
    if isinstance(request.module, AotiFile):
        return adopted_aoti(request.module, request)
    if isinstance(request.module, ExportedFile):
        return adopted_program(request.module, request)
    if name == "onnx":
        return export_onnx(request)
    if name == "exported":
        return export_program(request)
    if name == "aoti":
        return export_aoti(request)
    return export_torchscript(request)


def formats_that_could(request: ExportRequest, results: Sequence[FormatResult]) -> tuple[str, ...]:
    """Returns the formats that were not asked for and start from `torch.export`, if that works.

    Args:
        request: The request of the formats that were lost.
        results: The results of all formats that were asked for.
    """
    asked = {result.format for result in results}
    others = tuple(name for name in ("exported", "onnx", "aoti") if name not in asked)
    quantised = request.module is not None and quantised_parts(request.module)
    if not others or not request.has_source or request.stateful or quantised:
        return ()
    try:
        for method in request.methods:
            program = export_module(request, method, request.device)
            steps = [golden.steps[0] for golden in request.goldens[:_TRIED]]
            own = [step for step in steps if step.method == method.name]
            if any(first_difference(program, method, step) is not None for step in own):
                return ()
    except Exception:  # whatever torch.export says of code that it cannot follow
        return ()
    return others


def _with_exported(request: ExportRequest, exported: Sequence[ExportedArtifact]) -> ExportRequest:
    """Returns the request with those artifacts that its exporters can start from."""
    torchscript, fp32_onnx = request.torchscript, request.fp32_onnx
    for candidate in exported:
        kind = (candidate.artifact.format, candidate.artifact.precision)
        if kind == ("torchscript", request.precision):
            torchscript = candidate
        if kind == ("onnx", "fp32"):
            fp32_onnx = candidate
    if isinstance(fp32_onnx, ExportRequest):
        fp32_onnx = _with_exported(fp32_onnx, exported)
    return replace(request, torchscript=torchscript, fp32_onnx=fp32_onnx)


def _labelled(progress: Progress, label: str, line: str) -> None:
    progress(f"{label}: {line}")


def _succeeded(result: FormatResult, exported: ExportedArtifact) -> FormatResult:
    return replace(
        result,
        ok=True,
        size=sum(file.stat().st_size for file in exported.files),
        strategy=exported.artifact.strategy,
        decisions=exported.artifact.decisions,
        proofs=exported.artifact.proofs,
        sizes=exported.artifact.sizes_text,
    )


def _failed(result: FormatResult, error: Exception) -> FormatResult:
    decisions: tuple[Decision, ...] = tuple(getattr(error, "decisions", ()))
    refused = [decision for decision in decisions if not decision.accepted]
    if refused:
        # Wrong answers of the first way say more than what the fallbacks lack.
        first = next((d for d in refused if d.where or _IS_WRONG in d.reason), refused[0])
        reason, where = f"{first.strategy}: {first.reason}", first.where
        last = getattr(error, "last_of_parts", None)
        if last is not None and last is not first:
            reason += f"; {last.strategy}, {last.reason}"
    else:
        reason, where = summarize(error)
    # The advice is on the reason that is shown, and on no other.
    advice = advice_on(reason)
    return replace(
        result, reason=reason, where=where, advice=advice, decisions=decisions, error=error
    )


def decisions_of(results: Sequence[FormatResult]) -> tuple[Decision, ...]:
    """Returns the decisions of all results."""
    return tuple(decision for result in results for decision in result.decisions)
