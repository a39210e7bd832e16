"""Discrete Fourier transforms in an ONNX graph: their sizes, and transforms that are accurate.

Shape inference gives a transform whose length the graph computes the size of its input, so that a
call fails on ONNX Runtime with "Shape mismatch attempting to re-use buffer". And ONNX Runtime
transforms a length that is no power of two with a chirp in float32 whose angles are not reduced, so
that the error grows with the length, to 2e-4 of the largest value at 16000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.exporters.onnx.bluestein import Transform, bluestein_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["hide_sizes", "make_transforms_accurate"]

_AXIS_IS_INPUT = 20
"""The operator set from which the axis is an input; before, it is an attribute."""


def hide_sizes(model: onnx.ModelProto) -> None:
    """Hides sizes from shape inference that it would carry through a transform.

    A reshape whose axis is -1 hides the size of the transformed axis. The sizes that the file has
    for values that follow from a transform may be wrong, and are removed; runtimes compute them.
    """
    from onnx import helper, numpy_helper

    transforms = _Transforms(model)
    nodes: list[onnx.NodeProto] = []
    for node, transform in transforms.pairs:
        if transform is not None and len(node.input) > 1 and node.input[1]:
            rank, hidden = len(transform.shape), f"{node.output[0]}/hidden"
            places = [0] * rank
            places[transform.axis] = -1
            target = numpy_helper.from_array(np.array(places, np.int64), f"{hidden}/shape")
            model.graph.initializer.append(target)
            nodes.append(helper.make_node("Reshape", [node.input[0], target.name], [hidden]))
            sizes = list(transform.shape)
            sizes[transform.axis] = None
            known = helper.make_tensor_value_info(hidden, transform.dtype, sizes)
            model.graph.value_info.append(known)
            node.input[0] = hidden
        nodes.append(node)
    transforms.replace(nodes)


def make_transforms_accurate(path: Path) -> bool:
    """Puts transforms in float64 into the place of those in a file.

    One whose length is not known to be a power of two becomes Bluestein's algorithm.

    Returns:
        False where there is none.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    transforms = _Transforms(model)
    nodes: list[onnx.NodeProto] = []
    for node, transform in transforms.pairs:
        if transform is None:
            nodes.append(node)
        elif transform.is_power_of_two:
            nodes += _in_float64(node)
        else:
            nodes += bluestein_nodes(transform, axis_is_input=transforms.axis_is_input)
    if len(nodes) == len(transforms.pairs):
        return False
    transforms.replace(nodes)
    onnx.save_model(model, path)
    onnx.checker.check_model(path)
    return True


def _in_float64(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Returns a node that computes in float64, and gives its output in the input's type."""
    import onnx
    from onnx import helper

    x, y = node.input[0], node.output[0]
    wide, result = f"{y}/wide", f"{y}/result"
    own = onnx.NodeProto()
    own.CopyFrom(node)
    own.input[0], own.output[0] = wide, result
    return [
        helper.make_node("Cast", [x], [wide], to=onnx.TensorProto.DOUBLE),
        own,
        helper.make_node("CastLike", [result, x], [y]),
    ]


class _Transforms:
    """The nodes of a graph, with what each DFT among them computes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self.axis_is_input = versions.get("", 0) >= _AXIS_IS_INPUT
        self._graph = model.graph
        constants = _constants(model.graph)
        types = {
            value.name: value.type.tensor_type
            for value in (*model.graph.value_info, *model.graph.input)
        }
        self.pairs: list[tuple[onnx.NodeProto, Transform | None]] = []
        self._changed: set[str] = set()
        for node in model.graph.node:  # in topological order, as ONNX requires
            transform = None
            if node.op_type == "DFT":
                transform = _read(node, constants, types, self.axis_is_input)
            if transform is not None or self._changed.intersection(node.input):
                self._changed.update(node.output)
            self.pairs.append((node, transform))

    def replace(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Sets the nodes, and removes the sizes of values that follow from a transform."""
        kept = [value for value in self._graph.value_info if value.name not in self._changed]
        nodes = list(nodes)
        self._graph.ClearField("node")
        self._graph.node.extend(nodes)
        self._graph.ClearField("value_info")
        self._graph.value_info.extend(kept)


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    """Returns the small constants of a graph as arrays, by name."""
    from onnx import numpy_helper

    small = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if len(tensor.raw_data) <= 8
    }
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and len(attribute.t.raw_data) <= 8:
                small[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name == "value_int":
                small[node.output[0]] = np.array(attribute.i)
    return small


def _read(
    node: onnx.NodeProto,
    constants: Mapping[str, Any],
    types: Mapping[str, Any],
    axis_is_input: bool,
) -> Transform | None:
    """Returns what a DFT node computes; None where too little is known of it."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    inverse, onesided = (bool(attributes.get(name)) for name in ("inverse", "onesided"))
    length_name, axis_name = (node.input[at] if at < len(node.input) else "" for at in (1, 2))
    axis = attributes.get("axis", -2 if axis_is_input else 1)
    if axis_name:
        if axis_name not in constants:
            return None
        axis = int(constants[axis_name])
    known = types.get(node.input[0])
    if known is None:
        return None
    shape = [size.dim_value or size.dim_param or None for size in known.shape.dim]
    if not shape or shape[-1] not in ((2,) if inverse and onesided else (1, 2)):
        return None
    axis -= len(shape) if axis >= 0 else 0
    length = shape[axis]
    if length_name:
        length = int(constants[length_name]) if length_name in constants else None
    number = length if isinstance(length, int) else None
    return Transform(node, axis, shape, known.elem_type, number, inverse, onesided)
