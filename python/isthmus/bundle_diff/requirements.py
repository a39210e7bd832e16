"""What the bundles were made with, what they need to run, and how large they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from isthmus.bundle.manifest import Artifact, FileEntry, Hazard, Manifest
from isthmus.bundle_diff.findings import Findings, Severity, counted
from isthmus.bundle_diff.pairs import ArtifactPair

__all__ = ["GROWTH_BYTES", "GROWTH_SHARE", "compare_requirements"]

GROWTH_SHARE = 0.10
"""An artifact that grew or shrank by less than this share is as large as it was."""
GROWTH_BYTES = 100_000
"""Nor is one that did by less than this."""
_TRUST = ("data", "graph", "native")


def compare_requirements(
    before: Manifest, after: Manifest, pairs: Sequence[ArtifactPair], found: Findings
) -> None:
    """Producer, source, artifacts and what each needs, hazards, goldens and further files."""
    _texts("", "made with ", before.producer, after.producer, found)
    _texts("", "source: ", before.source, after.source, found)
    for pair in pairs:
        _artifact(pair, found)
    _goldens(before, after, found)
    _files(before.files, after.files, found)
    for pair in pairs:
        if pair.before is not None and pair.after is not None:
            _hazards(pair.name, pair.before.hazards, pair.after.hazards, found)
    changes = found.count("requirements")
    text = (
        f"equal: {counted(len(pairs), 'artifact')}" if not changes else counted(changes, "change")
    )
    found.result("requirements", "", text, equal=not changes)


def size_of(artifact: Artifact) -> int:
    """Bytes of all its files."""
    return sum(file.size for file in artifact.files)


def megabytes(size: float) -> str:
    """ "91.1 MB", "10.6 kB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _texts(
    subject: str, prefix: str, old: Mapping[str, str], new: Mapping[str, str], found: Findings
) -> None:
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            found.change(
                "requirements", subject, f"{prefix}{key}", (old.get(key), new.get(key)), "changed"
            )


def _artifact(pair: ArtifactPair, found: Findings) -> None:
    old, new = pair.before, pair.after
    if old is None or new is None:
        one = old or new
        assert one is not None
        text = f"{one.format}, {one.precision}, {megabytes(size_of(one))}"
        sides = (text, None) if new is None else (None, text)
        severity: Severity = "breaking" if new is None else "changed"
        found.change("requirements", one.name, "artifact", sides, severity)
        return

    def change(what: str, before: object, after: object, severity: Severity, why: str = "") -> None:
        found.change("requirements", pair.name, what, (before, after), severity, why)

    for what, before, after, severity in (
        # A program may name the artifact that it loads.
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
    _sets(pair.name, "devices", old.devices, new.devices, found, losing_breaks=True)
    _needs(pair.name, old.requires, new.requires, found)
    libraries = [
        [
            f"{op_library.namespace} of {op_library.library or 'an unknown library'}"
            for op_library in side.op_libraries
        ]
        for side in (old, new)
    ]
    _sets(pair.name, "operator libraries", libraries[0], libraries[1], found, losing_breaks=False)
    _sets(pair.name, "state", old.state, new.state, found, losing_breaks=None)
    _size(pair.name, old, new, found)


def _sets(
    subject: str,
    what: str,
    old: Sequence[str],
    new: Sequence[str],
    found: Findings,
    *,
    losing_breaks: bool | None,
) -> None:
    """Names; to lose one breaks a caller (True), to gain one does (False), or neither (None)."""
    lost, gained = set(old) - set(new), set(new) - set(old)
    if not lost and not gained:
        return
    breaks = (losing_breaks is True and lost) or (losing_breaks is False and gained)
    sides = [", ".join(side) or "none" for side in (old, new)]
    found.change("requirements", subject, what, sides, "breaking" if breaks else "changed")


def _needs(subject: str, old: Mapping[str, str], new: Mapping[str, str], found: Findings) -> None:
    for key in {**old, **new}:
        one, other = old.get(key), new.get(key)
        if one == other:
            continue
        severity: Severity = "changed"
        why = ""
        if key == "isa" and set((other or "").split()) - set((one or "").split()):
            severity, why = "breaking", "a processor without these cannot run it"
        elif key in ("machine", "cuda_arch") and other is not None:
            severity, why = "breaking", "it is compiled for another machine"
        found.change("requirements", subject, f"requires {key}", (one, other), severity, why)


def _size(subject: str, old: Artifact, new: Artifact, found: Findings) -> None:
    one, other = size_of(old), size_of(new)
    if abs(other - one) < max(GROWTH_SHARE * one, GROWTH_BYTES):
        return
    found.change(
        "requirements",
        subject,
        "size",
        (megabytes(one), megabytes(other)),
        "worse" if other > one else "better",
        f"by {abs(other - one) / one:.0%}; told from {GROWTH_SHARE:.0%} on" if one else "",
    )


def _goldens(before: Manifest, after: Manifest, found: Findings) -> None:
    if not after.goldens and before.goldens:
        why = "nothing is left to prove it with"
        found.change("requirements", "", "goldens", (len(before.goldens), 0), "worse", why)
        return
    old, new = ({golden.name for golden in side.goldens} for side in (before, after))
    if old != new:
        words = [f"{len(old - new)} only in A" if old - new else ""]
        words += [f"{len(new - old)} only in B" if new - old else ""]
        found.change(
            "requirements",
            "",
            "goldens",
            (len(old), len(new)),
            "changed",
            ", ".join(word for word in words if word),
        )


def _files(old: Sequence[FileEntry], new: Sequence[FileEntry], found: Findings) -> None:
    left = {one.path: one for one in old}
    right = {one.path: one for one in new}
    for path in {**left, **right}:
        one, other = left.get(path), right.get(path)
        sides = [None if entry is None else f"{entry.size} bytes" for entry in (one, other)]
        if one is None or other is None:
            severity: Severity = "breaking" if other is None else "changed"
            found.change("requirements", "", f"file {path}", sides, severity)
        elif one.sha256 != other.sha256:
            found.change("requirements", "", f"content of {path}", sides, "changed")


def _hazards(subject: str, old: Sequence[Hazard], new: Sequence[Hazard], found: Findings) -> None:
    """By kind and message: lines of a source move from version to version."""
    left = Counter((one.kind, one.severity, one.message) for one in old)
    right = Counter((one.kind, one.severity, one.message) for one in new)
    for kind, severity, message in {**left, **right}:
        one, other = left[kind, severity, message], right[kind, severity, message]
        if one == other:
            continue
        grave: Severity = "worse" if other > one else "better"
        found.change(
            "requirements",
            subject,
            f"hazard: {message}",
            (_times(one), _times(other)),
            "changed" if severity == "info" else grave,
        )


def _times(count: int) -> str | None:
    return None if not count else "once" if count == 1 else f"{count} times"
