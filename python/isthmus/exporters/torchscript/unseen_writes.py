"""Finds writes to inputs in scripted code that no example and no golden has made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from isthmus.bundle.manifest import Hazard, Method
from isthmus.exporters.source_lines import in_source_range

__all__ = ["unseen_writes"]


def unseen_writes(module: Any, methods: Sequence[Method]) -> tuple[Hazard, ...]:
    """Returns a hazard for each input that the code writes and the signature does not list.

    Args:
        module: A scripted module of the `structured` convention.
        methods: The signature.
    """
    found: dict[str, Hazard] = {}
    for method in methods:
        function = module._c._get_method(method.name)
        graph = function.graph.copy()
        torch._C._jit_pass_inline(graph)
        names = _leaves(method, function.schema.arguments[1:], list(graph.inputs())[1:])
        for node, value in _writes(graph):
            name = names.get(_root(value), "")
            if name and name not in method.writes and name not in found:
                where, _ = in_source_range(node.sourceRange())
                found[name] = Hazard(
                    "unseen_write",
                    "warning",
                    f'{method.name} writes its input "{name}" on a path that no example takes, so '
                    "the signature does not list it, and engines may differ in what they write",
                    where,
                )
    return tuple(found.values())


def _leaves(method: Method, declared: Any, values: Sequence[Any]) -> dict[str, str]:
    """Returns the input of each of the graph's values that stands for a single one."""
    keywords = dict(method.kwargs)
    names: dict[str, str] = {}
    for at, (argument, value) in enumerate(zip(declared, values, strict=True)):
        tree = method.args[at] if at < len(method.args) else keywords.get(argument.name)
        if tree is not None and tree.node == "leaf":
            names[value.debugName()] = tree.name
    return names


def _writes(block: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each operator that writes one of its arguments, with the argument."""
    for node in block.nodes():
        for argument, value in _aliased(node):
            if argument.alias_info.is_write:
                yield node, value
        for inner in node.blocks():
            yield from _writes(inner)


def _root(value: Any) -> str:
    """Returns the name of the value of which this one is a view."""
    while True:
        node = value.node()
        views = [source for _, source in _aliased(node)]
        if not views or not any(result.alias_info for result in _schema(node).returns):
            return str(value.debugName())
        value = views[0]


def _aliased(node: Any) -> list[tuple[Any, Any]]:
    schema = _schema(node)
    if schema is None:
        return []
    pairs = zip(schema.arguments, node.inputs(), strict=False)
    return [(argument, value) for argument, value in pairs if argument.alias_info is not None]


def _schema(node: Any) -> Any:
    text = node.schema()
    return None if text == "(no schema)" else torch._C.parse_schema(text)
