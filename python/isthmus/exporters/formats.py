"""The formats that can be made, each in a process of its own, and the table of what came out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from isthmus.bundle.format_result import FormatResult
from isthmus.errors import ExportError
from isthmus.exporters.aoti.export_aoti import ISAS, export_aoti
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.onnx.export_onnx import export_onnx
from isthmus.exporters.onnx.int8 import WHY_NOT, export_int8
from isthmus.exporters.source_lines import summarize
from isthmus.exporters.subprocess_export import can_isolate, isolated

__all__ = [
    "FORMATS",
    "ISAS",
    "ArtifactExporter",
    "FormatAndPrecision",
    "Progress",
    "artifact_exporters",
    "export_formats",
]

FORMATS = ("torchscript", "onnx", "aoti")

Progress = Callable[[str], None]
ArtifactExporter = Callable[[Progress], ExportedArtifact]
FormatAndPrecision = tuple[str, str]
"""Format and precision."""

_ADVICE = (
    (
        r"data-dependent|GuardOnDataDependent|Could not guard|unbacked|DynamicControlFlow",
        "a branch or a size depends on values: script that part (--script), write it with "
        "torch.where or torch.cond, or stay with TorchScript",
    ),
    (
        r"specialized|Constraints violated|marked .* as dynamic|Not all values of",
        "the code fixes a size that was declared dynamic: take that dimension out of dynamic, or "
        "narrow its range (--dim)",
    ),
    (
        r"No ONNX function|UnsupportedOperator|Unsupported.*operator|not supported in opset|"
        r"No decompositions",
        "that operator has no form in ONNX: replace it in the module, or use another format",
    ),
    (
        r"CppCompileError|C\+\+ compile error|g\+\+|No working C\+\+ compiler",
        "the C++ compiler failed: install g++ 10 or newer, or set CXX",
    ),
    (r"time_limit", "allow more time, or export a smaller model first"),
    (r"pip install", ""),
    (
        r"quantize_dynamic.*least allowed",
        "the model does not bear int8 as it is: serve fp32, or bf16 of torchscript or aoti",
    ),
    (r"goldens fail", "the exporter changed the model's meaning; use another format or strategy"),
)


def artifact_exporters(
    subject: ExportRequest, folder: Path, *, opset: int | None = None, isa: str = "portable"
) -> dict[str, ArtifactExporter]:
    """What makes each format but TorchScript of a subject, by the format's name.

    In int8, the formats that do not have it are there too: to say why.

    Args:
        subject: The model.
        folder: Where files are written; the caller's own.
        opset: ONNX operator set version; None for the default.
        isa: For which processors AOTInductor compiles.
    """

    if subject.precision == "int8":

        def int8(progress: Progress) -> ExportedArtifact:
            return export_int8(subject, folder, progress=progress)

        return {"onnx": int8, **{name: _refusing(reason) for name, reason in WHY_NOT.items()}}

    def onnx(progress: Progress) -> ExportedArtifact:
        return export_onnx(subject, folder, opset=opset, progress=progress)

    def aoti(progress: Progress) -> ExportedArtifact:
        return export_aoti(subject, folder, isa=isa, progress=progress)

    return {"onnx": onnx, "aoti": aoti}


def _refusing(reason: str) -> ArtifactExporter:
    def refuse(_: Progress) -> ExportedArtifact:
        raise ExportError(reason)

    return refuse


def export_formats(
    makers: Mapping[FormatAndPrecision, ArtifactExporter],
    made: list[ExportedArtifact],
    *,
    time_limit: float,
    progress: Progress,
) -> tuple[FormatResult, ...]:
    """Makes each format; a failure, a crash or a time-out loses one row and nothing else.

    Args:
        makers: By format and precision, in order.
        made: Takes what was made, at once: later makers may start from it.
        time_limit: Seconds that each may take.
        progress: Called with a sentence at each stage.
    """
    results: list[FormatResult] = []
    # A lone TorchScript export has nothing to lose, and stays where a debugger can follow it.
    here = [name for name, _ in makers] == ["torchscript"] or not can_isolate()
    for (name, precision), maker in makers.items():
        label = name if precision == "fp32" else f"{name} {precision}"
        say = progress if len(makers) == 1 else partial(_say, label, progress)
        start = time.perf_counter()
        try:
            one = maker(say) if here else isolated(maker, seconds=time_limit, progress=say)
        except Exception as error:  # becomes the row's reason
            results.append(_failure(name, precision, error, time.perf_counter() - start))
            continue
        made.append(one)
        results.append(
            FormatResult(
                name,
                True,
                time.perf_counter() - start,
                precision,
                sum(file.stat().st_size for file in one.files),
                one.artifact.strategy,
                decisions=one.artifact.decisions,
            )
        )
    return tuple(results)


def _say(name: str, progress: Progress, line: str) -> None:
    progress(f"{name}: {line}")


def _failure(name: str, precision: str, error: Exception, seconds: float) -> FormatResult:
    decisions = tuple(getattr(error, "decisions", ()))
    refused = [decision for decision in decisions if not decision.accepted]
    if refused:
        # The first that names a line, else the first.
        first = next((one for one in refused if one.where), refused[0])
        reason, where = f"{first.strategy}: {first.reason}", first.where
    else:
        reason, where = summarize(error)
    return FormatResult(
        name,
        False,
        seconds,
        precision,
        reason=reason,
        where=where,
        advice=advice_on(" ".join([str(error), *(one.reason for one in refused)])),
        decisions=decisions,
        error=error,
    )


def advice_on(text: str) -> str:
    """What to try about an exporter's refusal; empty where nothing is known."""
    for pattern, advice in _ADVICE:
        if re.search(pattern, text):
            return advice
    return ""
