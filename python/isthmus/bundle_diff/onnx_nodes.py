"""Returns the nodes of an ONNX file as lines, by the submodule that they come from."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isthmus.bundle_diff.graph import WHOLE, Part
from isthmus.bundle_diff.weights import is_unnamed, model_name, onnx_dtype

__all__ = ["onnx_parts"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_UNKNOWN_SIZE = re.compile(r"unk__\d+|s\d+")
_NUMBER = re.compile(r"_?\d+$")
_FEW = 8
"""The most elements of a constant whose values are shown."""


def onnx_parts(file: Path) -> dict[str, Part]:
    """Returns the submodules with their nodes, and the whole graph with its connections.

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
        for path, of_path in nodes.items():
            parts[path] = writer.part(of_path, titles[path])
    for function in model.functions:
        name = f"function {function.domain}::{function.name}"
        parts[name] = _Writer(function).part(function.node, "")
    parts[WHOLE] = writer.part(model.graph.node, "", whole=True)
    return parts


def _scope(node: Any) -> tuple[str, str]:
    """Returns the submodule that a node comes from, and its class."""
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    if _SCOPES in metadata:
        scopes, classes = (_names(metadata.get(key, "")) for key in (_SCOPES, _CLASSES))
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
    """Parses a list of strings that the exporter printed."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(name) for name in value] if isinstance(value, list) else []


class _Writer:
    """Writes nodes as lines of text."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._types: dict[str, str] = {}
        self._fixed: dict[str, str] = {}
        """The text of the values with names of their own: inputs, outputs and weights."""
        self._frame: list[str] = []
        if not hasattr(graph, "initializer"):  # all values of a function are local
            self._frame = [f"inputs: {len(graph.input)}, outputs: {len(graph.output)}"]
            return
        for value in (*graph.value_info, *graph.input, *graph.output):
            self._types[value.name] = _type(value)
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in weights]
        outputs = [value.name for value in graph.output]
        self._fixed = {name: name for name in (*inputs, *outputs)}
        self._frame = [f"inputs: {', '.join(inputs)}", f"outputs: {', '.join(outputs)}"]
        for tensor in graph.initializer:
            self._fixed[tensor.name] = _weight(tensor, numpy_helper)

    def part(self, nodes: Sequence[Any], title: str, *, whole: bool = False) -> Part:
        """Returns the nodes in their order."""
        numbers: dict[str, str] = {}

        def exact(name: str) -> str:
            return self._fixed.get(name) or numbers.setdefault(name, f"%{len(numbers)}")

        def key(name: str) -> str:
            return self._fixed.get(name) or _NUMBER.sub("", name)

        def shown(name: str) -> str:
            return self._fixed.get(name) or name

        frame = self._frame if whole else []
        texts = [
            tuple(frame) + tuple(line for node in nodes for line in self._lines(node, naming))
            for naming in (exact, key, shown)
        ]
        return Part(title, *texts)

    def _lines(self, node: Any, naming: Any, indent: str = "") -> Iterator[str]:
        """Yields a node, and indented the graphs inside of a branch or loop."""
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        inputs = [naming(name) if name else "None" for name in node.input]
        attributes = []
        inner: list[tuple[str, Any]] = []
        for attribute in sorted(node.attribute, key=lambda attribute: str(attribute.name)):
            if attribute.HasField("g"):
                inner.append((attribute.name, attribute.g))
            else:
                attributes.append(f"{attribute.name}={_attribute(attribute)}")
        # Outputs are named after inputs, so that numbers follow the flow of the data.
        outputs = [naming(name) if name else "_" for name in node.output]
        types = [self._types[name] for name in node.output if name in self._types]
        text = f"{indent}{', '.join(outputs)} = {operator}({', '.join([*inputs, *attributes])})"
        yield f"{text}: {', '.join(types)}" if types else text
        for name, graph in inner:
            yield f"{indent}  {name}:"
            for child in graph.node:
                yield from self._lines(child, naming, f"{indent}    ")
            results = ", ".join(naming(value.name) for value in graph.output)
            yield f"{indent}    gives {results}"


def _weight(tensor: Any, numpy_helper: Any) -> str:
    """Returns a weight's name; for an unnamed constant its values, or its type if it is large."""
    if not is_unnamed(tensor.name):
        return model_name(str(tensor.name))
    if math.prod(tensor.dims) <= _FEW and not tensor.external_data:
        return f"{numpy_helper.to_array(tensor).tolist()}"
    return f"constant({onnx_dtype(tensor.data_type)}{list(tensor.dims)})"


def _attribute(attribute: Any) -> str:
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(attribute)
    if attribute.HasField("t"):
        array = numpy_helper.to_array(attribute.t)
        few = array.size <= _FEW
        return str(array.tolist()) if few else f"constant({array.dtype}{list(array.shape)})"
    if isinstance(value, bytes):
        return f'"{value.decode("utf-8", "replace")}"'
    if isinstance(value, float):
        return f"{value:.9g}"
    several = isinstance(value, (list, tuple)) or "Repeated" in type(value).__name__
    return str(list(value)) if several else str(value)


def _type(value: Any) -> str:
    """Returns "float32[batch, 3]"; sizes with names that the exporter invented are "?"."""
    kind = value.type.tensor_type
    if not kind.elem_type:
        return "?"
    sizes = []
    for dim in kind.shape.dim:
        text = str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param
        sizes.append(_UNKNOWN_SIZE.sub("?", text) or "?")
    return f"{onnx_dtype(kind.elem_type)}[{', '.join(sizes)}]"
