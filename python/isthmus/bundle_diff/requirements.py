"""Compares what the bundles were made with, what they need to run, and their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from isthmus.bundle.manifest import Artifact, FileEntry, Hazard, Manifest
from isthmus.bundle_diff.findings import Findings, Section, Severity, counted
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
    section = findings.section("requirements")
    _texts("made with ", before.producer, after.producer, section)
    _texts("source: ", before.source, after.source, section)
    for pair in pairs:
        _artifact(pair, findings.section("requirements", pair.name))
    _goldens(before, after, section)
    _files(before.files, after.files, section)
    for pair in pairs:
        if pair.before is not None and pair.after is not None:
            hazards = findings.section("requirements", pair.name)
            _hazards(pair.before.hazards, pair.after.hazards, hazards)
    changes = findings.count("requirements")
    text = (
        f"equal: {counted(len(pairs), 'artifact')}" if not changes else counted(changes, "change")
    )
    section.result(text, equal=not changes)


def size_of(artifact: Artifact) -> int:
    """Returns the bytes of all files."""
    return sum(file.size for file in artifact.files)


def megabytes(size: float) -> str:
    """Returns "91.1 MB" or "10.6 kB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _texts(prefix: str, old: Mapping[str, str], new: Mapping[str, str], section: Section) -> None:
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            section.change(f"{prefix}{key}", (old.get(key), new.get(key)), "changed")


def _artifact(pair: ArtifactPair, section: Section) -> None:
    old, new = pair.before, pair.after
    if old is None or new is None:
        artifact = old or new
        assert artifact is not None
        text = f"{artifact.format}, {artifact.precision}, {megabytes(size_of(artifact))}"
        if new is None:
            section.change("artifact", (text, None), "breaking")
        else:
            section.change("artifact", (None, text), "changed")
        return
    # A program may load the artifact by its name.
    breaking = (("name", old.name, new.name), ("format", old.format, new.format))
    harmless = (
        ("made for", old.device, new.device),
        ("precision", old.precision, new.precision),
        ("strategy", old.strategy, new.strategy),
        ("convention", old.convention, new.convention),
    )
    for what, before, after in breaking:
        if before != after:
            section.change(what, (before, after), "breaking")
    for what, before, after in harmless:
        if before != after:
            section.change(what, (before, after), "changed")
    if old.trust != new.trust:
        more = _TRUST.index(new.trust) > _TRUST.index(old.trust)
        why = "who loads it has to allow that" if more else ""
        section.change("trust", (old.trust, new.trust), "breaking" if more else "changed", why)
    _sets("devices", old.devices, new.devices, section, losing_breaks=True)
    _needs(old.requires, new.requires, section)
    libraries = [
        [
            f"{op_library.namespace} of {op_library.library or 'an unknown library'}"
            for op_library in side.op_libraries
        ]
        for side in (old, new)
    ]
    _sets("operator libraries", libraries[0], libraries[1], section, losing_breaks=False)
    _sets("state", old.state, new.state, section, losing_breaks=None)
    _size(old, new, section)


def _sets(
    what: str,
    old: Sequence[str],
    new: Sequence[str],
    section: Section,
    *,
    losing_breaks: bool | None,
) -> None:
    """Compares sets of names: losing breaks a caller (True), gaining does (False), or neither."""
    lost, gained = set(old) - set(new), set(new) - set(old)
    if not lost and not gained:
        return
    breaks = (losing_breaks is True and lost) or (losing_breaks is False and gained)
    sides = [", ".join(side) or "none" for side in (old, new)]
    section.change(what, sides, "breaking" if breaks else "changed")


def _needs(old: Mapping[str, str], new: Mapping[str, str], section: Section) -> None:
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
        section.change(f"requires {key}", (before, after), severity, why)


def _size(old: Artifact, new: Artifact, section: Section) -> None:
    before, after = size_of(old), size_of(new)
    if abs(after - before) < max(GROWTH_SHARE * before, GROWTH_BYTES):
        return
    share = abs(after - before) / before if before else 0.0
    section.change(
        "size",
        (megabytes(before), megabytes(after)),
        "worse" if after > before else "better",
        f"by {share:.0%}; reported from {GROWTH_SHARE:.0%} on" if before else "",
    )


def _goldens(before: Manifest, after: Manifest, section: Section) -> None:
    if not after.goldens and before.goldens:
        why = "nothing is left to prove it with"
        section.change("goldens", (len(before.goldens), 0), "worse", why)
        return
    old, new = ({golden.name for golden in side.goldens} for side in (before, after))
    if old != new:
        only = ((len(old - new), "A"), (len(new - old), "B"))
        why = ", ".join(f"{count} only in {side}" for count, side in only if count)
        section.change("goldens", (len(old), len(new)), "changed", why)


def _files(old: Sequence[FileEntry], new: Sequence[FileEntry], section: Section) -> None:
    left, right = ({entry.path: entry for entry in side} for side in (old, new))
    for path in {**left, **right}:
        before, after = left.get(path), right.get(path)
        sides = [None if entry is None else f"{entry.size} bytes" for entry in (before, after)]
        if before is None or after is None:
            section.change(f"file {path}", sides, "breaking" if after is None else "changed")
        elif before.sha256 != after.sha256:
            section.change(f"content of {path}", sides, "changed")


def _hazards(old: Sequence[Hazard], new: Sequence[Hazard], section: Section) -> None:
    """Compares hazards by kind and message, since source lines move from version to version."""
    left, right = (
        Counter((hazard.kind, hazard.severity, hazard.message) for hazard in side)
        for side in (old, new)
    )
    for key in {**left, **right}:
        before, after = left[key], right[key]
        if before == after:
            continue
        _, severity, message = key
        grave: Severity = "worse" if after > before else "better"
        sides = (_times(before), _times(after))
        section.change(f"hazard: {message}", sides, "changed" if severity == "info" else grave)


def _times(count: int) -> str | None:
    return None if not count else "once" if count == 1 else f"{count} times"
