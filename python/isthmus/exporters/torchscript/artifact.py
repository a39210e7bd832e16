"""Describes a TorchScript archive for the manifest: operators, trust, devices and hazards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from isthmus.bundle.manifest import Artifact, Hazard
from isthmus.errors import BundleError, Decision
from isthmus.exporters.check import load_bytes
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.remedies import with_remedies
from isthmus.exporters.torchscript.hazards import find_hazards, pinned_devices
from isthmus.exporters.torchscript.operators import (
    ModuleGraphs,
    count_operators,
    custom_operators,
    find_libraries,
    python_operators,
)

__all__ = ["ArchiveFacts", "Candidate", "artifact_of", "read_facts"]

_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class ArchiveFacts:
    """Facts that the graphs of an archive show."""

    operators: Mapping[str, int]
    """The number of places from which each operator is called."""
    python_operators: tuple[str, ...]
    """Calls into Python."""
    pinned_devices: tuple[str, ...]
    """The device types to which literals in scripted code pin the archive."""
    hazards: tuple[Hazard, ...]


@dataclass(frozen=True)
class Candidate:
    """An archive that verified."""

    archive: bytes
    facts: ArchiveFacts
    convention: Literal["flat", "structured"]
    strategy: str
    hazards: tuple[Hazard, ...] = ()
    """Hazards of which the tracer warned, or that traces of other inputs showed."""


def read_facts(archive: bytes, precision: str) -> ArchiveFacts:
    """Loads an archive and reads its graphs."""
    graphs = ModuleGraphs(load_bytes(archive, "cpu"))
    return ArchiveFacts(
        count_operators(graphs),
        python_operators(graphs),
        pinned_devices(graphs),
        tuple(find_hazards(graphs, precision)),
    )


def artifact_of(
    request: ExportRequest, candidate: Candidate, decisions: Sequence[Decision]
) -> Artifact:
    """Returns the manifest's description of an archive.

    Raises:
        BundleError: The scanner that C++ runs before loading cannot read the archive.
    """
    facts = candidate.facts
    refused = _refused_operators(candidate.archive, facts.operators)
    hazards = dict.fromkeys((*request.notes, *facts.hazards, *candidate.hazards, *refused))
    own_devices = ("cpu", "cuda") if request.device_type == "cpu" else (request.device_type,)
    return Artifact(
        name=f"torchscript-{request.device_type}-{request.precision}",
        format="torchscript",
        device=request.device_type,
        devices=facts.pinned_devices or own_devices,
        precision=request.precision,
        trust="native" if refused else "graph",
        convention=candidate.convention,
        strategy=candidate.strategy,
        files=(),
        requires={"torch": torch.__version__},
        op_libraries=find_libraries(facts.operators, request.options.op_libraries),
        operators=facts.operators,
        tolerances=dict(request.tolerances),
        state=request.state,
        decisions=tuple(decisions),
        hazards=with_remedies(
            sorted(hazards, key=lambda hazard: _SEVERITIES.index(hazard.severity))
        ),
    )


def _refused_operators(archive: bytes, operators: Iterable[str]) -> list[Hazard]:
    """Returns the operators for which the archive loads only when it is trusted as native code."""
    from isthmus import _core

    namespaces = {name.partition("::")[0] for name in custom_operators(operators)}
    scan = _core.scan_torchscript(archive, namespaces)
    if not scan.refused:
        return []
    refused = [finding for finding in scan.findings if finding.refused]
    for finding in refused:
        if finding.kind != "operator":
            raise BundleError(
                f"the archive that torch {torch.__version__} wrote is not one that isthmus reads: "
                f"{finding.what} ({finding.where}); report this"
            )
    return [
        Hazard(
            "impure_operator",
            "warning",
            f'{finding.what}: the artifact loads only with trust="native" (--allow-native)',
            finding.where,
        )
        for finding in refused
    ]
