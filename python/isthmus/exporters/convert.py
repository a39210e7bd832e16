"""Adds formats to a bundle that are made of its own artifacts, without the Python source."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from isthmus.bundle.bundle import Bundle, add_artifact, open_bundle
from isthmus.bundle.manifest import Artifact
from isthmus.errors import BundleError, ExportError, InvalidInput
from isthmus.exporters.bundle_request import int8_request, torchscript_request
from isthmus.exporters.engine_proofs import warn_of_failures
from isthmus.exporters.frozen_branches import refuse_unknown_lines
from isthmus.exporters.options import FORMATS, ExportOptions, ignore_progress, open_libraries
from isthmus.exporters.plan import ExportPlan, decisions_of
from isthmus.exporters.quiet_torch import quiet_torch

__all__ = ["convert"]


def convert(
    path: str | Path | Bundle,
    to: Sequence[str],
    *,
    precision: str = "",
    artifact: str = "",
    accept: Sequence[str] = (),
    opset: int | None = None,
    isa: str = "portable",
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    time_limit: float = 1800.0,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Turns a bundle's TorchScript into further formats, each proven on the bundle's goldens.

    Control flow that was scripted is kept. The C++ program that loads the bundle does not change.
    A format that fails has its row in `Bundle.results` and leaves the bundle as it was.

    With `precision="int8"`, the bundle's ONNX artifact in fp32 is quantised instead.

    Args:
        path: A bundle with a TorchScript artifact, such as `isthmus.adopt` makes.
        to: The formats to add: "onnx", "aoti". An artifact of the same name is replaced.
        precision: "int8" for "onnx"; empty to keep that of the TorchScript artifact.
        artifact: The name of the artifact to start from: TorchScript, or ONNX for int8; empty for
            the first.
        accept: Lines whose branches on values the TorchScript keeps, as for `isthmus.export`.
        opset: The ONNX operator set version; None for the default.
        isa: The processors for which AOTInductor compiles; see `isthmus.export`.
        trust: "graph", or "native" for a TorchScript artifact with operators that are not on the
            allowlist.
        op_libraries: Libraries of custom operators to open first.
        time_limit: The seconds that each format may take.
        progress: Receives a sentence at each stage.

    Raises:
        BundleError: The bundle has no artifact to start from, or that artifact is not trusted.
        InvalidInput: A format or an option is unknown.
        ExportError: No format was made.
    """
    formats = _checked_formats(to, [name for name in FORMATS if name != "torchscript"])
    options = ExportOptions(
        formats=formats,
        accept=accept,
        opset=opset,
        isa=isa,
        time_limit=time_limit,
        op_libraries=op_libraries,
        trust=trust,
        progress=progress or ignore_progress,
    )
    bundle = open_bundle(path)
    _check_precision(precision, formats)
    open_libraries(op_libraries)
    with quiet_torch(), tempfile.TemporaryDirectory(prefix="isthmus-convert-") as folder:
        source = _source(bundle, artifact, "onnx" if precision == "int8" else "torchscript")
        options.progress(f"Scanning {source.name}")
        if precision == "int8":
            request = int8_request(bundle, source, Path(folder), options)
        else:
            request = torchscript_request(bundle, source, Path(folder), options)
            if precision not in ("", source.precision):
                raise InvalidInput(
                    f'precision="{precision}": artifact "{source.name}" is {source.precision}, '
                    "and it is converted as it is; name another one with artifact= (--artifact)"
                )
        exported, results = ExportPlan(options, (request,)).run()
        warn_of_failures(new.artifact for new in exported)
        if exported:
            made = [new.artifact for new in exported]
            refuse_unknown_lines(accept, [source, *made], decisions_of(results))
        for new in exported:
            options.progress(f"Adding {new.artifact.name}")
            bundle = add_artifact(bundle, new.artifact, {file.name: file for file in new.files})
    if not exported:
        lines = [f"  {result.label}: {result.explanation}" for result in results]
        error = ExportError("\n".join(["nothing was converted, the bundle is as it was:", *lines]))
        error.decisions = decisions_of(results)
        raise error
    return replace(bundle, results=results)


def _checked_formats(to: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    formats = (to,) if isinstance(to, str) else tuple(to)
    for name in formats:
        if name not in known:
            raise InvalidInput(f"to: expected {' or '.join(known)}, got {name!r}")
    if not formats:
        raise InvalidInput(f"to: expected {' or '.join(known)}, got nothing")
    return tuple(dict.fromkeys(formats))


def _check_precision(precision: str, formats: tuple[str, ...]) -> None:
    if precision not in ("", "fp32", "int8"):
        raise InvalidInput(
            f'precision: expected "fp32" or "int8", got {precision!r}; what was exported cannot be '
            "cast any more: export the module again with that precision"
        )
    if precision == "int8" and formats != ("onnx",):
        raise InvalidInput(f'precision="int8" is for to="onnx", got {", ".join(formats)}')


def _source(bundle: Bundle, name: str, kind: Literal["torchscript", "onnx"]) -> Artifact:
    """Returns the artifact to start from: TorchScript, or ONNX in fp32."""
    title, remedy = {
        "torchscript": (
            "a TorchScript",
            "export the module with --formats, or `isthmus adopt` a TorchScript file",
        ),
        "onnx": (
            "an fp32 ONNX",
            "make one with `isthmus convert --to onnx`, or export with --formats onnx",
        ),
    }[kind]

    def fits(artifact: Artifact) -> bool:
        return artifact.format == kind and (kind != "onnx" or artifact.precision == "fp32")

    if name:
        chosen = bundle.artifact(name)
        if not fits(chosen):
            raise InvalidInput(
                f'artifact "{name}" is {chosen.format} in {chosen.precision}; expected {title} '
                "one to convert"
            )
        return chosen
    fitting = [artifact for artifact in bundle.manifest.artifacts if fits(artifact)]
    if not fitting:
        raise BundleError(f"{bundle.path} lacks {title} artifact to convert; {remedy}")
    return fitting[0]
