"""Compares signatures, and tells which changes break a caller."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from isthmus.bundle.manifest import (
    DimRange,
    Manifest,
    Method,
    Size,
    Tree,
    ValueRange,
    ValueSpec,
)
from isthmus.bundle.size_expression import is_plain, parse_size
from isthmus.bundle_diff.findings import Findings, Section, Severity, counted
from isthmus.bundle_diff.pairs import ValuePairs, methods_of, pair_values
from isthmus.bundle_diff.served import compare_served

__all__ = ["compare_signatures"]

_BY_POSITION = "Python callers pass it by its place"
_UNPACKS = "Python callers take the result apart"


def compare_signatures(before: Manifest, after: Manifest, findings: Findings) -> None:
    """Compares the methods, and the inputs, outputs, sizes and nesting of each."""
    had, has = ([method.name for method in side.methods] for side in (before, after))
    for name in had:
        if name not in has:
            findings.change("signature", name, "method", ("there", None), "breaking")
    for name in has:
        if name not in had:
            findings.change("signature", name, "method", (None, "new"), "changed")
    for left, right in methods_of(before, after):
        section = findings.section("signature", left.name)
        _Comparison(left, right, before.dims, after.dims, section).run()
    if before.stateful != after.stateful:
        words = ["stateful" if side.stateful else "stateless" for side in (before, after)]
        severity: Severity = "breaking" if after.stateful else "changed"
        why = "callers that share the model need a session each" if after.stateful else ""
        findings.change("signature", "", "state", words, severity, why)
    changes = findings.count("signature")
    methods = counted(len(had), "method")
    text = f"equal: {methods}" if not changes else counted(changes, "change")
    findings.result("signature", "", text, equal=not changes)


class _Comparison:
    """The comparison of a method, before and after."""

    def __init__(
        self,
        before: Method,
        after: Method,
        dims: Mapping[str, DimRange],
        new_dims: Mapping[str, DimRange],
        section: Section,
    ) -> None:
        self._before, self._after = before, after
        self._dims, self._new_dims = dims, new_dims
        self._section, self._change = section, section.change
        self._inputs = pair_values(before.inputs, after.inputs)
        self._outputs = pair_values(before.outputs, after.outputs)
        self._axes: dict[tuple[Size, Size], list[str]] = {}
        """Maps the sizes of an input axis, before and after, to the places that have them."""

    def run(self) -> None:
        """Compares everything."""
        self._values("input", self._inputs)
        self._values("output", self._outputs)
        self._order()
        self._input_sizes()
        compare_served(
            self._before.served,
            self._after.served,
            self._section,
            dims=self._names(),
            inputs=self._inputs.names,
        )
        self._output_sizes()
        self._calls()
        self._returns()
        self._writes()

    def _values(self, noun: str, values: ValuePairs) -> None:
        is_input = noun == "input"
        for spec in values.removed:
            self._change(f"{noun} {spec.name}", (describe(spec), None), "breaking")
        for spec in values.added:
            required = is_input and not spec.optional
            self._change(
                f"{noun} {spec.name}",
                (None, describe(spec)),
                "breaking" if required else "changed",
                "callers do not give it" if required else "",
            )
        for pair, other in values.pairs:
            what = f"{noun} {pair.name}"
            if pair.name != other.name:
                self._change(f"name of {what}", (pair.name, other.name), "breaking")
            if (pair.kind, pair.dtype) != (other.kind, other.dtype):
                self._change(f"type of {what}", (_type(pair), _type(other)), "breaking")
            if pair.optional != other.optional:
                # Callers do not expect a required input, or an output that may be None.
                breaks = pair.optional if is_input else other.optional
                words = ["optional" if spec.optional else "required" for spec in (pair, other)]
                if not is_input:
                    words = ["may be None" if spec.optional else "always" for spec in (pair, other)]
                self._change(f"presence of {what}", words, "breaking" if breaks else "changed")
            if pair.values != other.values:
                # Where no range is known, eager may have refused the same values.
                old, new = pair.values, other.values
                narrower = old and new and _narrower(old, new)
                words = [str(span) if span else "any" for span in (old, new)]
                self._change(f"values of {what}", words, "breaking" if narrower else "changed")

    def _order(self) -> None:
        """Compares the order of the outputs; `_calls` compares that of the inputs."""
        new = [spec.name for spec in self._after.outputs]
        places = [new.index(other.name) for _, other in self._outputs.pairs]
        if places != sorted(places):
            old = ", ".join(pair.name for pair, _ in self._outputs.pairs)
            order = ", ".join(name for name in new if name in self._outputs.names.values())
            self._change("order of the outputs", (old, order), "changed", "C++ takes them by name")

    def _writes(self) -> None:
        names = self._inputs.names
        old = {names.get(name, name) for name in self._before.writes}
        new = set(self._after.writes)
        for name in sorted(old ^ new):
            words = ["written" if name in writes else "left alone" for writes in (old, new)]
            why = "it changes a buffer that callers may use again" if name in new else ""
            severity: Severity = "breaking" if name in new else "changed"
            self._change(f"input {name} after the call", words, severity, why)

    # --- sizes ------------------------------------------------------------------------------------

    def _input_sizes(self) -> None:
        for pair, other in self._inputs.pairs:
            if self._rank("input", pair, other):
                continue
            for axis, sizes in enumerate(zip(pair.shape or (), other.shape or (), strict=True)):
                self._axes.setdefault(sizes, []).append(f"{pair.name}[{axis}]")
        for (old, new), places in self._axes.items():
            self._input_size(old, new, places)
        self._ties()

    def _rank(self, noun: str, value_spec: ValueSpec, other: ValueSpec) -> bool:
        """Reports a change of rank; returns True when the sizes cannot be paired."""
        ranks = [
            "any rank" if spec.shape is None else f"rank {len(spec.shape)}"
            for spec in (value_spec, other)
        ]
        if ranks[0] == ranks[1]:
            return other.shape is None
        wider = other.shape is None and noun == "input"
        self._change(f"rank of {noun} {value_spec.name}", ranks, "changed" if wider else "breaking")
        return True

    def _input_size(self, old: Size, new: Size, places: Sequence[str]) -> None:
        before, after = _range(old, self._dims), _range(new, self._new_dims)
        narrower = not _contains(after, before)
        where = ", ".join(places)
        if _is_name(old) and _is_name(new):
            what = f"range of dimension {old}, which is {where}"
            if before != after:
                sides = str(before), str(after)
                self._change(what, sides, "breaking" if narrower else "changed")
            if old != new:
                self._change(f"name of the dimension of {where}", (old, new), "changed")
        elif _renamed(old, self._names()) != new:
            # A size that may no longer be chosen for itself breaks callers; a freed one does not.
            tied = isinstance(new, str) and not is_plain(new)
            sides = _sized(old, self._dims), _sized(new, self._new_dims)
            self._change(f"size of {where}", sides, "breaking" if narrower or tied else "changed")

    def _names(self) -> dict[str, str]:
        """Returns the new name of each dimension that is the size of an input's axis."""
        return {
            old: new
            for old, new in self._axes
            if isinstance(old, str) and isinstance(new, str) and is_plain(old) and is_plain(new)
        }

    def _ties(self) -> None:
        """Compares which sizes have to be equal."""
        named = [(old, new) for old, new in self._axes if _is_name(old) and _is_name(new)]
        for side, severity, words in (
            (1, "breaking", ("may differ", "have to be equal")),
            (0, "changed", ("have to be equal", "may differ")),
        ):
            for name in dict.fromkeys(pair[side] for pair in named):
                sharing = [pair for pair in named if pair[side] == name]
                if len(sharing) > 1:
                    places = [place for pair in sharing for place in self._axes[pair]]
                    what = f"sizes of {', '.join(places)}"
                    self._change(what, words, "breaking" if severity == "breaking" else "changed")

    def _output_sizes(self) -> None:
        renamed: dict[Size, Size] = {old: new for old, new in self._axes if isinstance(old, str)}
        for pair, other in self._outputs.pairs:
            if self._rank("output", pair, other):
                continue
            for axis, (old, new) in enumerate(
                zip(pair.shape or (), other.shape or (), strict=True)
            ):
                if old == new or (isinstance(old, str) and renamed.get(old) == new):
                    continue
                if _renamed(old, self._names()) == new:
                    continue
                # No caller relies on an unknown size, and a named size may change.
                loose = old is None or (isinstance(old, str) and not isinstance(new, int))
                self._change(
                    f"size of output {pair.name}[{axis}]",
                    ["unknown" if size is None else size for size in (old, new)],
                    "changed" if loose else "breaking",
                )

    # --- nesting ----------------------------------------------------------------------------------

    def _calls(self) -> None:
        """Compares how Python passes the inputs: each parameter by its place or by its name."""
        names = {new: old for old, new in self._inputs.names.items()}
        old, new = _parameters(self._before), _parameters(self._after)
        # Added and removed inputs are reported already; they affect only parameters after them.
        old_shapes = _shapes(old, {}, {spec.name for spec in self._inputs.removed})
        new_shapes = _shapes(new, names, {spec.name for spec in self._inputs.added})
        if old_shapes != new_shapes:
            calls = [f"({', '.join(shapes)})" for shapes in (old_shapes, new_shapes)]
            self._change("arguments of the Python call", calls, "breaking", _BY_POSITION)
        constants = [
            {name: text_of(tree, {}) for name, tree in side if not tree.leaves()}
            for side in (old, new)
        ]
        for name in {**constants[0], **constants[1]}:
            sides = (constants[0].get(name), constants[1].get(name))
            if sides[0] != sides[1]:
                self._change(f"argument {name}, part of the model", sides, "changed")

    def _returns(self) -> None:
        names = {new: old for old, new in self._outputs.names.items()}
        added = {spec.name for spec in self._outputs.added}
        old, new = self._before.returns, _without(self._after.returns, added)
        texts = text_of(old, {}), text_of(new, names)
        gone = {spec.name for spec in self._outputs.removed}
        if texts[0] != texts[1] and text_of(_without(old, gone), {}) != texts[1]:
            same = _masked(old, {}) == _masked(new, names)
            self._change(
                "nesting of the result",
                texts,
                "changed" if same else "breaking",
                "" if same else _UNPACKS,
            )
        elif _types(old) != _types(new):
            self._change(
                "classes in the result",
                [", ".join(_types(tree)) for tree in (old, new)],
                "changed",
            )


