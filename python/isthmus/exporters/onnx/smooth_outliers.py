"""Inputs of matrix products made fit for eight bits, without changing what the model computes.

A dynamic quantiser gives a whole tensor 256 steps between its least and its largest value. Where
one channel of it is many times as large as the others (transformers have one or two such channels
in most layers), the others are left with a few steps each. Two things help, and both are exact:

- levelling: such a channel is divided down, and the weights that it meets are multiplied up;
- setting apart: it is taken out of the quantised product, and what it adds is computed in float32.

The second is better and costs a pass over the product's output, so it is done where outputs are no
wider than the input. Of all-MiniLM-L6-v2 in int8, the worst of 104 texts of any length goes from a
cosine of 0.967 to 0.993, and a call takes as long as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["Product", "Smoothed", "input_peaks", "level", "products"]

Peaks = Mapping[str, "np.ndarray[Any, Any]"]
"""By value in the graph: the largest magnitude of each channel (last axis) on any call."""

_LEVEL = 3.0
"""A channel is divided down to this many times the median channel. Much less would move the trouble
into the weights, which have 128 steps only; a full balance of the two is no better than nothing."""
_APART = 5.0
"""From this many times the median on, a channel is set apart, where that is cheap."""
_MOST_APART = 16
"""Channels of one input: the product in float32 is to stay a sliver."""


@dataclass(frozen=True)
class Product:
    """A node that multiplies by constant weights, as the quantiser takes them."""

    node: Any
    """onnx.NodeProto: a MatMul, or a Gemm that is one."""
    weights: Any
    """onnx.TensorProto, float32, of rank 2."""
    rows: int
    """The axis of the weights that the input's channels meet."""
    alone: bool
    """Nothing else in the model reads these weights."""


def products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """Of the main graph: the quantiser looks into no other."""
    import onnx

    constants = {one.name: one for one in model.graph.initializer}
    uses: dict[str, int] = {}
    for name in _read_names(model.graph):
        uses[name] = uses.get(name, 0) + 1
    found = []
    for node in model.graph.node:
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        weights = constants.get(node.input[1])
        if weights is None or len(weights.dims) != 2:
            continue
        if weights.data_type != onnx.TensorProto.FLOAT:
            continue
        set_to = {one.name: one.f or one.i for one in node.attribute}
        if set_to.get("transA") or set_to.get("alpha", 1.0) != 1.0:
            continue
        rows = 1 if set_to.get("transB") else 0
        found.append(Product(node, weights, rows, uses[weights.name] == 1))
    return tuple(found)


