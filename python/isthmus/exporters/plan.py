"""What one export makes, in each format and precision that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Artifact, Hazard, NoiseFloor, Tolerance
from isthmus.capture.capture import Captured
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest, Scripted
from isthmus.exporters.formats import (
    ArtifactExporter,
    FormatAndPrecision,
    Progress,
    artifact_exporters,
)
from isthmus.exporters.remedies import with_remedies
from isthmus.exporters.torchscript.script import Target
from isthmus.exporters.torchscript.strategies import Exported, export_torchscript
from isthmus.goldens.noise_floor import reduced_errors
from isthmus.goldens.tolerance import tolerances

__all__ = ["ExportPlan"]


@dataclass(frozen=True)
class ExportPlan:
    """Everything that the formats are made of, and what has been made so far."""

    captured: Captured
    goldens: Sequence[Golden]
    """Of the bundle."""
    texts: Sequence[Golden]
    """Real sentences: some are goldens of the bundle, all judge reduced precision."""
    noise: Mapping[str, NoiseFloor]
    strategy: str
    script: Sequence[Target]
    trace: Sequence[str]
    device: str
    op_libraries: Sequence[str | Path]
    opset: int | None
    isa: str
    folder: Path
    """Where files are written."""
    made: list[ExportedArtifact] = field(default_factory=list)
    """In order; later formats may start from it."""

    def makers(
        self, formats: Sequence[str], precisions: Sequence[str]
    ) -> dict[FormatAndPrecision, ArtifactExporter]:
        """What makes each format in each precision: all of the first format come first."""
        by_precision = {precision: self._of(precision) for precision in precisions}
        return {
            (name, precision): by_precision[precision][name]
            for name in formats
            for precision in precisions
        }

    def _of(self, precision: str) -> dict[str, ArtifactExporter]:
        goldens, allowed = self._judged(precision)

        def exported(progress: Progress) -> Exported:
            return export_torchscript(
                self.captured,
                goldens,
                allowed,
                strategy=self.strategy,
                script=self.script,
                trace_parts=self.trace,
                precision=precision,
                device=self.device,
                op_libraries=self.op_libraries,
                progress=progress,
            )

        def script() -> Scripted:
            one = self._already("torchscript", precision)
            if one is None:
                return exported(lambda _: None).scripted
            artifact = one.artifact
            return Scripted(one.files[0].read_bytes(), artifact.convention, artifact.strategy)

        def torchscript(progress: Progress) -> ExportedArtifact:
            found = exported(progress)
            artifact = _artifact(self.captured, found, precision, self.device, allowed)
            file = self.folder / f"{artifact.name}.pt"
            file.write_bytes(found.archive)
            return ExportedArtifact(artifact, (file,))

        captured = self.captured
        scripted = isinstance(captured.module, torch.jit.ScriptModule)
        subject = ExportRequest(
            methods=captured.methods,
            examples=captured.examples,
            axes=captured.dynamic,
            dims=captured.dims,
            goldens=goldens,
            tolerances=allowed,
            # A scripted module is its own TorchScript: there is no Python source to export.
            module=None if scripted else captured.module,
            make_script=script,
            precision=precision,
            device=self.device,
            stateful=captured.stateful,
            op_libraries=tuple(str(library) for library in self.op_libraries),
        )
        if precision == "int8":
            subject = replace(subject, make_full=self._full)
        others = artifact_exporters(subject, self.folder, opset=self.opset, isa=self.isa)
        return {"torchscript": torchscript, **others}

    def _judged(self, precision: str) -> tuple[Sequence[Golden], dict[str, Tolerance]]:
        """The goldens that an artifact is proven on, and how far it may be from them."""
        if precision == "fp32":
            return self.goldens, tolerances(self.noise, self.goldens)
        names = {golden.name for golden in self.goldens}
        goldens = [*self.goldens, *(text for text in self.texts if text.name not in names)]
        reduced = None
        if precision != "int8":
            reduced = reduced_errors(self.captured, self.goldens, precision)
        return goldens, tolerances(self.noise, self.goldens, precision, reduced=reduced)

    def _full(self) -> ExportedArtifact:
        """The ONNX artifact in fp32: the one that was made, or one that is made for this."""
        found = self._already("onnx", "fp32")
        return found if found is not None else self._of("fp32")["onnx"](lambda _: None)

    def _already(self, name: str, precision: str) -> ExportedArtifact | None:
        for exported in self.made:
            if (exported.artifact.format, exported.artifact.precision) == (name, precision):
                return exported
        return None


def _artifact(
    captured: Captured,
    exported: Exported,
    precision: str,
    device: str,
    allowed: Mapping[str, Tolerance],
) -> Artifact:
    kind = device.partition(":")[0]
    return Artifact(
        name=f"torchscript-{kind}-{precision}",
        format="torchscript",
        device=kind,
        devices=exported.devices,
        precision=precision,
        trust=exported.trust,
        convention=exported.convention,
        strategy=exported.strategy,
        files=(),
        requires={"torch": torch.__version__},
        op_libraries=exported.op_libraries,
        operators=exported.operators,
        tolerances=dict(allowed),
        state=captured.state,
        decisions=exported.decisions,
        hazards=_distinct((*captured.notes, *exported.hazards)),
    )


def _distinct(hazards: Sequence[Hazard]) -> tuple[Hazard, ...]:
    order = {"error": 0, "warning": 1, "info": 2}
    return with_remedies(
        sorted(dict.fromkeys(hazards), key=lambda fromkey: order[fromkey.severity])
    )