def describe(spec: ValueSpec) -> str:
    """Returns "float32[batch, 3], optional"."""
    if spec.shape is None:
        shape = "[any rank]"
    else:
        shape = f"[{', '.join('?' if size is None else str(size) for size in spec.shape)}]"
    kind = f"{spec.dtype}{shape}" if spec.kind == "tensor" else spec.kind
    return f"{kind}, optional" if spec.optional else kind


def text_of(tree: Tree, names: Mapping[str, str]) -> str:
    """Returns the nesting on a line, "(x, {a: y})"; `names` renames leaves and their keys."""
    if tree.node == "leaf":
        return names.get(tree.name, tree.name)
    if tree.node == "none":
        return "None"
    if tree.node == "const":
        return json.dumps(tree.value)
    items = [text_of(item, names) for item in tree.items]
    if tree.node == "list":
        return f"[{', '.join(items)}]"
    if tree.node == "tuple":
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    keys = [names.get(str(key), key) for key in tree.keys]
    if tree.node == "dict":
        pairs = zip(keys, items, strict=True)
        return f"{{{', '.join(f'{key}: {item}' for key, item in pairs)}}}"
    fields = ", ".join(f"{key}={item}" for key, item in zip(keys, items, strict=True))
    if tree.node == "pytree" and tree.value is not None:
        fields += f"; {json.dumps(tree.value)}"
    return f"{tree.type.rpartition('.')[2].rpartition(':')[2]}({fields})"


