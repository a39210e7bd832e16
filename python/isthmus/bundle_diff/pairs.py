"""What belongs together in two bundles: artifacts, and the values of a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from isthmus.bundle.manifest import Artifact, Manifest, Method, ValueSpec
from isthmus.errors import InvalidInput

__all__ = ["ArtifactPair", "ValuePairs", "methods_of", "pair_artifacts", "pair_values"]


@dataclass(frozen=True)
class ArtifactPair:
    """An artifact before and after; one side is None where the other bundle has none like it."""

    before: Artifact | None
    after: Artifact | None

    @property
    def name(self) -> str:
        """What a report calls it: its name, and B's where that is another."""
        if self.before is None or self.after is None:
            one = self.before or self.after
            assert one is not None
            return one.name
        if self.before.name == self.after.name:
            return self.before.name
        return f"{self.before.name} -> {self.after.name}"

    @property
    def same_files(self) -> bool:
        """Whether both sides hold the same bytes."""
        if self.before is None or self.after is None:
            return False
        left, right = ([file.sha256 for file in side.files] for side in (self.before, self.after))
        return left == right


_LIKENESS: tuple[Callable[[Artifact], Any], ...] = (
    lambda one: one.name,
    lambda one: (one.format, one.precision, one.device),
    lambda one: (one.format, one.precision),
    lambda one: one.format,
)
"""What two artifacts have in common, the most telling first."""


def pair_artifacts(
    before: Manifest, after: Manifest, only: str | None = None
) -> tuple[ArtifactPair, ...]:
    """Each artifact of A with the one of B that stands for it, then what only B has.

    Args:
        before: A.
        after: B.
        only: Name of one artifact, of either bundle; None: all.

    Raises:
        InvalidInput: Neither bundle has an artifact of that name.
    """
    partners: dict[str, Artifact] = {}
    left, right = list(before.artifacts), list(after.artifacts)
    for likeness in _LIKENESS:
        for one in list(left):
            partner = next((other for other in right if likeness(other) == likeness(one)), None)
            if partner is not None:
                partners[one.name] = partner
                left.remove(one)
                right.remove(partner)
    pairs = [ArtifactPair(artifact, partners.get(artifact.name)) for artifact in before.artifacts]
    pairs += [ArtifactPair(None, one) for one in right]
    if only is None:
        return tuple(pairs)
    chosen = [
        pair for pair in pairs if only in {one.name for one in (pair.before, pair.after) if one}
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
    """In A's order; two names in one pair: it was renamed."""
    removed: tuple[ValueSpec, ...]
    added: tuple[ValueSpec, ...]

    @property
    def names(self) -> dict[str, str]:
        """A's names to B's."""
        return {pair.name: other.name for pair, other in self.pairs}


def pair_values(before: Sequence[ValueSpec], after: Sequence[ValueSpec]) -> ValuePairs:
    """By name; what is left over, by its kind, dtype and rank: then it was renamed."""
    partners: dict[str, ValueSpec] = {}
    named = {one.name: one for one in after}
    for one in before:
        if one.name in named:
            partners[one.name] = named.pop(one.name)
    places = {one.name: at for at, one in enumerate(after)}
    for at, one in enumerate(before):
        if one.name in partners:
            continue
        alike = [other for other in named.values() if _alike(one, other)]
        if alike:
            chosen = min(alike, key=lambda other: abs(places[other.name] - at))
            partners[one.name] = named.pop(chosen.name)
    return ValuePairs(
        pairs=tuple((one, partners[one.name]) for one in before if one.name in partners),
        removed=tuple(one for one in before if one.name not in partners),
        added=tuple(named.values()),
    )


def methods_of(before: Manifest, after: Manifest) -> list[tuple[Method, Method]]:
    """Methods of one name."""
    named = {method.name: method for method in after.methods}
    return [(method, named[method.name]) for method in before.methods if method.name in named]


def _alike(value_spec: ValueSpec, other: ValueSpec) -> bool:
    ranks = [None if spec.shape is None else len(spec.shape) for spec in (value_spec, other)]
    return (value_spec.kind, value_spec.dtype) == (other.kind, other.dtype) and ranks[0] == ranks[1]
