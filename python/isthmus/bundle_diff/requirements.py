"""Compares what the bundles were made with, what they need to run, and their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from isthmus.bundle.manifest import Artifact, FileEntry, Hazard, Manifest
from isthmus.bundle_diff.findings import Findings, Severity, counted
from isthmus.bundle_diff.pairs import ArtifactPair

__all__ = ["GROWTH_BYTES", "GROWTH_SHARE", "compare_requirements"]

GROWTH_SHARE = 0.10
"""The share by which an artifact's size has to change to be reported."""
GROWTH_BYTES = 100_000
"""The bytes by which an artifact's size has to change to be reported."""
_TRUST = ("data", "graph", "native")


def compare_requirements(
    before: Manifest, after: Manifest, pairs: Sequence[ArtifactPair], findings: Findings
) -> None:
    """Compares producer, source, artifacts and their needs, hazards, goldens and further files."""
    _texts("", "made with ", before.producer, after.producer, findings)
    _texts("", "source: ", before.source, after.source, findings)
    for pair in pairs:
        _artifact(pair, findings)
    _goldens(before, after, findings)
    _files(before.files, after.files, findings)
    for pair in pairs:
        if pair.before is not None and pair.after is not None:
            _hazards(pair.name, pair.before.hazards, pair.after.hazards, findings)
    changes = findings.count("requirements")
    text = (
        f"equal: {counted(len(pairs), 'artifact')}" if not changes else counted(changes, "change")
    )
    findings.result("requirements", "", text, equal=not changes)


def size_of(artifact: Artifact) -> int:
    """Returns the bytes of all files."""
    return sum(file.size for file in artifact.files)