def _masked(tree: Tree, names: Mapping[str, str]) -> str:
    """Returns the nesting without the values of its constants."""
    return text_of(_without_constants(tree), names)


def _without_constants(tree: Tree) -> Tree:
    if tree.node == "const":
        return Tree("const", value="")
    items = tuple(_without_constants(item) for item in tree.items)
    return replace(tree, items=items)


def _without(tree: Tree, leaves: set[str]) -> Tree:
    """Removes these leaves where callers take items by key, since more keys break no caller."""
    if not tree.items:
        return tree
    keyed = tree.node in ("dict", "dataclass", "model_output", "pytree")
    kept = [
        at
        for at, item in enumerate(tree.items)
        if not (keyed and item.leaves() and set(item.leaves()) <= leaves)
    ]
    return replace(
        tree,
        keys=tuple(tree.keys[at] for at in kept) if tree.keys else (),
        items=tuple(_without(tree.items[at], leaves) for at in kept),
    )


def _parameters(method: Method) -> list[tuple[str, Tree]]:
    """Returns the parameters of the Python call in order, with their names."""
    by_place = [
        (tree.leaves()[0].partition(".")[0] if tree.leaves() else str(at), tree)
        for at, tree in enumerate(method.args)
    ]
    return [*by_place, *method.kwargs]


