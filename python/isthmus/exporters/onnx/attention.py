"""Translates attention to ONNX in a form that runtimes recognise.

The exporter's own translation of `scaled_dot_product_attention` transposes the keys by way of four
computed shapes, scales queries and keys separately, and looks for NaN in every probability, which
neither ONNX Runtime nor OpenVINO recognises as attention. This translation is a product, a sum, a
softmax and a product; a row without any key is set to zero after the last product, where the tensor
is smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["translations"]

_NO_KEY = 0.5
"""The share of the least finite number that excludes a key; the rest is room for the score."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Returns the `custom_translation_table` for `torch.onnx.export`."""
    return {torch.ops.aten.scaled_dot_product_attention.default: _attention}


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Translates attention; a row without a key is zero, as in ATen's `_safe_softmax`."""
    from onnxscript import ir
    from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

    op = _operators()
    width = query.shape[-1] if query.shape is not None else None
    if (
        dropout_p != 0
        or enable_gqa
        or not isinstance(width, int)
        or query.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    ):
        return aten_scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )

    def number(value: float) -> Any:
        return op.Constant(value=ir.tensor(value, dtype=query.dtype))

    least = float(query.dtype.min)
    rank = len(query.shape)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    scaled = op.Mul(query, number(1 / math.sqrt(width) if scale is None else scale))
    scores = op.MatMul(scaled, op.Transpose(key, perm=swapped))
    has_key = None
    if is_causal:
        # Every query sees the first key.
        all_keys = op.Expand(op.Constant(value=ir.tensor(True)), _sizes(query, key))
        allowed = op.Trilu(all_keys, upper=0)
        scores = op.Add(scores, op.Where(allowed, number(0.0), number(least * _NO_KEY)))
    elif attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL:
        scores = op.Add(scores, op.Where(attn_mask, number(0.0), number(least * _NO_KEY)))
        has_key = op.Cast(attn_mask, to=query.dtype)
        has_key = op.ReduceMax(has_key, op.Constant(value_ints=[-1]), keepdims=1)
    elif attn_mask is not None:
        scores = op.Add(scores, op.Max(attn_mask, number(least * _NO_KEY)))
        highest = op.ReduceMax(attn_mask, op.Constant(value_ints=[-1]), keepdims=1)
        has_key = op.Cast(op.GreaterOrEqual(highest, number(least)), to=query.dtype)
    attended = op.MatMul(op.Softmax(scores, axis=-1), value)
    return attended if has_key is None else op.Mul(attended, has_key)


def _sizes(query: Any, key: Any) -> Any:
    """Returns the sizes of the scores' last two dimensions."""
    op = _operators()

    def size(tensor: Any) -> Any:
        return op.Slice(
            op.Shape(tensor), op.Constant(value_ints=[-2]), op.Constant(value_ints=[-1])
        )

    return op.Concat(size(query), size(key), axis=0)


def _operators() -> Any:
    """Returns ONNX's operators, untyped because they are called on nodes and not on arrays."""
    from onnxscript import opset18

    return opset18
