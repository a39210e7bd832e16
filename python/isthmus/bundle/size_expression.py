"""Sizes that follow from other sizes, such as "past + sequence" or "samples // 160 + 1"."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Quotient", "SizeExpression", "bind_sizes", "is_plain", "names_of", "parse_size"]

MAX_CONSTANT = 2**31 - 1
MAX_NAMES = 8
MAX_DEPTH = 16
MAX_LENGTH = 256
"""The limits of an expression, which the native core has too."""

_TOKEN = re.compile(r"\s*(?:(?P<number>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(//|[-+*()]))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Range(Protocol):
    @property
    def min(self) -> int: ...
    @property
    def max(self) -> int: ...


@dataclass(frozen=True)
class Quotient:
    """A floor division by a positive constant."""

    dividend: SizeExpression
    divisor: int


@dataclass(frozen=True)
class SizeExpression:
    """A sum of names and floor divisions, each times a constant, and of a constant.

    Expressions that are equal by the rules of arithmetic compare equal in most cases: terms are
    sorted and merged, and divisions are reduced.
    """

    terms: tuple[tuple[str | Quotient, int], ...]
    """The names and divisions with their coefficients, which are not 0."""
    constant: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the dimensions, each once."""
        found: dict[str, None] = {}
        for atom, _ in self.terms:
            found.update(dict.fromkeys([atom] if isinstance(atom, str) else atom.dividend.names))
        return tuple(found)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """Returns the value for sizes of the names; divisions round down, as in Python.

        Raises:
            KeyError: A name has no size.
        """
        return self.constant + sum(
            factor
            * (
                sizes[atom]
                if isinstance(atom, str)
                else atom.dividend.evaluate(sizes) // atom.divisor
            )
            for atom, factor in self.terms
        )

    def bounds(self, ranges: Mapping[str, _Range]) -> tuple[int, int]:
        """Returns a least and a greatest value for names in these ranges."""
        low = high = self.constant
        for atom, factor in self.terms:
            if isinstance(atom, str):
                ends = (ranges[atom].min, ranges[atom].max)
            else:
                least, greatest = atom.dividend.bounds(ranges)
                ends = (least // atom.divisor, greatest // atom.divisor)
            low += min(factor * end for end in ends)
            high += max(factor * end for end in ends)
        return low, high

    def solvable_for(self, name: str) -> bool:
        """Returns True when a value of the expression tells the size of this name."""
        return name in dict(self.terms) and not any(
            isinstance(atom, Quotient) and name in atom.dividend.names for atom, _ in self.terms
        )

    def solve(self, name: str, value: int, sizes: Mapping[str, int]) -> int | None:
        """Returns the size of `name` at which the expression has a value; None if there is none.

        Args:
            name: A name for which the expression is `solvable_for`.
            value: The value of the whole expression.
            sizes: The sizes of all other names.
        """
        rest = value - self.evaluate({**sizes, name: 0})
        factor = dict(self.terms)[name]
        return None if rest % factor else rest // factor

    def renamed(self, names: Mapping[str, str]) -> SizeExpression:
        """Returns the expression with other names; names that are not listed stay."""
        total = SizeExpression((), self.constant)
        for atom, factor in self.terms:
            if isinstance(atom, str):
                part = SizeExpression(((names.get(atom, atom), 1),))
            else:
                part = atom.dividend.renamed(names) // atom.divisor
            total = total + part * factor
        return total

    def explain(self, sizes: Mapping[str, int]) -> str:
        """Returns "8 (past = 5, sequence = 3)": the value, and the sizes it is computed from."""
        known = ", ".join(f"{name} = {sizes[name]}" for name in self.names)
        return f"{self.evaluate(sizes)} ({known})" if known else f"{self.evaluate(sizes)}"

    def __str__(self) -> str:
        """Returns the canonical text, which `parse_size` reads."""
        added = [_product(atom, factor) for atom, factor in self.terms if factor > 0]
        taken = [_product(atom, -factor) for atom, factor in self.terms if factor < 0]
        if not added:
            rest = [str(-self.constant)] if self.constant < 0 else []
            return " - ".join([str(max(self.constant, 0)), *taken, *rest])
        text = " - ".join([" + ".join(added), *taken])
        if self.constant:
            text += f" {'+' if self.constant > 0 else '-'} {abs(self.constant)}"
        return text

    # --- arithmetic -------------------------------------------------------------------------------

    def __add__(self, other: SizeExpression) -> SizeExpression:
        """Returns the sum."""
        factors = dict(self.terms)
        for atom, factor in other.terms:
            factors[atom] = factors.get(atom, 0) + factor
        kept = [(atom, factor) for atom, factor in factors.items() if factor]
        kept.sort(key=lambda term: _product(term[0], 1))
        return SizeExpression(tuple(kept), self.constant + other.constant)

    def __mul__(self, factor: int) -> SizeExpression:
        """Returns the product with a constant."""
        terms = tuple((atom, own * factor) for atom, own in self.terms if factor)
        return SizeExpression(terms, self.constant * factor)

    def __sub__(self, other: SizeExpression) -> SizeExpression:
        """Returns the difference."""
        return self + other * -1

    def __floordiv__(self, divisor: int) -> SizeExpression:
        """Returns the floor division by a positive constant, reduced where it can be."""
        if divisor == 1 or not self.terms:
            return SizeExpression(self.terms, self.constant // divisor)
        if len(self.terms) == 1 and self.terms[0][1] == 1:
            atom = self.terms[0][0]
            if isinstance(atom, Quotient):  # (a // b + c) // d is (a + b * c) // (b * d)
                inner = atom.dividend + SizeExpression((), self.constant * atom.divisor)
                return inner // (atom.divisor * divisor)
        whole = SizeExpression(
            tuple((atom, own // divisor) for atom, own in self.terms if own % divisor == 0),
            self.constant // divisor,
        )
        rest = tuple((atom, own) for atom, own in self.terms if own % divisor)
        if not rest:
            return whole
        common = math.gcd(divisor, *(own for _, own in rest))
        constant = self.constant % divisor // common
        dividend = SizeExpression(tuple((atom, own // common) for atom, own in rest), constant)
        if common > 1:
            return whole + dividend // (divisor // common)
        return whole + SizeExpression(((Quotient(dividend, divisor), 1),))


def _product(atom: str | Quotient, factor: int) -> str:
    if isinstance(atom, str):
        return atom if factor == 1 else f"{factor} * {atom}"
    inner = atom.dividend
    simple = len(inner.terms) == 1 and not inner.constant and inner.terms[0][1] > 0
    text = f"{inner} // {atom.divisor}" if simple else f"({inner}) // {atom.divisor}"
    return text if factor == 1 else f"{factor} * ({text})"


# --- reading --------------------------------------------------------------------------------------


def is_plain(text: str) -> bool:
    """Returns True for the name of a dimension, and False for an expression."""
    return _NAME.fullmatch(text) is not None


def names_of(size: int | str | None) -> tuple[str, ...]:
    """Returns the names in an entry of a shape."""
    return parse_size(size).names if isinstance(size, str) else ()


@functools.lru_cache(maxsize=4096)
def parse_size(text: str) -> SizeExpression:
    """Returns the expression that a text holds.

    Raises:
        ValueError: The text is no expression; says why.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it is longer than {MAX_LENGTH} characters")
    expression = _Parser(text).parse()
    if len(expression.names) > MAX_NAMES:
        raise ValueError(f"it has more than {MAX_NAMES} names")
    return expression


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        self._at = 0
        end = len(text.rstrip())
        place = 0
        while place < end:
            match = _TOKEN.match(text, place)
            if match is None:
                raise ValueError(
                    f"{text[place:].strip()[0]!r} is not expected; it may have names, whole "
                    "numbers, +, -, *, // and parentheses"
                )
            self._tokens.append(match.group().strip())
            place = match.end()

    def parse(self) -> SizeExpression:
        expression = self._sum(0)
        if self._next():
            raise ValueError(f'"{self._next()}" is not expected')
        return expression

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._at += 1
        return token

    def _sum(self, depth: int) -> SizeExpression:
        if depth > MAX_DEPTH:
            raise ValueError(f"its parentheses are more than {MAX_DEPTH} deep")
        total = self._term(depth)
        while self._next() in ("+", "-"):
            operator = self._take()
            part = self._term(depth)
            total = total + part if operator == "+" else total - part
        return total

    def _term(self, depth: int) -> SizeExpression:
        product = self._factor(depth)
        while self._next() in ("*", "//"):
            operator = self._take()
            part = self._factor(depth)
            if operator == "*":
                if part.terms and product.terms:
                    raise ValueError(f'"{product}" times "{part}" has no constant factor')
                product = product * part.constant if not part.terms else part * product.constant
            elif part.terms or part.constant < 1:
                raise ValueError(f'"// {part}" does not divide by a positive constant')
            else:
                product = product // part.constant
        return product

    def _factor(self, depth: int) -> SizeExpression:
        token = self._take()
        if token == "(":
            inner = self._sum(depth + 1)
            if self._take() != ")":
                raise ValueError('a ")" is missing')
            return inner
        if token.isdigit():
            if int(token) > MAX_CONSTANT:
                raise ValueError(f"{token} is larger than {MAX_CONSTANT}")
            return SizeExpression((), int(token))
        if token and is_plain(token):
            return SizeExpression(((token, 1),))
        raise ValueError(f'"{token}" is not expected' if token else "it ends too early")


# --- the sizes of a call --------------------------------------------------------------------------


def bind_sizes(axes: Iterable[tuple[int | str | None, int]]) -> dict[str, int]:
    """Returns the sizes of the names, as the native core finds them for a call.

    A name has the size of the first axis that is this name alone. The size of any other name is
    solved from the first expression in which it is the only unknown and is not divided.

    Args:
        axes: The entries of shapes, each with the size that a tensor has there.
    """
    pairs = [(size, actual) for size, actual in axes if isinstance(size, str)]
    sizes: dict[str, int] = {}
    for size, actual in pairs:
        if is_plain(size):
            sizes.setdefault(size, actual)
    pending = [(parse_size(size), actual) for size, actual in pairs if not is_plain(size)]
    while (found := _solved(pending, sizes)) is not None:
        sizes.update(found)
    return sizes


def _solved(
    pending: Sequence[tuple[SizeExpression, int]], sizes: Mapping[str, int]
) -> dict[str, int] | None:
    for expression, actual in pending:
        unknown = [name for name in expression.names if name not in sizes]
        if len(unknown) == 1 and expression.solvable_for(unknown[0]):
            size = expression.solve(unknown[0], actual, sizes)
            if size is not None:
                return {unknown[0]: size}
    return None