def _shapes(
    parameters: Sequence[tuple[str, Tree]], names: Mapping[str, str], reported: set[str]
) -> list[str]:
    """Returns the nesting of each parameter, up to the last that has an unreported leaf."""

    def idle(group: tuple[str, Tree]) -> bool:
        return set(group[1].leaves()) <= reported

    tail = len(list(takewhile(idle, reversed(parameters))))
    return [_masked(tree, names) for _, tree in parameters[: len(parameters) - tail]]


def _types(tree: Tree) -> list[str]:
    own = [tree.type] if tree.type else []
    return own + [name for item in tree.items for name in _types(item)]


def _type(spec: ValueSpec) -> str:
    return spec.dtype if spec.kind == "tensor" else f"Python {spec.kind}"


def _range(size: Size, dims: Mapping[str, DimRange]) -> DimRange:
    """Returns the range of an input's axis."""
    if isinstance(size, int):
        return DimRange(size, size)
    assert size is not None  # inputs have no unknown sizes
    return dims[size] if is_plain(size) else DimRange(*parse_size(size).bounds(dims))


def _contains(outer: DimRange, inner: DimRange) -> bool:
    """Returns True when every size of the inner range is one of the outer range."""
    if inner.sizes:
        return all(outer.allows(size) for size in inner.sizes)
    if outer.sizes:
        return inner.min == inner.max and outer.allows(inner.min)
    return outer.min <= inner.min and inner.max <= outer.max


def _is_name(size: Size) -> bool:
    return isinstance(size, str) and is_plain(size)


def _renamed(size: Size, names: Mapping[str, str]) -> Size:
    if not isinstance(size, str):
        return size
    return str(parse_size(size).renamed(names))


def _narrower(old: ValueRange, new: ValueRange) -> bool:
    """Returns True when values that were accepted may be refused."""
    pairs = ((old.min, new.min, -1), (old.max, new.max, 1))
    return any(
        a != b and (isinstance(a, str) or isinstance(b, str) or (b - a) * sign < 0)
        for a, b, sign in pairs
    )


def _sized(size: Size, dims: Mapping[str, DimRange]) -> str:
    return f"{size}, {_range(size, dims)}" if isinstance(size, str) else str(size)
