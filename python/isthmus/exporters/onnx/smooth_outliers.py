"""Makes the inputs of matrix products fit for eight bits, without changing what a model computes.

A dynamic quantiser gives a whole tensor 256 steps between its least and its largest value. Where
one channel of it is many times as large as the others (transformers have one or two such outlier
columns in most layers), the others are left with a few steps each. Two methods help; both are
exact in real arithmetic:

- smoothing (SmoothQuant, arXiv 2211.10438): an outlier column is divided down, and the weights that
  it meets are multiplied up;
- splitting (LLM.int8(), arXiv 2208.07339): outlier columns are taken out of the quantised product,
  and their part of the result is computed in float32.

Splitting is better and costs a pass over the product's output, so it is done where outputs are no
wider than the input. Of all-MiniLM-L6-v2 in int8, the worst of 104 texts of any length goes from a
cosine of 0.967 to 0.993, and a call takes as long as before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["Product", "Smoothed", "input_peaks", "products", "smooth_outliers"]

Array = np.ndarray[Any, Any]
Peaks = Mapping[str, Array]
"""The largest magnitude of each channel (last axis) on any call, by the value's name."""

_SMOOTHED_TO = 3.0
"""A channel is divided down to this many times the median channel. Much less would move the trouble
into the weights, which have 128 steps only; SmoothQuant's full balance of the two is no better than
nothing here."""
_OUTLIER = 5.0
"""A channel is split off from this many times the median on, where splitting is cheap."""
_MOST_OUTLIERS = 16
"""The largest number of channels split off one input, which keeps the float32 product small."""


@dataclass(frozen=True)
class Product:
    """A node that multiplies by constant weights, as the quantiser takes them."""

    node: Any
    """onnx.NodeProto: a MatMul, or a Gemm that is equivalent to one."""
    weights: Any
    """onnx.TensorProto, float32, of rank 2."""
    rows: int
    """The axis of the weights that the input's channels meet."""
    sole_reader: bool
    """True when nothing else in the model reads these weights."""


def products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """Returns the products of the main graph, the only one that the quantiser looks into."""
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = Counter(_read_names(model.graph))
    result = []
    for node in model.graph.node:
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        weights = constants.get(node.input[1])
        if weights is None or len(weights.dims) != 2:
            continue
        if weights.data_type != onnx.TensorProto.FLOAT:
            continue
        attributes = {attribute.name: attribute.f or attribute.i for attribute in node.attribute}
        if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0:
            continue
        rows = 1 if attributes.get("transB") else 0
        result.append(Product(node, weights, rows, readers[weights.name] == 1))
    return tuple(result)


def _read_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yields every name that a node reads, and the outputs', in a graph and those inside it."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            subgraphs = [attribute.g] if attribute.HasField("g") else []
            for subgraph in (*subgraphs, *attribute.graphs):
                yield from _read_names(subgraph)


