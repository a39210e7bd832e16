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
from isthmus.exporters.torchscript.hazards import argument_names, constant_tensors
from isthmus.exporters.torchscript.operators import ModuleGraphs, nodes

if TYPE_CHECKING:
    from isthmus.exporters.export_request import ExportRequest

__all__ = ["Baked", "baked_hazards", "captured_weights", "differences", "other_inputs"]

Depends = Literal["shape", "data"]

_SHOWN = 40
"""The number of characters of a constant that messages show."""


@dataclass(frozen=True)
class Baked:
    """A place where two traces differ."""

    what: str
    where: str
    """file:line of the user's code; empty where it cannot be told."""
    depends: Depends
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


def differences(
    script_module: torch.jit.ScriptModule,
    other: torch.jit.ScriptModule,
    depends: Depends,
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
        # The nodes live as long as their graphs.
        graphs = [_trace_graph(module, method) for module in (script_module, other)]
        before, after = ([node for node in nodes(graph) if _is_operator(node)] for graph in graphs)
        for baked in _compare(before, after, depends):
            places.setdefault((baked.where, baked.what.partition(" is ")[0]), baked)
    return list(places.values())


def _trace_graph(module: torch.jit.ScriptModule, method: str) -> Any:
    graph = module._c._get_method(method).inlined_graph.copy()
    torch._C._jit_pass_dce(graph)
    return graph


def _is_operator(node: Any) -> bool:
    return bool(node.kind() != "prim::Constant")


_COMPUTED = object()
"""Stands for an argument that is no constant."""


def _constants(node: Any) -> list[Any]:
    return [
        _COMPUTED if _is_operator(value.node()) else value.toIValue() for value in node.inputs()
    ]


def _compare(before: Sequence[Any], after: Sequence[Any], depends: Depends) -> Iterator[Baked]:
    for left, right in zip(before, after, strict=False):
        values, others = _constants(left), _constants(right)
        if left.kind() != right.kind() or len(values) != len(others):
            yield _structure(left, right, depends)
            return  # what follows is no longer the same place
        for at, (a, b) in enumerate(zip(values, others, strict=True)):
            if (a is _COMPUTED) != (b is _COMPUTED):
                yield _structure(left, right, depends)
                return
            if a is not _COMPUTED and not _same(a, b):
                names = argument_names(left)
                name = names[at] if at < len(names) else "an argument"
                yield Baked(
                    f"{name} of {left.kind()} is {_shown(a)} for one input and {_shown(b)} for "
                    "another",
                    _line(left),
                    depends,
                )
    if len(before) != len(after):
        longer = before if len(before) > len(after) else after
        extra = longer[min(len(before), len(after))]
        yield Baked(
            f"one input runs {len(before)} operators and another {len(after)}: a branch or a loop "
            f"was frozen, from {extra.kind()} on",
            _line(extra),
            depends,
        )


def _structure(left: Any, right: Any, depends: Depends) -> Baked:
    return Baked(
        f"one input runs {left.kind()} where another runs {right.kind()}: a branch or a loop was "
        "frozen",
        _line(left) or _line(right),
        depends,
    )


def _line(node: Any) -> str:
    return in_source_range(node.sourceRange())[0]


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
    for node, value in constant_tensors(ModuleGraphs(traced)):
        for name, other in tensors.get((value.dtype, tuple(value.shape)), ()):
            # A tensor of equal numbers says nothing about where it comes from.
            if torch.equal(value.cpu(), other) and bool((other != other.flatten()[0]).any()):
                hazards[name] = Hazard(
                    "captured_parameter",
                    "warning",
                    f"{name} is held as a constant and not as a parameter: it is stored twice, "
                    "and stays as it is when the parameter changes",
                    _line(node),
                )
    return list(hazards.values())
