"""Compares operators, their owners and baked-in values, without executing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from isthmus.bundle_diff.findings import Findings, Section, Severity, counted
from isthmus.proof.inspect import Inspection

__all__ = ["compare_operators"]


def compare_operators(
    artifact: str,
    before: Inspection,
    after: Inspection,
    known: tuple[Mapping[str, int], Mapping[str, int]],
    findings: Findings,
) -> None:
    """Compares counts, owners, constants, literals and refusals of an artifact.

    Args:
        artifact: The name of the artifact.
        before: The inspection of A's artifact.
        after: The inspection of B's artifact.
        known: The operators and counts in the manifests, for formats that do not show theirs.
        findings: Collects the findings.
    """
    old = {operator.name: operator.count for operator in before.operators} or dict(known[0])
    new = {operator.name: operator.count for operator in after.operators} or dict(known[1])
    section = findings.section("operators", artifact)
    if not old and not new:
        section.missing("native code shows none before it is run")
    owners = [
        {operator.name: operator.owner for operator in side.operators} for side in (before, after)
    ]
    for name in sorted({**old, **new}):
        old_count, new_count = old.get(name, 0), new.get(name, 0)
        if old_count != new_count:
            owner = owners[1].get(name) or owners[0].get(name, "")
            label = f"{name} ({owner})" if owner not in ("", "LibTorch", "ONNX") else name
            section.change(label, (old_count or None, new_count or None), "changed")
        sides = [side.get(name) for side in owners]
        if all(sides) and sides[0] != sides[1]:
            section.change(f"owner of {name}", sides, "changed")
    _compare_texts("constant baked in", before.constants, after.constants, "changed", section)
    left, right = ([literal.message for literal in side.literals] for side in (before, after))
    _compare_texts("baked in", left, right, "changed", section)
    # The places of a refusal, in brackets at its end, change from version to version.
    refused = [
        [refusal.rpartition(" (")[0] or refusal for refusal in side.refused]
        for side in (before, after)
    ]
    if before.format in ("torchscript", "onnx"):
        _compare_texts("refused without trust", refused[0], refused[1], "breaking", section)
    if old or new:
        changes = section.changes
        places = f"{counted(len(new), 'operator')} in {counted(sum(new.values()), 'place')}"
        text = f"equal: {places}" if not changes else f"{counted(changes, 'change')}, now {places}"
        section.result(text)


def _compare_texts(
    what: str, before: Sequence[str], after: Sequence[str], appearing: Severity, section: Section
) -> None:
    """Adds a change for each text that occurs more or less often than before."""
    left, right = Counter(before), Counter(after)
    for text in {**left, **right}:
        old, new = left[text], right[text]
        if old != new:
            severity: Severity = appearing if new > old else "changed"
            section.change(f"{what}: {text}", (old or None, new or None), severity)
