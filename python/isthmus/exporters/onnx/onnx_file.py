"""ONNX files that somebody else made: their signature, and their answers on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.bundle.manifest import Method, Tree, ValueSpec
from isthmus.capture.file_module import FileModule
from isthmus.capture.flat import dtype_name
from isthmus.errors import BundleError, InvalidInput, first_line
from isthmus.runtime.file_engines import OnnxRuntimeEngine

if TYPE_CHECKING:
    from isthmus import _core

__all__ = ["OnnxFile", "OnnxValue"]

_DTYPES = {
    "float": "float32",
    "double": "float64",
    **{name: name for name in ("float16", "bfloat16", "bool", "complex64", "complex128")},
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""The dtypes by the name that ONNX Runtime gives them, in "tensor(float)"."""
_SIZED_BY_DATA = frozenset(
    ("NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "ConcatFromSequence")
)
"""Operators whose results have sizes that no size of an input tells."""


@dataclass(frozen=True)
class OnnxValue:
    """An input or output of the graph."""

    name: str
    dtype: str
    """The name in PyTorch: "float32"."""
    shape: tuple[int | str | None, ...]
    """A number, a name as the file has it, or None for each axis. Empty also for a value of which
    the file tells no shape."""


class OnnxFile(FileModule):
    """An ONNX file on ONNX Runtime, in float32 as the CPU provider computes.

    Inputs are keyword arguments by the graph's names, and the result is a dictionary of outputs.
    """

    def __init__(self, file: Path, label: str, scan: _core.OnnxScan) -> None:
        """Opens the file and reads its signature.

        Args:
            file: The model, with its weights beside it; what it holds was scanned.
            label: The path that the user gave, for messages.
            scan: The scan of the file.

        Raises:
            BundleError: ONNX Runtime cannot open the file, or a value is no dense tensor.
        """
        bare = Method("forward", (), (), (), (), Tree("none"))
        super().__init__(partial(OnnxRuntimeEngine, [file], [bare]))
        try:
            engine: OnnxRuntimeEngine = self.opened
        except Exception as error:  # whatever ONNX Runtime says of a file that it cannot load
            raise BundleError(
                f"{label}: ONNX Runtime cannot open it ({first_line(error)}); it may be damaged, "
                "or need a newer onnxruntime or operators of another library"
            ) from error
        session = engine.session("forward")
        self.file = file
        self.scan = scan
        self.reference = engine.runtime.replace("onnxruntime", "ONNX Runtime")
        self.inputs = tuple(_value(label, "input", node) for node in session.get_inputs())
        self.outputs = tuple(_value(label, "output", node) for node in session.get_outputs())
        self.defaults = tuple(node.name for node in session.get_overridable_initializers())
        self.computed_sizes = _computed_sizes(self.inputs, self.outputs, scan)
        specs = [[ValueSpec(v.name, "tensor", v.dtype, None) for v in values]
                 for values in (self.inputs, self.outputs)]  # fmt: skip
        self._method = Method("forward", tuple(specs[0]), tuple(specs[1]), (), (), Tree("none"))

    def arguments(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of a call, in the order of the graph's inputs.

        Raises:
            InvalidInput: A name, a dtype, a rank or a fixed size is not that of the graph.
        """
        for name in values:
            if name in self.defaults:
                raise InvalidInput(
                    f'inputs: "{name}" has a default in the file, which a bundle keeps; leave it '
                    "out"
                )
        names = [value.name for value in self.inputs]
        unknown = [name for name in values if name not in names]
        missing = [name for name in names if name not in values]
        if unknown or missing:
            wrong = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
            takes = ", ".join(f"{v.name}: {v.dtype}{_shown(v.shape)}" for v in self.inputs)
            raise InvalidInput(f"inputs: {wrong}; the file takes {takes or 'nothing'}")
        return (), {value.name: _checked(value, values[value.name]) for value in self.inputs}

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Returns the outputs by name."""
        engine: OnnxRuntimeEngine = self.opened
        return engine.call(self._method, inputs)


def _checked(expected: OnnxValue, value: Any) -> Tensor:
    number = isinstance(value, (bool, int, float))
    try:
        tensor = torch.as_tensor(value, dtype=getattr(torch, expected.dtype) if number else None)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f'inputs: "{expected.name}" is no tensor ({first_line(error)}), expected '
            f"{expected.dtype}{_shown(expected.shape)}; give a tensor or an array"
        ) from error
    dtype = dtype_name(tensor)
    fits = len(expected.shape) in (0, tensor.dim()) and all(
        not isinstance(size, int) or size == actual
        for size, actual in zip(expected.shape, tensor.shape, strict=False)
    )
    if dtype != expected.dtype or not fits:
        raise InvalidInput(
            f'inputs: "{expected.name}" is {dtype}{_shown(tuple(tensor.shape))}, expected '
            f"{expected.dtype}{_shown(expected.shape)}; give an example of that dtype and shape"
        )
    return tensor


def _shown(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _value(label: str, side: str, node: Any) -> OnnxValue:
    kind, _, rest = str(node.type).partition("(")
    dtype = _DTYPES.get(rest.removesuffix(")"), "") if kind == "tensor" else ""
    if not dtype:
        raise BundleError(
            f'{label}: its {side} "{node.name}" is a {node.type}; {_remedy(node.type)}'
        )
    shape = tuple(size if isinstance(size, (int, str)) else None for size in node.shape)
    return OnnxValue(node.name, dtype, shape)


def _remedy(kind: str) -> str:
    """Returns what to do about a value that is no dense tensor of numbers."""
    if kind.startswith("tensor(string"):
        return (
            "isthmus carries numbers and no texts: make the model take what a tokenizer or a table "
            "gives, as integers"
        )
    if kind.startswith(("seq(map", "map")):
        return (
            "isthmus carries dense tensors: convert a classifier of scikit-learn with "
            "options={'zipmap': False}, or take the graph's output before ZipMap "
            "(onnx.utils.extract_model)"
        )
    return (
        "isthmus carries dense tensors: give a tensor back from the model, or cut the graph before "
        "that value (onnx.utils.extract_model)"
    )


def _computed_sizes(
    inputs: tuple[OnnxValue, ...], outputs: tuple[OnnxValue, ...], scan: _core.OnnxScan
) -> Mapping[str, frozenset[int]]:
    """Returns the open axes of outputs, in a graph with operators whose results data size."""
    if not _SIZED_BY_DATA & set(scan.operators):
        return {}
    known = {size for value in inputs for size in value.shape if size is not None}
    return {
        value.name: frozenset(
            axis
            for axis, size in enumerate(value.shape)
            if not isinstance(size, int) and size not in known
        )
        for value in outputs
    }
