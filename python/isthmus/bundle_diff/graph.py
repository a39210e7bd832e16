"""Compares graphs part by part, and makes a diff of the parts that differ.

A part is a submodule of TorchScript, or the ONNX nodes of a submodule. Two parts are equal when
their texts are equal after local names are numbered in order of appearance. Otherwise their lines
are paired by a key without numbers, so that an added line does not renumber those that follow.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isthmus.bundle_diff.findings import Findings, counted, shortened

__all__ = ["WHOLE", "GraphDiff", "Line", "Part", "PartDiff", "compare_graphs", "report_graph"]

WHOLE = "the whole graph"
"""The part with all nodes and their connections; it is shown only when no other part differs."""

_CONTEXT = 2
_QUADRATIC = 4000
"""The lines from which on the matcher ignores the most frequent ones."""
MOST_LINES = 4000
"""The most lines of a graph's diff that are kept."""

Line = tuple[str, str]
"""A mark and the text: "-" only in A, "+" only in B, " " in both, "@" for omitted lines."""


@dataclass(frozen=True)
class Part:
    """The code or the nodes of a submodule."""

    title: str
    """The class name in the model; empty where it is unknown."""
    exact: tuple[str, ...]
    """The lines with numbered local names: equal for equal parts."""
    keys: tuple[str, ...]
    """The lines without numbers, which pair them."""
    lines: tuple[str, ...]
    """The lines for people."""


@dataclass(frozen=True)
class PartDiff:
    """Submodules that differ in the same way."""

    paths: tuple[str, ...]
    """The dotted paths in the model; the root is "the model"."""
    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class GraphDiff:
    """The graph of an artifact, before and after; truthy when it is equal."""

    artifact: str
    parts: int
    """The number of submodules that both have."""
    differing: tuple[PartDiff, ...] = ()
    removed: tuple[str, ...] = ()
    """The submodules that only A has, with their class."""
    added: tuple[str, ...] = ()
    """The submodules that only B has, with their class."""
    left_out: int = 0
    """The number of lines beyond those that are kept."""

    def __bool__(self) -> bool:
        """True when the graphs are equal."""
        return not (self.differing or self.removed or self.added)


def compare_graphs(
    artifact: str, before: Mapping[str, Part], after: Mapping[str, Part]
) -> GraphDiff:
    """Compares the parts of the same path.

    Args:
        artifact: The name of the artifact.
        before: A's parts by path; "" is the model itself.
        after: B's parts by path.
    """
    shared = [path for path in before if path in after]
    parts = [path for path in shared if path != WHOLE]
    removed, added = _labels(before, after), _labels(after, before)
    if removed or added or any(before[path].exact != after[path].exact for path in parts):
        shared = parts
    groups: dict[tuple[str, tuple[Line, ...]], list[str]] = {}
    texts: dict[tuple[str, tuple[Line, ...]], tuple[Line, ...]] = {}
    for path in shared:
        old, new = before[path], after[path]
        if old.exact == new.exact:
            continue
        # Parts that are equal without their numbers differ in which value goes where.
        rewired = old.keys == new.keys
        keys = (old.exact, new.exact) if rewired else (old.keys, new.keys)
        key = (new.title, tuple(_unified(*keys, *keys)))
        shown = keys if rewired else (old.lines, new.lines)
        groups.setdefault(key, []).append(path)
        texts.setdefault(key, tuple(_unified(*keys, *shown)))
    kept, left_out = [], 0
    room = MOST_LINES
    for key, paths in groups.items():
        lines = texts[key][:room]
        left_out += len(texts[key]) - len(lines)
        room -= len(lines)
        kept.append(PartDiff(tuple(map(path_name, paths)), key[0], lines))
    count = len(parts) or len(shared)
    return GraphDiff(artifact, count, tuple(kept), removed, added, left_out)


def report_graph(diff: GraphDiff, findings: Findings) -> None:
    """Adds the findings of an artifact's graph."""
    section = findings.section("graph", diff.artifact)
    for part in diff.differing:
        marks = [mark for mark, _ in part.lines]
        where = shortened(part.paths, 2)
        label = f"{where} ({part.title})" if part.title else where
        sides = [counted(marks.count(mark), "line") for mark in "-+"]
        section.change(label, sides, "changed")
    section.lists("submodules that are gone", "submodules that are new", diff.removed, diff.added)
    differing = sum(len(part.paths) for part in diff.differing)
    text = f"equal: {counted(diff.parts, 'submodule')}"
    if not diff:
        text = f"{differing} of {counted(diff.parts, 'submodule')} differ"
    section.result(text)


def path_name(path: str) -> str:
    """Returns the name of a submodule in a report."""
    return path or "the model"


def _labels(parts: Mapping[str, Part], others: Mapping[str, Part]) -> tuple[str, ...]:
    """Returns the outermost parts that are not among the others."""
    only = [path for path in parts if path not in others]
    tops = [path for path in only if not any(path.startswith(f"{top}.") for top in only)]
    return tuple(
        f"{path_name(path)} ({parts[path].title})" if parts[path].title else path_name(path)
        for path in tops
    )


def _unified(
    keys: Sequence[str],
    new_keys: Sequence[str],
    lines: Sequence[str],
    new_lines: Sequence[str],
) -> list[Line]:
    """Returns the lines that differ, with a few lines of context."""
    large = len(keys) + len(new_keys) > _QUADRATIC
    matcher = difflib.SequenceMatcher(None, keys, new_keys, autojunk=large)
    diff: list[Line] = []
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        if diff:
            diff.append(("@", ""))
        for tag, start, stop, new_start, new_stop in group:
            if tag == "equal":
                diff += [(" ", line) for line in new_lines[new_start:new_stop]]
                continue
            diff += [("-", line) for line in lines[start:stop]]
            diff += [("+", line) for line in new_lines[new_start:new_stop]]
    return diff
