"""Decompositions that make compiled code answer as eager mode where AOTInductor's own does not.

AOTInductor rounds the quotient of floats before it takes the floor, so that -3.5 // 0.7 is -5
where PyTorch gives -6, and a remainder has the error of the whole quotient. The decompositions here
compute what `div_floor_floating` and `remainder` of ATen do (aten/src/ATen/native/cpu), from
`fmod`, which is exact. AOTInductor does not compile the quotient of complex numbers and a size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["with_exact_operators"]

_aten: Any = torch.ops.aten


def with_exact_operators(program: ExportedProgram) -> ExportedProgram:
    """Returns the program with exact floor divisions and remainders of floats.

    Quotients of complex numbers and a size are divided by a tensor.

    A program without such operators is returned as it is.
    """
    table = _decompositions()
    graphs = [
        part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)
    ]
    nodes = [node for graph in graphs for node in graph.nodes]
    if any(_divides_complex_by_size(node) for node in nodes):
        table[_aten.div.Tensor] = _divide_complex
    if all(node.target not in table for node in nodes):
        return program
    return cast("ExportedProgram", program.run_decompositions(table))


def _divides_complex_by_size(node: fx.Node) -> bool:
    if node.target is not _aten.div.Tensor:
        return False
    a, b = (arg.meta.get("val") if isinstance(arg, fx.Node) else arg for arg in node.args[:2])
    return isinstance(a, Tensor) and a.is_complex() and isinstance(b, torch.SymInt)


def _divide_complex(a: Any, b: Any) -> Any:
    if not isinstance(a, Tensor) or not a.is_complex() or isinstance(b, Tensor):
        return NotImplemented
    return a / torch.full((), b, dtype=a.dtype.to_real(), device=a.device)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Returns the decompositions by operator; NotImplemented from one keeps the operator."""
    return {
        _aten.floor_divide.default: _floor_divide,
        _aten.div.Tensor_mode: _divide,
        _aten.div.Scalar_mode: _divide,
        _aten.remainder.Tensor: _remainder,
        _aten.remainder.Scalar: _remainder,
        _aten.remainder.Scalar_Tensor: _remainder,
    }


def _divide(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """Decomposes a division with a rounding mode; only the floor of floats has another form."""
    if rounding_mode == "floor" and _gives_floats(a, b):
        return _floor_quotient(a, b)
    return NotImplemented


def _floor_divide(a: Any, b: Any) -> Any:
    return _floor_quotient(a, b) if _gives_floats(a, b) else NotImplemented


def _gives_floats(a: Any, b: Any) -> bool:
    return torch.result_type(a, b).is_floating_point


def _wide(operand: Any) -> Any:
    """Returns a tensor of halves as float32, in which eager mode computes; others unchanged."""
    narrow = isinstance(operand, Tensor) and operand.dtype in (torch.float16, torch.bfloat16)
    return operand.float() if narrow else operand


def _tensors(a: Any, b: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns both operands as tensors of one type."""
    device = (a if isinstance(a, Tensor) else b).device

    def tensor(operand: Any) -> Tensor:
        if isinstance(operand, Tensor):
            return operand.to(dtype)
        return torch.full((), operand, dtype=dtype, device=device)

    return tensor(a), tensor(b)


def _signs_differ(remainder: Tensor, b: Tensor) -> Tensor:
    """Returns where a truncated remainder is not the floored one."""
    return (remainder != 0) & ((b < 0) != (remainder < 0))


def _remainder(a: Any, b: Any) -> Any:
    """Decomposes `a % b` of floats. Eager mode rounds a number to the type of the result."""
    if not _gives_floats(a, b):
        return NotImplemented
    dtype = torch.result_type(a, b)
    a, b = (_wide(operand) for operand in _tensors(a, b, dtype))
    remainder = torch.fmod(a, b)
    return torch.where(_signs_differ(remainder, b), remainder + b, remainder).to(dtype)


def _floor_quotient(a: Any, b: Any) -> Tensor:
    """Decomposes `a // b` of floats: 1.0 // 0.1 is 9. Eager mode does not round a number."""
    dtype = torch.result_type(a, b)
    a, b = _wide(a), _wide(b)
    a, b = _tensors(a, b, torch.result_type(a, b))
    remainder = torch.fmod(a, b)
    quotient = (a - remainder) / b
    quotient = torch.where(_signs_differ(remainder, b), quotient - 1, quotient)
    floored = torch.floor(quotient)
    floored = torch.where(quotient - floored > 0.5, floored + 1, floored)
    floored = torch.where(quotient != 0, floored, torch.copysign(torch.zeros_like(a), a / b))
    return torch.where(b == 0, a / b, floored).to(dtype)
