"""Makes a model's files as torch's own tools do without isthmus, and compares their answers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hf_models import Example
from torch import Tensor, nn

__all__ = ["WAYS", "by_hand"]

RELATIVE = 1e-3
"""The largest difference of a right answer, as a share of the largest number of the output."""

Inputs = Mapping[str, Tensor]
Answer = Callable[[Inputs], Sequence[Tensor]]


class Flat(nn.Module):
    """Takes inputs in order and gives a tuple of tensors, as torch's exporters want it."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = list(names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(self.module(**dict(zip(self.names, inputs, strict=True)))))


def tensors_of(value: Any) -> list[Tensor]:
    """Returns the tensors of nested outputs, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors_of(part)]
    return []


def by_hand(example: Example, way: str) -> str:
    """Returns "right", "wrong at ..." or "fails: ..." for a model in one of `WAYS`.

    The answers are compared with eager's at the example and at two other shapes.
    """
    flat = Flat(example.module, list(example.inputs)).eval()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            answer = WAYS[way](flat, example, Path(folder))
        except Exception as error:
            return f"fails: {type(error).__name__}: {first_line(error)}"
        for shape in shapes(example):
            inputs = inputs_of(example, shape)
            wanted = flat(*inputs.values())
            sizes = ", ".join(f"{name}={size}" for name, size in shape.items())
            try:
                given = answer(inputs)
            except Exception as error:
                return f"fails at {sizes}: {type(error).__name__}: {first_line(error)}"
            if not same(wanted, given):
                return f"wrong at {sizes}"
    return "right"


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), "")[:200]


def shapes(example: Example) -> list[dict[str, int]]:
    """Returns the sizes of the example and of two other calls."""
    own = {
        name: example.inputs[key].shape[axis]
        for key, axes in example.dynamic.items()
        for axis, name in axes.items()
    }
    less = {name: max(example.dims[name][0], size // 2) for name, size in own.items()}
    more = {name: min(example.dims[name][1], size + 3) for name, size in own.items()}
    return [own, more, less]


def inputs_of(example: Example, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Returns inputs of other sizes: the example's numbers, repeated."""
    inputs: dict[str, Tensor] = {}
    for key, value in example.inputs.items():
        for axis, name in example.dynamic.get(key, {}).items():
            index = torch.arange(sizes[name]) % value.shape[axis]
            value = value.index_select(axis, index)
        inputs[key] = value
    return inputs


def same(wanted: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """Returns whether answers have the same shapes, and the same numbers but for rounding."""
    if len(wanted) != len(given):
        return False
    for expected, other in zip(wanted, given, strict=True):
        if expected.shape != other.shape:
            return False
        if not expected.is_floating_point():
            if not torch.equal(expected, other):
                return False
            continue
        finite = expected[expected.isfinite()]
        most = float(finite.abs().max()) if finite.numel() else 0.0
        if not torch.allclose(expected, other, rtol=0.0, atol=RELATIVE * most, equal_nan=True):
            return False
    return True


def _trace(flat: Flat, example: Example, folder: Path) -> Answer:
    path = folder / "model.pt"
    inputs = tuple(example.inputs.values())
    traced = torch.jit.trace(flat, inputs, strict=False, check_trace=False)
    torch.jit.save(traced, path)
    loaded = torch.jit.load(path)
    return lambda inputs: loaded(*inputs.values())


def _dynamic_shapes(example: Example) -> tuple[dict[int, Any], ...]:
    dims = {
        name: torch.export.Dim(name, min=low, max=high)
        for name, (low, high) in example.dims.items()
    }
    return tuple(
        {axis: dims[name] for axis, name in example.dynamic.get(key, {}).items()}
        for key in example.inputs
    )


def _export(flat: Flat, example: Example, folder: Path) -> Answer:
    shapes = {"inputs": _dynamic_shapes(example)}
    program = torch.export.export(flat, tuple(example.inputs.values()), dynamic_shapes=shapes)
    path = folder / "model.pt2"
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(*inputs.values())


def _onnx(flat: Flat, example: Example, folder: Path) -> Answer:
    import onnxruntime

    path = folder / "model.onnx"
    torch.onnx.export(
        flat, tuple(example.inputs.values()), path, dynamo=True, verbose=False,
        dynamic_shapes={"inputs": _dynamic_shapes(example)},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def answer(inputs: Inputs) -> list[Tensor]:
        values = [value.numpy() for value in inputs.values()]
        return [
            torch.from_numpy(output)
            for output in session.run(None, dict(zip(names, values, strict=True)))
        ]

    return answer


WAYS: dict[str, Callable[[Flat, Example, Path], Answer]] = {
    "torch.jit.trace": _trace,
    "torch.export": _export,
    "torch.onnx.export": _onnx,
}
"""The tools, each with the function that makes a file and returns what answers from it."""
