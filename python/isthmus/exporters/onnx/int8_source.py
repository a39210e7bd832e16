"""A bundle's own ONNX artifact as what int8 is made of, where there is no module any more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import Artifact
from isthmus.errors import BundleError
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.goldens.sample_texts import as_golden, encode
from isthmus.goldens.tolerance import tolerances
from isthmus.runtime.file_engines import OnnxRuntimeEngine

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["int8_request"]


def int8_request(bundle: Bundle, source: Artifact, folder: Path) -> ExportRequest:
    """What `export_int8` starts from.

    Judged on the bundle's goldens and, where it has a tokenizer, on real sentences: what the fp32
    artifact says to them is the reference.

    Args:
        bundle: With goldens.
        source: Its ONNX artifact in fp32.
        folder: To be made: the artifact's files are copied there, as they were checked.

    Raises:
        BundleError: A file is not what was written, the scan refuses it, or there are no goldens.
    """
    manifest = bundle.manifest
    goldens = bundle.goldens()
    if not goldens:
        raise BundleError(f"{bundle.path} has no goldens to prove int8 on; export it again")
    files = _checked(bundle, source, folder)
    texts = [] if manifest.stateful else _texts(bundle, files, goldens)
    return ExportRequest(
        methods=manifest.methods,
        examples={},
        axes={},
        dims=dict(manifest.dims),
        goldens=[*goldens, *texts],
        tolerances=tolerances(manifest.noise_floor, goldens, "int8"),
        make_full=lambda: ExportedArtifact(source, files),
        precision="int8",
        stateful=manifest.stateful,
    )


def _checked(bundle: Bundle, source: Artifact, folder: Path) -> tuple[Path, ...]:
    """Copies of the artifact's files: what was hashed and scanned is what a runtime will open."""
    from isthmus import _core

    folder.mkdir()
    names = {Path(file.path).name for file in source.files}
    domains = {op_library.namespace for op_library in source.op_libraries}
    models = len(bundle.manifest.methods)
    copies = []
    for at, entry in enumerate(source.files):
        content = bundle.read(entry)
        if at < models:
            scan = _core.scan_onnx(content, names, domains)
            if scan.refused:
                raise BundleError(f"{bundle.path}: {source.name} is refused: {scan.describe()}")
        copies.append(folder / Path(entry.path).name)
        copies[-1].write_bytes(content)
    return tuple(copies)


def _texts(bundle: Bundle, files: Sequence[Path], goldens: Sequence[Golden]) -> list[Golden]:
    """Sentences that are no goldens of the bundle yet, with the fp32 artifact's answers."""
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
    run = OnnxRuntimeEngine(files, manifest.methods).call
    known = {golden.name for golden in goldens}
    found = []
    for at, inputs in enumerate(calls):
        try:
            step = Step(method.name, dict(inputs), run(method, inputs))
        except Exception:
            # A tokenizer with ids that the model does not have is not this model's own.
            continue
        golden = as_golden(method, at, step)
        if golden.name not in known:
            found.append(golden)
    return found
