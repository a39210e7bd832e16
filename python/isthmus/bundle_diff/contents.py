"""Operators, graph and weights of an artifact, before and after, read without executing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.bundle_diff.findings import Area, Findings
from isthmus.bundle_diff.graph import GraphDiff, Part, compare_graphs, report_graph
from isthmus.bundle_diff.onnx_nodes import onnx_parts
from isthmus.bundle_diff.operators import compare_operators
from isthmus.bundle_diff.pairs import ArtifactPair
from isthmus.bundle_diff.torchscript_code import torchscript_parts
from isthmus.bundle_diff.weights import (
    WeightsDiff,
    archive_of,
    compare_weights,
    method_files,
    report_weights,
    stored_weights,
)
from isthmus.errors import Error
from isthmus.proof.inspect import Inspection, inspect

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.manifest import Artifact

__all__ = ["ContentsDiff", "compare_contents"]

_AREAS: tuple[Area, ...] = ("operators", "graph", "weights")


@dataclass(frozen=True)
class ContentsDiff:
    """The graph and the weights of an artifact, before and after."""

    graph: GraphDiff
    weights: WeightsDiff


def compare_contents(
    before: Bundle, after: Bundle, pair: ArtifactPair, findings: Findings
) -> ContentsDiff | None:
    """Compares operators, graph and weights of an artifact.

    Args:
        before: A.
        after: B.
        pair: The artifact in both.
        findings: Collects the findings of the three areas.

    Returns:
        None where there are no graphs and weights to compare, or none that can be read.
    """
    old, new = pair.before, pair.after
    if old is None or new is None:
        _note_missing(findings, pair, f"only {'A' if new is None else 'B'} has it")
        return None
    if pair.same_files:
        for area in _AREAS:
            findings.result(area, pair.name, "equal: the same files", equal=True)
        return None
    try:
        left = inspect(before.path, artifact=old.name)
        right = inspect(after.path, artifact=new.name)
    except Error as error:  # an artifact that cannot be read cannot be compared
        _note_missing(findings, pair, str(error))
        return None
    compare_operators(pair.name, left, right, (old.operators, new.operators), findings)
    if new.format == "onnx" and len(after.manifest.methods) > 1:
        first = after.manifest.methods[0].name
        findings.missing("operators", pair.name, f"only the file of {first} is counted")
    reason = _why_incomparable(old, new)
    if not reason:
        try:
            graph = compare_graphs(pair.name, _parts(before, old, left), _parts(after, new, right))
            weights = compare_weights(
                pair.name, stored_weights(before, old), stored_weights(after, new)
            )
        except ImportError:
            reason = "the package onnx is not installed: pip install onnx"
        except Error as error:
            reason = str(error)
    if reason:
        _note_missing(findings, pair, reason, _AREAS[1:])
        return None
    report_graph(graph, findings)
    report_weights(weights, findings)
    return ContentsDiff(graph, weights)


def _note_missing(
    findings: Findings, pair: ArtifactPair, reason: str, areas: tuple[Area, ...] = _AREAS
) -> None:
    for area in areas:
        findings.missing(area, pair.name, reason)


def _why_incomparable(before: Artifact, after: Artifact) -> str:
    if before.format != after.format:
        return f"{before.format} and {after.format} are not comparable"
    if before.format not in ("torchscript", "onnx"):
        return "native code shows none before it is run"
    return ""


def _parts(bundle: Bundle, artifact: Artifact, inspection: Inspection) -> dict[str, Part]:
    """Returns the graph's parts by the path of the submodule."""
    if artifact.format == "torchscript":
        return torchscript_parts(inspection.code, archive_of(bundle, artifact))
    return {
        prefix + path: part
        for prefix, file in method_files(bundle, artifact)
        for path, part in onnx_parts(file).items()
    }
