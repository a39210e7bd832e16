"""The nodes of an ONNX file as lines, by the submodule that they come from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isthmus.bundle_diff.graph import WHOLE, Part

__all__ = ["onnx_parts"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_UNKNOWN_SIZE = re.compile(r"unk__\d+|s\d+")
_NUMBER = re.compile(r"_?\d+$")
_FEW = 8
"""Elements of a constant that are shown as they are."""


def onnx_parts(file: Path) -> dict[str, Part]:
    """Submodules with their nodes, and the whole graph, whose wires also count.

    Raises:
        ImportError: The package onnx is not installed.
    """
    import onnx

    model: Any = onnx.load(str(file), load_external_data=False)
    writer = _Writer(model.graph)
    parts: dict[str, Part] = {}
    titles: dict[str, str] = {}
    nodes: dict[str, list[Any]] = {}
    for node in model.graph.node:
        path, title = _scope(node)
        nodes.setdefault(path, []).append(node)
        titles.setdefault(path, title)
    if len(nodes) > 1:
        for path, several in nodes.items():
            parts[path] = writer.part(several, titles[path])
    for function in model.functions:
        name = f"function {function.domain}::{function.name}"
        parts[name] = _Writer(function).part(function.node, "")
    parts[WHOLE] = writer.part(model.graph.node, "", whole=True)
    return parts


def _scope(node: Any) -> tuple[str, str]:
    """The submodule that a node comes from, and its class."""
    told = {metadata_prop.key: metadata_prop.value for metadata_prop in node.metadata_props}
    if _SCOPES in told:
        scopes, classes = (_names(told.get(key, "")) for key in (_SCOPES, _CLASSES))
        inside = [
            (scope, classes[at] if at < len(classes) else "")
            for at, scope in enumerate(scopes[:-1])
            if scope == "holder" or scope.startswith("holder.")
        ]
        if inside:
            path, title = inside[-1]
            path = path.removeprefix("holder").removeprefix(".module").removeprefix(".")
            return path, title.rpartition(".")[2]
        return "outside of the model", ""
    path = node.name.rpartition("/")[0].strip("/").replace("/", ".")
    return path.removeprefix("module").removeprefix("."), ""


def _names(text: str) -> list[str]:
    """A list of strings, as the exporter prints it."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(one) for one in value] if isinstance(value, list) else []


class _Writer:
    """Nodes as lines of text."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._types: dict[str, str] = {}
        self._fixed: dict[str, str] = {}
        """Values that have a name of their own: the graph's inputs, outputs and weights."""
        self._frame: list[str] = []
        if not hasattr(graph, "initializer"):  # a function: its values are all local
            self._frame = [f"inputs: {len(graph.input)}, outputs: {len(graph.output)}"]
            return
        for one in (*graph.value_info, *graph.input, *graph.output):
            self._types[one.name] = _type(one)
        weights = {one.name for one in graph.initializer}
        inputs = [one.name for one in graph.input if one.name not in weights]
        outputs = [one.name for one in graph.output]
        self._fixed = {name: name for name in (*inputs, *outputs)}
        self._frame = [f"inputs: {', '.join(inputs)}", f"outputs: {', '.join(outputs)}"]
        for one in graph.initializer:
            self._fixed[one.name] = _weight(one, numpy_helper)

    def part(self, nodes: Sequence[Any], title: str, *, whole: bool = False) -> Part:
        """The nodes, in their order."""
        numbers: dict[str, str] = {}

        def exact(name: str) -> str:
            return self._fixed.get(name) or numbers.setdefault(name, f"%{len(numbers)}")

        def key(name: str) -> str:
            return self._fixed.get(name) or _NUMBER.sub("", name)

        def shown(name: str) -> str:
            return self._fixed.get(name) or name

        frame = self._frame if whole else []
        several = [
            tuple(frame) + tuple(line for node in nodes for line in self._lines(node, naming))
            for naming in (exact, key, shown)
        ]
        return Part(title, *several)

    def _lines(self, node: Any, naming: Any, indent: str = "") -> Iterator[str]:
        """One node; the graphs inside of a branch or loop follow, further in."""
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        inputs = [naming(name) if name else "None" for name in node.input]
        attributes = []
        inner: list[tuple[str, Any]] = []
        for one in sorted(node.attribute, key=lambda one: str(one.name)):
            if one.HasField("g"):
                inner.append((one.name, one.g))
            else:
                attributes.append(f"{one.name}={_attribute(one)}")
        # What it gives is named after what it takes, so that numbers follow the way of the data.
        outputs = [naming(name) if name else "_" for name in node.output]
        types = [self._types[name] for name in node.output if name in self._types]
        text = f"{indent}{', '.join(outputs)} = {operator}({', '.join([*inputs, *attributes])})"
        yield f"{text}: {', '.join(types)}" if types else text
        for name, graph in inner:
            yield f"{indent}  {name}:"
            for child in graph.node:
                yield from self._lines(child, naming, f"{indent}    ")
            given = ", ".join(naming(one.name) for one in graph.output)
            yield f"{indent}    gives {given}"


def _weight(tensor: Any, numpy_helper: Any) -> str:
    """A weight by its name, an unnamed constant by its type, and by its values where few."""
    from isthmus.bundle_diff.weights import is_unnamed, model_name

    shape = list(tensor.dims)
    elements = 1
    for size in shape:
        elements *= size
    if not is_unnamed(tensor.name):
        return model_name(str(tensor.name))
    inline = elements <= _FEW and not tensor.external_data
    if inline:
        return f"{numpy_helper.to_array(tensor).tolist()}"
    return f"constant({_dtype(tensor.data_type)}{shape})"


def _attribute(one: Any) -> str:
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(one)
    if one.HasField("t"):
        array = numpy_helper.to_array(one.t)
        few = array.size <= _FEW
        return str(array.tolist()) if few else f"constant({array.dtype}{list(array.shape)})"
    if isinstance(value, bytes):
        return f'"{value.decode("utf-8", "replace")}"'
    if isinstance(value, float):
        return f"{value:.9g}"
    return (
        str(list(value))
        if isinstance(value, (list, tuple)) or "Repeated" in type(value).__name__
        else str(value)
    )


def _type(value: Any) -> str:
    """ "float32[batch, 3]"; sizes that the exporter made up are unknown."""
    kind = value.type.tensor_type
    if not kind.elem_type:
        return "?"
    sizes = []
    for one in kind.shape.dim:
        text = str(one.dim_value) if one.HasField("dim_value") else one.dim_param
        sizes.append(_UNKNOWN_SIZE.sub("?", text) or "?")
    return f"{_dtype(kind.elem_type)}[{', '.join(sizes)}]"


def _dtype(code: int) -> str:
    import onnx

    name = onnx.TensorProto.DataType.Name(code).lower()
    return {"float": "float32", "double": "float64"}.get(name, str(name))
