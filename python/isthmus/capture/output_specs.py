"""Infers the outputs from all goldens: their nesting, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from isthmus.bundle.manifest import Hazard, Method, Size, Tree, ValueSpec
from isthmus.bundle.size_expression import parse_size
from isthmus.capture.flat import output_specs
from isthmus.capture.program_sizes import ProgramSizes
from isthmus.capture.size_inference import infer_expressions
from isthmus.errors import InvalidInput


@dataclass(frozen=True)
class Observed:
    """The result of a call."""

    golden: str
    dims: Mapping[str, int]
    tree: Tree
    values: Mapping[str, Any]
    """The tensors, ints, floats and bools by output name."""


def infer_outputs(
    method: Method, calls: Sequence[Observed], program: ProgramSizes | None = None
) -> Method:
    """Returns the method with outputs that hold for every call.

    A size is what the program says of it, where every call agrees. Else a size that equals a named
    dimension in every call, or an expression over named dimensions, is that, a size that never
    changes is fixed, and any other size is None. A size that the program computes from data is
    None whatever the calls gave, and no size is fixed at 0. If the rank changes, the shape is None.
    An output that is None in some calls is optional.

    Args:
        method: The method with its inputs.
        calls: The results of at least one call.
        program: What the program says of the sizes of its outputs.

    Raises:
        InvalidInput: The structure or a dtype changes from call to call.
    """
    tree = calls[0].tree
    for call in calls[1:]:
        tree = _merged(tree, call.tree, _Where(method.name, calls[0], call))
    known = program or ProgramSizes()
    outputs = tuple(_spec(method.name, name, calls, known) for name in tree.leaves())
    return replace(method, outputs=outputs, returns=tree)


def without_example(method: Method, calls: Sequence[Observed]) -> list[Hazard]:
    """Returns a hazard for each output that is empty in every call, though its size is not fixed.

    Nothing that the model computes for such an output was compared with anything.
    """
    hazards = []
    for spec in method.outputs:
        values = [call.values.get(spec.name) for call in calls]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if tensors and None in (spec.shape or (None,)) and not any(t.numel() for t in tensors):
            hazards.append(
                Hazard(
                    "output_without_example",
                    "warning",
                    f'{method.name}: no golden has anything in "{spec.name}", which is empty in '
                    f"all {len(tensors)} calls, so nothing of it is proven",
                    remedy="give an example that has some, such as an image with a detection",
                )
            )
    return hazards


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
    if a.value != b.value:  # of a constant, or what an object is made with beside its parts
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
    if tree.node == "pytree":
        return f"a {tree.type} of {len(tree.items)}"
    if tree.keys:
        return f"a {tree.node} with keys {', '.join(map(str, tree.keys))}"
    return f"a {tree.node} of {len(tree.items)}"


def _spec(method: str, name: str, calls: Sequence[Observed], program: ProgramSizes) -> ValueSpec:
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
    return replace(first, shape=_shape(name, present, program), optional=optional)


def _type(spec: ValueSpec) -> str:
    return f"a {spec.dtype} tensor" if spec.kind == "tensor" else f"a Python {spec.kind}"


def _shape(name: str, calls: Sequence[Observed], program: ProgramSizes) -> tuple[Size, ...] | None:
    tensors: list[Tensor] = [call.values[name] for call in calls]
    rank = tensors[0].dim()
    if any(tensor.dim() != rank for tensor in tensors):
        return None
    stated = program.stated.get(name, ())
    computed = program.computed.get(name, frozenset())
    dims = [call.dims for call in calls]
    shape: list[Size] = []
    for axis in range(rank):
        sizes = [int(tensor.shape[axis]) for tensor in tensors]
        if axis in computed:
            shape.append(None)
        elif len(stated) == rank and _holds(stated[axis], sizes, dims):
            shape.append(stated[axis] or None)
        else:
            shape.append(_size(sizes, dims))
    return tuple(shape)


def _holds(size: Size, sizes: Sequence[int], dims: Sequence[Mapping[str, int]]) -> bool:
    """Returns True when what the program says of a size agrees with every call."""
    if not isinstance(size, str):
        return size is None or set(sizes) == {size}
    expression = parse_size(size)
    return all(
        set(expression.names) <= set(own) and expression.evaluate(own) == actual
        for actual, own in zip(sizes, dims, strict=True)
    )


def _size(sizes: Sequence[int], dims: Sequence[Mapping[str, int]]) -> Size:
    names = [name for name in dims[0] if all(name in own for own in dims)]
    inferred = infer_expressions(
        {"size": sizes}, {name: [own[name] for own in dims] for name in names}
    )
    if inferred:
        return str(inferred["size"])
    # A dimension that never changes cannot be told from a fixed size.
    return sizes[0] or None if len(set(sizes)) == 1 else None
