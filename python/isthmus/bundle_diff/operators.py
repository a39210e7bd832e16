"""Operators, their owners, and what is baked into a graph: read, and nothing executed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from isthmus.bundle_diff.findings import Findings, Severity, counted
from isthmus.proof.inspect import Inspection

__all__ = ["compare_operators"]


def compare_operators(
    subject: str,
    before: Inspection,
    after: Inspection,
    known: tuple[Mapping[str, int], Mapping[str, int]],
    found: Findings,
) -> None:
    """Counts, owners, constants, literals and refusals of an artifact.

    Args:
        subject: The artifact.
        before: What A's holds.
        after: What B's holds.
        known: Operators by count as the manifests tell them, for formats that hide theirs.
        found: Takes the findings.
    """
    old = {operator.name: operator.count for operator in before.operators} or dict(known[0])
    new = {operator.name: operator.count for operator in after.operators} or dict(known[1])
    if not old and not new:
        reason = "native code shows none before it is run"
        found.missing("operators", subject, reason)
    owners = [
        {operator.name: operator.owner for operator in side.operators} for side in (before, after)
    ]
    start = found.count("operators")
    for name in sorted({**old, **new}):
        count, other = old.get(name, 0), new.get(name, 0)
        if count != other:
            owner = owners[1].get(name) or owners[0].get(name, "")
            label = f"{name} ({owner})" if owner not in ("", "LibTorch", "ONNX") else name
            found.change("operators", subject, label, (count or None, other or None), "changed")
        keepers = [side.get(name) for side in owners]
        if all(keepers) and keepers[0] != keepers[1]:
            found.change("operators", subject, f"owner of {name}", keepers, "changed")
    _many(subject, "constant baked in", before.constants, after.constants, "changed", found)
    left, right = ([literal.message for literal in side.literals] for side in (before, after))
    _many(subject, "baked in", left, right, "changed", found)
    # The places of a refusal, in brackets at its end, move from version to version.
    refused = [[one.rpartition(" (")[0] or one for one in side.refused] for side in (before, after)]
    if before.format in ("torchscript", "onnx"):
        _many(subject, "refused without trust", refused[0], refused[1], "breaking", found)
    changes = found.count("operators") - start
    if old or new:
        places = f"{counted(len(new), 'operator')} in {counted(sum(new.values()), 'place')}"
        text = f"equal: {places}" if not changes else f"{counted(changes, 'change')}, now {places}"
        found.result("operators", subject, text, equal=not changes)


def _many(
    subject: str,
    what: str,
    before: Sequence[str],
    after: Sequence[str],
    appearing: Severity,
    found: Findings,
) -> None:
    """Each text that stands more or less often than before."""
    left, right = Counter(before), Counter(after)
    for text in {**left, **right}:
        one, other = left[text], right[text]
        if one != other:
            severity: Severity = appearing if other > one else "changed"
            found.change(
                "operators", subject, f"{what}: {text}", (one or None, other or None), severity
            )