def input_peaks(file: Path, calls: Sequence[Mapping[str, Any]]) -> Peaks:
    """Runs a model on ONNX Runtime, and returns what the inputs of its products reach.

    Args:
        file: The model; its weights may lie beside it.
        calls: NumPy arrays by input name; inputs that the graph dropped are ignored.
    """
    import onnx
    import onnxruntime

    model = onnx.load(file, load_external_data=False)
    observed = list(dict.fromkeys(product.node.input[0] for product in products(model)))
    if not observed or not calls:
        return {}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in observed)
    path = file.with_name(f"{file.stem}.observed.onnx")
    try:
        onnx.save_model(model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        inputs = [node.name for node in session.get_inputs()]
        peaks: dict[str, Array] = {}
        for call in calls:
            values = session.run(observed, {name: call[name] for name in inputs})
            for name, value in zip(observed, values, strict=True):
                if value.size:
                    peak = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
                    peaks[name] = np.maximum(peaks.get(name, peak), peak)
    finally:
        path.unlink(missing_ok=True)
    return peaks


@dataclass(frozen=True)
class Smoothed:
    """The result of smoothing a model."""

    inputs: int = 0
    """The number of smoothed inputs, of which several products may share one."""
    exact: tuple[str, ...] = ()
    """The names of the new nodes that must stay in float32."""


def smooth_outliers(model: onnx.ModelProto, peaks: Peaks, *, thorough: bool = False) -> Smoothed:
    """Smooths the outlier columns of a model, and splits off the worst, in place.

    Args:
        model: A model with its weights in it.
        peaks: The result of `input_peaks`.
        thorough: Split off whatever would be smoothed, also where that is not cheap.
    """
    readers: dict[str, list[Product]] = {}
    for product in products(model):
        if product.sole_reader:
            readers.setdefault(product.node.input[0], []).append(product)
    inputs = 0
    exact: list[str] = []
    for name, group in readers.items():
        scales = _choose_scales(peaks.get(name), group, thorough=thorough)
        if scales is not None:
            inputs += 1
            exact += _rewrite(model.graph, name, group, scales)
    return Smoothed(inputs, tuple(exact))


@dataclass(frozen=True)
class _Scales:
    channels: Array
    """The factor of each channel of the input, float32; 0 for a channel that is split off."""
    weights: Array
    """The factor of the weights that the channel meets, float32."""
    outliers: Array
    """The indices of the channels that are split off, int64."""


def _choose_scales(
    peak: Array | None, group: Sequence[Product], *, thorough: bool
) -> _Scales | None:
    """Returns None where no channel is an outlier, or the channels are not those of the weights."""
    if peak is None or not peak.size or not np.isfinite(peak).all():
        return None
    median = float(np.median(peak))
    if median <= 0 or any(product.weights.dims[product.rows] != peak.size for product in group):
        return None
    multiples = peak / median
    weights = np.maximum(1.0, multiples / _SMOOTHED_TO).astype(np.float32)
    if not bool((weights > 1).any()):
        return None
    channels = 1 / weights
    outliers = np.empty(0, np.int64)
    width = sum(product.weights.dims[1 - product.rows] for product in group)
    if thorough or width <= peak.size:
        largest = np.argsort(-multiples)[:_MOST_OUTLIERS]
        least = _SMOOTHED_TO if thorough else _OUTLIER
        outliers = np.sort(largest[multiples[largest] > least]).astype(np.int64)
        weights[outliers], channels[outliers] = 0, 0
    return _Scales(channels, weights, outliers)


def _rewrite(
    graph: onnx.GraphProto, name: str, group: Sequence[Product], scales: _Scales
) -> list[str]:
    """Smooths an input of a group of products; returns the nodes that must stay in float32."""
    from onnx import helper, numpy_helper

    def constant(label: str, value: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), label))
        return label

    at = min(_position(graph, product.node) for product in group)
    smoothed, outliers = f"{name}/smoothed", f"{name}/outliers"
    factors = constant(f"{smoothed}/factors", scales.channels)
    graph.node.insert(at, helper.make_node("Mul", [name, factors], [smoothed], name=smoothed))
    if len(scales.outliers):
        columns = constant(f"{outliers}/columns", scales.outliers)
        gather = helper.make_node("Gather", [name, columns], [outliers], name=outliers, axis=-1)
        graph.node.insert(at, gather)
    exact = []
    for product in group:
        weights = numpy_helper.to_array(product.weights)
        by_channel = weights if product.rows == 0 else weights.T
        product.node.input[0] = smoothed
        if len(scales.outliers):
            result = product.node.output[0]
            # Before the weights are changed: the float32 product takes the original ones.
            rows = constant(f"{result}/outliers/weights", by_channel[scales.outliers])
            outlier_part, smoothed_part = f"{result}/outliers", f"{result}/smoothed"
            multiply = helper.make_node(
                "MatMul", [outliers, rows], [outlier_part], name=outlier_part
            )
            add = helper.make_node(
                "Add", [smoothed_part, outlier_part], [result], name=f"{result}/sum"
            )
            after = _position(graph, product.node) + 1
            product.node.output[0] = smoothed_part
            graph.node.insert(after, add)
            graph.node.insert(after, multiply)
            exact.append(outlier_part)
        scaled = by_channel * scales.weights[:, None]
        scaled = np.ascontiguousarray(scaled if product.rows == 0 else scaled.T)
        product.weights.CopyFrom(numpy_helper.from_array(scaled, product.weights.name))
    return exact


def _position(graph: onnx.GraphProto, node: Any) -> int:
    return next(at for at, other in enumerate(graph.node) if other == node)
