"""Attention in ONNX as runtimes recognise it.

The exporter's own translation of `scaled_dot_product_attention` transposes the keys by way of four
computed shapes, scales queries and keys apart, and looks for NaN in every probability. Neither ONNX
Runtime nor OpenVINO sees attention in that. Here it is product, sum, softmax, product, and a row
without any key is put to zero after the last product, where it is smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["translations"]

_NO_KEY = 0.5
"""Of the least finite number: an excluded key's score. The rest is room for the score itself."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """By operator: what `torch.onnx.export` takes as its `custom_translation_table`."""
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
    """As torch.nn.functional defines it; zeros where there is no key (ATen's `_safe_softmax`)."""
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

    def number(of: float) -> Any:
        return op.Constant(value=ir.tensor(of, dtype=query.dtype))

    least = float(query.dtype.min)
    rank = len(query.shape)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    scaled = op.Mul(query, number(1 / math.sqrt(width) if scale is None else scale))
    scores = op.MatMul(scaled, op.Transpose(key, perm=swapped))
    has_key = None
    if is_causal:
        # Every query sees the first key.
        every = op.Expand(op.Constant(value=ir.tensor(True)), _sizes(query, key))
        allowed = op.Trilu(every, upper=0)
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
    """Of the scores' last two dimensions."""
    op = _operators()

    def of(tensor: Any) -> Any:
        return op.Slice(
            op.Shape(tensor), op.Constant(value_ints=[-2]), op.Constant(value_ints=[-1])
        )

    return op.Concat(of(query), of(key), axis=0)


def _operators() -> Any:
    """ONNX's, untyped: what they are given here are nodes and not arrays."""
    from onnxscript import opset18

    return opset18
