"""Traces of one module on several inputs, compared: what differs is what the example decided.

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
    from isthmus.bundle.golden import Golden
    from isthmus.capture.capture import Captured

__all__ = ["Baked", "baked_hazards", "captured_weights", "differences", "other_inputs"]

_SHOWN = 40
"""Characters of a constant."""


@dataclass(frozen=True)
class Baked:
    """A place where two traces are not the same."""

    what: str
    where: str
    """file:line of the user's code; empty where it cannot be told."""
    depends: Literal["shape", "data"]
    """Whether the inputs differed in shape, or in values alone."""


def other_inputs(captured: Captured, goldens: Sequence[Golden]) -> list[Mapping[str, Any]]:
    """Inputs of the first method in another shape, and others of that same shape.

    None of a stateful model, whose goldens are sequences.
    """
    if captured.stateful:
        return []
    usable = [
        golden
        for golden in goldens
        if golden.steps[0].method == captured.methods[0].name
        and all(size > 1 for size in golden.dims.values())
    ]
    for one in usable:
        same = [two for two in usable if two.dims == one.dims and two.name != one.name]
        if same:
            return [one.steps[0].inputs, same[0].steps[0].inputs]
    return [one.steps[0].inputs for one in usable[:1]]


@dataclass(frozen=True)
class _Item:
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
    """Where the traces of two calls differ, a finding for each line.

    Args:
        one: Traced on one input.
        other: Traced on another.
        depends: In what the inputs differ.
        methods: To compare.
    """
    found: dict[tuple[str, str], Baked] = {}
    for method in methods:
        for baked in _compare(
            list(_items(script_module, method)), list(_items(other, method)), depends
        ):
            found.setdefault((baked.where, baked.what.partition(" is ")[0]), baked)
    return list(found.values())


def _items(module: torch.jit.ScriptModule, method: str) -> Iterator[_Item]:
    from isthmus.exporters.torchscript.hazards import argument_names

    graph = module._c._get_method(method).inlined_graph.copy()
    torch._C._jit_pass_dce(graph)
    for node in nodes(graph):
        if node.kind() == "prim::Constant":
            continue
        constants = tuple(_constant(value) for value in node.inputs())
        location, _ = in_source_range(node.sourceRange())
        where = str(location) if location else ""
        yield _Item(node.kind(), constants, tuple(argument_names(node)), where)


_NONE = object()
"""Stands for what is computed."""


def _constant(value: Any) -> Any:
    if value.node().kind() != "prim::Constant":
        return _NONE
    return value.toIValue()


def _compare(
    one: Sequence[_Item], other: Sequence[_Item], depends: Literal["shape", "data"]
) -> Iterator[Baked]:
    for left, right in zip(one, other, strict=False):
        if left.kind != right.kind or len(left.constants) != len(right.constants):
            yield _structure(left, right, depends)
            return  # what follows is no longer the same place
        for at, (a, b) in enumerate(zip(left.constants, right.constants, strict=True)):
            if (a is _NONE) != (b is _NONE):
                yield _structure(left, right, depends)
                return
            if a is not _NONE and not _same(a, b):
                name = left.names[at] if at < len(left.names) else "an argument"
                yield Baked(
                    f"{name} of {left.kind} is {_shown(a)} for one input and {_shown(b)} for "
                    "another",
                    left.where,
                    depends,
                )
    if len(one) != len(other):
        longer = one if len(one) > len(other) else other
        extra = longer[min(len(one), len(other))]
        yield Baked(
            f"one input runs {len(one)} operators and another {len(other)}: a branch or a loop was "
            f"frozen, from {extra.kind} on",
            extra.where,
            depends,
        )


def _structure(left: _Item, right: _Item, depends: Literal["shape", "data"]) -> Baked:
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
        return True  # of no comparable kind: no claim


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        if value.numel() > 4:
            return f"a {kind}{list(value.shape)} constant"
        return f"{kind} {value.tolist()}"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def baked_hazards(found: Iterable[Baked]) -> list[Hazard]:
    """As hazards: what values decide is a warning; what sizes decide, the goldens have varied."""
    result = []
    for one in found:
        if one.depends == "data":
            severity: Literal["warning", "info"] = "warning"
            rest = "the inputs' values decided it, and the goldens are few"
        else:
            severity = "info"
            rest = "sizes decided it, over which the goldens agree with eager"
        result.append(
            Hazard(
                "baked_constant" if " is " in one.what else "frozen_branch",
                severity,
                f"the trace keeps what one call decided: {one.what}; {rest}",
                one.where,
            )
        )
    return result


def captured_weights(traced: torch.jit.ScriptModule, module: nn.Module) -> list[Hazard]:
    """Parameters and buffers that the trace holds as constants instead of as attributes.

    Args:
        traced: The trace.
        module: What was traced.
    """
    own: dict[tuple[torch.dtype, tuple[int, ...]], list[tuple[str, Tensor]]] = {}
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.numel() > 1:
            plain = value.detach().cpu()
            own.setdefault((value.dtype, tuple(value.shape)), []).append((name, plain))
    found: dict[str, Hazard] = {}
    for method in traced._c._method_names():
        for node in nodes(traced._c._get_method(method).inlined_graph):
            if node.kind() != "prim::Constant":
                continue
            value = node.output().toIValue()
            if not isinstance(value, Tensor):
                continue
            for name, other in own.get((value.dtype, tuple(value.shape)), ()):
                # A table of zeros or ones is anybody's.
                if torch.equal(value.cpu(), other) and bool((other != other.flatten()[0]).any()):
                    location, _ = in_source_range(node.sourceRange())
                    found[name] = Hazard(
                        "captured_parameter",
                        "warning",
                        f"{name} is held as a constant and not as a parameter: it is stored twice, "
                        "and stays as it is when the parameter changes",
                        str(location) if location else "",
                    )
    return list(found.values())
