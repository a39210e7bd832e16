"""Calls a TorchScript module along a signature, in either convention of docs/format.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from isthmus.bundle.manifest import Method, Tree
from isthmus.capture.tree import flatten, unflatten
from isthmus.capture.values import to_python, to_tensor
from isthmus.errors import ExecutionError

__all__ = ["bind_torchscript", "call_torchscript", "torchscript_outputs"]


def call_torchscript(
    module: Any, method: Method, convention: str, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Calls a module on the tensors as they are, and returns its outputs by name.

    Scalars are 0-d tensors; absent optional values have no key.

    Raises:
        ExecutionError: The number of outputs is not the signature's.
    """
    result = bind_torchscript(module, method, convention, inputs)()
    values = torchscript_outputs(method, convention, result)
    return {
        spec.name: to_tensor(spec, values[spec.name])
        for spec in method.outputs
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

    Raises:
        ExecutionError: The number of outputs is not the signature's.
    """
    if convention != "flat":
        return flatten(method.returns, result)
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    if not method.outputs and result is None:
        values = []
    if len(values) != len(method.outputs):
        raise ExecutionError(
            f"{method.name} gave {len(values)} outputs, expected {len(method.outputs)}:"
            f" {', '.join(spec.name for spec in method.outputs)}; export the model again"
        )
    return {spec.name: value for spec, value in zip(method.outputs, values, strict=True)}


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
    """Returns the arguments by the schema's names; a default stands for what was not given."""
    leaves = {spec.name: to_python(spec, inputs.get(spec.name)) for spec in method.inputs}
    positional = [
        (argument.name, tree) for argument, tree in zip(declared, method.args, strict=False)
    ]
    defaults = {argument.name for argument in declared if argument.has_default_value()}
    return {
        name: unflatten(tree, leaves)
        for name, tree in [*positional, *method.kwargs]
        if not (name in defaults and _not_given(tree, leaves))
    }


def _not_given(tree: Tree, leaves: Mapping[str, Any]) -> bool:
    if tree.node == "leaf":
        return leaves.get(tree.name) is None
    return tree.node in ("const", "none")
