"""Small ONNX files, written without an exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FLOAT", "INT64", "node", "value", "write_linear", "write_onnx"]

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

node = helper.make_node
value = helper.make_tensor_value_info


def write_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    opset: int = 17,
    ir: int = 8,
    domains: Sequence[str] = (),
    data: str = "",
) -> Path:
    """Writes a model; with `data`, its weights go to a file of that name beside it."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    if data:
        onnx.save_model(
            model, str(path), save_as_external_data=True, location=data, size_threshold=0
        )
    else:
        onnx.save_model(model, str(path))
    return path


def write_linear(path: Path, batch: Any = "batch", **options: Any) -> Path:
    """Writes y = x @ w + b with x float32[batch, 4] and y float32[batch, 3]."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((4, 3)).astype(np.float32),
        "b": generator.standard_normal(3).astype(np.float32),
    }
    return write_onnx(
        path,
        [node("MatMul", ["x", "w"], ["xw"]), node("Add", ["xw", "b"], ["y"])],
        [value("x", FLOAT, [batch, 4])],
        [value("y", FLOAT, [batch, 3])],
        weights,
        **options,
    )
