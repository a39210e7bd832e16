"""Writes TorchScript source that calls an archive's method with flat tensors in and out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

from isthmus.bundle.manifest import Method, Tree
from isthmus.errors import ExportError

__all__ = ["flat_call_source", "module_around", "structured_call_source"]

_CASTS = {
    "int": "int",
    "float": "float",
    "bool": "bool",
    "IntType": "int",
    "FloatType": "float",
    "BoolType": "bool",
    "NumberType": "float",
}


def module_around(module: torch.jit.ScriptModule, sources: Iterable[str]) -> torch.jit.ScriptModule:
    """Returns a scripted module that holds another as `self.module`.

    Args:
        module: The module inside.
        sources: The TorchScript source of each method.

    Raises:
        RuntimeError: The compiler refuses a source.
    """

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

    # The class is a new one at each call, for modules of one class share their compiled methods.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outer = torch.jit.script(Outer())
        for source in sources:
            outer.define(source)
        return cast(torch.jit.ScriptModule, outer.eval())


def flat_call_source(method: Method, kinds: Sequence[str]) -> str:
    """Returns the source of a `forward` that calls a method of the `flat` convention.

    Args:
        method: The method's signature.
        kinds: The TorchScript kind of each argument; numbers are made of 0-dimensional tensors.
    """
    names = _names(method)
    values = [
        f"{_CASTS[kind]}({name})" if kind in _CASTS else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    call = f"self.module.{method.name}({', '.join(values)})"
    return _definition(names, [f"return {call}"])


def structured_call_source(method: Method) -> str:
    """Returns the source of a `forward` that calls a method of the `structured` convention.

    It is of the `flat` convention: it does not write its inputs, and returns the values of those
    that the method writes after the outputs.

    Raises:
        ExportError: The nesting has parts that TorchScript source cannot express.
    """
    names = _names(method)
    specs = {spec.name: (name, spec) for name, spec in zip(names, method.inputs, strict=True)}
    written = [specs[name][0] for name in method.writes]

    def value(tree: Tree) -> str:
        if tree.node == "leaf":
            name, spec = specs[tree.name]
            return name if spec.kind == "tensor" else f"{_CASTS[spec.kind]}({name})"
        if tree.node == "none":
            return "None"
        if tree.node == "const":
            return _literal(tree.value)
        items = [value(item) for item in tree.items]
        if tree.node == "list":
            return f"[{', '.join(items)}]"
        if tree.node == "tuple":
            return f"({', '.join(items)},)" if items else "()"
        if tree.node == "dict":
            pairs = zip(tree.keys, items, strict=True)
            return "{" + ", ".join(f"{_literal(key)}: {item}" for key, item in pairs) + "}"
        raise ExportError(
            f"an argument is a {tree.node}, which cannot be made inside TorchScript; take its "
            "parts as arguments"
        )

    arguments = [value(tree) for tree in method.args]
    arguments += [f"{name}={value(tree)}" for name, tree in method.kwargs]
    outputs = {spec.name: spec for spec in method.outputs}
    results: list[str] = []

    def collect(tree: Tree, place: str) -> None:
        if tree.node == "leaf":
            tensor = outputs[tree.name].kind == "tensor"
            results.append(place if tensor else f"torch.tensor({place})")
            return
        for index, item in enumerate(tree.items):
            if tree.node in ("list", "tuple"):
                collect(item, f"{place}[{index}]")
            elif tree.node == "dict":
                collect(item, f"{place}[{_literal(tree.keys[index])}]")
            else:
                collect(item, f"{place}.{tree.keys[index]}")

    collect(method.returns, "result")
    results += written
    return _definition(
        names,
        [
            *(f"{name} = {name}.clone()" for name in written),
            f"result = self.module.{method.name}({', '.join(arguments)})",
            f"return ({', '.join(results)}{',' if len(results) == 1 else ''})",
        ],
    )


def _names(method: Method) -> list[str]:
    """Returns names for the parameters: the signature's own may not be identifiers."""
    return [f"input_{index}" for index, _ in enumerate(method.inputs)]


def _definition(names: Sequence[str], body: Sequence[str]) -> str:
    parameters = "".join(f", {name}: Tensor" for name in names)
    lines = "\n".join(f"    {line}" for line in body)
    return f"def forward(self{parameters}):\n{lines}\n"


def _literal(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return json.dumps(value)
