"""Counts the operations of a call, so that what a budget allows is the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from isthmus.capture.operator_mode import OperatorMode

__all__ = ["OperationCounter"]


class OperationCounter(OperatorMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered: multiplications and additions of products, convolutions and
    attention; for any other operator, the elements that it reads and writes."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs an operator and counts its operations."""
        result = func(*args, **kwargs)
        self.operations += _operations(func, args, kwargs, result)
        return result


def _operations(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    formula = flop_registry.get(getattr(func, "overloadpacket", func))
    if formula is not None:
        try:
            return int(formula(*args, **kwargs, out_val=result))
        except Exception:  # a formula that does not know these arguments; the elements count then
            pass
    leaves = tree_leaves((args, dict(kwargs), result))
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
