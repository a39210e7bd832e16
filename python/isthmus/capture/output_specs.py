"""Infers the outputs from all goldens: their nesting, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from isthmus.bundle.manifest import Method, Size, Tree, ValueSpec
from isthmus.capture.flat import output_specs
from isthmus.errors import InvalidInput


@dataclass(frozen=True)
class Observed:
    """The result of a call."""

    golden: str
    dims: Mapping[str, int]
    tree: Tree
    values: Mapping[str, Any]
    """The tensors, ints, floats and bools by output name."""


def infer_outputs(method: Method, calls: Sequence[Observed]) -> Method:
    """Returns the method with outputs that hold for every call.

    A size that equals a named dimension in every call is that dimension, a size that never changes
    is fixed, and any other size is None; if the rank changes, the shape is None. An output that is
    None in some calls is optional.

    Args:
        method: The method with its inputs.
        calls: The results of at least one call.

    Raises:
        InvalidInput: The structure or a dtype changes from call to call.
    """
    tree = calls[0].tree
    for call in calls[1:]:
        tree = _merged(tree, call.tree, _Where(method.name, calls[0], call))
    outputs = tuple(_spec(method.name, name, calls) for name in tree.leaves())
    return replace(method, outputs=outputs, returns=tree)


@dataclass(frozen=True)
class _Where:
    method: str
    first: Observed
    other: Observed

    def error(self, path: str, a: str, b: str) -> InvalidInput:
        place = f' at "{path}"' if path else ""
        return InvalidInput(
            f"{self.method} changes the structure of its result{place}: {a} on golden "
            f'"{self.first.golden}" and {b} on golden "{self.other.golden}"; the outputs of a '
            "bundle are fixed: return the same structure on every path (a tensor or None may take "
            "turns), or narrow dims"
        )


def _merged(a: Tree, b: Tree, where: _Where, path: str = "") -> Tree:
    if a.node == "none" and b.node in ("none", "leaf"):
        return b
    if b.node == "none" and a.node == "leaf":
        return a
    if (a.node, a.type, a.keys, len(a.items)) != (b.node, b.type, b.keys, len(b.items)):
        raise where.error(path, _describe(a), _describe(b))
    if a.node == "leaf":
        return a
    if a.node == "const" and a.value != b.value:
        raise where.error(path, repr(a.value), repr(b.value))
    keys = a.keys or tuple(range(len(a.items)))
    items = tuple(
        _merged(item, other, where, f"{path}.{key}" if path else str(key))
        for key, item, other in zip(keys, a.items, b.items, strict=True)
    )
    return replace(a, items=items)


def _describe(tree: Tree) -> str:
    if tree.node == "leaf":
        return "a value"
    if tree.node == "none":
        return "None"
    if tree.node == "const":
        return f"the constant {tree.value!r}"
    if tree.keys:
        return f"a {tree.node} with keys {', '.join(map(str, tree.keys))}"
    return f"a {tree.node} of {len(tree.items)}"


def _spec(method: str, name: str, calls: Sequence[Observed]) -> ValueSpec:
    present = [call for call in calls if call.values.get(name) is not None]
    specs = [output_specs({name: call.values[name]}, {})[0] for call in present]
    first = specs[0]
    for spec, call in zip(specs[1:], present[1:], strict=True):
        if (spec.kind, spec.dtype) != (first.kind, first.dtype):
            raise InvalidInput(
                f'{method}: output "{name}" is {_type(first)} on golden "{present[0].golden}" and '
                f'{_type(spec)} on golden "{call.golden}"; an output has one type: convert it in '
                "the module"
            )
    optional = len(present) < len(calls)
    if first.kind != "tensor":
        return replace(first, optional=optional)
    return replace(first, shape=_shape(name, present), optional=optional)


def _type(spec: ValueSpec) -> str:
    return f"a {spec.dtype} tensor" if spec.kind == "tensor" else f"a Python {spec.kind}"


def _shape(name: str, calls: Sequence[Observed]) -> tuple[Size, ...] | None:
    tensors: list[Tensor] = [call.values[name] for call in calls]
    if len({tensor.dim() for tensor in tensors}) > 1:
        return None
    shape: list[Size] = []
    for axis in range(tensors[0].dim()):
        sizes = [int(tensor.shape[axis]) for tensor in tensors]
        shape.append(_size(sizes, [call.dims for call in calls]))
    return tuple(shape)


def _size(sizes: Sequence[int], dims: Sequence[Mapping[str, int]]) -> Size:
    for name in dims[0]:
        values = [dim.get(name) for dim in dims]
        # A dimension that never changes cannot be told from a fixed size.
        if len(set(values)) > 1 and values == list(sizes):
            return name
    return sizes[0] if len(set(sizes)) == 1 else None
