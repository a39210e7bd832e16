"""Finds the expression that gives a size from other sizes, in several calls at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations
from typing import TypeVar

from isthmus.bundle.size_expression import SizeExpression

__all__ = ["infer_expressions", "simple_expressions"]

Key = TypeVar("Key")


def infer_expressions(
    axes: Mapping[Key, Sequence[int]], dims: Mapping[str, Sequence[int]]
) -> dict[Key, SizeExpression]:
    """Returns the simplest expression over dimensions for each axis that has one.

    An expression holds in every call, and the calls are enough to tell it from all others of its
    kind: two different sizes for one constant, three for two. An axis that never changes has none.

    Args:
        axes: The sizes of each axis, one for each call.
        dims: The sizes of each dimension in the same calls.
    """
    found = {}
    for key, sizes in axes.items():
        expression = _infer(list(sizes), {name: list(own) for name, own in dims.items()})
        if expression is not None:
            found[key] = expression
    return found


def _infer(sizes: list[int], dims: Mapping[str, list[int]]) -> SizeExpression | None:
    if len(set(sizes)) < 2:
        return None
    varying = {name: own for name, own in dims.items() if len(set(own)) > 1}
    for kind in (_plain, _scaled, _sums, _shifted, _linear, _divided, _shifted_sums):
        fitting = dict.fromkeys(
            expression
            for expression in kind(sizes, varying)
            if _values(expression, varying, len(sizes)) == sizes
        )
        if len(fitting) == 1:
            return next(iter(fitting))
        if fitting:
            return None  # the calls do not tell which one it is
    return None


def _values(expression: SizeExpression, dims: Mapping[str, Sequence[int]], calls: int) -> list[int]:
    return [
        expression.evaluate({name: own[at] for name, own in dims.items()}) for at in range(calls)
    ]


def _name(name: str, factor: int = 1, constant: int = 0) -> SizeExpression:
    return SizeExpression(((name, factor),), constant)


# --- the kinds of expressions, the simplest first -------------------------------------------------

Kind = Iterator[SizeExpression]


def _plain(sizes: list[int], dims: Mapping[str, list[int]]) -> Kind:
    for name in dims:
        yield _name(name)


def _scaled(sizes: list[int], dims: Mapping[str, list[int]]) -> Kind:
    for name, own in dims.items():
        largest = max(own)
        if sizes[own.index(largest)] % largest == 0:
            yield _name(name, sizes[own.index(largest)] // largest or 1)


def _sums(sizes: list[int], dims: Mapping[str, list[int]]) -> Kind:
    for first, second in combinations(dims, 2):
        yield _name(first) + _name(second)
    for first, second in permutations(dims, 2):
        yield _name(first) - _name(second)
    for first, second, third in combinations(dims, 3):
        yield _name(first) + _name(second) + _name(third)


def _shifted(sizes: list[int], dims: Mapping[str, list[int]]) -> Kind:
    for name, own in dims.items():
        yield _name(name, 1, sizes[0] - own[0])


def _linear(sizes: list[int], dims: Mapping[str, list[int]]) -> Kind:
    for name, own in dims.items():
        pairs = sorted(set(zip(own, sizes, strict=True)))
        (low, first), (high, last) = pairs[0], pairs[-1]
        # Three points, since any two are on a line.
        if len(set(own)) > 2 and (last - first) % (high - low) == 0:
            factor = (last - first) // (high - low)
            yield _name(name, factor or 1, first - factor * low)


def _divided(sizes: list[int], dims: Mapping[str, list[int]]) -> Kind:
    """Yields n // d + c and (n + d - 1) // d + c: rounded down, and up."""
    if len(set(sizes)) < 3:
        return
    for name, own in dims.items():
        span, change = max(own) - min(own), abs(max(sizes) - min(sizes))
        for divisor in range(max(span // (change + 1), 2), span // max(change - 1, 1) + 2):
            for added in (0, divisor - 1):
                quotient = _name(name, 1, added) // divisor
                constant = sizes[0] - quotient.evaluate({name: own[0]})
                yield quotient + SizeExpression((), constant)


def _shifted_sums(sizes: list[int], dims: Mapping[str, list[int]]) -> Kind:
    if len(set(sizes)) < 3:
        return
    for expression in _sums(sizes, dims):
        first = expression.evaluate({name: own[0] for name, own in dims.items()})
        yield expression + SizeExpression((), sizes[0] - first)


def simple_expressions(name: str, sizes: Mapping[str, int]) -> Iterator[SizeExpression]:
    """Yields the expressions over the other names that give the size of a name in a single call."""
    own = sizes[name]
    others = [other for other in sizes if other != name]
    for other in others:
        if sizes[other] == own:
            yield _name(other)
    for first, second in combinations(others, 2):
        if sizes[first] + sizes[second] == own:
            yield _name(first) + _name(second)
    for other in others:
        size = sizes[other]
        if own - size in (1, -1):
            yield _name(other, 1, own - size)
        if size > 1 and own > size and own % size == 0:
            yield _name(other, own // size)
        if own > 1 and size > own and size % own == 0:
            yield _name(other) // (size // own)
