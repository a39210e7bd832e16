"""Translates operators to ONNX exactly, where the exporter's own translations are only close.

Nearest interpolation takes the source index that eager computes in float32: `Resize` rounds
otherwise, and is a pixel off at some sizes. Divisions of integers stay integers, floor divisions
and remainders of floats are built on `fmod` as torch's are, and small integers wrap as in torch,
also in engines that would saturate or round them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

__all__ = ["exact_translations", "nearest_indices"]

_aten: Any = torch.ops.aten
Translation = Callable[..., Any]

_LARGEST_SIZE = 1 << 15
"""The size up to which a ratio of integers has to agree with a scale factor."""
_LARGEST_EXPONENT = 8
"""The largest exponent of an integer power that becomes products."""


def exact_translations(may_be_empty: bool = False) -> dict[Callable[..., Any], Translation]:
    """Returns translations for the `custom_translation_table` of `torch.onnx.export`.

    Args:
        may_be_empty: Whether an axis may have the size 0, so that a mean may be of nothing.
    """
    table: dict[Callable[..., Any], Translation] = {
        _aten.div.Tensor_mode: _divide,
        _aten.div.Scalar_mode: _divide,
        _aten.floor_divide.default: _floor_divide,
        operator.floordiv: _floor_divide_sizes,
        _aten.remainder.Tensor: _remainder,
        _aten.remainder.Scalar: _remainder,
        _aten.fmod.Tensor: _fmod,
        _aten.fmod.Scalar: _fmod,
        _aten.round.decimals: _round_decimals,
        _aten.cumsum.default: _cumsum,
        _aten._to_copy.default: _to_copy,
        _aten.pow.Tensor_Scalar: _power,
        _aten.bitwise_right_shift.Tensor: _shift_right,
        _aten.bitwise_right_shift.Tensor_Scalar: _shift_right,
        _aten.__rshift__.Tensor: _shift_right,
        _aten.__rshift__.Scalar: _shift_right,
        _aten.bitwise_left_shift.Tensor: _shift_left,
        _aten.bitwise_left_shift.Tensor_Scalar: _shift_left,
        _aten.__lshift__.Tensor: _shift_left,
        _aten.__lshift__.Scalar: _shift_left,
    }
    if may_be_empty:
        table |= {_aten.mean.default: _mean, _aten.mean.dim: _mean_over}
    for name, exact in (("upsample_nearest", False), ("_upsample_nearest_exact", True)):
        vec, *by_rank = _nearest_translations(exact)
        for rank, translation in enumerate(by_rank, start=1):
            packet = getattr(_aten, f"{name}{rank}d")
            table[packet.vec] = vec
            table[packet.default] = translation
    return table


def _operators() -> Any:
    """Returns ONNX's operators, untyped because they are called on nodes and not on arrays."""
    from onnxscript import opset18

    return opset18


def _constant(value: Any, dtype: Any) -> Any:
    """Returns a constant of a type of ONNX."""
    from onnxscript import ir

    return _operators().Constant(value=ir.tensor(value, dtype=dtype))


def _as_operand(value: Any, like: Any) -> Any:
    """Returns a Python number as a constant of a node's type; nodes stay as they are."""
    return _constant(value, like.dtype) if isinstance(value, (bool, int, float)) else value


# --- nearest interpolation ------------------------------------------------------------------------


def nearest_indices(size: int, output_size: int, scale: float | None, exact: bool) -> Any:
    """Returns the source index of each output index along one axis, int64[output_size].

    This is the arithmetic of ATen's `UpSampleKernel.cpp`, in float32.

    Args:
        size: The size of the input along the axis.
        output_size: The size of the output along it.
        scale: The scale factor that was given; None where sizes were.
        exact: True for "nearest-exact", whose samples lie in the middle of the pixels.
    """
    step = _step(scale)
    if step is None:
        step = np.float32(size) / np.float32(output_size)
    at = np.arange(output_size, dtype=np.float32)
    if exact:
        at = at + np.float32(0.5)
    return np.minimum(np.floor(at * step).astype(np.int64), size - 1)


def _step(scale: float | None) -> Any:
    """Returns the distance between samples in pixels of the input, float32; None without scale."""
    return None if scale is None or scale <= 0 else np.float32(1.0 / scale)


