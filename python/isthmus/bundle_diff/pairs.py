"""Pairs the artifacts of two bundles, and the inputs and outputs of a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from isthmus.bundle.manifest import Artifact, Manifest, Method, ValueSpec
from isthmus.errors import InvalidInput

__all__ = ["ArtifactPair", "ValuePairs", "methods_of", "pair_artifacts", "pair_values"]


@dataclass(frozen=True)
class ArtifactPair:
    """An artifact before and after; a side is None where that bundle has none like it."""

    before: Artifact | None
    after: Artifact | None

    @property
    def name(self) -> str:
        """The name in a report: A's name, and B's where that is different."""
        if self.before is None or self.after is None:
            only = self.before or self.after
            assert only is not None
            return only.name
        if self.before.name == self.after.name:
            return self.before.name
        return f"{self.before.name} -> {self.after.name}"

    @property
    def same_files(self) -> bool:
        """True when both sides have the same bytes."""
        if self.before is None or self.after is None:
            return False
        left, right = ([file.sha256 for file in side.files] for side in (self.before, self.after))
        return left == right


_LIKENESS: tuple[Callable[[Artifact], Any], ...] = (
    lambda artifact: artifact.name,
    lambda artifact: (artifact.format, artifact.precision, artifact.device),
    lambda artifact: (artifact.format, artifact.precision),
    lambda artifact: artifact.format,
)
"""The properties that a pair has in common, the most specific first."""


def pair_artifacts(
    before: Manifest, after: Manifest, only: str | None = None
) -> tuple[ArtifactPair, ...]:
    """Pairs each artifact of A with its counterpart in B, then adds those that only B has.

    Args:
        before: A.
        after: B.
        only: The name of the only artifact to pair, of either bundle; None: all.

    Raises:
        InvalidInput: Neither bundle has an artifact of that name.
    """
    partners: dict[str, Artifact] = {}
    left, right = list(before.artifacts), list(after.artifacts)
    for likeness in _LIKENESS:
        for artifact in list(left):
            wanted = likeness(artifact)
            partner = next((other for other in right if likeness(other) == wanted), None)
            if partner is not None:
                partners[artifact.name] = partner
                left.remove(artifact)
                right.remove(partner)
    pairs = [ArtifactPair(artifact, partners.get(artifact.name)) for artifact in before.artifacts]
    pairs += [ArtifactPair(None, artifact) for artifact in right]
    if only is None:
        return tuple(pairs)
    chosen = [
        pair for pair in pairs if only in {side.name for side in (pair.before, pair.after) if side}
    ]
    if not chosen:
        known = dict.fromkeys(artifact.name for artifact in (*before.artifacts, *after.artifacts))
        raise InvalidInput(
            f"artifact {only!r} is in neither bundle, expected one of {', '.join(known)}"
        )
    return tuple(chosen)


@dataclass(frozen=True)
class ValuePairs:
    """The inputs or the outputs of a method, before and after."""

    pairs: tuple[tuple[ValueSpec, ValueSpec], ...]
    """The pairs in A's order; a pair with two names was renamed."""
    removed: tuple[ValueSpec, ...]
    added: tuple[ValueSpec, ...]

    @property
    def names(self) -> dict[str, str]:
        """Maps A's names to B's."""
        return {pair.name: other.name for pair, other in self.pairs}


def pair_values(before: Sequence[ValueSpec], after: Sequence[ValueSpec]) -> ValuePairs:
    """Pairs values by name, and the rest by kind, dtype and rank: those were renamed."""
    partners: dict[str, ValueSpec] = {}
    rest = {spec.name: spec for spec in after}
    for spec in before:
        if spec.name in rest:
            partners[spec.name] = rest.pop(spec.name)
    places = {spec.name: at for at, spec in enumerate(after)}
    for at, spec in enumerate(before):
        if spec.name in partners:
            continue
        alike = [other for other in rest.values() if _alike(spec, other)]
        if alike:
            chosen = min(alike, key=lambda other: abs(places[other.name] - at))
            partners[spec.name] = rest.pop(chosen.name)
    return ValuePairs(
        pairs=tuple((spec, partners[spec.name]) for spec in before if spec.name in partners),
        removed=tuple(spec for spec in before if spec.name not in partners),
        added=tuple(rest.values()),
    )


def methods_of(before: Manifest, after: Manifest) -> list[tuple[Method, Method]]:
    """Returns the methods that both bundles have, before and after."""
    named = {method.name: method for method in after.methods}
    return [(method, named[method.name]) for method in before.methods if method.name in named]


def _alike(value_spec: ValueSpec, other: ValueSpec) -> bool:
    ranks = [None if spec.shape is None else len(spec.shape) for spec in (value_spec, other)]
    return (value_spec.kind, value_spec.dtype) == (other.kind, other.dtype) and ranks[0] == ranks[1]
