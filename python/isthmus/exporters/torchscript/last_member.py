"""Scripted methods that give the module's answer as the last member of a tuple.

torchvision's detectors give (losses, detections) when they are scripted, and the detections alone
in eager mode: a compiled method has one type, in training and in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from isthmus.bundle.manifest import Hazard, Method, Tree
from isthmus.exporters.torchscript.call_source import module_around

__all__ = ["last_member_hazards", "with_answers_alone"]

_CONTAINERS = ("DictType", "ListType")


def with_answers_alone(
    module: torch.jit.ScriptModule, methods: Sequence[Method]
) -> tuple[torch.jit.ScriptModule, dict[str, str]]:
    """Returns a module whose methods give what the signature says, and nothing beside it.

    A method is changed where it gives a tuple that has not the signature's form, whose last member
    has it, and whose other members are lists and dictionaries. The changed method gives the last
    member, and fails in a call in which another one is not empty: no part of an answer is lost.

    Args:
        module: A scripted module.
        methods: The signature.

    Returns:
        The module, or one around it, and the types of the changed methods' own answers by name.
    """
    schemas = {method.name: module._c._get_method(method.name).schema for method in methods}
    given = {
        method.name: str(schemas[method.name].returns[0].type)
        for method in methods
        if _has_answer_last(method.returns, schemas[method.name].returns[0].type)
    }
    if not given:
        return module, {}
    sources = [
        _source(name, schema.arguments[1:], _beside(schema) if name in given else 0)
        for name, schema in schemas.items()
    ]
    return module_around(module, sources), given


def last_member_hazards(given: dict[str, str]) -> tuple[Hazard, ...]:
    """Returns a note for each changed method, given the type of its own answer."""
    return tuple(
        Hazard(
            "last_member",
            "info",
            f"{name} gives {kind} when it is scripted: the artifact gives the last member, which "
            "is the module's answer, and refuses a call in which another member is not empty",
        )
        for name, kind in given.items()
    )


def _beside(schema: Any) -> int:
    """Returns the number of members before the last."""
    return len(schema.returns[0].type.elements()) - 1


def _source(name: str, arguments: Sequence[Any], beside: int) -> str:
    """Returns the source of a method that gives the last member of another's answer.

    Args:
        name: The name of both methods.
        arguments: The declared arguments, without self.
        beside: The number of members before the last, which have to be empty; 0 for a method whose
            answer is given as it is.
    """
    declared = ["self"]
    passed = []
    for argument in arguments:
        if argument.kwarg_only and "*" not in declared:
            declared.append("*")
        default = f" = {argument.default_value!r}" if argument.has_default_value() else ""
        declared.append(f"{argument.name}: {argument.type.annotation_str}{default}")
        passed.append(f"{argument.name}={argument.name}" if argument.kwarg_only else argument.name)
    body = [f"result = self.module.{name}({', '.join(passed)})"]
    body += [
        f'assert len(result[{at}]) == 0, "{name} gives something beside the answer that it gave at '
        f'export, as member {at} of a tuple: the bundle has no output for it"'
        for at in range(beside)
    ]
    body.append(f"return result[{beside}]" if beside else "return result")
    lines = "\n".join(f"    {line}" for line in body)
    return f"def {name}({', '.join(declared)}):\n{lines}\n"


def _has_answer_last(tree: Tree, kind: Any) -> bool:
    if kind.kind() != "TupleType" or _fits(tree, kind):
        return False
    *others, last = kind.elements()
    containers = all(other.kind() in _CONTAINERS for other in others)
    return bool(others) and containers and _fits(tree, last)


def _fits(tree: Tree, kind: Any) -> bool:
    """Returns True when a value of a TorchScript type can have this nesting."""
    if kind.kind() == "OptionalType":
        return tree.node == "none" or _fits(tree, kind.getElementType())
    if tree.node in ("leaf", "none", "const"):
        return kind.kind() not in ("TupleType", *_CONTAINERS)
    if kind.kind() == "ListType":
        ordered = tree.node in ("list", "tuple")
        return ordered and all(_fits(item, kind.getElementType()) for item in tree.items)
    if kind.kind() == "DictType":
        return bool(tree.keys) and all(_fits(item, kind.getValueType()) for item in tree.items)
    if kind.kind() == "TupleType":
        elements = kind.elements()
        return len(elements) == len(tree.items) and all(map(_fits, tree.items, elements))
    return True
