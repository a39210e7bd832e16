"""The sizes of outputs as the program computes them from the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from isthmus.bundle.manifest import Method, Size
from isthmus.bundle.size_expression import SizeExpression, is_plain, parse_size
from isthmus.capture.flat import returns_tree
from isthmus.capture.run_module import ModuleRunner

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["symbolic_sizes"]


def symbolic_sizes(
    runner: ModuleRunner,
    method: Method,
    values: Mapping[str, Any],
    axes: Mapping[str, Mapping[int, str]],
) -> dict[str, tuple[Size, ...]] | None:
    """Runs a method on tensors without data whose dynamic sizes are symbols.

    It is the run of `torch.export`, without a graph: no operator computes, and sizes are followed
    through the module's own Python code.

    Args:
        runner: The runner of the module.
        method: One of the module's methods.
        values: An example call, in which no dynamic size is 0 or 1.
        axes: The dynamic axes by input name, as names or expressions.

    Returns:
        The shape of each output tensor by name: numbers where the program fixes a size, names or
        expressions, and None for sizes that are computed from data or by other arithmetic. None
        altogether for a module that cannot be followed: scripted code, Python that reads values,
        or that has a dynamic size become a constant.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Without duck shapes two inputs of equal size do not share a symbol.
    env: Any = ShapeEnv(duck_shape=False, allow_scalar_outputs=True)
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    try:
        symbols: dict[Any, SizeExpression] = {}
        inputs = {
            name: _symbolic(mode, name, value, axes.get(name, {}), symbols)
            for name, value in values.items()
        }
        with runner.run(), mode:
            _, leaves = returns_tree(method.name, runner.call(method, inputs))
            if any(env.replace(symbol).is_number for symbol in symbols):
                return None  # the code asked for a size, and went on with the example's
            reader = _Reader(env, symbols)
            return {
                name: tuple(reader.read(size) for size in value.shape)
                for name, value in leaves.items()
                if isinstance(value, Tensor)
            }
    except Exception:  # whatever code says that cannot run on symbols
        return None


def _symbolic(
    mode: FakeTensorMode,
    name: str,
    value: Any,
    axes: Mapping[int, str],
    symbols: dict[Any, SizeExpression],
) -> Any:
    """Returns an input without data; adds the symbols of its dynamic sizes."""
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    source = ConstantSource(f"input_{len(symbols)}_{name}")
    if type(value) is int:
        # A number is no constant of the program either, and no size may be fixed by it.
        env: Any = mode.shape_env
        symbol = env.create_unspecified_symbol(value, source, DimDynamic.DYNAMIC)
        return env.create_symintnode(symbol, hint=value, source=source)
    if not isinstance(value, Tensor):
        return value
    kinds = [
        DimDynamic.DYNAMIC if axis in axes and size > 1 else DimDynamic.STATIC
        for axis, size in enumerate(value.shape)
    ]
    context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
    fake = mode.from_tensor(value, source=source, symbolic_context=context)
    for axis, text in axes.items():
        size: Any = fake.shape[axis]
        if not isinstance(size, int):
            symbols[size.node.expr] = parse_size(text)
    return fake


class _Reader:
    """Reads symbolic sizes as expressions over the names of dimensions."""

    def __init__(self, env: Any, symbols: Mapping[Any, SizeExpression]) -> None:
        self._env = env
        self._symbols: dict[Any, SizeExpression] = dict(symbols)
        # What the run has found equal is one symbol by now; a plain name is its best text.
        for symbol, size in sorted(symbols.items(), key=lambda pair: not is_plain(str(pair[1]))):
            self._symbols.setdefault(env.replace(symbol), size)

    def read(self, size: Any) -> Size:
        """Returns the number, the text, or None."""
        if isinstance(size, int):
            return size
        for expr in self._forms(size.node.expr):
            found = self._expression(expr)
            if found is not None:
                return str(found) if found.terms else found.constant
        return None

    def _forms(self, expr: Any) -> Iterator[Any]:
        yield expr
        yield self._env.replace(expr)
        yield self._env.simplify(expr)

    def _expression(self, expr: Any) -> SizeExpression | None:
        from torch.utils._sympy.functions import CleanDiv, FloorDiv

        known = self._symbols.get(expr)
        if known is not None:
            return known
        if expr.is_Integer:
            return SizeExpression((), int(expr))
        if isinstance(expr, (FloorDiv, CleanDiv)):
            dividend, divisor = self._expression(expr.args[0]), expr.args[1]
            if dividend is None or not divisor.is_Integer or int(divisor) < 1:
                return None
            return dividend // int(divisor)
        if not (expr.is_Add or expr.is_Mul):
            return None
        parts = [self._expression(part) for part in expr.args]
        told = [part for part in parts if part is not None]
        if len(told) < len(parts):
            return None
        return _sum(told) if expr.is_Add else _product(told)


def _sum(parts: list[SizeExpression]) -> SizeExpression:
    total = SizeExpression(())
    for part in parts:
        total = total + part
    return total


def _product(parts: list[SizeExpression]) -> SizeExpression | None:
    product = SizeExpression((), 1)
    for part in parts:
        if part.terms and product.terms:
            return None
        product = product * part.constant if not part.terms else part * product.constant
    return product
