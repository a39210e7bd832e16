"""Calls a TorchScript module along the signature, in either convention of docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from isthmus.bundle.manifest import Method, ValueSpec
from isthmus.capture.tree import flatten, unflatten
from isthmus.errors import ExecutionError

_NUMBERS = {"int": int, "float": float, "bool": bool, "number": float}


def call_arguments(method: Method, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments of one call, from flat values by input name."""
    args = [unflatten(tree, values) for tree in method.args]
    kwargs = {name: unflatten(tree, values) for name, tree in method.kwargs}
    return args, kwargs


def call_flat(
    module: torch.jit.ScriptModule, method: Method, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Calls a module of the `flat` convention; gives outputs by name.

    Raises:
        ExecutionError: The number of outputs is not the signature's.
    """
    script = getattr(module, method.name)
    declared = script.schema.arguments[1:] if hasattr(script, "schema") else ()
    args: list[Any] = []
    for index, spec in enumerate(method.inputs):
        value: Any = inputs.get(spec.name)
        kind = declared[index].type.kind() if index < len(declared) else "TensorType"
        if value is not None and kind in ("IntType", "FloatType", "BoolType", "NumberType"):
            value = value.item()
        args.append(value)
    result = script(*args)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    if result is None:
        outputs = []
    if len(outputs) != len(method.outputs):
        raise ExecutionError(
            f"{method.name} gave {len(outputs)} outputs, expected {len(method.outputs)}: "
            f"{', '.join(spec.name for spec in method.outputs)}"
        )
    return _named(method, {s.name: o for s, o in zip(method.outputs, outputs, strict=True)})


def call_structured(
    module: torch.jit.ScriptModule, method: Method, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Calls a module of the `structured` convention; gives outputs by name."""
    specs = {spec.name: spec for spec in method.inputs}
    values = {name: as_python(specs[name], value) for name, value in inputs.items()}
    args, kwargs = call_arguments(method, values)
    return _named(method, flatten(method.returns, getattr(module, method.name)(*args, **kwargs)))


def as_python(spec: ValueSpec, value: Any) -> Any:
    """A scalar input as the Python number that the method takes; a tensor as it is."""
    if value is None or spec.kind == "tensor":
        return value
    return _NUMBERS[spec.kind](value.item() if isinstance(value, Tensor) else value)


def _named(method: Method, values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs as tensors: Python numbers in the dtype of their kind, absent ones left out."""
    dtypes = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}
    found = {}
    for spec in method.outputs:
        value = values.get(spec.name)
        if value is None:
            continue
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=dtypes.get(spec.kind))
        found[spec.name] = value
    return found
