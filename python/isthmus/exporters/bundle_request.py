"""Requests to export a bundle's own artifacts into further formats, without the Python source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import Artifact, Manifest, Method
from isthmus.capture.resize import choose_sizes, resize
from isthmus.errors import BundleError
from isthmus.exporters.archive_sweep import archive_sweep
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.options import ExportOptions
from isthmus.goldens.sample_texts import as_golden, encode
from isthmus.goldens.tolerance import tolerances
from isthmus.runtime.file_engines import OnnxRuntimeEngine

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["int8_request", "torchscript_request"]


def torchscript_request(
    bundle: Bundle, source: Artifact, folder: Path, options: ExportOptions
) -> ExportRequest:
    """Returns the request to export a TorchScript artifact to other formats.

    Args:
        bundle: A bundle with goldens.
        source: The bundle's TorchScript artifact.
        folder: The folder into which files are written; the source is copied there.
        options: The options of the conversion.

    Raises:
        BundleError: The archive is not what was written, the scan refuses it, or goldens are
            missing.
    """
    from isthmus import _core

    archive = bundle.read(source.files[0])
    namespaces = {op_library.namespace for op_library in source.op_libraries}
    scan = _core.scan_torchscript(archive, namespaces)
    if options.trust == "graph" and scan.refused:
        raise BundleError(
            f"{bundle.path}: {source.name} is refused: {scan.describe()}. If you trust it as you "
            'would a program, pass trust="native" (--trust native)'
        )
    goldens = _goldens(bundle, "a format")
    path = folder / Path(source.files[0].path).name
    path.write_bytes(archive)
    manifest = bundle.manifest
    axes = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for method in manifest.methods
        for spec in method.inputs
        if spec.shape is not None
    }
    return ExportRequest(
        methods=manifest.methods,
        examples=_examples(manifest, goldens, axes),
        axes=axes,
        dims=manifest.dims,
        goldens=goldens,
        sweep=archive_sweep(manifest, source, archive, goldens, axes),
        tolerances=source.tolerances,
        folder=folder,
        precision=source.precision,
        device=source.device,
        stateful=manifest.stateful,
        torchscript=ExportedArtifact(source, (path,)),
        options=options,
    )


def int8_request(
    bundle: Bundle, source: Artifact, folder: Path, options: ExportOptions
) -> ExportRequest:
    """Returns the request to quantise an ONNX artifact.

    The result is judged on the bundle's goldens and, where the bundle has a tokenizer, on real
    sentences, for which the fp32 artifact's answers are the reference.

    Args:
        bundle: A bundle with goldens.
        source: The bundle's ONNX artifact in fp32.
        folder: The folder into which files are written; the source is copied to "fp32" inside it.
        options: The options of the conversion.

    Raises:
        BundleError: A file is not what was written, the scan refuses it, or goldens are missing.
    """
    manifest = bundle.manifest
    goldens = _goldens(bundle, "int8")
    files = _scanned_onnx(bundle, source, folder / "fp32")
    texts = [] if manifest.stateful else _texts(bundle, files, goldens)
    return ExportRequest(
        methods=manifest.methods,
        examples={},
        axes={},
        dims=manifest.dims,
        goldens=[*goldens, *texts],
        tolerances=tolerances(manifest.noise_floor, goldens, "int8"),
        folder=folder,
        precision="int8",
        stateful=manifest.stateful,
        fp32_onnx=ExportedArtifact(source, files),
        options=options,
    )


def _goldens(bundle: Bundle, what: str) -> Sequence[Golden]:
    goldens = bundle.goldens()
    if not goldens:
        raise BundleError(f"{bundle.path} has no goldens to prove {what} on; export it again")
    return goldens


def _examples(
    manifest: Manifest, goldens: Sequence[Golden], axes: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[str, Any]]:
    """Returns a call of each method at sizes that no exporter takes for constants or for equal."""
    examples = {}
    for method in manifest.methods:
        golden, inputs = _golden_call(method, goldens)
        fixed = {
            size for spec in method.inputs for size in spec.shape or () if isinstance(size, int)
        }
        given = {name: golden.dims.get(name, size.min) for name, size in manifest.dims.items()}
        derived = {size for entry in axes.values() for size in entry.values()}
        sizes = choose_sizes(manifest.dims, given, fixed, derived)
        examples[method.name] = resize(inputs, axes, sizes)
    return examples


def _golden_call(method: Method, goldens: Sequence[Golden]) -> tuple[Golden, dict[str, Any]]:
    for golden in goldens:
        for step in golden.steps:
            if step.method == method.name:
                return golden, dict(step.inputs)
    raise BundleError(f'no golden calls "{method.name}", so there is no example of it; adopt again')


def _scanned_onnx(bundle: Bundle, source: Artifact, folder: Path) -> tuple[Path, ...]:
    """Copies the artifact's files: what was hashed and scanned is what a runtime will open."""
    from isthmus import _core

    folder.mkdir()
    names = {Path(file.path).name for file in source.files}
    domains = {op_library.namespace for op_library in source.op_libraries}
    models = len(bundle.manifest.methods)
    copies = []
    for index, entry in enumerate(source.files):
        content = bundle.read(entry)
        if index < models:
            scan = _core.scan_onnx(content, names, domains)
            if scan.refused:
                raise BundleError(f"{bundle.path}: {source.name} is refused: {scan.describe()}")
        copies.append(folder / Path(entry.path).name)
        copies[-1].write_bytes(content)
    return tuple(copies)


def _texts(bundle: Bundle, files: Sequence[Path], goldens: Sequence[Golden]) -> list[Golden]:
    """Returns sentences that are not yet goldens, with the fp32 artifact's answers."""
    manifest = bundle.manifest
    method = manifest.methods[0]
    tokenizer = {
        file.path: bundle.read(file)
        for file in manifest.files
        if file.path == "tokenizer/tokenizer.json"
    }
    calls = encode(tokenizer, method, manifest.dims)
    if not calls:
        return []
    engine = OnnxRuntimeEngine(files, manifest.methods)
    known = {golden.name for golden in goldens}
    texts = []
    for index, inputs in enumerate(calls):
        try:
            step = Step(method.name, dict(inputs), engine.call(method, inputs))
        except Exception:
            # A tokenizer whose ids the model does not have belongs to another model.
            continue
        golden = as_golden(method, index, step)
        if golden.name not in known:
            texts.append(golden)
    return texts
