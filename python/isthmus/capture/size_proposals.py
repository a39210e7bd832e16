"""Proposes which size follows from others, where a module fails because a size is called free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from isthmus.bundle.manifest import Method
from isthmus.bundle.size_expression import SizeExpression, is_plain
from isthmus.capture.resize import resize
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.size_inference import simple_expressions

__all__ = ["possible_sum", "proposal"]

_CANDIDATES = 16
"""The number of expressions that are tried, each with two calls."""


def proposal(
    runner: ModuleRunner, method: Method, values: Mapping[str, Any], sizes: Mapping[str, int]
) -> str:
    """Returns a sentence that names the size that follows from others; empty if none is found.

    Args:
        runner: The runner of a module that serves the example, and fails at other sizes.
        method: The method that fails.
        values: The inputs of the example.
        sizes: The size of each named dimension in the example.
    """
    axes = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in method.inputs
        if spec.shape is not None
    }
    found = [(name, size) for name in sizes for size in simple_expressions(name, sizes)]
    found.sort(key=lambda pair: (len(pair[1].names) != 2, bool(pair[1].constant)))
    for name, size in islice(found, _CANDIDATES):
        tied = {
            key: {axis: _replaced(text, name, size) for axis, text in entry.items()}
            for key, entry in axes.items()
        }
        if all(runner.accepts(method, resize(values, tied, at)) for at in _others(sizes, name)):
            advice = _advice(name, size)
            if is_plain(str(size)):
                advice = f'give both the name "{size}" in dynamic'
            return (
                f'"{name}" is {sizes[name]} in the example, as is "{size}", and the module serves '
                f"other sizes where that holds: {advice}"
            )
    return ""


def possible_sum(methods: Iterable[Method], sizes: Mapping[str, int]) -> str:
    """Returns a sentence on a size that is a sum of two others in the example; empty without one.

    It is for a module that serves every size, of which no export does. Two sizes of one input are
    seldom added, so these are not proposed.

    Args:
        methods: The methods of the module.
        sizes: The size of each named dimension in the example.
    """
    shapes = [set(spec.shape or ()) for method in methods for spec in method.inputs]
    for name in sizes:
        for size in simple_expressions(name, sizes):
            if len(size.names) == 2 and not any(set(size.names) <= shape for shape in shapes):
                return (
                    f'"{name}" is {sizes[name]} in the example, as is "{size}"; if that always '
                    f"holds, {_advice(name, size)}"
                )
    return ""


def _advice(name: str, size: SizeExpression) -> str:
    return f'say "{size}" in place of "{name}" in dynamic, and leave "{name}" out of dims'


def _replaced(text: str, name: str, size: SizeExpression) -> str:
    """Returns the text of an axis with an expression in place of a name."""
    return str(size) if text == name else text


def _others(sizes: Mapping[str, int], name: str) -> Iterator[dict[str, int]]:
    """Yields two sets of sizes that differ from the example's, without the size of a name."""
    rest = [other for other in sizes if other != name]
    for step in (1, 2):
        yield {other: sizes[other] + step * (at + 1) for at, other in enumerate(rest)}
