"""Finds hazards in graphs: device and dtype literals, random operators, baked-in constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from isthmus.bundle.manifest import Hazard
from isthmus.exporters.source_lines import in_source_range
from isthmus.exporters.torchscript.operators import ModuleGraphs

LARGE_CONSTANT = 1 << 20
"""The bytes from which a constant tensor in the graph is reported."""

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
# c10::ScalarType values, as the graph writes them.
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


def literals(graphs: ModuleGraphs) -> tuple[GraphLiteral, ...]:
    """Returns the device and floating-point dtype literals, one for each line and operator."""
    return tuple(dict.fromkeys(_literals(graphs)))


def _literals(graphs: ModuleGraphs) -> Iterator[GraphLiteral]:
    for node in graphs.nodes:
        if not node.kind().startswith("aten::"):
            continue
        names = argument_names(node)
        for name, value in zip(names, node.inputs(), strict=False):
            if name not in ("device", "dtype"):
                continue
            constant = value.toIValue() if value.node().kind() == "prim::Constant" else None
            if constant is None:
                continue
            where, scripted = in_source_range(node.sourceRange())
            if name == "device":
                yield GraphLiteral("device", str(constant), node.kind(), where, scripted)
            elif constant in _FLOATS:
                yield GraphLiteral("dtype", _FLOATS[constant], node.kind(), where, scripted)


def argument_names(node: Any) -> list[str]:
    """Returns the names of an operator's arguments; empty when it has no schema."""
    text = node.schema()
    if text == "(no schema)" or "(" not in text:
        return []
    try:
        return [argument.name for argument in torch._C.parse_schema(text).arguments]
    except RuntimeError:
        return []


def constant_tensors(graphs: ModuleGraphs) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yields each tensor baked into the graphs, neither parameter nor buffer, after its node."""
    for node in graphs.nodes:
        if node.kind() == "prim::Constant":
            value = node.output().toIValue()
            if isinstance(value, torch.Tensor):
                yield node, value


def random_operators(graphs: ModuleGraphs) -> dict[str, str]:
    """Returns the operators that draw random numbers in eval mode, each with one of its lines."""
    lines: dict[str, str] = {}
    for node in graphs.nodes:
        drawn = node.kind() in _RANDOM or (node.kind() in _DROPOUT and _training(node))
        if drawn and not _only_in_training(node):
            lines.setdefault(node.kind(), in_source_range(node.sourceRange())[0])
    return lines


def _only_in_training(node: Any) -> bool:
    """Returns True inside a branch of scripted code that is taken if a module is in train mode."""
    block = node.owningBlock()
    while (owner := block.owningNode()) is not None:
        condition = next(owner.inputs(), None) if owner.kind() == "prim::If" else None
        if (
            condition is not None
            and condition.node().kind() == "prim::GetAttr"
            and condition.node().s("name") == "training"
            and block == next(owner.blocks())
        ):
            return True
        block = owner.owningBlock()
    return False


def _training(node: Any) -> bool:
    inputs = list(node.inputs())
    flag = inputs[-1] if inputs else None
    if flag is None or flag.node().kind() != "prim::Constant":
        return False
    return bool(flag.toIValue())


def find_hazards(graphs: ModuleGraphs, precision: str = "fp32") -> list[Hazard]:
    """Returns the hazards of a TorchScript module in a precision."""
    hazards = []
    for literal in _distinct(literals(graphs)):
        if literal.kind == "device":
            fate = (
                f"it is in scripted code and stays: the artifact runs on {literal.value} only. "
                "Write device=x.device of an input instead"
                if literal.scripted
                else "it was traced, and is moved to the model's device at load"
            )
            hazards.append(
                Hazard(
                    "device_literal",
                    "warning" if literal.scripted else "info",
                    f'{literal.operator} is given the device "{literal.value}"; {fate}',
                    literal.where,
                )
            )
        else:
            harmless = precision == "fp32" and literal.value == "float32"
            hazards.append(
                Hazard(
                    "dtype_literal",
                    "info" if harmless else "warning",
                    f"{literal.operator} is given the dtype {literal.value}: it stays when the "
                    "model is made in another precision",
                    literal.where,
                )
            )
    for operator, where in random_operators(graphs).items():
        hazards.append(
            Hazard(
                "random_operator",
                "warning",
                f"{operator} draws random numbers: outputs differ from call to call",
                where,
            )
        )
    for node, tensor in constant_tensors(graphs):
        if tensor.nbytes > LARGE_CONSTANT:
            dtype = str(tensor.dtype).removeprefix("torch.")
            hazards.append(
                Hazard(
                    "baked_constant",
                    "info",
                    f"a {dtype}{list(tensor.shape)} tensor of {tensor.nbytes / 2**20:.1f} MiB is "
                    "baked into the graph: it is neither a parameter nor a buffer; "
                    "register_buffer would let it move and be shared",
                    in_source_range(node.sourceRange())[0],
                )
            )
    return hazards


def _distinct(literals: Iterable[GraphLiteral]) -> list[GraphLiteral]:
    """Returns one literal for each line: `zeros` and the `to` behind it are one to a reader."""
    kept: dict[tuple[str, str, str], GraphLiteral] = {}
    for literal in literals:
        kept.setdefault((literal.kind, literal.where or literal.operator, literal.value), literal)
    return list(kept.values())


def pinned_devices(graphs: ModuleGraphs) -> tuple[str, ...]:
    """Returns the device types to which literals in scripted code pin the module, if any."""
    types = {
        literal.value.split(":", 1)[0]
        for literal in literals(graphs)
        if literal.kind == "device" and literal.scripted
    }
    return tuple(sorted(types))
