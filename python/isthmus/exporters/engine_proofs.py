"""Proves an exported artifact on every engine that is installed, as isthmus will serve it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from isthmus.bundle.bundle import write_bundle
from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import Artifact, EngineProof, Manifest, Tolerance
from isthmus.capture.quantised import quantised_parts
from isthmus.errors import ExportError
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.special_limits import limits_of
from isthmus.exporters.unsupported_types import explain_unsupported_type
from isthmus.goldens.stored import stored_goldens
from isthmus.runtime.engines import engines_of
from isthmus.runtime.prove import prove_engine, try_specials

__all__ = ["format_of", "proof_of_files", "prove_engines", "proven", "warn_of_failures"]


_USUAL_BYTES = 4 << 20
"""The size of the ordinary goldens that are written beside those of special values."""
_PACKING = "x86"
"""The engine of torch for which a process packs quantised weights where nothing else is set."""
_LONGEST = 600.0
"""The seconds that an engine may take, where the format may take longer."""


def proven(request: ExportRequest, exported: ExportedArtifact) -> ExportedArtifact:
    """Returns the artifact with the verdict of each engine.

    Raises:
        ExportError: Every engine failed.
    """
    proofs = prove_engines(request.within(exported.artifact.sizes), exported)
    if proofs and not any(proof.passed for proof in proofs):
        lines = [f"{proof.engine} ({proof.runtime}): {proof.reason}" for proof in proofs]
        lines += _other_packing(request)
        raise ExportError("no engine gives the module's answers: " + "; ".join(lines))
    return replace(exported, artifact=replace(exported.artifact, proofs=proofs))


def _other_packing(request: ExportRequest) -> list[str]:
    """Returns what to do about quantised weights that this process packs in a way of its own.

    Weights are packed again at each load, for the engine that is set in that process.
    """
    engine = torch.backends.quantized.engine
    if request.module is None or engine == _PACKING or not quantised_parts(request.module):
        return []
    return [
        f"the module is quantised and its weights are packed for {engine}, the engine of this "
        f"process, where any other process packs the weights for {_PACKING}, which rounds "
        f'otherwise: set torch.backends.quantized.engine = "{_PACKING}" and export '
        "copy.deepcopy(module), which packs them anew"
    ]


def format_of(files: Sequence[Path]) -> str:
    """Returns the format of an artifact's files, whose names begin with it."""
    return files[0].stem.partition("-")[0]


def proof_of_files(request: ExportRequest, files: Sequence[Path]) -> EngineProof | None:
    """Returns the verdict of the first engine that gives the answers; None where none does.

    Args:
        request: The model, with its goldens.
        files: The methods' files in order; weights lie beside them as NAME.data.
    """
    artifact = Artifact(
        name=files[0].stem,
        format=format_of(files),
        device="cpu",
        devices=("cpu",),
        precision=request.precision,
        trust="graph",
        convention="flat",
        strategy="",
        files=(),
        requires={},
        tolerances=request.tolerances,
    )
    data = [file.with_name(f"{file.name}.data") for file in files]
    exported = ExportedArtifact(artifact, (*files, *(file for file in data if file.exists())))
    proofs = prove_engines(replace(request, specials=()), exported)
    return next((proof for proof in proofs if proof.passed), None)


def prove_engines(request: ExportRequest, exported: ExportedArtifact) -> tuple[EngineProof, ...]:
    """Runs all goldens on each engine that is installed and runs the artifact's format.

    Each engine has a process of its own. One that is not available here has no verdict.
    """
    artifact = exported.artifact
    engines = engines_of(artifact.format)
    if not engines:
        return ()
    device = request.device if artifact.device == request.device_type else artifact.device
    with tempfile.TemporaryDirectory(prefix="isthmus-prove-") as folder:
        bundle = _write_bundle(request, exported, Path(folder, "bundle"))
        proofs = []
        for engine in engines:
            request.progress(f"Proving {artifact.name} on {engine}")
            try:
                proof = prove_engine(
                    bundle,
                    artifact,
                    engine,
                    device,
                    op_libraries=request.options.op_libraries,
                    timeout=min(_LONGEST, request.options.time_limit),
                )
            except ImportError:  # without the native part, the check in Python is the proof
                return ()
            if proof is not None:
                known = explain_unsupported_type(proof.reason, exported.files)
                proofs.append(replace(proof, reason=known) if known else proof)
        if request.specials and any(proof.passed for proof in proofs):
            bundle = _write_specials(request, exported, Path(folder, "specials"))
            proofs = [_with_limits(request, artifact, proof, bundle, device) for proof in proofs]
    return tuple(proofs)


