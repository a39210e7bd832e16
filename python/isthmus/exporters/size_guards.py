"""Reads what `torch.export` says of sizes that a program does not serve, in terms of `dims`."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.bundle.manifest import DimRange
from isthmus.errors import ExportError

__all__ = ["SizeGuards", "SizesNotServed", "allowed_sizes", "range_of", "read_size_guards"]

MOST_SIZES = 1 << 20
"""The largest range of which every size is tried against the guards."""
MOST_LISTED = 512
"""The number of sizes that are listed where they are not all of a range."""

_FIXED = re.compile(
    r"marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)"
)
_GUARD = re.compile(
    r"Not all values of (?P<name>\w+) = (?P<source>\S+) in the specified range .*? satisfy the "
    r"generated guard (?P<guard>.+?)\.?$",
    re.MULTILINE,
)
_EQUAL = re.compile(r"The values of (\w+) = \S+ and (\w+) = \S+ must always be equal")
_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARISONS: Mapping[type, Callable[[int, int], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


class SizesNotServed(ExportError):
    """`torch.export` makes a program that does not serve every size of the ranges."""

    def __init__(self, guards: SizeGuards, dims: Mapping[str, DimRange]) -> None:
        super().__init__(guards.sentence(dims))
        self.guards = guards


@dataclass(frozen=True)
class SizeGuards:
    """The sizes of named dimensions that a program serves."""

    fixed: Mapping[str, int] = field(default_factory=dict)
    """Dimensions that the program has at the size of the example only."""
    served: Mapping[str, DimRange] = field(default_factory=dict)
    """The sizes that it serves of those dimensions of which it does not serve all."""
    equal: tuple[tuple[str, str], ...] = ()
    """Pairs of dimensions that it requires to be equal."""
    unclear: tuple[str, ...] = ()
    """Dimensions of which it is not known what is served."""

    @property
    def understood(self) -> bool:
        """Returns True when `served` is all that the program requires."""
        return bool(self.served) and not (self.fixed or self.equal or self.unclear)

    def sentence(self, dims: Mapping[str, DimRange]) -> str:
        """Returns what the program requires, and what may be done, in one sentence."""
        parts = [f'fixes "{name}" at {size}' for name, size in self.fixed.items()]
        parts += [
            f'serves {served} of "{name}", for which dims gives {dims[name]}'
            for name, served in self.served.items()
            if name not in self.fixed
        ]
        parts += [f'needs "{one}" and "{other}" to be equal' for one, other in self.equal]
        parts += [f'does not serve every size of "{name}"' for name in self.unclear]
        return "torch.export " + ", and ".join(parts or ["does not serve every size of dims"])


def read_size_guards(
    text: str, dims: Mapping[str, DimRange], example: Mapping[str, int]
) -> SizeGuards:
    """Reads the message of a violated constraint.

    Args:
        text: The message of `torch.export`.
        dims: The ranges that were asked for.
        example: The sizes of the example, for ranges of which only a part can be listed.
    """
    fixed = {name: int(size) for name, size in _FIXED.findall(text)}
    sizes = {name: allowed_sizes(limits) for name, limits in dims.items()}
    unclear: dict[str, None] = dict.fromkeys(name for name in fixed if name not in dims)
    narrowed: set[str] = set()
    for match in _GUARD.finditer(text):
        name = match["name"]
        holds = _predicate(match["guard"].replace(match["source"], "size"))
        if name not in dims or holds is None or len(sizes[name]) > MOST_SIZES:
            unclear[name] = None
            continue
        sizes[name] = [size for size in sizes[name] if holds(size)]
        narrowed.add(name)
    served = {}
    for name in narrowed:
        found = range_of(sizes[name], example.get(name))
        if found is None:
            unclear[name] = None
        elif found != dims[name]:
            served[name] = found
    equal = tuple((str(left), str(right)) for left, right in _EQUAL.findall(text))
    known = {name: size for name, size in fixed.items() if name in dims}
    return SizeGuards(known, served, equal, tuple(unclear))


def allowed_sizes(limits: DimRange) -> Sequence[int]:
    """Returns every size that a range allows, in increasing order."""
    return limits.sizes or range(limits.min, limits.max + 1)


def range_of(sizes: Sequence[int], example: int | None) -> DimRange | None:
    """Returns the range of these sizes; with gaps their list, or the run around the example.

    Args:
        sizes: Sizes in increasing order.
        example: The size of the example; None where it is not known.

    Returns:
        The range; None where nothing is left or the list would be too long.
    """
    if not sizes:
        return None
    if sizes[-1] - sizes[0] + 1 == len(sizes):
        return DimRange(sizes[0], sizes[-1])
    if len(sizes) <= MOST_LISTED:
        return DimRange(sizes[0], sizes[-1], tuple(sizes))
    present = set(sizes)
    if example not in present:
        return None
    low = high = example
    while low - 1 in present:
        low -= 1
    while high + 1 in present:
        high += 1
    return DimRange(low, high)


def _predicate(guard: str) -> Callable[[int], bool] | None:
    """Returns the guard as a function of the size; None where it names anything else."""
    try:
        tree = ast.parse(guard, mode="eval").body
        _evaluate(tree, 1 << 10)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None

    def holds(size: int) -> bool:
        try:
            return bool(_evaluate(tree, size))
        except ZeroDivisionError:
            return False

    return holds


def _evaluate(node: ast.expr, size: int) -> int:
    """Computes an expression over "size".

    Raises:
        ValueError: It has anything but whole numbers, comparisons, `and`, `or` and `not`.
        ZeroDivisionError: It divides by 0 at this size.
    """
    if isinstance(node, ast.Name) and node.id == "size":
        return size
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BoolOp):
        values = [_evaluate(value, size) for value in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        value = _evaluate(node.operand, size)
        return -value if isinstance(node.op, ast.USub) else not value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left, size), _evaluate(node.right, size)
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Compare):
        operands = [_evaluate(value, size) for value in (node.left, *node.comparators)]
        comparisons = [_COMPARISONS.get(type(op)) for op in node.ops]
        if all(comparison is not None for comparison in comparisons):
            return all(
                comparison(left, right)
                for comparison, left, right in zip(
                    comparisons, operands, operands[1:], strict=False
                )
                if comparison is not None
            )
    raise ValueError(f"{ast.unparse(node)} is not an expression over one size")
