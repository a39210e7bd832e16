"""Calls a TorchScript module along a signature, in either convention of docs/format.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from isthmus.bundle.manifest import Method, Tree, written_name
from isthmus.capture.tree import flatten, unflatten
from isthmus.capture.values import to_python, to_tensor
from isthmus.errors import ExecutionError

__all__ = ["bind_torchscript", "call_torchscript", "torchscript_outputs"]


def call_torchscript(
    module: Any, method: Method, convention: str, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Calls a module on the tensors as they are, and returns its results by name.

    The results are those of `Method.results`. Scalars are 0-d tensors; absent optional values have
    no key.

    Raises:
        ExecutionError: The number of outputs is not the signature's.
    """
    result = bind_torchscript(module, method, convention, inputs)()
    # A structured module has written its inputs; a flat one returns their values.
    written = {written_name(name): inputs.get(name) for name in method.writes}
    values = {**written, **torchscript_outputs(method, convention, result)}
    return {
        spec.name: to_tensor(spec, values[spec.name])
        for spec in method.results
        if values.get(spec.name) is not None
    }


def bind_torchscript(
    module: Any, method: Method, convention: str, inputs: Mapping[str, Tensor]
) -> Callable[[], Any]:
    """Returns a call without arguments; the inputs are arranged once, before it."""
    declared = module._c._get_method(method.name).schema.arguments[1:]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    if convention == "flat":
        args = _flat_arguments(declared, method, inputs)
    else:
        kwargs = _structured_arguments(declared, method, inputs)
    function = module if method.name == "forward" else getattr(module, method.name)
    return lambda: function(*args, **kwargs)


def torchscript_outputs(method: Method, convention: str, result: object) -> Mapping[str, Any]:
    """Returns the outputs of a result by name, as the module gave them.

    A flat module also gives the values of the inputs that the method writes.

    Raises:
        ExecutionError: The number of outputs is not the signature's.
    """
    if convention != "flat":
        return flatten(method.returns, result)
    specs = method.results
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    if not specs and result is None:
        values = []
    if len(values) != len(specs):
        raise ExecutionError(
            f"{method.name} gave {len(values)} outputs, expected {len(specs)}:"
            f" {', '.join(spec.name for spec in specs)}; export the model again"
        )
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}


def _flat_arguments(declared: Any, method: Method, inputs: Mapping[str, Tensor]) -> list[Any]:
    """Returns the arguments in order; a number where the TorchScript type is one."""
    arguments: list[Any] = []
    for spec, argument in zip(method.inputs, declared, strict=True):
        value = inputs.get(spec.name)
        wants_tensor = "Tensor" in str(argument.type)
        arguments.append(value if value is None or wants_tensor else value.item())
    return arguments


def _structured_arguments(
    declared: Any, method: Method, inputs: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Returns the arguments by the schema's names; a default stands for an absent input."""
    leaves = {spec.name: to_python(spec, inputs.get(spec.name)) for spec in method.inputs}
    positional = [
        (argument.name, tree) for argument, tree in zip(declared, method.args, strict=False)
    ]
    defaults = {argument.name for argument in declared if argument.has_default_value()}
    return {
        name: unflatten(tree, leaves)
        for name, tree in [*positional, *method.kwargs]
        if not (name in defaults and _is_absent(tree, leaves))
    }


def _is_absent(tree: Tree, leaves: Mapping[str, Any]) -> bool:
    return tree.node == "leaf" and leaves.get(tree.name) is None