def _with_limits(
    request: ExportRequest, artifact: Artifact, proof: EngineProof, bundle: Path, device: str
) -> EngineProof:
    """Returns the verdict of an engine with the special values on which it differs."""
    if not proof.passed:
        return proof
    request.progress(f"Trying special values of {artifact.name} on {proof.engine}")
    differences = try_specials(
        bundle,
        artifact,
        proof.engine,
        device,
        [special.special for special in request.specials],
        [special.limits for special in request.specials],
        op_libraries=request.options.op_libraries,
    )
    wrong = [bool(difference) for difference in differences]
    limits = limits_of(request.specials, wrong, request.goldens)
    return replace(proof, values=limits.values, unproven=limits.unproven)


def warn_of_failures(artifacts: Iterable[Artifact]) -> None:
    """Warns of each engine that does not give the module's answers; `load` does not take it."""
    for artifact in artifacts:
        for proof in artifact.proofs:
            if not proof.passed:
                warnings.warn(
                    f"{artifact.name} is not proven on {proof.engine}, which is not taken for it: "
                    f"{proof.reason}",
                    RuntimeWarning,
                    stacklevel=4,
                )


def _write_bundle(request: ExportRequest, exported: ExportedArtifact, path: Path) -> Path:
    """Writes a bundle of the artifact with every golden that it has to reproduce."""
    return _write(
        request,
        exported,
        path,
        [*request.goldens, *_swept(request.sweep, exported.artifact.tolerances)],
    )


def _write_specials(request: ExportRequest, exported: ExportedArtifact, path: Path) -> Path:
    """Writes a bundle of the artifact with the goldens of special values.

    Its ordinary goldens only tell how large the outputs usually are.
    """
    usual, _ = stored_goldens(request.goldens, _USUAL_BYTES)
    specials = [(new.golden, new.special) for new in request.specials]
    return _write(request, exported, path, usual, specials)


def _write(
    request: ExportRequest,
    exported: ExportedArtifact,
    path: Path,
    goldens: Sequence[Golden],
    specials: Sequence[tuple[Golden, Mapping[str, str]]] = (),
) -> Path:
    artifact = replace(exported.artifact, proofs=(), decisions=(), hazards=())
    manifest = Manifest(
        name=artifact.name,
        created="",
        producer={},
        source={},
        stateful=request.stateful,
        dims=request.dims,
        methods=request.methods,
        artifacts=(artifact,),
        goldens=(),
        noise_floor={},
    )
    files = {artifact.name: {file.name: file for file in exported.files}}
    names = [golden.name for golden in goldens]
    unique = [
        replace(golden, name=f"{golden.name}-{at}") if golden.name in names[:at] else golden
        for at, golden in enumerate(goldens)
    ]
    return write_bundle(
        path, manifest, artifact_files=files, goldens=unique, specials=specials
    ).path


def _swept(sweep: Sequence[Golden], tolerances: Mapping[str, Tolerance]) -> list[Golden]:
    """Returns the calls at further sizes, judged by the worst error of all goldens.

    Eager's own error in a single call counts only where it allows more.
    """

    def judged(step: Step) -> Step:
        errors = {}
        for name, error in step.errors.items():
            tolerance = tolerances.get(name)
            if tolerance is None or not error.numel():
                continue
            if tolerance.multiples.get("max", 0.0) * float(error.abs().max()) > tolerance.atol:
                errors[name] = error
        return replace(step, errors=errors)

    return [replace(golden, steps=tuple(judged(step) for step in golden.steps)) for golden in sweep]