def _nearest_translations(exact: bool) -> list[Translation]:
    """Returns the translations of the overload with lists, and of those for 1 to 3 axes."""

    def with_lists(
        x: Any, output_size: Any = None, scale_factors: Sequence[float] | None = None
    ) -> Any:
        return _nearest(x, output_size, scale_factors, exact)

    def one(x: Any, output_size: Any, scales: float | None = None) -> Any:
        return _nearest(x, output_size, (scales,), exact)

    def two(
        x: Any, output_size: Any, scales_h: float | None = None, scales_w: float | None = None
    ) -> Any:
        return _nearest(x, output_size, (scales_h, scales_w), exact)

    def three(
        x: Any,
        output_size: Any,
        scales_d: float | None = None,
        scales_h: float | None = None,
        scales_w: float | None = None,
    ) -> Any:
        return _nearest(x, output_size, (scales_d, scales_h, scales_w), exact)

    return [with_lists, one, two, three]


def _nearest(x: Any, output_size: Any, scales: Sequence[float | None] | None, exact: bool) -> Any:
    """Gathers the pixels of each axis in turn; where every step is a power of two, resizes."""
    op = _operators()
    axes = range(2, len(x.shape))
    factors = list(scales) if scales else [None for _ in axes]
    if not exact and all(factor is not None and _is_power_of_two(factor) for factor in factors):
        given = op.Constant(value_floats=[1.0, 1.0, *(float(factor or 1) for factor in factors)])
        return op.Resize(
            x,
            None,
            given,
            None,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    for axis, factor in zip(axes, factors, strict=True):
        wanted = None if output_size is None else _item(output_size, axis - 2)
        x = _gather_nearest(x, axis, wanted, factor, exact)
    return x


def _is_power_of_two(value: float) -> bool:
    return value > 0 and math.frexp(value)[0] == 0.5


def _item(sizes: Any, at: int) -> Any:
    """Returns one of several sizes, which may be a list or a node; as an int where it is known."""
    if isinstance(sizes, (list, tuple)):
        return sizes[at]
    if sizes.const_value is not None:
        return int(sizes.const_value.numpy()[at])
    op = _operators()
    return op.Gather(sizes, op.Constant(value_int=at))


def _gather_nearest(x: Any, axis: int, wanted: Any, scale: float | None, exact: bool) -> Any:
    """Resizes one axis.

    Args:
        x: The tensor, of which this axis still has the size of the input.
        axis: The axis.
        wanted: The size of the output as int or node; None where the scale decides it.
        scale: The scale factor; None where sizes were given.
        exact: See `nearest_indices`.
    """
    from onnxscript import ir

    op = _operators()
    size = x.shape[axis] if x.shape is not None else None
    if wanted is None and isinstance(size, int):
        wanted = int(size * float(scale or 1))
    if isinstance(size, int) and isinstance(wanted, int):
        indices = _constant(nearest_indices(size, wanted, scale, exact), ir.DataType.INT64)
        return _gather(x, indices, axis)
    size = op.Squeeze(op.Shape(x, start=axis, end=axis + 1))
    if wanted is None:
        wanted = _scaled_size(size, float(scale or 1))
    elif isinstance(wanted, int):
        wanted = op.Constant(value_int=wanted)
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    at = op.Range(zero, op.Cast(wanted, to=ir.DataType.INT64), one)
    step = _step(scale)
    step = _quotient(size, at) if step is None else _constant(step, ir.DataType.FLOAT)
    if exact:
        # (at + 0.5) * step, in a form that OpenVINO does not turn into two products.
        at = op.Add(op.Add(at, at), one)
        step = op.Mul(step, _constant(0.5, ir.DataType.FLOAT))
    source = op.Floor(op.Mul(op.Cast(at, to=ir.DataType.FLOAT), step))
    indices = op.Cast(source, to=ir.DataType.INT64)
    return _gather(x, op.Min(indices, op.Sub(size, one)), axis)


def _quotient(size: Any, output_indices: Any) -> Any:
    """Returns size / output size in float32, rounded correctly.

    It is the mean of the size and of zeros, one value for each output index: OpenVINO divides by
    way of an inverse, which is often one unit in the last place off, but not in a mean.
    """
    from onnxscript import ir

    op = _operators()
    first = op.Equal(output_indices, op.Constant(value_int=0))
    zero = _constant(0.0, ir.DataType.FLOAT)
    return op.ReduceMean(op.Where(first, op.Cast(size, to=ir.DataType.FLOAT), zero), keepdims=0)


def _scaled_size(size: Any, scale: float) -> Any:
    """Returns trunc(size * scale), which torch computes in float64.

    Where a ratio of small integers gives the same for every size, engines without float64 are right
    as well.
    """
    from onnxscript import ir

    op = _operators()
    ratio = Fraction(scale).limit_denominator(1000)
    sizes = np.arange(_LARGEST_SIZE)
    by_ratio = sizes * ratio.numerator // ratio.denominator
    if (by_ratio == (sizes * scale).astype(np.int64)).all():
        product = op.Mul(size, op.Constant(value_int=ratio.numerator))
        return op.Div(product, op.Constant(value_int=ratio.denominator))
    real = op.Mul(op.Cast(size, to=ir.DataType.DOUBLE), _constant(scale, ir.DataType.DOUBLE))
    return op.Cast(real, to=ir.DataType.INT64)


def _gather(x: Any, indices: Any, axis: int) -> Any:
    """Gathers along an axis; the result keeps the sizes of the other axes."""
    from onnxscript import ir

    result = _operators().Gather(x, indices, axis=axis)
    sizes = [None if at == axis else size for at, size in enumerate(x.shape)]
    result.shape, result.dtype = ir.Shape(sizes), x.dtype
    return result


# --- division -------------------------------------------------------------------------------------


def _divide(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """Translates `div` with a rounding mode."""
    op = _operators()
    other = _as_operand(other, self)
    if rounding_mode == "floor":
        return _floor_divide(self, other)
    if rounding_mode == "trunc" and self.dtype.is_integer():
        return _wide(_truncated_quotient, self, other)
    quotient = op.Div(self, other)
    if rounding_mode != "trunc":
        return quotient
    return op.Mul(op.Sign(quotient), op.Floor(op.Abs(quotient)))


def _floor_divide(self: Any, other: Any) -> Any:
    """Translates a floor division."""
    other = _as_operand(other, self)
    if self.dtype.is_integer():
        return _wide(_floor_quotient, self, other)
    return _floor_quotient_of_floats(self, other)


def _floor_divide_sizes(self: Any, other: Any) -> Any:
    """Translates a floor division of sizes, which may be negative: -(-height // 32)."""
    return _floor_quotient(self, other)


def _wide(compute: Translation, self: Any, other: Any) -> Any:
    """Computes with integers of 8 and 16 bits in 32, for which every engine has operators."""
    op = _operators()
    if self.dtype.bitwidth >= 32:
        return compute(self, other)
    from onnxscript import ir

    result = compute(*(op.Cast(value, to=ir.DataType.INT32) for value in (self, other)))
    return op.Cast(result, to=self.dtype)


def _truncated_quotient(a: Any, b: Any) -> Any:
    """Divides integers towards zero, also in engines whose division rounds down."""
    # A quotient that was rounded down leaves a rest with the sign of b where the signs differ.
    return _corrected_quotient(a, b, a, _operators().Add)


def _floor_quotient(a: Any, b: Any) -> Any:
    """Divides integers and rounds down, also in engines whose division truncates."""
    return _corrected_quotient(a, b, b, _operators().Sub)


def _corrected_quotient(a: Any, b: Any, sign: Any, correct: Any) -> Any:
    """Divides integers, and corrects quotients whose rest has another sign than `sign` by one."""
    op = _operators()
    quotient = op.Div(a, b)
    rest = op.Sub(a, op.Mul(quotient, b))
    wrong = op.And(op.Not(op.Equal(rest, _zero(a))), _signs_differ(rest, sign))
    return op.Where(wrong, correct(quotient, _one(a)), quotient)


def _floor_quotient_of_floats(a: Any, b: Any) -> Any:
    """Divides floats as `div_floor_floating` of ATen does: 1.0 // 0.1 is 9."""
    op = _operators()
    zero, one, half = (_constant(value, a.dtype) for value in (0.0, 1.0, 0.5))
    rest = op.Mod(a, b, fmod=1)
    quotient = op.Div(op.Sub(a, rest), b)
    below = op.And(op.Not(op.Equal(rest, zero)), _signs_differ(rest, b))
    quotient = op.Where(below, op.Sub(quotient, one), quotient)
    floored = op.Floor(quotient)
    floored = op.Where(op.Greater(op.Sub(quotient, floored), half), op.Add(floored, one), floored)
    return op.Where(op.Equal(b, zero), op.Div(a, b), floored)


def _remainder(self: Any, other: Any) -> Any:
    """Translates `remainder`, which has the sign of the divisor."""
    op = _operators()
    other = _as_operand(other, self)
    if self.dtype.is_integer():
        return _wide(lambda a, b: op.Sub(a, op.Mul(_floor_quotient(a, b), b)), self, other)
    zero = _constant(0.0, self.dtype)
    rest = op.Mod(self, other, fmod=1)
    below = op.And(op.Not(op.Equal(rest, zero)), _signs_differ(rest, other))
    return op.Where(below, op.Add(rest, other), rest)


def _fmod(self: Any, other: Any) -> Any:
    """Translates `fmod`, which has the sign of the dividend."""
    op = _operators()
    other = _as_operand(other, self)
    if self.dtype.is_integer():
        return _wide(lambda a, b: op.Sub(a, op.Mul(_truncated_quotient(a, b), b)), self, other)
    return op.Mod(self, other, fmod=1)


def _zero(like: Any) -> Any:
    op = _operators()
    return op.CastLike(op.Constant(value_int=0), like)


def _one(like: Any) -> Any:
    op = _operators()
    return op.CastLike(op.Constant(value_int=1), like)


def _signs_differ(a: Any, b: Any) -> Any:
    op = _operators()
    return op.Xor(op.Less(a, _zero(a)), op.Less(b, _zero(b)))


# --- rounding and types ---------------------------------------------------------------------------


def _round_decimals(self: Any, decimals: int = 0) -> Any:
    """Translates rounding to decimals; a negative number divides by a power of ten, exactly."""
    op = _operators()
    if decimals == 0 or self.dtype.is_integer():
        return op.Round(self) if self.dtype.is_floating_point() else op.Identity(self)
    power = _constant(10.0 ** abs(decimals), self.dtype)
    before, after = (op.Mul, op.Div) if decimals > 0 else (op.Div, op.Mul)
    return after(op.Round(before(self, power)), power)


def _cumsum(self: Any, dim: int, dtype: int | None = None) -> Any:
    """Translates `cumsum`, whose sums of integers and bools are int64."""
    from onnxscript import ir

    op = _operators()
    if dtype is not None and dtype != -1:
        self = op.Cast(self, to=dtype)
    elif not self.dtype.is_floating_point():
        self = op.Cast(self, to=ir.DataType.INT64)
    if self.shape is not None and len(self.shape) == 0:
        return op.Identity(self)
    return op.CumSum(self, op.Constant(value_int=dim))


def _mean(self: Any, dtype: int = -1) -> Any:
    """Translates the mean of all elements."""
    return _mean_over(self, None, False, dtype)


def _mean_over(self: Any, dim: Sequence[int] | None, keepdim: bool = False, dtype: int = -1) -> Any:
    """Translates a mean; of nothing it is NaN, where `ReduceMean` gives 0 on ONNX Runtime."""
    from onnxscript import ir

    op = _operators()
    if dtype in (-1, None):
        dtype = self.dtype
    # A sum of halves may be larger than a half can be.
    halves = dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    wide = ir.DataType.FLOAT if halves else dtype
    if self.dtype != wide:
        self = op.Cast(self, to=wide)
    if dim is None or len(dim) == 0:
        total = op.ReduceSum(self, keepdims=int(keepdim))
        count = op.Size(self)
    else:
        axes = op.Constant(value_ints=list(dim))
        total = op.ReduceSum(self, axes, keepdims=int(keepdim))
        count = op.ReduceProd(op.Gather(op.Shape(self), axes), keepdims=0)
    mean = op.Div(total, op.Cast(count, to=wide))
    return op.Cast(mean, to=dtype) if halves else mean


def _to_copy(
    self: Any,
    dtype: int = -1,
    layout: str = "",
    device: str = "",
    pin_memory: bool = False,
    non_blocking: bool = False,
    memory_format: str = "",
) -> Any:
    """Translates a change of type; what does not fit into uint8 wraps, as it does in torch."""
    from onnxscript import ir
    from onnxscript.function_libs.torch_lib.ops import common

    op = _operators()
    if dtype == -1:
        return op.Identity(self)
    if dtype == ir.DataType.UINT8 and self.dtype not in (ir.DataType.BOOL, ir.DataType.UINT8):
        whole = op.Cast(self, to=ir.DataType.INT64)
        return op.Cast(op.BitwiseAnd(whole, _constant(255, ir.DataType.INT64)), to=dtype)
    return common.cast_to(self, dtype=dtype)


def _power(self: Any, exponent: float) -> Any:
    """Translates a power with a constant exponent; of integers, a product that wraps as torch's."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_pow_tensor_scalar

    op = _operators()
    whole = self.dtype.is_integer() and float(exponent).is_integer()
    if not whole or not 0 < exponent <= _LARGEST_EXPONENT:
        return aten_pow_tensor_scalar(self, exponent)
    (factor,) = _widened(self)
    result = op.Identity(factor)
    for _ in range(int(exponent) - 1):
        result = op.Mul(result, factor)
    return _narrowed(result, self.dtype)


# --- shifts ---------------------------------------------------------------------------------------


def _shift_right(self: Any, other: Any) -> Any:
    """Translates an arithmetic shift: the bits of a negative number are those of its complement."""
    op = _operators()
    wide, places = _widened(self, _as_operand(other, self))
    negative = op.Less(wide, _zero(wide))
    bits = op.Where(negative, op.BitwiseNot(wide), wide) if self.dtype.is_signed() else wide
    shifted = _shifted(bits, places, self.dtype, "RIGHT")
    if self.dtype.is_signed():
        shifted = op.Where(negative, op.BitwiseNot(shifted), shifted)
    return _narrowed(shifted, self.dtype)


def _shift_left(self: Any, other: Any) -> Any:
    """Translates a shift to the left."""
    wide, places = _widened(self, _as_operand(other, self))
    return _narrowed(_shifted(wide, places, self.dtype, "LEFT"), self.dtype)


def _widened(*values: Any) -> tuple[Any, ...]:
    """Returns integers of 8 and 16 bits in 32, which every engine shifts; others as they are."""
    from onnxscript import ir

    if values[0].dtype.bitwidth >= 32:
        return values
    return tuple(_operators().Cast(value, to=ir.DataType.INT32) for value in values)


def _narrowed(value: Any, dtype: Any) -> Any:
    """Returns a result of `_widened` values in their own type; what does not fit wraps."""
    from onnxscript import ir

    op = _operators()
    if dtype.bitwidth >= 32:
        return value
    mask = _constant((1 << dtype.bitwidth) - 1, ir.DataType.INT32)
    if not dtype.is_signed():
        return op.Cast(op.BitwiseAnd(value, mask), to=dtype)
    half = _constant(1 << (dtype.bitwidth - 1), ir.DataType.INT32)
    wrapped = op.Sub(op.BitwiseAnd(op.Add(value, half), mask), half)
    return op.Cast(wrapped, to=dtype)


def _shifted(bits: Any, places: Any, dtype: Any, direction: str) -> Any:
    """Shifts bits; by as many places as the type has or more, nothing is left of them."""
    from onnxscript import ir

    op = _operators()
    unsigned = ir.DataType.UINT64 if dtype.bitwidth == 64 else ir.DataType.UINT32
    width = op.CastLike(op.Constant(value_int=dtype.bitwidth), places)
    outside = op.Or(op.Less(places, _zero(places)), op.GreaterOrEqual(places, width))
    inside = op.Where(outside, _zero(places), places)
    result = op.BitShift(
        op.Cast(bits, to=unsigned), op.Cast(inside, to=unsigned), direction=direction
    )
    result = op.CastLike(result, bits)
    return op.Where(outside, _zero(result), result)
