"""Compares traces of one module on several inputs: what differs was decided by the example.

A trace is a straight list of operators. Two traces of the same module differ only where Python
computed something from the inputs: a constant, or which operators there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Hazard
from isthmus.exporters.source_lines import in_source_range
from isthmus.exporters.torchscript.operators import nodes

if TYPE_CHECKING:
    from isthmus.exporters.export_request import ExportRequest

__all__ = ["Baked", "baked_hazards", "captured_weights", "differences", "other_inputs"]

_SHOWN = 40
"""The number of characters of a constant that messages show."""


@dataclass(frozen=True)
class Baked:
    """A place where two traces differ."""

    what: str
    where: str
    """file:line of the user's code; empty where it cannot be told."""
    depends: Literal["shape", "data"]
    """"shape" when the inputs differed in shape, "data" when they differed in values alone."""


def other_inputs(request: ExportRequest) -> list[Mapping[str, Any]]:
    """Returns inputs of the first method in another shape, and others of that same shape.

    There are none for a stateful model, whose goldens are sequences.
    """
    if request.stateful:
        return []
    usable = [
        golden
        for golden in request.goldens
        if golden.steps[0].method == request.methods[0].name
        and all(size > 1 for size in golden.dims.values())
    ]
    for golden in usable:
        for other in usable:
            if other.dims == golden.dims and other.name != golden.name:
                return [golden.steps[0].inputs, other.steps[0].inputs]
    return [golden.steps[0].inputs for golden in usable[:1]]


@dataclass(frozen=True)
class _Node:
    kind: str
    constants: tuple[Any, ...]
    names: tuple[str, ...]
    where: str


def differences(
    script_module: torch.jit.ScriptModule,
    other: torch.jit.ScriptModule,
    depends: Literal["shape", "data"],
    methods: Iterable[str],
) -> list[Baked]:
    """Returns where the traces of two calls differ, once for each line.

    Args:
        script_module: The module traced on some inputs.
        other: The module traced on other inputs.
        depends: What the inputs differ in.
        methods: The names of the methods to compare.
    """
    places: dict[tuple[str, str], Baked] = {}
    for method in methods:
        before, after = list(_trace_nodes(script_module, method)), list(_trace_nodes(other, method))
        for baked in _compare(before, after, depends):
            places.setdefault((baked.where, baked.what.partition(" is ")[0]), baked)
    return list(places.values())


def _trace_nodes(module: torch.jit.ScriptModule, method: str) -> Iterator[_Node]:
    from isthmus.exporters.torchscript.hazards import argument_names

    graph = module._c._get_method(method).inlined_graph.copy()
    torch._C._jit_pass_dce(graph)
    for node in nodes(graph):
        if node.kind() == "prim::Constant":
            continue
        constants = tuple(_constant(value) for value in node.inputs())
        where, _ = in_source_range(node.sourceRange())
        yield _Node(node.kind(), constants, tuple(argument_names(node)), where)


_COMPUTED = object()
"""Stands for an argument that is no constant."""


def _constant(value: Any) -> Any:
    if value.node().kind() != "prim::Constant":
        return _COMPUTED
    return value.toIValue()


def _compare(
    before: Sequence[_Node], after: Sequence[_Node], depends: Literal["shape", "data"]
) -> Iterator[Baked]:
    for left, right in zip(before, after, strict=False):
        if left.kind != right.kind or len(left.constants) != len(right.constants):
            yield _structure(left, right, depends)
            return  # what follows is no longer the same place
        for at, (a, b) in enumerate(zip(left.constants, right.constants, strict=True)):
            if (a is _COMPUTED) != (b is _COMPUTED):
                yield _structure(left, right, depends)
                return
            if a is not _COMPUTED and not _same(a, b):
                name = left.names[at] if at < len(left.names) else "an argument"
                yield Baked(
                    f"{name} of {left.kind} is {_shown(a)} for one input and {_shown(b)} for "
                    "another",
                    left.where,
                    depends,
                )
    if len(before) != len(after):
        longer = before if len(before) > len(after) else after
        extra = longer[min(len(before), len(after))]
        yield Baked(
            f"one input runs {len(before)} operators and another {len(after)}: a branch or a loop "
            f"was frozen, from {extra.kind} on",
            extra.where,
            depends,
        )


def _structure(left: _Node, right: _Node, depends: Literal["shape", "data"]) -> Baked:
    return Baked(
        f"one input runs {left.kind} where another runs {right.kind}: a branch or a loop was "
        "frozen",
        left.where or right.where,
        depends,
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))
    if isinstance(a, float) and isinstance(b, float) and a != a and b != b:
        return True
    try:
        return type(a) is type(b) and bool(a == b)
    except (TypeError, RuntimeError):
        return True  # values that cannot be compared are not reported


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        if value.numel() > 4:
            return f"a {kind}{list(value.shape)} constant"
        return f"{kind} {value.tolist()}"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def baked_hazards(places: Iterable[Baked]) -> list[Hazard]:
    """Returns a warning for what values decide; sizes are only noted, for the goldens vary them."""
    result = []
    for place in places:
        if place.depends == "data":
            severity: Literal["warning", "info"] = "warning"
            consequence = "the inputs' values decided it, and the goldens are few"
        else:
            severity = "info"
            consequence = "sizes decided it, over which the goldens agree with eager"
        result.append(
            Hazard(
                "baked_constant" if " is " in place.what else "frozen_branch",
                severity,
                f"the trace keeps what one call decided: {place.what}; {consequence}",
                place.where,
            )
        )
    return result


def captured_weights(traced: torch.jit.ScriptModule, module: nn.Module) -> list[Hazard]:
    """Returns the parameters and buffers that a trace holds as constants and not as attributes.

    Args:
        traced: The trace.
        module: The module that was traced.
    """
    tensors: dict[tuple[torch.dtype, tuple[int, ...]], list[tuple[str, Tensor]]] = {}
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.numel() > 1:
            plain = value.detach().cpu()
            tensors.setdefault((value.dtype, tuple(value.shape)), []).append((name, plain))
    hazards: dict[str, Hazard] = {}
    for method in traced._c._method_names():
        for node in nodes(traced._c._get_method(method).inlined_graph):
            if node.kind() != "prim::Constant":
                continue
            value = node.output().toIValue()
            if not isinstance(value, Tensor):
                continue
            for name, other in tensors.get((value.dtype, tuple(value.shape)), ()):
                # A tensor of equal numbers says nothing about where it comes from.
                if torch.equal(value.cpu(), other) and bool((other != other.flatten()[0]).any()):
                    where, _ = in_source_range(node.sourceRange())
                    hazards[name] = Hazard(
                        "captured_parameter",
                        "warning",
                        f"{name} is held as a constant and not as a parameter: it is stored twice, "
                        "and stays as it is when the parameter changes",
                        where,
                    )
    return list(hazards.values())