def megabytes(size: float) -> str:
    """Returns "91.1 MB" or "10.6 kB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _texts(
    artifact_name: str,
    prefix: str,
    old: Mapping[str, str],
    new: Mapping[str, str],
    findings: Findings,
) -> None:
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            findings.change(
                "requirements",
                artifact_name,
                f"{prefix}{key}",
                (old.get(key), new.get(key)),
                "changed",
            )


def _artifact(pair: ArtifactPair, findings: Findings) -> None:
    old, new = pair.before, pair.after
    if old is None or new is None:
        artifact = old or new
        assert artifact is not None
        text = f"{artifact.format}, {artifact.precision}, {megabytes(size_of(artifact))}"
        sides = (text, None) if new is None else (None, text)
        severity: Severity = "breaking" if new is None else "changed"
        findings.change("requirements", artifact.name, "artifact", sides, severity)
        return

    def change(what: str, before: object, after: object, severity: Severity, why: str = "") -> None:
        findings.change("requirements", pair.name, what, (before, after), severity, why)

    for what, before, after, severity in (
        # A program may load the artifact by its name.
        ("name", old.name, new.name, "breaking"),
        ("format", old.format, new.format, "breaking"),
        ("made for", old.device, new.device, "changed"),
        ("precision", old.precision, new.precision, "changed"),
        ("strategy", old.strategy, new.strategy, "changed"),
        ("convention", old.convention, new.convention, "changed"),
    ):
        if before != after:
            change(what, before, after, "breaking" if severity == "breaking" else "changed")
    if old.trust != new.trust:
        more = _TRUST.index(new.trust) > _TRUST.index(old.trust)
        why = "who loads it has to allow that" if more else ""
        change("trust", old.trust, new.trust, "breaking" if more else "changed", why)
    _sets(pair.name, "devices", old.devices, new.devices, findings, losing_breaks=True)
    _needs(pair.name, old.requires, new.requires, findings)
    libraries = [
        [
            f"{op_library.namespace} of {op_library.library or 'an unknown library'}"
            for op_library in side.op_libraries
        ]
        for side in (old, new)
    ]
    _sets(
        pair.name, "operator libraries", libraries[0], libraries[1], findings, losing_breaks=False
    )
    _sets(pair.name, "state", old.state, new.state, findings, losing_breaks=None)
    _size(pair.name, old, new, findings)


def _sets(
    artifact_name: str,
    what: str,
    old: Sequence[str],
    new: Sequence[str],
    findings: Findings,
    *,
    losing_breaks: bool | None,
) -> None:
    """Compares sets of names: losing breaks a caller (True), gaining does (False), or neither."""
    lost, gained = set(old) - set(new), set(new) - set(old)
    if not lost and not gained:
        return
    breaks = (losing_breaks is True and lost) or (losing_breaks is False and gained)
    sides = [", ".join(side) or "none" for side in (old, new)]
    findings.change("requirements", artifact_name, what, sides, "breaking" if breaks else "changed")


def _needs(
    artifact_name: str, old: Mapping[str, str], new: Mapping[str, str], findings: Findings
) -> None:
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        severity: Severity = "changed"
        why = ""
        if key == "isa" and set((after or "").split()) - set((before or "").split()):
            severity, why = "breaking", "a processor without these cannot run it"
        elif key in ("machine", "cuda_arch") and after is not None:
            severity, why = "breaking", "it is compiled for another machine"
        findings.change(
            "requirements", artifact_name, f"requires {key}", (before, after), severity, why
        )


def _size(artifact_name: str, old: Artifact, new: Artifact, findings: Findings) -> None:
    before, after = size_of(old), size_of(new)
    if abs(after - before) < max(GROWTH_SHARE * before, GROWTH_BYTES):
        return
    findings.change(
        "requirements",
        artifact_name,
        "size",
        (megabytes(before), megabytes(after)),
        "worse" if after > before else "better",
        f"by {abs(after - before) / before:.0%}; reported from {GROWTH_SHARE:.0%} on"
        if before
        else "",
    )


def _goldens(before: Manifest, after: Manifest, findings: Findings) -> None:
    if not after.goldens and before.goldens:
        why = "nothing is left to prove it with"
        findings.change("requirements", "", "goldens", (len(before.goldens), 0), "worse", why)
        return
    old, new = ({golden.name for golden in side.goldens} for side in (before, after))
    if old != new:
        words = [f"{len(old - new)} only in A" if old - new else ""]
        words += [f"{len(new - old)} only in B" if new - old else ""]
        findings.change(
            "requirements",
            "",
            "goldens",
            (len(old), len(new)),
            "changed",
            ", ".join(word for word in words if word),
        )


def _files(old: Sequence[FileEntry], new: Sequence[FileEntry], findings: Findings) -> None:
    left = {entry.path: entry for entry in old}
    right = {entry.path: entry for entry in new}
    for path in {**left, **right}:
        before, after = left.get(path), right.get(path)
        sides = [None if entry is None else f"{entry.size} bytes" for entry in (before, after)]
        if before is None or after is None:
            severity: Severity = "breaking" if after is None else "changed"
            findings.change("requirements", "", f"file {path}", sides, severity)
        elif before.sha256 != after.sha256:
            findings.change("requirements", "", f"content of {path}", sides, "changed")


def _hazards(
    artifact_name: str, old: Sequence[Hazard], new: Sequence[Hazard], findings: Findings
) -> None:
    """Compares hazards by kind and message, since source lines move from version to version."""
    left = Counter((hazard.kind, hazard.severity, hazard.message) for hazard in old)
    right = Counter((hazard.kind, hazard.severity, hazard.message) for hazard in new)
    for kind, severity, message in {**left, **right}:
        before, after = left[kind, severity, message], right[kind, severity, message]
        if before == after:
            continue
        grave: Severity = "worse" if after > before else "better"
        findings.change(
            "requirements",
            artifact_name,
            f"hazard: {message}",
            (_times(before), _times(after)),
            "changed" if severity == "info" else grave,
        )


def _times(count: int) -> str | None:
    return None if not count else "once" if count == 1 else f"{count} times"
