"""Graphs compared part by part: what is equal, and a diff of what is not.

A part is a submodule of TorchScript, or the nodes of ONNX that stand for one. Two parts are equal
when they are the same text once local names are counted through; where they are not, their lines
are paired by a key without any numbers, so that one line more does not renumber all that follow.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isthmus.bundle_diff.findings import Findings, counted, shortened

__all__ = ["WHOLE", "GraphDiff", "Line", "Part", "PartDiff", "compare_graphs", "tell_graph"]

WHOLE = "the whole graph"
"""The part with all nodes and how they are wired: shown only where no other part differs."""

_CONTEXT = 2
_QUADRATIC = 4000
"""Lines from which on the matcher leaves out the most frequent ones."""
MOST_LINES = 4000
"""Of a graph's diff that are kept at all."""

Line = tuple[str, str]
"""A mark and the text: "-" only in A, "+" only in B, " " in both, "@" lines were left out."""


@dataclass(frozen=True)
class Part:
    """A submodule's code, or its nodes."""

    title: str
    """Its class, as the model names it; empty where that is not known."""
    exact: tuple[str, ...]
    """Lines in which local names are counted through: equal for equal parts."""
    keys: tuple[str, ...]
    """The same lines without numbers, which pair them."""
    lines: tuple[str, ...]
    """The same lines for people."""


@dataclass(frozen=True)
class PartDiff:
    """Submodules that differ in the same way."""

    paths: tuple[str, ...]
    """Dotted, as the model names them; the model itself is "the model"."""
    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class GraphDiff:
    """The graph of an artifact, before and after; truthy when it is equal."""

    artifact: str
    parts: int
    """How many submodules both have."""
    differing: tuple[PartDiff, ...] = ()
    removed: tuple[str, ...] = ()
    """Submodules that only A has, with their class."""
    added: tuple[str, ...] = ()
    left_out: int = 0
    """Lines beyond what is kept."""

    def __bool__(self) -> bool:
        """True when the graphs are equal."""
        return not (self.differing or self.removed or self.added)


def compare_graphs(
    artifact: str, before: Mapping[str, Part], after: Mapping[str, Part]
) -> GraphDiff:
    """Pairs parts by path.

    Args:
        artifact: Its name.
        before: A's parts by path; "" is the model itself.
        after: B's.
    """
    shared = [path for path in before if path in after]
    parts = [path for path in shared if path != WHOLE]
    removed, added = _labels(before, after), _labels(after, before)
    if removed or added or any(before[path].exact != after[path].exact for path in parts):
        shared = parts
    groups: dict[tuple[str, tuple[Line, ...]], list[str]] = {}
    texts: dict[tuple[str, tuple[Line, ...]], tuple[Line, ...]] = {}
    for path in shared:
        one, other = before[path], after[path]
        if one.exact == other.exact:
            continue
        # Equal without their numbers: what differs is which value goes where.
        rewired = one.keys == other.keys
        keys = (one.exact, other.exact) if rewired else (one.keys, other.keys)
        key = (other.title, tuple(_unified(*keys, *keys)))
        shown = keys if rewired else (one.lines, other.lines)
        groups.setdefault(key, []).append(path)
        texts.setdefault(key, tuple(_unified(*keys, *shown)))
    kept, left_out = [], 0
    room = MOST_LINES
    for key, paths in groups.items():
        lines = texts[key][:room]
        left_out += len(texts[key]) - len(lines)
        room -= len(lines)
        kept.append(PartDiff(tuple(map(path_name, paths)), key[0], lines))
    return GraphDiff(
        artifact,
        len(parts) or len(shared),
        tuple(kept),
        removed,
        added,
        left_out,
    )


def tell_graph(diff: GraphDiff, found: Findings) -> None:
    """The findings of one artifact."""
    start = found.count("graph")
    for one in diff.differing:
        removed = sum(mark == "-" for mark, _ in one.lines)
        added = sum(mark == "+" for mark, _ in one.lines)
        where = shortened(one.paths, 2)
        label = f"{where} ({one.title})" if one.title else where
        found.change(
            "graph",
            diff.artifact,
            label,
            (counted(removed, "line"), counted(added, "line")),
            "changed",
        )
    for what, names in (("gone", diff.removed), ("new", diff.added)):
        if names:
            sides = (len(names), None) if what == "gone" else (None, len(names))
            text = f"submodules that are {what}: {shortened(names)}"
            found.change("graph", diff.artifact, text, sides, "changed")
    differing = sum(len(one.paths) for one in diff.differing)
    text = f"equal: {counted(diff.parts, 'submodule')}"
    if not diff:
        text = f"{differing} of {counted(diff.parts, 'submodule')} differ"
    found.result("graph", diff.artifact, text, equal=found.count("graph") == start)


def path_name(path: str) -> str:
    """What a report calls a submodule."""
    return path or "the model"


def _labels(one: Mapping[str, Part], other: Mapping[str, Part]) -> tuple[str, ...]:
    """Parts that only the first has; what is inside a part that is told is not told again."""
    only = [path for path in one if path not in other]
    tops = [path for path in only if not any(path.startswith(f"{top}.") for top in only)]
    return tuple(
        f"{path_name(path)} ({one[path].title})" if one[path].title else path_name(path)
        for path in tops
    )


def _unified(
    keys: Sequence[str],
    new_keys: Sequence[str],
    lines: Sequence[str],
    new_lines: Sequence[str],
) -> list[Line]:
    """Lines that differ, with a few around them."""
    large = len(keys) + len(new_keys) > _QUADRATIC
    matcher = difflib.SequenceMatcher(None, keys, new_keys, autojunk=large)
    found: list[Line] = []
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        if found:
            found.append(("@", ""))
        for tag, start, stop, new_start, new_stop in group:
            if tag == "equal":
                found += [(" ", line) for line in new_lines[new_start:new_stop]]
                continue
            found += [("-", line) for line in lines[start:stop]]
            found += [("+", line) for line in new_lines[new_start:new_stop]]
    return found