def _read_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node reads, and the outputs', in this graph and those inside of it."""
    yield from (one.name for one in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            inside = [attribute.g] if attribute.HasField("g") else []
            for one in (*inside, *attribute.graphs):
                yield from _read_names(one)


def input_peaks(file: Path, calls: Sequence[Mapping[str, Any]]) -> Peaks:
    """What the inputs of a file's products reach, on ONNX Runtime.

    Args:
        file: Its weights may lie beside it.
        calls: NumPy arrays by input name; inputs that the graph dropped are ignored.
    """
    import onnx
    import onnxruntime

    model = onnx.load(file, load_external_data=False)
    tapped = list(dict.fromkeys(product.node.input[0] for product in products(model)))
    if not tapped or not calls:
        return {}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tapped)
    path = file.with_name(f"{file.stem}.tapped.onnx")
    try:
        onnx.save_model(model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        wanted = [input_node.name for input_node in session.get_inputs()]
        peaks: dict[str, np.ndarray[Any, Any]] = {}
        for call in calls:
            values = session.run(tapped, {name: call[name] for name in wanted})
            for name, value in zip(tapped, values, strict=True):
                if not value.size:
                    continue
                most = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
                peaks[name] = np.maximum(peaks[name], most) if name in peaks else most
    finally:
        path.unlink(missing_ok=True)
    return peaks


@dataclass(frozen=True)
class Smoothed:
    """What was done to a model."""

    inputs: int = 0
    """Inputs of products, of which several products may share one."""
    exact: tuple[str, ...] = ()
    """Names of the new nodes that must stay in float32."""


def level(model: onnx.ModelProto, peaks: Peaks, *, thorough: bool = False) -> Smoothed:
    """Levels the channels that stand out and sets apart the worst, in place.

    Args:
        model: With its weights in it.
        peaks: From `input_peaks`.
        thorough: Sets apart whatever it would level, also where that is not cheap.
    """
    readers: dict[str, list[Product]] = {}
    for product in products(model):
        if product.alone:
            readers.setdefault(product.node.input[0], []).append(product)
    inputs = 0
    exact: list[str] = []
    for name, group in readers.items():
        plan = _plan(peaks.get(name), group, thorough=thorough)
        if plan is None:
            continue
        inputs += 1
        exact += _rewrite(model, name, group, plan)
    return Smoothed(inputs, tuple(exact))


@dataclass(frozen=True)
class _Plan:
    down: np.ndarray[Any, Any]
    """What each channel is multiplied by, float32: 0 for one that is set apart."""
    up: np.ndarray[Any, Any]
    """What its weights are multiplied by."""
    apart: np.ndarray[Any, Any]
    """Indices of channels, int64."""


def _plan(
    peak: np.ndarray[Any, Any] | None, group: Sequence[Product], *, thorough: bool
) -> _Plan | None:
    """None where no channel stands out, or the channels are not those of the weights."""
    if peak is None or not peak.size or not np.isfinite(peak).all():
        return None
    usual = float(np.median(peak))
    if usual <= 0 or any(one.weights.dims[one.rows] != peak.size for one in group):
        return None
    times = peak / usual
    up = np.maximum(1.0, times / _LEVEL).astype(np.float32)
    if not bool((up > 1).any()):
        return None
    down = 1 / up
    width = sum(one.weights.dims[1 - one.rows] for one in group)
    apart = np.empty(0, np.int64)
    if thorough or width <= peak.size:
        largest = np.argsort(-times)[:_MOST_APART]
        least = _LEVEL if thorough else _APART
        apart = np.sort(largest[times[largest] > least]).astype(np.int64)
        up[apart], down[apart] = 0, 0
    return _Plan(down, up, apart)


def _rewrite(model: onnx.ModelProto, name: str, group: Sequence[Product], plan: _Plan) -> list[str]:
    """Puts the plan into the graph; names of the nodes that must stay in float32."""
    from onnx import helper, numpy_helper

    graph = model.graph

    def constant(label: str, value: np.ndarray[Any, Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), label))
        return label

    at = min(_place(graph, one.node) for one in group)
    levelled, aside = f"{name}/levelled", f"{name}/apart"
    by = constant(f"{levelled}/by", plan.down)
    graph.node.insert(at, helper.make_node("Mul", [name, by], [levelled], name=levelled))
    if len(plan.apart):
        which = constant(f"{aside}/which", plan.apart)
        taken = helper.make_node("Gather", [name, which], [aside], name=aside, axis=-1)
        graph.node.insert(at, taken)
    exact = []
    for one in group:
        weights = numpy_helper.to_array(one.weights)
        by_channel = weights if one.rows == 0 else weights.T
        one.node.input[0] = levelled
        if len(plan.apart):
            result = one.node.output[0]
            # Before the weights are changed: these are the float32 ones.
            rows = constant(f"{result}/apart/weights", by_channel[plan.apart])
            part, rest = f"{result}/apart", f"{result}/levelled"
            product = helper.make_node("MatMul", [aside, rows], [part], name=part)
            total = helper.make_node("Add", [rest, part], [result], name=f"{result}/whole")
            place = _place(graph, one.node) + 1
            one.node.output[0] = rest
            graph.node.insert(place, total)
            graph.node.insert(place, product)
            exact.append(part)
        changed = by_channel * plan.up[:, None]
        changed = np.ascontiguousarray(changed if one.rows == 0 else changed.T)
        one.weights.CopyFrom(numpy_helper.from_array(changed, one.weights.name))
    return exact


def _place(graph: onnx.GraphProto, node: Any) -> int:
    return next(at for at, one in enumerate(graph.node) if one == node)
