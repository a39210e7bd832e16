"""Attention in exported ONNX equals torch on every kind of mask, in a form that runtimes fuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from isthmus.exporters.onnx.attention import translations  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter warns about itself

HEADS, WIDTH = 2, 8


class Attention(nn.Module):
    """The operator alone; heads are split as models do it."""

    def __init__(self, *, masked: bool = False, **options: Any) -> None:
        super().__init__()
        self._masked, self._options = masked, options

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        split = [x.view(*x.shape[:2], HEADS, WIDTH).transpose(1, 2) for x in (query, memory)]
        return nn.functional.scaled_dot_product_attention(
            split[0], split[1], split[1], mask if self._masked else None, **self._options
        ).to(torch.float32)


def inputs(batch: int, targets: int, sources: int, mask: Tensor) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch * 100 + targets)
    return (
        torch.randn(batch, targets, HEADS * WIDTH, generator=generator),
        torch.randn(batch, sources, HEADS * WIDTH, generator=generator),
        mask,
    )


def padding(batch: int, targets: int, sources: int) -> Tensor:
    """Returns a mask in which the last sample has no key, and the others lack their last."""
    mask = torch.ones(batch, 1, targets, sources, dtype=torch.bool)
    mask[..., -1] = sources == 1
    mask[-1] = False
    return mask


def infinite(batch: int, targets: int, sources: int) -> Tensor:
    """Returns the same mask as numbers to add."""
    return torch.zeros(batch, 1, targets, sources).masked_fill(
        ~padding(batch, targets, sources), -torch.inf
    )


def lowest(batch: int, targets: int, sources: int) -> Tensor:
    """Returns the mask with the least finite number: a row of it is an even mean and not zero."""
    return infinite(batch, targets, sources).clamp(min=torch.finfo(torch.float32).min)


def slopes(batch: int, targets: int, sources: int) -> Tensor:
    """Returns biases by distance, with nothing masked."""
    return -torch.rand(batch, 1, targets, sources) * 3


def unused(batch: int, targets: int, sources: int) -> Tensor:
    return torch.ones(batch, 1, targets, sources, dtype=torch.bool)


CASES: dict[str, tuple[Callable[[int, int, int], Tensor], dict[str, Any]]] = {
    "no mask": (unused, {}),
    "scale": (unused, {"scale": 0.3}),
    "causal": (unused, {"is_causal": True}),
    "padding": (padding, {"masked": True}),
    "-inf": (infinite, {"masked": True}),
    "least finite": (lowest, {"masked": True}),
    "biases": (slopes, {"masked": True}),
}


def export(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> Any:
    batch, targets, sources = (torch.export.Dim(n) for n in ("batch", "targets", "sources"))
    program = torch.export.export(
        module.eval(),
        example,
        dynamic_shapes=(
            {0: batch, 1: targets},
            {0: batch, 1: sources},
            {0: batch, 2: targets, 3: sources},
        ),
    )
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        opset_version=20,
        custom_translation_table=translations(),
        verbose=False,
    )
    assert exported is not None
    onnx.save_model(exported.model_proto, path)
    return exported.model_proto


@pytest.mark.parametrize("name", CASES)
def test_answers_are_torch_s(name: str, tmp_path: Path) -> None:
    mask, options = CASES[name]
    module = Attention(**options)
    path = tmp_path / "attention.onnx"
    model = export(module, inputs(3, 5, 7, mask(3, 5, 7)), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, targets, sources in ((3, 5, 7), (1, 1, 1), (2, 9, 4), (1, 6, 6)):
        given = inputs(batch, targets, sources, mask(batch, targets, sources))
        taken = {input_node.name for input_node in session.get_inputs()}
        feed = {
            node.name: value.numpy()
            for node, value in zip(model.graph.input, given, strict=True)
            if node.name in taken
        }
        result = session.run(None, feed)[0]
        np.testing.assert_allclose(result, module(*given).numpy(), rtol=1e-5, atol=1e-6)


def test_half_precision_gives_zeros_where_there_is_no_key(tmp_path: Path) -> None:
    class Half(Attention):
        def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
            return super().forward(query.half() * 30, memory.half() * 30, mask)

    module = Half(masked=True)
    given = inputs(3, 5, 7, padding(3, 5, 7))
    path = tmp_path / "attention.onnx"
    model = export(module, given, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {node.name: v.numpy() for node, v in zip(model.graph.input, given, strict=True)}
    result = session.run(None, feed)[0]
    assert np.isfinite(result).all()
    assert not result[-1].any()


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_product_softmax_product(name: str, tmp_path: Path) -> None:
    mask, options = CASES[name]
    model = export(Attention(**options), inputs(3, 5, 7, mask(3, 5, 7)), tmp_path / "a.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("MatMul") == 2
    assert "IsNaN" not in operators
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    (product,) = (node for node in model.graph.node if softmax.output[0] in node.input)
    assert product.op_type == "MatMul"
    # The keys are transposed, without a reshape to computed shapes.
    scores = next(node for node in model.graph.node if node.op_type == "MatMul")
    keys = next(node for node in model.graph.node if scores.input[1] in node.output)
    assert keys.op_type == "Transpose"


def test_openvino_fuses_it(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "attention.onnx"
    export(Attention(masked=True), inputs(3, 5, 7, padding(3, 5, 7)), path)
    compiled = openvino.Core().compile_model(str(path), "CPU")
    kinds = [
        operation.get_rt_info()["layerType"].value
        for operation in compiled.get_runtime_model().get_ops()
    ]
    assert "Softmax" not in kinds
    assert "Subgraph" in kinds


def test_what_it_does_not_translate_is_left_to_the_exporter(tmp_path: Path) -> None:
    class Grouped(nn.Module):
        def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
            split = query.view(*query.shape[:2], HEADS, WIDTH).transpose(1, 2)
            shared = memory[..., :WIDTH].unsqueeze(1)
            return nn.functional.scaled_dot_product_attention(
                split, shared, shared, mask, enable_gqa=True
            )

    module = Grouped()
    given = inputs(3, 5, 7, unused(3, 5, 7))
    path = tmp_path / "grouped.onnx"
    model = export(module, given, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {node.name: v.numpy() for node, v in zip(model.graph.input, given, strict=True)}
    np.testing.assert_allclose(
        session.run(None, feed)[0], module(*given).numpy(), rtol=1e-5, atol=1e-6
    )
