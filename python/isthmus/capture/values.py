"""The values of one call, between their nesting in Python and flat values by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.bundle.size_expression import bind_sizes
from isthmus.capture.tree import build_tree, flatten, unflatten
from isthmus.errors import InvalidInput

if TYPE_CHECKING:
    from isthmus.bundle.manifest import Method, Tree, ValueSpec

SCALAR_DTYPES = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}


def arguments(method: Method, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the positional and keyword arguments of a call in their original nesting.

    Args:
        method: The method to be called.
        values: Tensors and scalars by input name; a scalar input may come as a 0-d tensor.
    """
    plain = {spec.name: to_python(spec, values.get(spec.name)) for spec in method.inputs}
    args = tuple(unflatten(tree, plain) for tree in method.args)
    return args, {name: unflatten(tree, plain) for name, tree in method.kwargs}


def arguments_after(
    method: Method, args: Sequence[Any], kwargs: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the inputs by name as a call left them in its arguments.

    Args:
        method: The method that was called.
        args: The positional arguments that it was called with.
        kwargs: The keyword arguments that it was called with.
        before: The inputs by name, as they were in the arguments.

    Returns:
        The inputs, and the arguments whose nesting is no longer the signature's or that hold an
        object with other tensors, such as a cache that grew: "args[0]" or the keyword. The inputs
        in an argument with another nesting have no entry; an object's are the tensors that it was
        made of.
    """
    values: dict[str, Any] = {}
    restructured: list[str] = []
    named = [(f"args[{at}]", tree, args[at]) for at, tree in enumerate(method.args)]
    named += [(name, tree, kwargs[name]) for name, tree in method.kwargs]
    for name, tree, value in named:
        try:
            left = flatten(tree, value)
            same = len(build_tree(value, "")[1]) == len(left) + _constant_numbers(tree)
        except InvalidInput:
            same = False
        if not same:
            restructured.append(name)
            continue
        replaced = [key for key in _in_objects(tree) if before.get(key) is not left.get(key)]
        if replaced:
            restructured.append(name)
        values.update(left | {key: before.get(key) for key in replaced})
    return values, tuple(restructured)


def _in_objects(tree: Tree) -> tuple[str, ...]:
    """Returns the names of the leaves in objects, which hold tensors that are not the caller's."""
    if tree.node == "pytree":
        return tree.leaves()
    return tuple(name for item in tree.items for name in _in_objects(item))


def _constant_numbers(tree: Tree) -> int:
    """Returns how many numbers in an argument are constants of the export, and no inputs."""
    if tree.node == "const":
        return int(isinstance(tree.value, (bool, int, float)))
    return sum(map(_constant_numbers, tree.items))


def to_python(spec: ValueSpec, value: Any) -> Any:
    """Returns the Python scalar for a 0-d tensor that stands for one; other values unchanged."""
    if spec.kind != "tensor" and isinstance(value, Tensor):
        return value.item()
    return value


def to_tensor(spec: ValueSpec, value: Any) -> Tensor:
    """Returns the 0-d tensor (int64, float64 or bool) for a scalar; tensors unchanged."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=SCALAR_DTYPES[spec.kind])


def flat_outputs(method: Method, result: Any) -> dict[str, Tensor]:
    """Returns the outputs of a call by name; scalars as 0-d tensors, absent values left out.

    Raises:
        InvalidInput: The result does not have the structure that it had at capture.
    """
    values = flatten(method.returns, result)
    return {
        spec.name: to_tensor(spec, values[spec.name]).detach()
        for spec in method.outputs
        if values.get(spec.name) is not None
    }


def serves(method: Method, values: Mapping[str, Any]) -> bool:
    """Returns True for inputs with a combination of sizes and numbers that a method serves."""
    if not method.served:
        return True
    sizes = bind_sizes(
        (size, int(actual))
        for spec in method.inputs
        if isinstance(tensor := values.get(spec.name), Tensor) and spec.kind == "tensor"
        for size, actual in zip(spec.shape or (), tensor.shape, strict=False)
    )
    return any(
        all(sizes.get(name, size) == size for name, size in case.sizes.items())
        and all(
            values.get(name) is None or float(values[name]) == number
            for name, number in case.numbers.items()
        )
        for case in method.served
    )
