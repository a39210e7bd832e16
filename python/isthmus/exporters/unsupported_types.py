"""Types that ONNX or its runtimes do not compute in, told with the operator and other formats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.errors import ExportError

if TYPE_CHECKING:
    import onnx

    from isthmus.exporters.export_request import ExportRequest

__all__ = ["explain_unsupported_type", "refuse_complex"]

_NO_KERNEL = re.compile(
    r"Could not find an implementation for (\w+)\(\d+\) node with name '([^']*)'"
)
_NO_TYPE = re.compile(r"op_type:(\w+).*?has unsupported type: tensor\((\w+)\)")
_NAMES = {"float": "float32", "double": "float64"}
"""The types that ONNX calls otherwise than PyTorch does."""
_ADVICE = (
    "use the formats torchscript or aoti, which compute in {type}, or export the module in float32 "
    "(module.float())"
)


def refuse_complex(request: ExportRequest) -> None:
    """Refuses a model that takes or gives complex numbers.

    Raises:
        ExportError: Names the input or output, and the formats that carry it.
    """
    for method in request.methods:
        sides = [("input", spec) for spec in method.inputs]
        sides += [("output", spec) for spec in method.results]
        for side, spec in sides:
            if spec.dtype.startswith("complex"):
                use = "take its parts with torch.view_as_complex"
                if side == "output":
                    use = "return torch.view_as_real of it"
                raise ExportError(
                    f'the {side} "{spec.name}" is {spec.dtype}, and a complex {side} has no form '
                    "in ONNX: use the formats torchscript or aoti, which carry complex numbers, or "
                    f"{use}"
                )


def explain_unsupported_type(text: str, files: Sequence[Path] = ()) -> str:
    """Returns the sentence for a runtime's or checker's refusal of a type; empty for others.

    Args:
        text: What the runtime or the checker said.
        files: The ONNX files, from which the type is read where the text does not name it.
    """
    found = _NO_TYPE.search(text)
    if found is not None:
        dtype = _NAMES.get(found[2], found[2])
        return f"ONNX has no {found[1]} for {dtype}: {_ADVICE.format(type=dtype)}"
    found = _NO_KERNEL.search(text)
    if found is None:
        return ""
    dtype = _type_of(files, found[1], found[2])
    if not dtype:
        return ""
    return f"ONNX Runtime has no {found[1]} for {dtype}: {_ADVICE.format(type=dtype)}"


def _type_of(files: Sequence[Path], operator: str, name: str) -> str:
    """Returns the type other than float32 in which an operator computes; empty if unknown.

    A runtime may make the operator of another one. Then it is the first such type of the graph.
    """
    import onnx
    from onnx import inliner

    usual = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.FLOAT)
    floats = (onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for file in files:
        model = inliner.inline_local_functions(onnx.load(file, load_external_data=False))
        model = onnx.shape_inference.infer_shapes(model)
        types = _types(model.graph)
        found = [
            types.get(node.input[0], onnx.TensorProto.UNDEFINED)
            for node in model.graph.node
            if node.op_type == operator and node.input and (not name or node.name == name)
        ]
        found = [dtype for dtype in found if dtype not in usual]
        found += [dtype for dtype in types.values() if dtype in floats]
        if found:
            word = str(onnx.TensorProto.DataType.Name(found[0])).lower()
            return _NAMES.get(word, word)
    return ""


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """Returns the element type of each value of a graph that is known."""
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
