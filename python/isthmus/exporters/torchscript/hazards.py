"""What in a graph may hurt later: device and dtype literals, randomness, baked-in constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from isthmus.bundle.manifest import Hazard
from isthmus.exporters.source_lines import in_source_range
from isthmus.exporters.torchscript.operators import graphs, nodes

LARGE_CONSTANT = 1 << 20
"""Bytes from which a constant tensor in the graph is worth a word."""

_RANDOM = {
    "aten::rand", "aten::randn", "aten::randint", "aten::rand_like", "aten::randn_like",
    "aten::randint_like", "aten::randperm", "aten::bernoulli", "aten::bernoulli_",
    "aten::multinomial", "aten::normal", "aten::normal_", "aten::uniform_", "aten::random_",
    "aten::poisson", "aten::exponential_", "aten::geometric_", "aten::cauchy_",
    "aten::log_normal_", "aten::rrelu_with_noise",
}  # fmt: skip
_DROPOUT = {
    "aten::dropout", "aten::dropout_", "aten::feature_dropout", "aten::feature_dropout_",
    "aten::alpha_dropout", "aten::alpha_dropout_", "aten::feature_alpha_dropout",
    "aten::native_dropout",
}  # fmt: skip
# Scalar types as the graph writes them: c10::ScalarType.
_FLOATS = {5: "float16", 6: "float32", 7: "float64", 15: "bfloat16"}


@dataclass(frozen=True)
class GraphLiteral:
    """A device or a floating-point dtype written into the graph."""

    kind: Literal["device", "dtype"]
    value: str
    operator: str
    where: str
    scripted: bool
    """True in scripted code, where the literal is in the user's source and stays."""


@dataclass(frozen=True)
class Constant:
    """A tensor baked into the graph."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    where: str


def literals(module: torch.jit.ScriptModule) -> tuple[GraphLiteral, ...]:
    """Device and floating-point dtype literals, one for each line and operator."""
    found = dict.fromkeys(one for graph in graphs(module) for one in _in_graph(graph))
    return tuple(found)


def _in_graph(graph: Any) -> Iterator[GraphLiteral]:
    for node in nodes(graph):
        if not node.kind().startswith("aten::"):
            continue
        names = argument_names(node)
        for name, value in zip(names, node.inputs(), strict=False):
            if name not in ("device", "dtype"):
                continue
            constant = value.toIValue() if value.node().kind() == "prim::Constant" else None
            if constant is None:
                continue
            location, scripted = in_source_range(node.sourceRange())
            where = str(location) if location else ""
            if name == "device":
                yield GraphLiteral("device", str(constant), node.kind(), where, scripted)
            elif constant in _FLOATS:
                yield GraphLiteral("dtype", _FLOATS[constant], node.kind(), where, scripted)


def argument_names(node: Any) -> list[str]:
    """Names of an operator's arguments by its schema; empty without one."""
    text = node.schema()
    if text == "(no schema)" or "(" not in text:
        return []
    try:
        return [argument.name for argument in torch._C.parse_schema(text).arguments]
    except RuntimeError:
        return []


def constants(module: torch.jit.ScriptModule) -> tuple[Constant, ...]:
    """Tensors baked into the graphs: neither parameters nor buffers."""
    found = []
    for graph in graphs(module):
        for node in nodes(graph):
            if node.kind() != "prim::Constant":
                continue
            value = node.output().toIValue()
            if isinstance(value, torch.Tensor):
                location, _ = in_source_range(node.sourceRange())
                found.append(
                    Constant(
                        str(value.dtype).removeprefix("torch."),
                        tuple(value.shape),
                        value.numel() * value.element_size(),
                        str(location) if location else "",
                    )
                )
    return tuple(found)


def random_operators(module: torch.jit.ScriptModule) -> dict[str, str]:
    """Operators that draw random numbers in eval mode, with a line each."""
    found: dict[str, str] = {}
    for graph in graphs(module):
        for node in nodes(graph):
            random = node.kind() in _RANDOM or (node.kind() in _DROPOUT and _training(node))
            if random:
                location, _ = in_source_range(node.sourceRange())
                found.setdefault(node.kind(), str(location) if location else "")
    return found


def _training(node: Any) -> bool:
    inputs = list(node.inputs())
    flag = inputs[-1] if inputs else None
    if flag is None or flag.node().kind() != "prim::Constant":
        return False
    return bool(flag.toIValue())


def find_hazards(module: torch.jit.ScriptModule, precision: str = "fp32") -> list[Hazard]:
    """Everything this module knows of, for one TorchScript module."""
    hazards = []
    for one in _distinct(literals(module)):
        if one.kind == "device":
            fate = (
                f"it is in scripted code and stays: the artifact runs on {one.value} only. "
                "Write device=x.device of an input instead"
                if one.scripted
                else "it was traced, and is moved to the model's device at load"
            )
            hazards.append(
                Hazard(
                    "device_literal",
                    "warning" if one.scripted else "info",
                    f'{one.operator} is given the device "{one.value}"; {fate}',
                    one.where,
                )
            )
        else:
            severity = "info" if precision == "fp32" and one.value == "float32" else "warning"
            hazards.append(
                Hazard(
                    "dtype_literal",
                    severity,  # type: ignore[arg-type]
                    f"{one.operator} is given the dtype {one.value}: it stays when the model is "
                    "made in another precision",
                    one.where,
                )
            )
    for operator, where in random_operators(module).items():
        hazards.append(
            Hazard(
                "random_operator",
                "warning",
                f"{operator} draws random numbers: outputs differ from call to call",
                where,
            )
        )
    for constant in constants(module):
        if constant.bytes > LARGE_CONSTANT:
            hazards.append(
                Hazard(
                    "baked_constant",
                    "info",
                    f"a {constant.dtype}{list(constant.shape)} tensor of "
                    f"{constant.bytes / 2**20:.1f} MiB is baked into the graph: it is neither a "
                    "parameter nor a buffer; register_buffer would let it move and be shared",
                    constant.where,
                )
            )
    return hazards


def _distinct(found: Iterable[GraphLiteral]) -> list[GraphLiteral]:
    """One for each line: `zeros` and the `to` behind it are one literal to a reader."""
    kept: dict[tuple[str, str, str], GraphLiteral] = {}
    for one in found:
        kept.setdefault((one.kind, one.where or one.operator, one.value), one)
    return list(kept.values())


def pinned_devices(module: torch.jit.ScriptModule) -> tuple[str, ...]:
    """Device types that literals in scripted code pin the module to; empty when there are none."""
    types = {
        literal.value.split(":", 1)[0]
        for literal in literals(module)
        if literal.kind == "device" and literal.scripted
    }
    return tuple(sorted(types))
