"""The way out of TorchScript: other formats of what a bundle has, without the Python source."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isthmus.bundle.manifest import Artifact, Manifest, Method
from isthmus.errors import BundleError, ExportError, InvalidInput

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden
    from isthmus.exporters.export_request import ExportRequest

__all__ = ["convert"]


def convert(
    path: str | Path | Bundle,
    to: Sequence[str],
    *,
    precision: str = "",
    artifact: str = "",
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
        to: Formats to add: "onnx", "aoti". An artifact of the same name is replaced.
        precision: That of the TorchScript artifact when empty; "int8" for "onnx".
        artifact: Name of the TorchScript artifact, for int8 of the ONNX one; the first when empty.
        opset: ONNX operator set version; None for the default.
        isa: For which processors AOTInductor compiles; see `isthmus.export`.
        trust: "graph", or "native" for a TorchScript artifact with operators that are not on the
            allowlist.
        op_libraries: Libraries of custom operators to open first.
        time_limit: Seconds that each format may take.
        progress: Called with a sentence at each stage.

    Raises:
        BundleError: The bundle has no artifact to start from, or it is not trusted that far.
        InvalidInput: An unknown format or option.
        ExportError: No format was made.
    """
    from isthmus.bundle.bundle import Bundle, add_artifact, open_bundle
    from isthmus.exporters.export import open_libraries
    from isthmus.exporters.formats import FORMATS, ISAS, artifact_exporters, export_formats
    from isthmus.exporters.onnx.int8_source import int8_request
    from isthmus.exporters.quiet_torch import quiet_torch

    say = progress or (lambda _: None)
    known = [format_name for format_name in FORMATS if format_name != "torchscript"]
    wanted = list(dict.fromkeys([to] if isinstance(to, str) else to))
    for one in wanted:
        if one not in known:
            raise InvalidInput(f"to: expected {' or '.join(known)}, got {one!r}")
    if not wanted:
        raise InvalidInput(f"to: expected {' or '.join(known)}, got nothing")
    if isa not in ISAS:
        raise InvalidInput(f"isa: expected {', '.join(ISAS)}, got {isa!r}")
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    _check_precision(precision, wanted)
    _check_trust(trust)
    open_libraries(op_libraries)
    made: list[Any] = []
    with quiet_torch(), tempfile.TemporaryDirectory(prefix="isthmus-convert-") as folder:
        if precision == "int8":
            source = _source(bundle, artifact, "onnx")
            say(f"Scanning {source.name}")
            subject = int8_request(bundle, source, Path(folder, "fp32"))
        else:
            source = _source(bundle, artifact, "torchscript")
            say(f"Scanning {source.name}")
            archive = bundle.read(source.files[0])
            _require_trusted(bundle, source, archive, trust)
            subject = _subject(
                bundle, source, archive, tuple(str(op_library) for op_library in op_libraries)
            )
            _require_precision(precision, source)
        makers = artifact_exporters(subject, Path(folder), opset=opset, isa=isa)
        results = export_formats(
            {(name, subject.precision): makers[name] for name in wanted},
            made,
            time_limit=time_limit,
            progress=say,
        )
        for exported in made:
            say(f"Adding {exported.artifact.name}")
            bundle = add_artifact(
                bundle, exported.artifact, {file.name: file for file in exported.files}
            )
    if not made:
        lines = [f"  {result.label}: {result.explanation}" for result in results]
        error = ExportError("\n".join(["nothing was converted, the bundle is as it was:", *lines]))
        error.decisions = tuple(decision for result in results for decision in result.decisions)
        raise error
    return replace(bundle, results=results)


def _check_precision(precision: str, wanted: Sequence[str]) -> None:
    if precision not in ("", "fp32", "int8"):
        raise InvalidInput(
            f'precision: expected "fp32" or "int8", got {precision!r}; what was exported cannot be '
            "cast any more: export the module again with that precision"
        )
    if precision == "int8" and list(wanted) != ["onnx"]:
        raise InvalidInput(f'precision="int8" is for to="onnx", got {", ".join(wanted)}')


def _check_trust(trust: str) -> None:
    if trust not in ("graph", "native"):
        raise InvalidInput(f'trust: expected "graph" or "native", got "{trust}"')


def _require_precision(precision: str, source: Artifact) -> None:
    if precision not in ("", source.precision):
        raise InvalidInput(
            f'precision="{precision}": artifact "{source.name}" is {source.precision}, and it is '
            "converted as it is; name another one with artifact= (--artifact)"
        )


def _source(bundle: Bundle, name: str, kind: Literal["torchscript", "onnx"]) -> Artifact:
    """The artifact to start from: TorchScript, or ONNX in fp32."""
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
    found = [artifact for artifact in bundle.manifest.artifacts if fits(artifact)]
    if not found:
        raise BundleError(f"{bundle.path} lacks {title} artifact to convert; {remedy}")
    return found[0]


def _require_trusted(bundle: Bundle, source: Artifact, archive: bytes, trust: str) -> None:
    from isthmus import _core

    scan = _core.scan_torchscript(
        archive, {op_library.namespace for op_library in source.op_libraries}
    )
    if trust == "graph" and scan.refused:
        raise BundleError(
            f"{bundle.path}: {source.name} is refused: {scan.describe()}. If you trust it as you "
            'would a program, pass trust="native" (--trust native)'
        )


def _subject(
    bundle: Bundle, source: Artifact, archive: bytes, op_libraries: tuple[str, ...]
) -> ExportRequest:
    from isthmus.exporters.export_request import ExportRequest, Scripted

    manifest = bundle.manifest
    goldens = bundle.goldens()
    if not goldens:
        raise BundleError(f"{bundle.path} has no goldens to prove a format on; export it again")
    axes = axes_of(manifest)
    return ExportRequest(
        methods=manifest.methods,
        examples=_examples(manifest, goldens, axes),
        axes=axes,
        dims=dict(manifest.dims),
        goldens=goldens,
        tolerances=dict(source.tolerances),
        scripted=Scripted(archive, source.convention, source.strategy),
        precision=source.precision,
        device=source.device,
        stateful=manifest.stateful,
        op_libraries=op_libraries,
    )


def axes_of(manifest: Manifest) -> dict[str, dict[int, str]]:
    """Dynamic axes by input name, as the signature names them."""
    return {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for method in manifest.methods
        for spec in method.inputs
        if spec.shape is not None
    }


def _examples(
    manifest: Manifest, goldens: Sequence[Golden], axes: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[str, Any]]:
    """A call of each method at sizes that no exporter takes for constants or for one another."""
    from isthmus.capture.resize import choose_sizes, resize

    examples = {}
    for method in manifest.methods:
        golden, inputs = _golden_call(method, goldens)
        fixed = {
            size for spec in method.inputs for size in spec.shape or () if isinstance(size, int)
        }
        given = {name: golden.dims.get(name, size.min) for name, size in manifest.dims.items()}
        sizes = choose_sizes(manifest.dims, given, fixed)
        examples[method.name] = resize(inputs, axes, sizes)
    return examples


def _golden_call(method: Method, goldens: Sequence[Golden]) -> tuple[Golden, dict[str, Any]]:
    for golden in goldens:
        for step in golden.steps:
            if step.method == method.name:
                return golden, dict(step.inputs)
    raise BundleError(f'no golden calls "{method.name}", so there is no example of it; adopt again')
